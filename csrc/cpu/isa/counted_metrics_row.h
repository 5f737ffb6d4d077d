// One row's recall or discounted cumulative gain, and its gradient. Included once for each
// instruction set, hence no include guard.

#include "cpu/isa/counted_row.h"
#include "cpu/isa/logarithm.h"

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// 1 + the counts of every target, which they overwrite.
template <class T>
const double* ranks_of(const RankCountsRow<T>& counted) {
  const int64_t P = counted.num_targets;
  double* ranks = counted.sums;
  for (int64_t t = 0; t < P; ++t) {
    double outranking = ranks[t];
    for (int64_t l = 1; l < counted.num_levels; ++l) outranking += counted.sum_of(t, l);
    ranks[t] = 1 + outranking;
  }
  return ranks;
}

// 1 / (1 + exp(-x))
inline Vec<double> sigmoid(Vec<double> x) {
  const Vec<double> small = exponential<double>(x < 0 ? x : -x);
  return (x < 0 ? small : broadcast<double>(1)) / (1 + small);
}

template <class T>
void recall_row(const RecallRow<T>& row, CountedScratch<T>& scratch) {
  constexpr int lanes = kLanes<double>;
  TargetCounts<T> targets(row, scratch);
  if (!targets.survey()) return;
  targets.count();
  const int64_t P = targets.size();
  const double* ranks = ranks_of(targets.counted());
  T* slopes = scratch.slopes.reserve(P);
  std::fill_n(slopes, P, T(0));

  double total = 0;
  for (int64_t c = 0; c < row.num_cutoffs; ++c) {
    const double k = row.cutoffs[c];
    const double share =
        1 / (std::min(k, static_cast<double>(P)) * static_cast<double>(row.num_cutoffs));
    Vec<double> sums = {};
    for (int64_t t = 0; t < P; t += lanes) {
      const Vec<double> is_found =
          sigmoid((k - load_first<double>(ranks + t, P - t)) / row.temperature);
      sums += first_lanes<double>(P - t) ? is_found : Vec<double>{};
    }
    const double found = reduce<double>(sums, [](double a, double b) { return a + b; });
    total += share * (row.clip ? std::min(found, k) : found);
    // Half of the slope where the two are equal, as PyTorch has it.
    const double part = !row.clip || found < k ? 1 : found == k ? 0.5 : 0;
    if (row.gradient == nullptr || part == 0) continue;
    const double scale = -part * share / row.temperature;
    for (int64_t t = 0; t < P; t += lanes) {
      const Vec<double> is_found =
          sigmoid((k - load_first<double>(ranks + t, P - t)) / row.temperature);
      double slope[lanes];
      store<double>(slope, scale * is_found * (1 - is_found));
      for (int64_t i = 0; i < std::min<int64_t>(lanes, P - t); ++i)
        slopes[t + i] += static_cast<T>(slope[i]);
    }
  }
  *row.value = static_cast<T>(total);
  targets.pull_back(slopes, false);
}

// Writes the gain of each level, divided by the sum of discounted gains of the best order: the
// highest level first, so that each takes a contiguous stretch of discounts.
template <class T>
void normalized_gains(const GainRow<T>& row, const RankCountsRow<T>& counted, double* gains) {
  int64_t number[256] = {};
  for (int64_t t = 0; t < counted.num_targets; ++t) ++number[row.levels[counted.targets[t]]];
  double best = 0;
  int64_t end = 0;
  for (int64_t l = row.num_levels - 1; l > 0; --l) {
    gains[l] = std::exp2(static_cast<double>(l)) - 1;
    best += gains[l] * (row.discounts[end + number[l]] - row.discounts[end]);
    end += number[l];
  }
  for (int64_t l = 1; l < row.num_levels; ++l) gains[l] /= best;
}

template <class T>
void gain_row(const GainRow<T>& row, CountedScratch<T>& scratch) {
  constexpr int lanes = kLanes<double>;
  constexpr double kLn2 = 0.69314718055994530942;
  TargetCounts<T> targets(row, scratch);
  if (!targets.survey()) return;
  targets.count();
  const RankCountsRow<T>& counted = targets.counted();
  const int64_t P = targets.size();
  const double* ranks = ranks_of(counted);
  T* slopes = scratch.slopes.reserve(P);
  double gains[256];
  normalized_gains(row, counted, gains);

  Vec<double> total = {};
  for (int64_t t = 0; t < P; t += lanes) {
    const int64_t count = std::min<int64_t>(lanes, P - t);
    double gain[lanes] = {}, slope[lanes];
    for (int64_t i = 0; i < count; ++i) gain[i] = gains[row.levels[counted.targets[t + i]]];
    const Vec<double> place = 1 + load_first<double>(ranks + t, count);
    const Vec<double> bits = first_lanes<double>(count) ? logarithm2(place) : broadcast<double>(1);
    const Vec<double> discounted = load<double>(gain) / bits;
    total += discounted;
    store<double>(slope, -discounted / (bits * place * kLn2));
    for (int64_t i = 0; i < count; ++i) slopes[t + i] = static_cast<T>(slope[i]);
  }
  *row.value = static_cast<T>(reduce<double>(total, [](double a, double b) { return a + b; }));
  targets.pull_back(slopes, false);
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
