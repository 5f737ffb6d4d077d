// All pairs of a row, each visited once: a pair gives its contribution to both of its members.
// Included once for each instruction set, hence no include guard.

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// A pair (i, j) is reduced to win = sigmoid(lam (s_j - s_i)), by which j outranks i, and
// lose = 1 - win, computed without cancellation.

// One exponential for each item: win = e_j / (e_i + e_j) with e = exp(lam (s - centre)). For rows
// whose exponentials neither overflow nor underflow.
template <class T>
struct FactoredPairs {
  static constexpr T kPadding = 0;
  static constexpr double kMaxRange = sizeof(T) == 4 ? 160 : 1400;  // in units of 1 / lam

  inline void operator()(Vec<T> e_i, Vec<T> e_j, Vec<T>& win, Vec<T>& lose) const {
    const Vec<T> inverse = reciprocal<T>(e_i + e_j);
    win = e_j * inverse;
    lose = e_i * inverse;
  }

  // The exponent is taken in twice the precision: its rounding would be an error of the score.
  static Vec<double> exponentials(Vec<double> s, double centre, double lam) {
    const Vec<double> offset = s - centre;
    const Vec<double> z = lam * offset;
    const Vec<double> value = exponential<double, kExponentialTerms<T>>(z);
    if constexpr (sizeof(T) == 4) return value;
    // Rounding errors of the difference (Knuth's two-sum) and of the product.
    const Vec<double> shifted = offset + centre;
    const Vec<double> offset_error = (s - shifted) + ((shifted - offset) - centre);
    Vec<double> product_error;
    for (int k = 0; k < kLanes<double>; ++k) product_error[k] = std::fma(lam, offset[k], -z[k]);
    return value + value * (product_error + lam * offset_error);
  }

  static void prepare(const T* scores, int64_t n, double lam, T lo, T hi, T* e) {
    const double centre = 0.5 * (static_cast<double>(lo) + static_cast<double>(hi));
    constexpr int step = kLanes<double>;
    typedef T Narrow __attribute__((vector_size(step * sizeof(T))));
    const auto convert = [&](const T* from, T* to) {
      Narrow s;
      __builtin_memcpy(&s, from, sizeof(s));
      s = __builtin_convertvector(
          exponentials(__builtin_convertvector(s, Vec<double>), centre, lam), Narrow);
      __builtin_memcpy(to, &s, sizeof(s));
    };
    int64_t i = 0;
    for (; i + step <= n; i += step) convert(scores + i, e + i);
    if (i < n) {
      T tail[step] = {};
      std::copy(scores + i, scores + n, tail);
      convert(tail, tail);
      std::copy(tail, tail + (n - i), e + i);
    }
  }
};

// One exponential for each pair, of the exact difference: any range.
template <class T>
struct ExactPairs {
  static constexpr T kPadding = -std::numeric_limits<T>::infinity();
  T lam;

  inline void operator()(Vec<T> s_i, Vec<T> s_j, Vec<T>& win, Vec<T>& lose) const {
    const Vec<T> odds = exponential<T>(lam * (s_i - s_j));
    win = reciprocal<T>(1 + odds);
    lose = odds * win;
  }

  static void prepare(const T* scores, int64_t n, double, T, T, T* copy) {
    std::copy(scores, scores + n, copy);
  }
};

// What a pair adds to its member i (times -1 to j for the derivatives, which are antisymmetric).
template <class T, int kDerivative>
inline Vec<T> pair_term(Vec<T> win, Vec<T> lose, const Vec<T> (&w_i)[2], const Vec<T> (&w_j)[2]) {
  if constexpr (kDerivative == 1) return win * lose * (w_j[0] - w_i[0]);
  return win * lose * (lose - win) * (w_j[0] - w_i[0]) * (w_j[1] - w_i[1]);
}

// Sums in T drift by their length, so they are kept this short, then go to a long sum.
template <class T>
constexpr int64_t kTileColumns = 32 * kLanes<T>;
constexpr int64_t kTileBlocks = 4;
// First members at a time: their totals and their items stay in registers.
constexpr int kGroup = SODEEP_FAST_VECTOR_BYTES == 64 ? 8 : 4;

// A long sum: the rounding errors of the additions are summed beside it (Knuth's two-sum).
struct LongSums {
  double* total;  // [padded n]
  double* error;  // [padded n]

  // Adds x[0..count) to the sums from i on; count is a multiple of a vector of T.
  template <class T>
  inline void add(int64_t i, const T* x, int64_t count) const {
    constexpr int step = kLanes<double>;
    typedef T Narrow __attribute__((vector_size(step * sizeof(T))));
    for (int64_t k = 0; k < count; k += step) {
      Narrow narrow;
      __builtin_memcpy(&narrow, x + k, sizeof(narrow));
      const auto wide = __builtin_convertvector(narrow, Vec<double>);
      const Vec<double> old = load<double>(total + i + k);
      const Vec<double> sum = old + wide, kept = sum - wide;
      store<double>(total + i + k, sum);
      store<double>(error + i + k,
                    load<double>(error + i + k) + ((old - kept) + (wide - (sum - kept))));
    }
  }
};

