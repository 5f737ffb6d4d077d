// Decides which comparisons of a row go through sums and which pair by pair, by expected time.
// Included once for each instruction set, hence no include guard.

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// Whether T can hold the width of panels and positions in them.
template <class T>
bool has_panels(const Comparator* comparators) {
  const double largest = std::numeric_limits<T>::max();
  return std::all_of(comparators, comparators + 3, [=](const Comparator& c) {
    return !c.has_sigmoid() || (c.tau <= largest && 2 / c.tau <= largest);
  });
}

// Whether a derivative of a comparator can be computed by sums. In double, that of a Sup with a
// threshold near 0 cannot; see saturating_sigmoid.h.
template <class T>
bool has_sums(const Comparator& comparator, int derivative) {
  return sizeof(T) == 4 || comparator.kind != Comparison::kSup ||
         comparator.beyond[derivative].few_terms;
}

// Expected costs in ns on one AVX-512 core, fitted to timings of both methods (Granite Rapids,
// 2026-11): 256 to 8192 items, 8 to 2048 targets, 2 and 3 levels, ranges of 20 to 500 temperatures.
// Pairs gain most from wider vectors.
template <class T, CountsPass pass>
class CountsCosts {
 public:
  static constexpr int kDerivative = derivative_of(pass);

  CountsCosts(const RankCountsRow<T>& row, const GroupedRow<T>& grouped)
      : row_(row),
        grouped_(grouped),
        entries_(static_cast<double>(grouped.items + grouped.first[row.num_levels])),
        factored_(factored_temperature(row, grouped.range())) {}

  // The costs of ordering a row, and of the exponentials of a row that is not ordered.
  double order() const {
    const bool sorted = OrderNeeds(row_.comparators, kDerivative).sorted;
    return 1500 + entries_ * (sorted ? (kSingle ? 10 : 14) : (kSingle ? 3.5 : 5));
  }
  double exponentials() const { return entries_; }

  double pair(const Comparator& comparator, bool factored) const {
    if (!comparator.has_sigmoid()) return (kSingle ? 0.1 : 0.16) * kNarrower;
    double cost = kSingle ? (kValue ? 0.31 : 0.38) : (kValue ? 0.6 : 0.7);
    if (factored && comparator.tau == factored_)
      cost = kSingle ? (kValue ? 0.1 : 0.15) : (kValue ? 0.22 : 0.3);
    if (comparator.kind == Comparison::kSup && kValue) cost += kSingle ? 0.05 : 0.14;
    return cost * kNarrower;
  }

  // The cost of a comparator's sums over `items` of a level, for `targets`.
  double sums(const Comparator& comparator, double items, double targets) const {
    constexpr double wide = kSingle ? 1 : 2;
    double cost = (kValue ? 9.5 : 14) * wide * targets;
    if (!comparator.has_sigmoid()) return cost;
    if (comparator.kind == Comparison::kSup)
      cost += (kValue ? 1.7 : 4.6) * wide * (items + targets);
    const double range = grouped_.range() / comparator.tau;
    const auto panels = static_cast<double>(panel_limit(range, static_cast<int64_t>(entries_)));
    const double panel = kSingle ? (kValue ? 40 : 58) : (kValue ? 130 : 200);
    const double target_panel = kSingle ? (kValue ? 130 : 190) : (kValue ? 600 : 1100);
    cost += (kValue ? 3 : 4.5) * wide * items;
    cost += panel * panels + target_panel * std::min(panels, targets);
    return cost;
  }

 private:
  static constexpr bool kSingle = sizeof(T) == 4, kValue = kDerivative == 0;
  static constexpr double kNarrower = 64.0 / SODEEP_FAST_VECTOR_BYTES;

  const RankCountsRow<T>& row_;
  const GroupedRow<T>& grouped_;
  double entries_, factored_;
};

// Plans several passes over one order.
template <class T, CountsPass... passes>
CountsPlan make_plan(const RankCountsRow<T>& row, const GroupedRow<T>& grouped) {
  CountsPlan plan;
  if (row.method == Method::kDirect || !has_panels<T>(row.comparators)) return plan;
  const bool all = row.method == Method::kLinear;
  const auto costs = std::make_tuple(CountsCosts<T, passes>(row, grouped)...);
  double direct = std::get<0>(costs).exponentials(), ordered = std::get<0>(costs).order();
  for (int64_t l = 0; l < row.num_levels; ++l) {
    const int64_t* first = grouped.first;
    // Targets of a higher, the same and a lower level, to which comparators 0, 1 and 2 apply.
    const int64_t by_relation[3] = {first[row.num_levels] - first[l + 1], first[l + 1] - first[l],
                                    first[l]};
    const auto items = static_cast<double>(grouped.count[l]);
    for (int which = 0; which < 3; ++which) {
      const Comparator& comparator = row.comparators[which];
      int64_t count = 0;
      for (int other = which; other < 3; ++other)
        count += first_alike(row.comparators, other) == which ? by_relation[other] : 0;
      const auto targets = static_cast<double>(count);
      const double pairs = items * targets;
      double apart = 0, summed = 0;
      bool can_sum = true;
      const auto add = [&](const auto& of_pass) {
        if (!comparator.has_derivative(of_pass.kDerivative)) return;
        can_sum &= has_sums<T>(comparator, of_pass.kDerivative);
        apart += pairs * of_pass.pair(comparator, false);
        summed += of_pass.sums(comparator, items, targets);
        direct += pairs * of_pass.pair(comparator, true);
      };
      if (pairs > 0) std::apply([&](const auto&... of_pass) { (add(of_pass), ...); }, costs);
      if (apart == 0) continue;
      const bool by_sums = can_sum && (all || summed < apart);
      plan.by_sums[which][l] = by_sums;
      plan.any |= by_sums;
      ordered += by_sums ? summed : apart;
    }
  }
  plan.any &= all || ordered < direct;
  return plan;
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
