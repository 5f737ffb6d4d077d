// What the operators that work row by row share: scratch memory and masks.
#pragma once

#include <cstdint>
#include <memory>

namespace sodeep_fast {

// Scratch memory that only grows, so that a thread's rows and calls share it: memory fresh from the
// system costs more than what is computed in it.
template <class T>
class Buffer {
 public:
  T* reserve(int64_t size) {
    if (size > capacity_) {
      release();  // before the new allocation, so that the two never coexist
      memory_.reset(new T[size]);
      capacity_ = size;
    }
    return memory_.get();
  }

  // Gives memory back that is too large to sit on until the next call.
  void trim() {
    constexpr int64_t kKeptBytes = 8 << 20;
    if (capacity_ * static_cast<int64_t>(sizeof(T)) > kKeptBytes) release();
  }

 private:
  void release() {
    memory_.reset();
    capacity_ = 0;
  }

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
