// The arithmetic of the linear-time sigmoid sums, shared by the CPU and CUDA kernels.
//
// With z = lam * s, the axis is cut into panels of width 1 in z, and t in [-1, 1] is the position
// inside a panel. Between two panels at distance d the m-th derivative of the sigmoid is, to
// rounding, a polynomial in both positions:
//
//     sigmoid^(m)(d + (t_j - t_i) / 2)  =  sum over a, b < p of  K_d[b][a] t_j^b t_i^a
//
// so the sum over all items j of a panel needs only the panel's power moments sum_j w_j t_j^b. The
// nearest pole of the sigmoid is pi away, so the truncation error falls like 12.6^-p, faster than
// powers lose digits against Chebyshev polynomials (2.4^p): the powers are well conditioned here.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#ifdef __CUDACC__
#define SODEEP_FAST_HOST_DEVICE __host__ __device__
#else
#define SODEEP_FAST_HOST_DEVICE
#endif

namespace sodeep_fast {

// Number of powers: the truncation error is 3e-9 for float, under 1e-17 for double.
template <class T>
constexpr int kPanelOrder = sizeof(T) == 4 ? 8 : 16;

// Panels this far apart or farther see each other saturated: exp(-(reach - 1)) is below rounding.
template <class T>
constexpr int kPanelReach = sizeof(T) == 4 ? 19 : 38;

// sigmoid^(m)(x) for m = 0, 1, 2.
template <int kDerivative>
inline long double sigmoid_derivative(long double x) {
  const long double up = 1 / (1 + std::exp(-x)), down = 1 / (1 + std::exp(x));
  if (kDerivative == 0) return up;
  return kDerivative == 1 ? up * down : up * down * (down - up);
}

// Numbers [b][a] that belong to function b of the position t_j and function a of t_i.
template <int p>
using PanelMatrix = std::array<std::array<long double, p>, p>;

// transform^T * numbers * transform
template <int p>
PanelMatrix<p> transform_both_sides(const PanelMatrix<p>& numbers,
                                    const PanelMatrix<p>& transform) {
  PanelMatrix<p> half{}, result{};
  for (int b = 0; b < p; ++b)
    for (int a = 0; a < p; ++a)
      for (int k = 0; k < p; ++k) half[b][a] += transform[k][b] * numbers[k][a];
  for (int b = 0; b < p; ++b)
    for (int a = 0; a < p; ++a)
      for (int k = 0; k < p; ++k) result[b][a] += half[b][k] * transform[k][a];
  return result;
}

// A function of the distance d + (t_j - t_i) / 2 in Chebyshev polynomials.
template <int p, class F>
PanelMatrix<p> chebyshev_coefficients(long double d, F&& function) {
  const long double pi = std::acos(-1.0L);
  PanelMatrix<p> values{}, from_nodes{};
  std::array<long double, p> node{};
  for (int k = 0; k < p; ++k) node[k] = std::cos((2 * k + 1) * pi / (2 * p));
  for (int k = 0; k < p; ++k)
    for (int c = 0; c < p; ++c) {
      values[k][c] = function(d + (node[k] - node[c]) / 2);
      from_nodes[k][c] = (c ? 2 : 1) * std::cos(c * (2 * k + 1) * pi / (2 * p)) / p;
    }
  return transform_both_sides<p>(values, from_nodes);
}

// Chebyshev polynomials [c] in powers [a].
template <int p>
PanelMatrix<p> chebyshev_powers() {
  PanelMatrix<p> powers{};
  powers[0][0] = powers[1][1] = 1;
  for (int c = 2; c < p; ++c)
    for (int a = 0; a < p; ++a)
      powers[c][a] = (a ? 2 * powers[c - 1][a - 1] : 0) - powers[c - 2][a];
  return powers;
}

// K_d for |d| < reach, all that panels see by default: entry [((d + reach - 1) * p + b) * p + a].
// For the sigmoid itself and d > 0 it is of sigmoid - 1: items in panels above count in full,
// exactly, and the table corrects that.
template <class T, int kDerivative>
std::vector<double> make_panel_table(int reach = kPanelReach<T>) {
  constexpr int p = kPanelOrder<T>;
  const PanelMatrix<p> powers = chebyshev_powers<p>();
  std::vector<double> table;
  table.reserve((2 * reach - 1) * p * p);
  for (int d = 1 - reach; d < reach; ++d) {
    const bool from_one = kDerivative == 0 && d > 0;
    // By way of Chebyshev coefficients: they decay, which is what keeps powers from losing digits.
    const auto coefficients = chebyshev_coefficients<p>(d, [&](long double x) {
      return from_one ? -sigmoid_derivative<0>(-x) : sigmoid_derivative<kDerivative>(x);
    });
    for (const auto& row : transform_both_sides<p>(coefficients, powers))
      for (const long double entry : row) table.push_back(static_cast<double>(entry));
  }
  return table;
}

// A panel's centre as an unevaluated sum, so that t = ((s - hi) - lo) * 2 lam is exact to rounding
// of t itself, however large lam * s is: s - hi is exact for every s of the panel.
template <class T>
struct PanelCentre {
  T hi, lo;
};

// The centre of panel `index` of those that start at `anchor` with width 1 / lam.
template <class T>
SODEEP_FAST_HOST_DEVICE inline PanelCentre<T> panel_centre(double anchor, double index,
                                                           double lam) {
  const double width = 1 / lam, width_error = -fma(width, lam, -1.0) * width;
  const double steps = index + 0.5;
  const double offset = steps * width;
  const double offset_error = fma(steps, width, -offset) + steps * width_error;
  const double sum = anchor + offset;
  const double anchor_part = sum - offset;
  const double sum_error = (anchor - anchor_part) + (offset - (sum - anchor_part));
  const T hi = static_cast<T>(sum);
  return {hi, static_cast<T>((sum - hi) + (sum_error + offset_error))};
}

}  // namespace sodeep_fast
