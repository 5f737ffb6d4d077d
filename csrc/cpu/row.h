// What the operators that work row by row share: sizes, threads, scratch memory and masks.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <utility>

#include "boundary.h"

namespace sodeep_fast {

// Scratch memory that only grows, so that a thread's rows and calls share it: memory fresh from the
// system costs more than what is computed in it. It begins at a cache line.
template <class T>
class Buffer {
 public:
  T* reserve(int64_t size) {
    if (size > capacity_) {
      release();  // before the new allocation, so that the two never coexist
      memory_.reset(static_cast<T*>(::operator new(size * sizeof(T), kAlignment)));
      capacity_ = size;
    }
    return memory_.get();
  }

  // Frees memory that is too large to keep until the next call.
  void trim() {
    constexpr int64_t kKeptBytes = 8 << 20;
    if (capacity_ * static_cast<int64_t>(sizeof(T)) > kKeptBytes) release();
  }

 private:
  void release() {
    memory_.reset();
    capacity_ = 0;
  }

  static constexpr std::align_val_t kAlignment{64};
  struct Delete {
    void operator()(T* memory) const { ::operator delete(memory, kAlignment); }
  };

  std::unique_ptr<T, Delete> memory_;
  int64_t capacity_ = 0;
};

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Lists the positions where mask [n] is true in valid [n] and returns their number.
inline int64_t find_valid(const bool* mask, int64_t n, uint32_t* valid) {
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) {
    valid[count] = static_cast<uint32_t>(i);
    count += mask[i];
  }
  return count;
}

// The sizes of (..., n) scores as a matrix; it has no rows if there are no scores.
struct Rows {
  int64_t rows, n;

  explicit Rows(const torch::stable::Tensor& scores) : n(row_length(scores)) {
    STD_TORCH_CHECK(n <= std::numeric_limits<int32_t>::max(), "rows of more than 2^31 - 1 scores");
    rows = n == 0 ? 0 : scores.numel() / n;
  }

  void check_same(const torch::stable::Tensor& other, const char* name) const {
    STD_TORCH_CHECK(other.numel() == rows * n, name, " and scores differ in size");
  }

  void check_mask(const torch::stable::Tensor& mask) const {
    STD_TORCH_CHECK(is_bool(mask), "mask must be bool");
    check_same(mask, "mask");
  }

  // Calls work(begin, end) over ranges of rows, in threads unless the rows themselves use them.
  template <class F>
  void for_each_range(bool threads_inside, F&& work) const {
    constexpr int64_t kItemsPerTask = 2048;
    if (threads_inside)
      work(int64_t(0), rows);
    else
      torch::stable::parallel_for(0, rows, std::max<int64_t>(1, kItemsPerTask / n),
                                  std::forward<F>(work));
  }
};

}  // namespace sodeep_fast
