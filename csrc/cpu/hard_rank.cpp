// The exact rank on the CPU: the operator's boundary, and threads over rows.

#include "cpu/hard_rank.h"

#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <optional>
#include <string>

#include "boundary.h"

#define SODEEP_FAST_KERNELS "cpu/isa/hard_rank_row.h"
#include "cpu/foreach_isa.h"

namespace sodeep_fast {
namespace {

using torch::stable::Tensor;

Ties parse_ties(const std::string& ties) {
  if (ties == "min") return Ties::kMin;
  if (ties == "max") return Ties::kMax;
  if (ties == "ordinal") return Ties::kOrdinal;
  STD_TORCH_CHECK(ties == "average", "ties must be average, min, max or ordinal, got ", ties);
  return Ties::kAverage;
}

template <class T>
Tensor run(const Tensor& scores, const std::optional<Tensor>& mask, bool normalize, Ties ties) {
  const Rows size(scores);
  if (mask) size.check_mask(*mask);
  const Tensor dense_scores = dense(scores, compute_type(scores));
  const Tensor dense_mask = mask ? torch::stable::contiguous(*mask) : Tensor();
  Tensor out = torch::stable::empty_like(dense_scores);
  if (size.rows == 0) return out;

  const auto* score_data = static_cast<const T*>(dense_scores.const_data_ptr());
  const auto* mask_data = mask ? static_cast<const bool*>(dense_mask.const_data_ptr()) : nullptr;
  auto* out_data = static_cast<T*>(out.mutable_data_ptr());
  const HardRankKernel<T> kernel = pick_isa<HardRankKernel<T>>(
      baseline::hard_rank_row<T>, avx2::hard_rank_row<T>, avx512::hard_rank_row<T>);
  size.for_each_range(false, [&](int64_t begin, int64_t end) {
    thread_local HardRankScratch<T> scratch;
    for (int64_t r = begin; r < end; ++r)
      kernel({score_data + r * size.n, mask_data ? mask_data + r * size.n : nullptr, size.n,
              normalize, ties, out_data + r * size.n},
             scratch);
    scratch.trim();
  });
  return out;
}

Tensor hard_rank(Tensor scores, std::optional<Tensor> mask, bool normalize, std::string ties) {
  const bool is_double = compute_type(scores) == torch::headeronly::ScalarType::Double;
  return (is_double ? run<double> : run<float>)(scores, mask, normalize, parse_ties(ties));
}

}  // namespace
}  // namespace sodeep_fast

STABLE_TORCH_LIBRARY_IMPL(sodeep_fast, CPU, m) {
  m.impl("hard_rank", TORCH_BOX(&sodeep_fast::hard_rank));
}
