// Computes the counts of a row, or a derivative, without visiting pairs. Items and targets are
// ordered together, and each level's items are summed for the targets by panels (the sigmoid) and
// running sums (what lies beyond a threshold). The backward takes the same sums with items and
// targets exchanged, weighted by the targets' gradients. Several passes may share one order.
// Included once for each instruction set, hence no include guard.

#include "cpu/isa/rank_counts_order.h"
#include "cpu/isa/rank_counts_sums.h"

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// The targets that compare items of a level by the current comparator, in order.
template <class T>
struct ChosenTargets {
  T *scores, *tangent, *weight, *weighted;  // s, v, g, g v
  uint32_t *number, *before;  // among the ordered targets; [targets + 1] chosen before each target
  int64_t count;
  int64_t level;  // of the items
  std::array<bool, 3> used;
};

template <class T>
class LinearRow {
 public:
  // Only the row's comparators, sums and gradients may change from pass to pass.
  LinearRow(const RankCountsRow<T>& row, const GroupedRow<T>& grouped, const OrderNeeds& needs,
            RankCountsScratch<T>& scratch)
      : row_(row),
        grouped_(grouped),
        scratch_(scratch),
        split_(split_order<T>(row, grouped, needs, scratch)),
        targets_(grouped.first[row.num_levels]),
        first_target_(split_.begin[row.num_levels]),
        cuts_(split_, targets_, scratch.cuts.reserve(TargetCuts<T>::size(targets_))) {
    const int64_t stride = targets_ + 16;
    T* memory = scratch.chosen.reserve(4 * stride);
    uint32_t* numbers = scratch.chosen_slots.reserve(3 * stride + split_.entries + 1);
    chosen_ = {memory,
               memory + stride,
               memory + 2 * stride,
               memory + 3 * stride,
               numbers + stride,
               numbers,
               0,
               -1,
               {}};
    target_ = numbers + 2 * stride;
    counted_ = numbers + 3 * stride;
    target_level_ = scratch.target_levels.reserve(2 * targets_);
    uint8_t* levels = target_level_ + targets_;  // grouped
    for (int64_t l = 0; l < row.num_levels; ++l)
      std::fill(levels + grouped.first[l], levels + grouped.first[l + 1], static_cast<uint8_t>(l));
    for (int64_t k = 0; k < targets_; ++k) {
      const int64_t at = split_.slot[first_target_ + k] - grouped.room;
      target_[k] = static_cast<uint32_t>(grouped.order[at]);
      target_level_[k] = levels[at];
    }
    runs_ = scratch.runs.reserve(2 * (split_.entries + 1));
  }
  LinearRow(const LinearRow&) = delete;
  LinearRow& operator=(const LinearRow&) = delete;

  // Computes what the plan leaves to sums.
  template <CountsPass pass>
  void run(const CountsPlan& plan) {
    // Comparators of higher levels first. Those are often steps, which have no backward: what is
    // found last, and kept, is then what the backward needs too.
    for (int which = 2; which >= 0; --which) {
      const Comparator& comparator = row_.comparators[which];
      Used used;
      for (int other = 0; other < 3; ++other) used[other] = row_.comparators[other] == comparator;
      const bool is_first = first_alike(row_.comparators, which) == which;
      const bool* by_sums = plan.by_sums[which];
      if (!is_first || !comparator.has_derivative(derivative_of(pass)) ||
          std::none_of(by_sums, by_sums + row_.num_levels, [](bool by) { return by; }))
        continue;
      if (split_.sorted && comparator.has_sigmoid() && comparator.tau != panels_of_) {
        panels_of_ = comparator.tau;
        cut_panels(split_.entries, 1 / panels_of_, split_.together);
      }
      if (comparator.kind == Comparison::kStep) {
        add_steps(comparator, by_sums, used);
        continue;
      }
      Compared<pass> compared(comparator, split_, cuts_, counted_, scratch_);
      for (int64_t l = 0; l < row_.num_levels; ++l)
        if (by_sums[l] && choose<pass>(l, used)) add_level<pass>(l, comparator, compared);
    }
  }

 private:
  template <CountsPass pass>
  using Compared =
      ComparedSums<T, derivative_of(pass), last_derivative_of(pass), has_tangent(pass) ? 2 : 1>;

  // Whether levels in each relation are compared by the current comparator.
  using Used = std::array<bool, 3>;

  static bool is_used(const Used& used, int64_t l, int64_t target_level) {
    return used[(l >= target_level) + (l > target_level)];
  }

  void add_steps(const Comparator& step, const bool* by_sums, const Used& used) {
    cuts_.find(step, 0);
    for (int64_t l = 0; l < row_.num_levels; ++l) {
      if (!by_sums[l]) continue;
      count_level(l);
      const uint32_t count = counted_[split_.entries];
      for (int64_t k = 0; k < targets_; ++k) {
        if (!is_used(used, l, target_level_[k])) continue;
        const uint32_t t = target_[k], above = count - counted_[cuts_.above[k]];
        const bool is_itself = target_level_[k] == l && grouped_.place[t] >= 0;
        const uint32_t tied = count - counted_[cuts_.level[k]] - above - is_itself;
        row_.sum_of(t, l) = above + step.at_zero * tied;
      }
    }
  }

