// The sums of a comparator over ordered items, at ordered points: panels for the sigmoid, running
// sums for what lies beyond a threshold, windows for a ramp. Included once for each instruction
// set, hence no include guard.

#include "cpu/isa/panel_sums.h"
#include "cpu/isa/rank_counts_beyond.h"

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// Items of a level, or targets that share a comparator, in order.
template <class T>
struct Side {
  const T* scores;
  const T* weights[2];  // null: 1
  int64_t count;
  Panel* runs;  // the panels that they occupy
  int64_t run_count;

  // before(place) is the number of them before a place in the order.
  template <class Before>
  void find_runs(const OrderedRow<T>& order, const Before& before) {
    run_count = 0;
    for (int64_t q = 0; q < order.panel_count; ++q) {
      Panel run = order.panels[q];
      run.begin = before(run.begin);
      run.end = before(run.end);
      runs[run_count] = run;
      run_count += run.begin < run.end;
    }
  }
};

// out[c][i] = sum over the items k of w_c[k] sigmoid^(m)((s_k - s_i) / tau), for each point i. With
// two derivatives m, the channels of kFirst are followed by those of kLast.
template <class T, int kFirst, int kLast, int kChannels>
void sigmoid_sums(const Side<T>& items, const Side<T>& points, double lam, Buffer<double>& memory,
                  T* const (&out)[2]) {
  constexpr int p = kPanelOrder<T>, lanes = kLanes<T>;
  constexpr int kTables = kLast - kFirst + 1, kSums = kTables * kChannels;
  const T to_t = static_cast<T>(2 * lam);
  const int64_t moment_count = items.run_count * kChannels * p;
  using Sums = PanelSums<T, kChannels>;
  double* moments = memory.reserve(moment_count + Sums::far_size(points.run_count));
  std::fill(moments, moments + moment_count, 0.0);
  for (int64_t r = 0; r < items.run_count; ++r) {
    const Panel& run = items.runs[r];
    const auto centre = panel_centre<T>(run.anchor, run.index, lam);
    for (int c = 0; c < kChannels; ++c)
      add_moments<T>(items.scores + run.begin,
                     items.weights[c] ? items.weights[c] + run.begin : nullptr, run.end - run.begin,
                     centre, to_t, moments + (r * kChannels + c) * p);
  }

  Sums sums(items.runs, items.run_count, moments, points.runs, moments + moment_count);
  sums.find_far(0, points.run_count);
  PanelTables tables[kTables];
  tables[0] = panel_tables<T, kFirst>();
  if constexpr (kTables > 1) tables[1] = panel_tables<T, kLast>();
  PanelWindow window{};
  int64_t above = 0;
  for (int64_t r = 0; r < points.run_count; ++r) {
    const Panel& run = points.runs[r];
    T narrow[kSums][p];
    double wide[kTables][kChannels][p];
    sums.gather(r, tables, window, wide);
    if constexpr (kFirst == 0) {  // items of the panels above count in full
      while (above < items.run_count && items.runs[above].place <= run.place) ++above;
      if (above < items.run_count)
        wide[0][0][0] += static_cast<double>(items.count - items.runs[above].begin);
    }
    for (int c = 0; c < kSums; ++c)
      for (int a = 0; a < p; ++a)
        narrow[c][a] = static_cast<T>(wide[c / kChannels][c % kChannels][a]);
    const auto centre = panel_centre<T>(run.anchor, run.index, lam);
    for (int64_t i = run.begin; i < run.end; i += lanes) {
      const Vec<T> score = load_first<T>(points.scores + i, run.end - i);
      const Vec<T> t = ((score - centre.hi) - centre.lo) * to_t;
      for (int c = 0; c < kSums; ++c)
        store_first<T>(out[c] + i, evaluate_powers<T>(narrow[c], t), run.end - i);
    }
  }
}

// For each target, the places in the order at which H breaks, found once for all passes over that
// order.
template <class T>
class TargetCuts {
 public:
  // [targets] the first place with s_k >= s_i, s_k > s_i, and s_k - s_i > delta or the ramp's end.
  uint32_t *level, *above, *beyond;

  TargetCuts(const SplitOrder<T>& split, int64_t targets, uint32_t* memory)
      : level(memory),
        above(memory + targets + 1),
        beyond(above + targets + 1),
        split_(split),
        targets_(targets) {}

  static int64_t size(int64_t targets) { return 3 * (targets + 1); }

