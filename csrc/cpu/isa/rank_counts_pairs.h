// H(x), tau H'(x) and tau^2 H''(x) of pairs, items in lanes. The sign of x is taken by comparing
// the scores, as x itself may have been flushed to 0. Included once for each instruction set, hence
// no include guard.

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// An item or a target: its score and, if the row's range allows it, its exponential.
template <class T>
struct Scored {
  Vec<T> score, exponential;
};

// One exponential per item and per target.
template <class T>
struct FactoredSigmoid {
  static constexpr bool kFactored = true;

  explicit FactoredSigmoid(const Comparator&) {}

  inline Vec<T> value(Scored<T> item, Scored<T> own) const {
    return item.exponential * reciprocal<T>(own.exponential + item.exponential);
  }
  inline Vec<T> slope(Scored<T> item, Scored<T> own) const {
    const Vec<T> inverse = reciprocal<T>(own.exponential + item.exponential);
    return (item.exponential * inverse) * (own.exponential * inverse);
  }
  inline Vec<T> curvature(Scored<T> item, Scored<T> own) const {
    const Vec<T> inverse = reciprocal<T>(own.exponential + item.exponential);
    return (item.exponential * inverse) * (own.exponential * inverse) *
           ((own.exponential - item.exponential) * inverse);
  }
};

// One exponential per pair, for any range.
template <class T>
struct ExactSigmoid {
  static constexpr bool kFactored = false;
  T inverse_tau;

  explicit ExactSigmoid(const Comparator& c)
      : inverse_tau(static_cast<T>(std::min<double>(1 / c.tau, std::numeric_limits<T>::max()))) {}

  inline Vec<T> odds(Scored<T> item, Scored<T> own) const {
    return exponential<T>(inverse_tau * (own.score - item.score));
  }
  inline Vec<T> value(Scored<T> item, Scored<T> own) const {
    return reciprocal<T>(1 + odds(item, own));
  }
  inline Vec<T> slope(Scored<T> item, Scored<T> own) const {
    const Vec<T> against = odds(item, own), win = reciprocal<T>(1 + against);
    return against * win * win;
  }
  inline Vec<T> curvature(Scored<T> item, Scored<T> own) const {
    const Vec<T> against = odds(item, own), win = reciprocal<T>(1 + against);
    return against * win * win * ((against - 1) * win);
  }
};

template <class T, class Sigmoid>
struct SupPairs {
  static constexpr bool kFactored = Sigmoid::kFactored;
  Sigmoid sigmoid;
  T rho, delta, start, offset, scaled_rho;

  explicit SupPairs(const Comparator& c)
      : sigmoid(c),
        rho(static_cast<T>(c.rho)),
        delta(static_cast<T>(c.delta)),
        start(static_cast<T>(c.start)),
        offset(static_cast<T>(c.offset)),
        scaled_rho(static_cast<T>(c.rho * c.tau)) {}

  inline Vec<T> value(Scored<T> item, Scored<T> own) const {
    const Vec<T> x = item.score - own.score, zero = {},
                 soft = sigmoid.value(item, own) +
                        (item.score > own.score ? broadcast<T>(start) : zero);
    return x > delta ? rho * (x - delta) + offset : soft;
  }
  inline Vec<T> slope(Scored<T> item, Scored<T> own) const {
    return item.score - own.score > delta ? broadcast<T>(scaled_rho) : sigmoid.slope(item, own);
  }
  inline Vec<T> curvature(Scored<T> item, Scored<T> own) const {
    const Vec<T> zero = {};
    return item.score - own.score > delta ? zero : sigmoid.curvature(item, own);
  }
};

template <class T>
struct StepPairs {
  static constexpr bool kFactored = false;
  T at_zero;

  explicit StepPairs(const Comparator& c) : at_zero(static_cast<T>(c.at_zero)) {}

  inline Vec<T> value(Scored<T> item, Scored<T> own) const {
    const Vec<T> one = broadcast<T>(1), zero = {}, tied = broadcast<T>(at_zero);
    return item.score > own.score ? one : item.score < own.score ? zero : tied;
  }
};

template <class T>
struct RampPairs {
  static constexpr bool kFactored = false;
  T leak, beta, gamma, end;

  explicit RampPairs(const Comparator& c)
      : leak(static_cast<T>(c.leak)),
        beta(static_cast<T>(c.beta)),
        gamma(static_cast<T>(c.gamma)),
        end(static_cast<T>(c.end())) {}

  inline Vec<T> value(Scored<T> item, Scored<T> own) const {
    const Vec<T> x = item.score - own.score, one = broadcast<T>(1);
    return x > end ? one : item.score > own.score ? beta * x + gamma : leak * x;
  }
  inline Vec<T> slope(Scored<T> item, Scored<T> own) const {
    const Vec<T> x = item.score - own.score, zero = {};
    return x > end ? zero : item.score > own.score ? broadcast<T>(beta) : broadcast<T>(leak);
  }
};

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
