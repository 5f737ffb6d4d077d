// The sigmoid where it is nearly 1, as a short sum of decaying exponentials: for y >= y0 >= 0,
//
//     sigmoid^(m)(y)  =  [m = 0] + sum over k >= 1 of c_k u^k,   u = exp(-y) <= exp(-y0)
//
// to rounding. A sum over the items beyond a threshold then takes one running sum for each k, which
// decays from item to item. There is no constant term, so that far items add nothing.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

namespace sodeep_fast {

// The terms needed for u <= 0.03 (y >= 3.5), and those needed everywhere: with k terms, the
// truncation error falls like 131^-k for u <= 0.03, like 5.83^-k for u <= 1. For that, double would
// need so many that they cancel, so it has no such fit.
template <class T>
constexpr int kFewTerms = sizeof(T) == 4 ? 4 : 8;
template <class T>
constexpr int kMostTerms = sizeof(T) == 4 ? 12 : kFewTerms<T>;
constexpr double kFewTermsLimit = 0.03;

struct SaturatingSigmoid {
  bool few_terms;
  std::array<double, 16> c;  // c[k - 1] multiplies u^k; whole vectors
};

// u times the interpolant, at Chebyshev nodes of (0, exp(-y0)], of (sigmoid^(m) - [m = 0]) / u.
template <class T>
SaturatingSigmoid saturating_sigmoid(double y0, int derivative) {
  // The fit gains nothing on intervals this short, and its scaling would lose range.
  const long double top = std::exp(-std::min(y0, 7.0));
  SaturatingSigmoid fit{top <= kFewTermsLimit, {}};
  const int terms = fit.few_terms ? kFewTerms<T> : kMostTerms<T>;
  const long double pi = std::acos(-1.0L);

  std::vector<long double> chebyshev(terms);
  for (int node = 0; node < terms; ++node) {
    const long double angle = (2 * node + 1) * pi / (2 * terms), t = std::cos(angle);
    const long double u = top * (t + 1) / 2, up = 1 / (1 + u);
    const long double value = derivative == 0   ? -up
                              : derivative == 1 ? up * up
                                                : -(1 - u) * up * up * up;
    long double previous = t, current = 1;  // T_-1 = T_1
    for (int k = 0; k < terms; ++k) {
      chebyshev[k] += (k ? 2 : 1) * value * current / terms;
      const long double next = 2 * t * current - previous;
      previous = current;
      current = next;
    }
  }

  // Powers of u / top: T_k(2 w - 1), by the recurrence of the polynomials.
  std::vector<long double> powers(terms), current(terms), previous(terms);
  current[0] = 1;
  previous[0] = -1;
  if (terms > 1) previous[1] = 2;
  for (int k = 0; k < terms; ++k) {
    std::vector<long double> next(terms);
    for (int b = 0; b < terms; ++b) {
      powers[b] += chebyshev[k] * current[b];
      next[b] = (b ? 4 * current[b - 1] : 0) - 2 * current[b] - previous[b];
    }
    previous = std::move(current);
    current = std::move(next);
  }
  long double scale = 1;
  for (int k = 0; k < terms; ++k, scale /= top) fit.c[k] = static_cast<double>(powers[k] * scale);
  return fit;
}

}  // namespace sodeep_fast