  // Finds those that a derivative of the comparator needs.
  void find(const Comparator& comparator, int derivative) {
    const bool is_sup = comparator.kind == Comparison::kSup;
    if (comparator.kind == Comparison::kSigmoid) return;
    if ((derivative == 0 || !is_sup) && !has_above_) {
      first_above(split_, targets_, level, above);
      has_above_ = true;
    }
    if (comparator.kind == Comparison::kStep) return;
    const T threshold = static_cast<T>(is_sup ? comparator.delta : comparator.end());
    if (has_beyond_ && threshold == threshold_) return;
    first_beyond(split_, targets_, threshold, beyond);
    has_beyond_ = true, threshold_ = threshold;
  }

 private:
  const SplitOrder<T>& split_;
  int64_t targets_;
  T threshold_ = 0;
  bool has_above_ = false, has_beyond_ = false;
};

// The same sums, of H or its derivatives instead of the sigmoid's, exact where H breaks. Reversed
// comparisons, of H(s_i - s_k), are what the backward needs: they are derivatives, never H itself.
template <class T, int kFirst, int kLast, int kChannels>
class ComparedSums {
 public:
  ComparedSums(const Comparator& comparator, const SplitOrder<T>& split, TargetCuts<T>& cuts,
               const uint32_t* counted, RankCountsScratch<T>& scratch)
      : comparator_(comparator), split_(split), cuts_(cuts), counted_(counted), scratch_(scratch) {
    const int64_t stride = split.size + 16;
    T* memory = scratch.compared.reserve(2 * stride);
    for (int c = 0; c < 2; ++c) soft_[c] = memory + c * stride;
    double* doubles = scratch.beyond.reserve(3 * stride);
    for (int c = 0; c < 2; ++c) beyond_[c] = doubles + c * stride;
    room_ = doubles + 2 * stride;
    uint32_t* places = scratch.cut.reserve(2 * stride);
    for (int side = 0; side < 2; ++side) cut_[side] = places + side * stride;
    cuts.find(comparator, kFirst);
  }

  // Calls use(i, sums of the channels) for every point. Points are targets, and items are those of
  // the counted level; kReversed exchanges the two. `number` has the targets' numbers among all.
  template <bool kReversed, class Use>
  void visit(const Side<T>& items, const Side<T>& points, const uint32_t* number, const Use& use) {
    const bool has_sigmoid = comparator_.has_sigmoid();
    const bool has_threshold = comparator_.kind != Comparison::kSigmoid;
    if (has_sigmoid)
      sigmoid_sums<T, kFirst, kLast, kChannels>(items, points, 1 / comparator_.tau,
                                                scratch_.moments, soft_);
    if (has_threshold) {
      for (int c = 0; c < kSums; ++c) std::fill_n(beyond_[c], points.count, 0.0);
      add_threshold<kReversed>(items, points, number);
    }
    // sigmoid'' is odd, sigmoid' even.
    const double sign = kReversed && kFirst == 2 ? -1 : 1;
    for (int64_t i = 0; i < points.count; ++i) {
      double sums[kSums];
      for (int c = 0; c < kSums; ++c)
        sums[c] = (has_sigmoid ? sign * static_cast<double>(soft_[c][i]) : 0.0) +
                  (has_threshold ? beyond_[c][i] : 0.0);
      use(i, sums);
    }
  }

 private:
  static constexpr int kSums = (kLast - kFirst + 1) * kChannels;
  static_assert(kSums <= 2);

  template <bool kReversed>
  void add_threshold(const Side<T>& items, const Side<T>& points, const uint32_t* number) {
    if (comparator_.kind == Comparison::kRamp) {
      if constexpr (kLast < 2) add_ramp<kReversed>(items, points, number);
      return;
    }
    find_cut<kReversed>(cuts_.beyond, items.count, points.count, number, cut_[0]);
    const Threshold<T, kReversed> side{items.scores, {items.weights[0], items.weights[1]},
                                       items.count,  points.scores,
                                       cut_[0],      points.count};
    if (comparator_.beyond[kFirst].few_terms)
      add_beyond_delta<kFewTerms<T>>(side);
    else
      add_beyond_delta<kMostTerms<T>>(side);
    if (kFirst == 0 && comparator_.start != 0) add_start(points, number);
  }

  // For targets as points: cut[i] is the number of items before place first[number[i]]. Reversed,
  // for the level's items as points: cut[k] is the number of targets with that place at or before
  // item k.
  template <bool kReversed>
  void find_cut(const uint32_t* first, int64_t items, int64_t points, const uint32_t* number,
                uint32_t* cut) {
    if constexpr (kReversed) {
      std::fill_n(cut, points + 1, 0u);
      for (int64_t i = 0; i < items; ++i) ++cut[counted_[first[number[i]]]];
      std::partial_sum(cut, cut + points, cut);
    } else {
      for (int64_t i = 0; i < points; ++i) cut[i] = counted_[first[number[i]]];
    }
  }

