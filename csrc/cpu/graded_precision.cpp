// Average precisions from rank counts, on the CPU: one pass over the targets, and their derivative
// with it.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "boundary.h"

namespace sodeep_fast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The targets of all rows, one after the other.
template <class T>
struct GradedTargets {
  const T* counts;                // [targets, num_levels]
  const uint8_t* levels;          // [rows, items]
  const int64_t *rows, *columns;  // [targets]
  const T* missing;               // [missing_count, num_levels]
  const int64_t* missing_rows;
  const T* relevances;  // [num_levels], one row's behind the other's if stride is not 0
  int64_t targets, items, num_levels, missing_count, least, stride;
  bool shared, soft;  // shared: among the targets of a row and level
};

// False if the indices are not what they should be.
template <class T>
bool graded_precision_row(const GradedTargets<T>& all, int64_t row, T* values, T* slopes) {
  const int64_t L = all.num_levels;
  const auto first_of = [row](const int64_t* rows, int64_t count) {
    return std::lower_bound(rows, rows + count, row) - rows;
  };
  const int64_t begin = first_of(all.rows, all.targets);
  const uint8_t* levels = all.levels + row * all.items;
  int64_t end = begin, number[256];
  std::fill(number, number + L, 0);
  for (; end < all.targets && all.rows[end] == row; ++end) {
    const int64_t column = all.columns[end];
    if (column < 0 || column >= all.items || levels[column] >= L) return false;
    ++number[levels[column]];
  }

  T relevance[256];
  double most = 0;
  for (int64_t l = 0; l < L; ++l) {
    relevance[l] = all.relevances[row * all.stride + l];
    if (all.shared) relevance[l] /= static_cast<T>(std::max<int64_t>(number[l], 1));
    most += static_cast<double>(number[l]) * static_cast<double>(relevance[l]);
  }
  const T share = most == 0 ? T(0) : static_cast<T>(1 / most);
  int64_t missing = first_of(all.missing_rows, all.missing_count);
  double found = 0;
  for (int64_t t = begin; t < end; ++t) {
    const int64_t level = levels[all.columns[t]];
    const T *counts = all.counts + t * L, *outranking = counts, own = relevance[level];
    if (level >= all.least) {
      if (missing >= all.missing_count || all.missing_rows[missing] != row) return false;
      outranking = all.missing + missing++ * L;
    }
    T rank = 1, gain = own;
    for (int64_t l = 0; l < L; ++l) {
      rank += counts[l];
      gain += outranking[l] * std::min(own, relevance[l]);
    }
    const T per_rank = 1 / rank, precision = gain * per_rank, slope = -precision * per_rank * share;
    found += static_cast<double>(precision);
    if (!all.soft) {
      slopes[t] = slope;
      continue;
    }
    const T per_gain = outranking == counts ? share * per_rank : T(0);
    for (int64_t l = 0; l < L; ++l)
      slopes[t * L + l] = slope + std::min(own, relevance[l]) * per_gain;
  }
  values[row] = most == 0 ? std::numeric_limits<T>::quiet_NaN() : static_cast<T>(found / most);
  return true;
}

struct GradedCall {
  Tensor counts, levels, rows, columns;
  std::optional<Tensor> missing, missing_rows;
  int64_t least;
  std::optional<Tensor> relevances;
  double alpha;
  bool soft;
};