// Adds to sums the pairs whose first member is in the blocks begin, begin + stride, ...
template <class T, int kDerivative, class Pairs>
void add_pairs(const Pairs pairs, const T* items, const T* const (&weights)[2], int64_t n,
               int64_t begin, int64_t stride, const LongSums sums) {
  constexpr int lanes = kLanes<T>, group = std::min(lanes, kGroup);
  const auto load_weights = [&](int64_t at, Vec<T>(&w)[2]) {
    for (int k = 0; k < kDerivative; ++k) w[k] = load<T>(weights[k] + at);
  };

  for (int64_t tile = 0; tile < n; tile += kTileColumns<T>) {
    const int64_t tile_end = std::min(tile + kTileColumns<T>, (n + lanes - 1) / lanes * lanes);
    T partial[kTileColumns<T>];
    const auto clear = [&] { std::fill(partial, partial + (tile_end - tile), T(0)); };
    clear();
    int64_t blocks_since_flush = 0;

    for (int64_t first = begin * lanes; first < tile_end; first += stride * lanes) {
      const bool on_diagonal = first >= tile;
      const Vec<T> own = load<T>(items + first);
      Vec<T> totals[lanes], own_w[2] = {};
      load_weights(first, own_w);

      // Beyond n there is padding: what it gathers is not read.
      for (int64_t i = first; i < first + lanes; i += group) {
        Vec<T> x_i[group], w_i[group][2] = {}, total[group] = {};
        for (int k = 0; k < group; ++k) {
          x_i[k] = broadcast<T>(items[i + k]);
          for (int w = 0; w < kDerivative; ++w) w_i[k][w] = broadcast<T>(weights[w][i + k]);
        }
        // Inside its own block every ordered pair is visited, a member with itself too.
        for (int k = 0; on_diagonal && k < group; ++k) {
          Vec<T> win, lose;
          pairs(x_i[k], own, win, lose);
          if constexpr (kDerivative == 0)
            total[k] += win;
          else
            total[k] += pair_term<T, kDerivative>(win, lose, w_i[k], own_w);
        }
        for (int64_t j = std::max(first + lanes, tile); j < tile_end; j += lanes) {
          const Vec<T> x_j = load<T>(items + j);
          Vec<T> w_j[2] = {}, others = {};
          load_weights(j, w_j);
          for (int k = 0; k < group; ++k) {
            Vec<T> win, lose;
            pairs(x_i[k], x_j, win, lose);
            if constexpr (kDerivative == 0) {
              total[k] += win;
              others += lose;
            } else {
              const Vec<T> term = pair_term<T, kDerivative>(win, lose, w_i[k], w_j);
              total[k] += term;
              others -= term;
            }
          }
          store<T>(partial + (j - tile), load<T>(partial + (j - tile)) + others);
        }
        for (int k = 0; k < group; ++k) totals[i - first + k] = total[k];
      }
      T block_sums[lanes];
      store<T>(block_sums, transposed_sum<T>(totals));
      sums.add<T>(first, block_sums, lanes);
      if (++blocks_since_flush % kTileBlocks == 0) {
        sums.add<T>(tile, partial, tile_end - tile);
        clear();
      }
    }
    sums.add<T>(tile, partial, tile_end - tile);
  }
}

template <class T, int kDerivative, class Pairs>
void direct_with(const Pairs pairs, const T* scores, const T* const (&weights)[2], int64_t n,
                 double lam, T lo, T hi, double scale, SoftRankScratch<T>& scratch, T* out) {
  constexpr int lanes = kLanes<T>;
  // A fixed number of parts, so that the result does not depend on the number of threads.
  constexpr int64_t kPartsWhenLong = 8, kLong = 4096;
  const int64_t padded = (n + lanes - 1) / lanes * lanes;
  const int64_t parts = n >= kLong ? kPartsWhenLong : 1;

  T* items = scratch.direct.reserve((1 + kDerivative) * padded);
  double* sums = scratch.moments.reserve(2 * parts * padded);
  Pairs::prepare(scores, n, lam, lo, hi, items);
  std::fill(items + n, items + padded, Pairs::kPadding);
  const T* padded_weights[2] = {};
  for (int k = 0; k < kDerivative; ++k) {
    T* copy = items + (1 + k) * padded;
    std::copy(weights[k], weights[k] + n, copy);
    std::fill(copy + n, copy + padded, T(0));
    padded_weights[k] = copy;
  }

  torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      const LongSums own{sums + 2 * part * padded, sums + (2 * part + 1) * padded};
      std::fill(own.total, own.total + 2 * padded, 0.0);
      add_pairs<T, kDerivative>(pairs, items, padded_weights, n, part, parts, own);
    }
  });

  for (int64_t part = 1; part < 2 * parts; ++part)
    for (int64_t i = 0; i < n; ++i) sums[i] += sums[part * padded + i];
  // The pair of an item with itself added sigmoid(0) = 1/2 to its rank.
  const double self = kDerivative == 0 ? 0.5 : 0.0;
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<T>(scale * (sums[i] + self));
}

// out[i] = scale * the sum of SoftRankRow, all scores finite and between lo and hi.
template <class T, int kDerivative>
void soft_rank_direct(const T* scores, const T* const (&weights)[2], int64_t n, double lam, T lo,
                      T hi, double scale, SoftRankScratch<T>& scratch, T* out) {
  if (lam * (static_cast<double>(hi) - static_cast<double>(lo)) <= FactoredPairs<T>::kMaxRange) {
    direct_with<T, kDerivative>(FactoredPairs<T>{}, scores, weights, n, lam, lo, hi, scale, scratch,
                                out);
  } else {
    const double largest = std::numeric_limits<T>::max();
    direct_with<T, kDerivative>(ExactPairs<T>{static_cast<T>(std::min(lam, largest))}, scores,
                                weights, n, lam, lo, hi, scale, scratch, out);
  }
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
