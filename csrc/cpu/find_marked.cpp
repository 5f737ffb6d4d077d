// Which bytes of a matrix are not 0, on the CPU. Few are expected, so many are tested together.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <tuple>

namespace sodeep_fast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kWord = sizeof(uint64_t);

// 0x80 in every byte that is not 0.
inline uint64_t marked_bytes(uint64_t word) {
  constexpr uint64_t low = 0x7f7f7f7f7f7f7f7f;
  return (word | ((word & low) + low)) & ~low;
}

// Calls visit(first byte, marked_bytes of a word) for the words with a marked byte; the last word
// is padded with zeros.
template <class Visit>
inline void for_each_word(const uint8_t* marks, int64_t n, const Visit& visit) {
  constexpr int64_t kWords = 8;
  int64_t k = 0;
  for (; k + kWords * kWord <= n; k += kWords * kWord) {
    uint64_t words[kWords], any = 0;
    std::memcpy(words, marks + k, sizeof(words));
    for (const uint64_t word : words) any |= word;
    if (any == 0) continue;
    for (int64_t w = 0; w < kWords; ++w)
      if (words[w] != 0) visit(k + w * kWord, marked_bytes(words[w]));
  }
  for (; k < n; k += kWord) {
    uint64_t word = 0;
    std::memcpy(&word, marks + k, std::min(kWord, n - k));
    if (word != 0) visit(k, marked_bytes(word));
  }
}

int64_t count_marked(const uint8_t* marks, int64_t n) {
  int64_t count = 0;
  for_each_word(marks, n, [&](int64_t, uint64_t found) {
    count += static_cast<int64_t>(((found >> 7) * 0x0101010101010101) >> 56);
  });
  return count;
}

// Rows and columns of the marked bytes, row by row, and the offset of each row's first.
std::tuple<Tensor, Tensor, Tensor> find_marked(Tensor given) {
  STD_TORCH_CHECK(given.dim() == 2, "marks must have two dimensions, got ", given.dim());
  STD_TORCH_CHECK(given.element_size() == 1, "marks must be bytes");
  const Tensor marks = torch::stable::contiguous(given);
  const int64_t rows = marks.size(0), n = marks.size(1);
  const auto* data = static_cast<const uint8_t*>(marks.const_data_ptr());
  const auto make = [&](int64_t size) {
    return torch::stable::new_empty(marks, {size}, ScalarType::Long);
  };
  constexpr int64_t kBytesPerTask = 1 << 16;
  const auto for_each_row = [&](const auto& visit) {
    torch::stable::parallel_for(0, rows,
                                std::max<int64_t>(1, kBytesPerTask / std::max<int64_t>(n, 1)),
                                [&](int64_t begin, int64_t end) {
                                  for (int64_t r = begin; r < end; ++r) visit(r, data + r * n);
                                });
  };

  Tensor offsets = make(rows + 1);
  auto* offset = static_cast<int64_t*>(offsets.mutable_data_ptr());
  offset[0] = 0;
  for_each_row([&](int64_t r, const uint8_t* row) { offset[r + 1] = count_marked(row, n); });
  for (int64_t r = 0; r < rows; ++r) offset[r + 1] += offset[r];

  Tensor row_numbers = make(offset[rows]), columns = make(offset[rows]);
  auto* row_number = static_cast<int64_t*>(row_numbers.mutable_data_ptr());
  auto* column = static_cast<int64_t*>(columns.mutable_data_ptr());
  for_each_row([&](int64_t r, const uint8_t* row) {
    int64_t* next = column + offset[r];
    for_each_word(row, n, [&](int64_t first, uint64_t found) {
      for (; found != 0; found &= found - 1) *next++ = first + __builtin_ctzll(found) / 8;
    });
    std::fill(row_number + offset[r], row_number + offset[r + 1], r);
  });
  return {row_numbers, columns, offsets};
}

}  // namespace
}  // namespace sodeep_fast

STABLE_TORCH_LIBRARY_IMPL(sodeep_fast, CPU, m) {
  m.impl("find_marked", TORCH_BOX(&sodeep_fast::find_marked));
}