  // Adds `start` for every item above a target; add_beyond_delta subtracts it again beyond delta.
  void add_start(const Side<T>& targets, const uint32_t* number) {
    const uint32_t count = counted_[split_.entries];
    for (int64_t i = 0; i < targets.count; ++i)
      beyond_[0][i] +=
          comparator_.start * static_cast<double>(count - counted_[cuts_.above[number[i]]]);
  }

  // Between the cuts are the items with 0 < x <= the ramp's end; those with x <= 0 are before them
  // or, reversed, after.
  template <bool kReversed>
  void add_ramp(const Side<T>& items, const Side<T>& points, const uint32_t* number) {
    find_cut<kReversed>(cuts_.above, items.count, points.count, number, cut_[kReversed]);
    find_cut<kReversed>(cuts_.beyond, items.count, points.count, number, cut_[!kReversed]);
    if constexpr (kFirst == 0) add_ramp_values(items, points);
    if constexpr (kLast == 1) {
      const auto all = static_cast<uint32_t>(items.count);
      const auto begin = [&](int64_t i) { return cut_[0][i]; };
      const auto end = [&](int64_t i) { return cut_[1][i]; };
      add_slope(items, points, comparator_.beta, begin, end);
      if (comparator_.leak == 0) return;
      if constexpr (kReversed)
        add_slope(items, points, comparator_.leak, end, [=](int64_t) { return all; });
      else
        add_slope(items, points, comparator_.leak, [](int64_t) { return 0u; }, begin);
    }
  }

  // For items that all have weight 1.
  void add_ramp_values(const Side<T>& items, const Side<T>& points) {
    const double leak = comparator_.leak, beta = comparator_.beta, gamma = comparator_.gamma;
    const auto begin = [&](int64_t i) { return cut_[0][i]; };
    const auto end = [&](int64_t i) { return cut_[1][i]; };
    const auto apart = [&](T q, T p) { return static_cast<double>(q) - static_cast<double>(p); };
    for_each_window<T>(
        points.count, begin, end, room_,
        [&](int64_t k, int64_t origin) { return apart(items.scores[k], points.scores[origin]); },
        [&](int64_t i, int64_t origin, double sum) {
          const double moved = apart(points.scores[i], points.scores[origin]);
          const double count = end(i) - begin(i);
          beyond_[0][i] += beta * (sum - count * moved) + gamma * count +
                           static_cast<double>(items.count - end(i));
        });
    if (leak != 0)
      for_each_distance<T>(items.scores, points.scores, points.count, begin,
                           [&](int64_t i, double sum) { beyond_[0][i] -= leak * sum; });
  }

  // Adds the slope, times its weight, for every item from begin(i) to end(i).
  template <class Begin, class End>
  void add_slope(const Side<T>& items, const Side<T>& points, double slope, const Begin& begin,
                 const End& end) {
    for (int c = 0; c < kChannels; ++c) {
      double* sums = beyond_[(1 - kFirst) * kChannels + c];
      if (items.weights[c] == nullptr) {
        for (int64_t i = 0; i < points.count; ++i) sums[i] += slope * (end(i) - begin(i));
        continue;
      }
      for_each_window<T>(
          points.count, begin, end, room_,
          [&](int64_t k, int64_t) { return static_cast<double>(items.weights[c][k]); },
          [&](int64_t i, int64_t, double sum) { sums[i] += slope * sum; });
    }
  }

  // Adds for every item beyond delta, with x = |p - q| and y = x / tau,
  //
  //   derivative 0:  rho (x - delta) + offset - start - sigmoid(y)
  //   derivative 1:  rho tau - sigmoid'(y)
  //   derivative 2:  - sigmoid''(y)
  template <int kTerms, bool kReversed>
  void add_beyond_delta(const Threshold<T, kReversed>& side) {
    const double rho = comparator_.rho,
                 delta = static_cast<double>(static_cast<T>(comparator_.delta));
    const double constants[3] = {comparator_.offset - comparator_.start - 1 - rho * delta,
                                 rho * comparator_.tau, 0};
    for_each_beyond<T, kChannels, kLast - kFirst + 1, kTerms>(
        side, comparator_.tau, comparator_.beyond + kFirst, room_,
        [&](int64_t i, int c, const BeyondSums& sums) {
          const int m = kFirst + c / kChannels;
          const double line = m == 0 ? rho * sums.distance : 0;
          beyond_[c][i] += line + constants[m] * sums.weight - sums.decayed;
        });
  }

  const Comparator& comparator_;
  const SplitOrder<T>& split_;
  const TargetCuts<T>& cuts_;
  const uint32_t* counted_;  // [entries + 1] items of the level before each place in the order
  RankCountsScratch<T>& scratch_;
  T* soft_[2];
  double *beyond_[2], *room_;
  uint32_t* cut_[2];  // [points + 1] a place among the items
};

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
