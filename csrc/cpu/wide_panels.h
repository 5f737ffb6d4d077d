// The arithmetic of sigmoid_panels.h for short rows, for which a few wide panels cost least: width
// 4 in z = lam * s, with as many functions of the position in [-1, 1] as an AVX-512 register has
// floats.
//
// The nearest pole of the sigmoid is now pi / 2 away in t. The truncation error falls like 3.4^-p,
// and powers lose digits against Chebyshev polynomials nearly as fast. So powers are not accurate
// enough, and Chebyshev polynomials would take twice the operations. The functions used instead are
//
//     phi_(4b + a)(t)  =  t^a u^b,   u = T_4(t) = 8 t^4 - 8 t^2 + 1,   a, b < 4,
//
// of degree 4b + a, between -1 and 1, and even or odd as a is.
#pragma once

#include <vector>

#include "math/sigmoid_panels.h"

namespace sodeep_fast {

constexpr int kWideOrder = 16;
constexpr double kWideWidth = 4;

// Panels this far apart or farther see each other saturated, to 2e-9.
constexpr int kWideReach = 6;
// The functions of t_j that count at a distance: the others add 1e-7 to a pair at most.
constexpr int kWideTerms[kWideReach] = {16, 16, 8, 8, 4, 4};

// Chebyshev polynomials in phi: those of order 4b are polynomials in u, as T_4b = T_b(T_4), and
// T_(4b + a) = 2 T_a T_4b - T_(4b - a).
inline PanelMatrix<kWideOrder> chebyshev_in_wide_functions() {
  const PanelMatrix<4> powers = chebyshev_powers<4>();
  PanelMatrix<kWideOrder> result{};
  for (int b = 0; b < 4; ++b)
    for (int a = 0; a < 4; ++a) {
      const bool is_product = a > 0 && b > 0;
      for (int of_u = 0; of_u < 4; ++of_u)
        for (int of_t = 0; of_t < 4; ++of_t)
          result[4 * b + a][4 * of_u + of_t] =
              (is_product ? 2 : 1) * powers[a][of_t] * powers[b][of_u];
      for (int k = 0; is_product && k < kWideOrder; ++k)
        result[4 * b + a][k] -= result[4 * b - a][k];
    }
  return result;
}

// K_-d for d < reach: entry [(d * p + b) * p + a] of phi_b(t_j) phi_a(t_i) for an item j that is d
// panels below i. For items above, the signs of t_j and t_i change, and sigmoid(x) - 1 =
// -sigmoid(-x), sigmoid'(x) = sigmoid'(-x).
template <int kDerivative>
std::vector<float> make_wide_table() {
  constexpr int p = kWideOrder;
  const PanelMatrix<p> functions = chebyshev_in_wide_functions();
  std::vector<float> table;
  table.reserve(kWideReach * p * p);
  for (int d = 0; d < kWideReach; ++d) {
    auto coefficients = chebyshev_coefficients<p>(
        -d, [](long double x) { return sigmoid_derivative<kDerivative>(kWideWidth * x); });
    for (int b = kWideTerms[d]; b < p; ++b) coefficients[b].fill(0);
    for (const auto& row : transform_both_sides<p>(coefficients, functions))
      for (const long double entry : row) table.push_back(static_cast<float>(entry));
  }
  return table;
}

}  // namespace sodeep_fast
