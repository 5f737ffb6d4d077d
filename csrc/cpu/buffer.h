// Scratch memory that only grows, so that a thread's rows share it.
#pragma once

#include <cstdint>
#include <memory>

namespace sodeep_fast {

template <class T>
class Buffer {
 public:
  T* reserve(int64_t size) {
    if (size > capacity_) {
      memory_.reset();  // before the new allocation, so that the two never coexist
      memory_.reset(new T[size]);
      capacity_ = size;
    }
    return memory_.get();
  }

 private:
  std::unique_ptr<T[]> memory_;
  int64_t capacity_ = 0;
};

}  // namespace sodeep_fast
