// What the operators that work row by row share: scratch memory and masks.
#pragma once

#include <cstdint>
#include <memory>

namespace sodeep_fast {

// Scratch memory that only grows, so that a thread's rows share it.
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

// Lists the positions where mask [n] is true in valid [n] and returns their number.
inline int64_t find_valid(const bool* mask, int64_t n, uint32_t* valid) {
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) {
    valid[count] = static_cast<uint32_t>(i);
    count += mask[i];
  }
  return count;
}

}  // namespace sodeep_fast
