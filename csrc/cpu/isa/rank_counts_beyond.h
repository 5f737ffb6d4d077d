// Sums over the items beyond a threshold, which in sorted order are those on one side of a cut: one
// pass over the items computes running sums, of which each point takes those at its cut. Included
// once for each instruction set, hence no include guard.

#include "cpu/isa/rank_counts_windows.h"

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// Items q and points p, both ascending. The items beyond the threshold of point i are those before
// cut[i] if kBelow, otherwise those from cut[i] on.
template <class T, bool kBelow>
struct Threshold {
  const T* q;
  const T* weights[2];  // null: 1
  int64_t items;
  const T* p;
  const uint32_t* cut;
  int64_t points;

  int64_t beyond(int64_t i) const { return kBelow ? cut[i] : items - cut[i]; }

  // Items from the farthest to the nearest, and points in the order in which `beyond` rises.
  int64_t item(int64_t k) const { return kBelow ? k : items - 1 - k; }
  int64_t point(int64_t i) const { return kBelow ? i : points - 1 - i; }
};

// Lane k of the result is x^(k + 1), for as many lanes as there are terms.
template <int kTerms>
inline Vec<double> lane_powers(double x) {
  IntVec<double> lane;
  for (int k = 0; k < kLanes<double>; ++k) lane[k] = k;
  Vec<double> power = broadcast<double>(x), square = power;
  for (int bit = 1; bit < std::min(kTerms, kLanes<double>); bit *= 2, square *= square)
    power *= (lane & bit) != 0 ? square : broadcast<double>(1);
  return power;
}

// exp(x) for x <= 0; 0 where it is negligible. Reads and writes whole vectors.
template <class T>
inline void exponentials(double* x, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes<double>) {
    const Vec<double> given = load<double>(x + i), zero = {};
    store<double>(x + i, given < -700 ? zero : exponential<double, kExponentialTerms<T>>(given));
  }
}

// Sums over the items beyond a point's threshold, with weights w and distances d from the point.
struct BeyondSums {
  double weight;    // of w
  double distance;  // of w d
  double decayed;   // of w times the sum over k of c_k e^(-k d / tau)
};

// Calls use(point, fit * kChannels + channel, sums) for every point with an item beyond, each of
// kFits fits of kTerms terms, and each of kChannels weights. `decay` has room for the points and
// one more vector.
template <class T, int kChannels, int kFits, int kTerms, bool kBelow, class Use>
void for_each_beyond(const Threshold<T, kBelow>& side, double tau, const SaturatingSigmoid* fits,
                     double* decay, const Use& use) {
  constexpr int lanes = kLanes<double>, kPowers = (kTerms + lanes - 1) / lanes;
  constexpr int64_t kBlock = 128;  // items whose sums are in cache together
  double powers[kFits * kChannels][kBlock][kPowers * lanes];
  double weights[kChannels][kBlock], distances[kChannels][kBlock];
  double gap[kBlock], growth[kBlock];
  RunningSum<T, Vec<double>> power_sum[kChannels][kPowers] = {};
  RunningSum<T, double> weight_sum[kChannels] = {}, distance_sum[kChannels] = {};

  const auto distance = [&](int64_t i) {  // from the nearest item beyond
    const double q = static_cast<double>(side.q[side.item(side.beyond(i) - 1)]);
    const double p = static_cast<double>(side.p[i]);
    return kBelow ? p - q : q - p;
  };
  int64_t point = 0;
  while (point < side.points && side.beyond(side.point(point)) == 0) ++point;
  for (int64_t j = point; j < side.points; ++j) decay[j] = -distance(side.point(j)) / tau;
  exponentials<T>(decay + point, side.points - point);

  for (int64_t begin = 0; point < side.points; begin += kBlock) {
    const int64_t count = std::min(kBlock, side.items - begin);
    for (int64_t k = 0; k < count; ++k) {
      const T before = side.q[side.item(std::max<int64_t>(begin + k - 1, 0))];
      gap[k] =
          std::abs(static_cast<double>(side.q[side.item(begin + k)]) - static_cast<double>(before));
    }
    for (int64_t k = 0; k < kBlock; ++k) growth[k] = k < count ? -gap[k] / tau : 0;
    exponentials<T>(growth, count);
    for (int ch = 0; ch < kChannels; ++ch)
      for (int64_t k = 0; k < count; ++k) {
        const T* given = side.weights[ch];
        const double w = given ? static_cast<double>(given[side.item(begin + k)]) : 1.0;
        distance_sum[ch].add(gap[k] * weight_sum[ch].value());
        weight_sum[ch].add(w);
        distances[ch][k] = distance_sum[ch].value();
        weights[ch][k] = weight_sum[ch].value();
        const Vec<double> first = lane_powers<kTerms>(growth[k]);
        Vec<double> factor = first;
        for (int v = 0; v < kPowers; ++v, factor *= first[lanes - 1]) {
          power_sum[ch][v].scale(factor);
          power_sum[ch][v].add(broadcast<double>(w));
          for (int fit = 0; fit < kFits; ++fit)
            store<double>(powers[fit * kChannels + ch][k] + v * lanes,
                          power_sum[ch][v].value() * load<double>(&fits[fit].c[v * lanes]));
        }
      }
    for (; point < side.points; ++point) {
      const int64_t i = side.point(point), k = side.beyond(i) - 1 - begin;
      if (k >= count) break;
      const double d = distance(i);
      for (int sum = 0; sum < kFits * kChannels; ++sum) {
        const int ch = sum % kChannels;
        double decayed = 0;
        for (int m = kTerms - 1; m >= 0; --m)
          decayed = (decayed + powers[sum][k][m]) * decay[point];
        use(i, sum, BeyondSums{weights[ch][k], distances[ch][k] + d * weights[ch][k], decayed});
      }
    }
  }
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