  // Chooses the targets that compare items of level l by the current comparator; false if none.
  template <CountsPass pass>
  bool choose(int64_t l, const Used& used) {
    ChosenTargets<T>& to = chosen_;
    if (l != to.level || used != to.used) find_chosen(l, used);
    for (int64_t i = 0; i < to.count; ++i) {
      const uint32_t k = to.number[i];
      if constexpr (has_tangent(pass)) to.tangent[i] = split_.tangent[first_target_ + k];
      if constexpr (to_items(pass)) to.weight[i] = row_.grad_of(target_[k], l);
      if constexpr (pass == CountsPass::kDoubleBackward)
        to.weighted[i] = to.weight[i] * to.tangent[i];
    }
    return to.count > 0;
  }

  void find_chosen(int64_t l, const Used& used) {
    bool wanted[256];
    for (int64_t level = 0; level < row_.num_levels; ++level)
      wanted[level] = is_used(used, l, level);
    const ChosenTargets<T> to = chosen_;  // a local copy, which stores cannot change
    const T* scores = split_.scores + first_target_;
    uint32_t count = 0;
    for (int64_t k = 0; k < targets_; ++k) {
      to.scores[count] = scores[k];
      to.number[count] = static_cast<uint32_t>(k);
      to.before[k] = count;
      count += wanted[target_level_[k]];
    }
    to.before[targets_] = count;
    chosen_.level = l, chosen_.used = used, chosen_.count = count;
  }

  void count_level(int64_t l) {
    if (l == counted_level_) return;
    counted_level_ = l;
    uint32_t count = 0;
    for (int64_t k = 0; k < split_.entries; ++k) {
      counted_[k] = count;
      count += split_.classes[k] == l;
    }
    counted_[split_.entries] = count;
  }

  template <CountsPass pass>
  void add_level(int64_t l, const Comparator& comparator, Compared<pass>& compared) {
    const double scale = derivative_scale<pass>(comparator);
    const int64_t from = split_.begin[l];
    const T* tangent = has_tangent(pass) ? split_.tangent + from : nullptr;
    count_level(l);
    Side<T> items{split_.scores + from, {nullptr, tangent}, grouped_.count[l], runs_, 0};
    Side<T> targets{chosen_.scores,
                    {chosen_.weight, chosen_.weighted},
                    chosen_.count,
                    runs_ + split_.entries + 1,
                    0};
    if (comparator.has_sigmoid()) {
      items.find_runs(split_.together, [&](int64_t k) { return counted_[k]; });
      targets.find_runs(split_.together,
                        [&](int64_t k) { return chosen_.before[split_.targets_before[k]]; });
    }
    const double at_itself = comparator.has_sigmoid() ? 0.5 : 0;
    if (pass == CountsPass::kBackward && row_.slopes != nullptr) {
      for (int64_t i = 0; i < chosen_.count; ++i) {
        const uint32_t t = target_[chosen_.number[i]];
        row_.sums[t] += scale * chosen_.weight[i] * row_.slope_of(t, l);
      }
    } else
      compared.template visit<false>(
          items, targets, chosen_.number, [&](int64_t i, const double* sums) {
            const uint32_t k = chosen_.number[i], t = target_[k];
            if constexpr (derivative_of(pass) == 0) {
              const bool is_counted = target_level_[k] == l && grouped_.place[t] >= 0;
              row_.sum_of(t, l) = sums[0] - (is_counted ? at_itself : 0);
              if constexpr (pass == CountsPass::kCountsAndSlopes) row_.slope_of(t, l) = sums[1];
            } else {
              double value = sums[0];
              if constexpr (has_tangent(pass)) value = sums[1] - chosen_.tangent[i] * sums[0];
              if constexpr (to_items(pass))
                row_.sums[t] += scale * chosen_.weight[i] * value;
              else
                row_.sum_of(t, l) = scale * value;
            }
          });
    if constexpr (to_items(pass))
      compared.template visit<true>(
          targets, items, chosen_.number, [&](int64_t k, const double* sums) {
            double value = sums[0];
            if constexpr (has_tangent(pass)) value = tangent[k] * sums[0] - sums[1];
            grouped_.gradient[split_.slot[from + k]] += static_cast<T>(scale * value);
          });
  }

  const RankCountsRow<T>& row_;
  const GroupedRow<T>& grouped_;
  RankCountsScratch<T>& scratch_;
  SplitOrder<T> split_;
  int64_t targets_, first_target_;
  TargetCuts<T> cuts_;
  double panels_of_ = 0;  // the temperature whose panels a sorted row is cut into
  ChosenTargets<T> chosen_;
  uint32_t* target_;   // [targets] in order, the caller's numbers
  uint32_t* counted_;  // [entries + 1] items of a level before each place in the order
  int64_t counted_level_ = -1;
  uint8_t* target_level_;  // [targets] in order
  Panel* runs_;
};

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