template <class T>
std::tuple<Tensor, Tensor> run(const GradedCall& call) {
  const auto contiguous = [](const Tensor& tensor) { return torch::stable::contiguous(tensor); };
  const ScalarType type = compute_type(call.counts);
  const Tensor counts = dense(call.counts, type), levels = contiguous(call.levels),
               rows = contiguous(call.rows), columns = contiguous(call.columns);
  const Tensor missing = call.missing ? dense(*call.missing, type) : Tensor();
  const Tensor missing_rows = call.missing ? contiguous(*call.missing_rows) : Tensor();
  const Tensor relevances = call.relevances ? dense(*call.relevances, type) : Tensor();
  const auto numbers = [](const Tensor& tensor) {
    return static_cast<const T*>(tensor.const_data_ptr());
  };
  const auto indices = [](const Tensor& tensor) {
    return static_cast<const int64_t*>(tensor.const_data_ptr());
  };
  const int64_t queries = levels.size(0), targets = counts.size(0), L = counts.size(1);
  std::vector<T> powers(L);
  for (int64_t l = 0; l < L; ++l)
    powers[l] = static_cast<T>(std::pow(static_cast<double>(l), call.alpha));
  const GradedTargets<T> all{numbers(counts),
                             static_cast<const uint8_t*>(levels.const_data_ptr()),
                             indices(rows),
                             indices(columns),
                             call.missing ? numbers(missing) : nullptr,
                             call.missing ? indices(missing_rows) : nullptr,
                             call.relevances ? numbers(relevances) : powers.data(),
                             targets,
                             levels.size(1),
                             L,
                             call.missing ? missing.size(0) : 0,
                             call.missing ? call.least : L,
                             call.relevances && relevances.dim() == 2 ? L : 0,
                             !call.relevances,
                             call.soft};
  Tensor values = torch::stable::new_empty(counts, {queries});
  Tensor slopes = torch::stable::new_empty(counts, {targets, call.soft ? L : 1});
  auto* value = static_cast<T*>(values.mutable_data_ptr());
  auto* slope = static_cast<T*>(slopes.mutable_data_ptr());
  constexpr int64_t kTargetsPerTask = 1 << 13;
  const int64_t grain = kTargetsPerTask * queries / std::max<int64_t>(targets, 1);
  std::atomic<bool> valid{true};
  torch::stable::parallel_for(0, queries, std::max<int64_t>(1, grain),
                              [&](int64_t begin, int64_t end) {
                                for (int64_t r = begin; r < end; ++r)
                                  if (!graded_precision_row(all, r, value, slope)) valid = false;
                              });
  STD_TORCH_CHECK(valid, "levels, columns or missing_rows do not fit the counts");
  return {values, slopes};
}

std::tuple<Tensor, Tensor> graded_precision(Tensor counts, Tensor levels, Tensor rows,
                                            Tensor columns, std::optional<Tensor> missing,
                                            std::optional<Tensor> missing_rows, int64_t least,
                                            std::optional<Tensor> relevances, double alpha,
                                            bool soft) {
  STD_TORCH_CHECK(counts.dim() == 2 && counts.size(1) <= 255, "counts must be (T, L), L up to 255");
  STD_TORCH_CHECK(levels.dim() == 2 && levels.scalar_type() == ScalarType::Byte,
                  "levels must be a uint8 matrix");
  const auto is_index = [](const Tensor& tensor, int64_t size) {
    return tensor.scalar_type() == ScalarType::Long && tensor.numel() == size;
  };
  STD_TORCH_CHECK(is_index(rows, counts.size(0)) && is_index(columns, counts.size(0)),
                  "rows and columns must be int64, one of each for every target");
  STD_TORCH_CHECK(!missing || (missing->dim() == 2 && missing->size(1) == counts.size(1) &&
                               missing_rows && is_index(*missing_rows, missing->size(0))),
                  "missing must be of as many levels as counts, with a row for each");
  STD_TORCH_CHECK(!relevances || relevances->numel() ==
                                     (relevances->dim() == 1 ? 1 : levels.size(0)) * counts.size(1),
                  "relevances must be (L) or (B, L)");
  const GradedCall call{counts,       levels, rows,       columns, missing,
                        missing_rows, least,  relevances, alpha,   soft};
  return compute_type(counts) == ScalarType::Double ? run<double>(call) : run<float>(call);
}

}  // namespace
}  // namespace sodeep_fast

STABLE_TORCH_LIBRARY_IMPL(sodeep_fast, CPU, m) {
  m.impl("graded_precision", TORCH_BOX(&sodeep_fast::graded_precision));
}
