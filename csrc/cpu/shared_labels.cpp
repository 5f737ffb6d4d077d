// How many labels queries and items share, on the CPU: the operator's boundary, and threads over
// rows.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>

#define SODEEP_FAST_KERNELS "cpu/isa/shared_labels_row.h"
#include "cpu/foreach_isa.h"

namespace sodeep_fast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

Tensor shared_labels(Tensor labels, Tensor item_labels) {
  const auto is_labels = [](const Tensor& tensor) {
    return tensor.dim() == 2 && tensor.scalar_type() == ScalarType::Long;
  };
  STD_TORCH_CHECK(is_labels(labels) && is_labels(item_labels) &&
                      labels.size(1) == item_labels.size(1) && labels.size(1) <= 255,
                  "labels must be int64 matrices of equally many columns, at most 255");
  const int64_t rows = labels.size(0), items = item_labels.size(0), levels = labels.size(1);
  const Tensor own = torch::stable::contiguous(labels);
  const Tensor by_level = torch::stable::contiguous(torch::stable::transpose(item_labels, 0, 1));
  Tensor shared = torch::stable::new_empty(own, {rows, items}, ScalarType::Byte);
  const auto* own_data = static_cast<const int64_t*>(own.const_data_ptr());
  const auto* label_data = static_cast<const int64_t*>(by_level.const_data_ptr());
  auto* to = static_cast<uint8_t*>(shared.mutable_data_ptr());
  const auto kernel =
      pick_isa(baseline::shared_labels_row, avx2::shared_labels_row, avx512::shared_labels_row);
  constexpr int64_t kPairsPerTask = 1 << 16;
  const int64_t grain = kPairsPerTask / std::max<int64_t>(items * levels, 1);
  torch::stable::parallel_for(
      0, rows, std::max<int64_t>(1, grain), [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r)
          kernel(own_data + r * levels, label_data, levels, items, to + r * items);
      });
  return shared;
}

}  // namespace
}  // namespace sodeep_fast

STABLE_TORCH_LIBRARY_IMPL(sodeep_fast, CPU, m) {
  m.impl("shared_labels", TORCH_BOX(&sodeep_fast::shared_labels));
}
