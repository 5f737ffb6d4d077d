// The sums between panels that are far apart, by exponentials instead of the panels' own table (see
// math/sigmoid_panels.h), so that a panel costs the same however many are within its reach.
//
// From a distance of five panels on, the sigmoid is a short sum of exponentials of the distance, to
// rounding, and an exponential is a product of a factor for each side: with x = d + (t_j - t_i) /
// 2,
//
//     e^(-k x)  =  e^(-k d)  e^(-k t_j / 2)  e^(k t_i / 2)
//
// The sums over all panels above (and, with the signs of t changed, below) are therefore running
// sums, which decay from panel to panel. Exponentials of t are expanded in those powers of t that
// moments and coefficients have; with the factor e^(-k d), the terms left out are negligible.
#pragma once

#include <vector>

#include "cpu/saturating_sigmoid.h"
#include "math/sigmoid_panels.h"

namespace sodeep_fast {

// Panels nearer than this use the table.
constexpr int kPanelNear = 5;

// Exponentials of either side: those of panels above are 0 to kFarTerms - 1, then those below.
template <class T>
constexpr int kFarTerms = kFewTerms<T>;
template <class T>
constexpr int kFarSums = 2 * kFarTerms<T>;

// Entry [k * p + a]: coefficient of t^a in exponential k of a panel at position t of the point.
template <class T>
std::vector<double> far_powers() {
  constexpr int p = kPanelOrder<T>, K = kFarTerms<T>;
  std::vector<double> powers(kFarSums<T> * p);
  for (int k = 0; k < kFarSums<T>; ++k) {
    const long double rate = (k < K ? 0.5L : -0.5L) * (k % K + 1);
    long double coefficient = 1;
    for (int a = 0; a < p; ++a, coefficient *= rate / a)
      powers[k * p + a] = static_cast<double>(coefficient);
  }
  return powers;
}

// Entry [b * kFarSums + k]: what moment b of a panel adds to sum k.
template <class T>
std::vector<double> make_far_moments() {
  constexpr int p = kPanelOrder<T>, S = kFarSums<T>;
  const std::vector<double> powers = far_powers<T>();
  std::vector<double> moments(p * S);
  for (int b = 0; b < p; ++b)
    for (int k = 0; k < S; ++k) moments[b * S + k] = (b % 2 ? -1 : 1) * powers[k * p + b];
  return moments;
}

// Entry [k * p + a]: what sum k at a panel adds to its coefficient a of sigmoid^(m); of sigmoid - 1
// for m = 0 and panels above.
template <class T, int kDerivative>
std::vector<double> make_far_table() {
  constexpr int p = kPanelOrder<T>, K = kFarTerms<T>;
  const SaturatingSigmoid fit = saturating_sigmoid<T>(kPanelNear - 1, kDerivative);
  std::vector<double> table = far_powers<T>();
  for (int k = 0; k < kFarSums<T>; ++k) {
    // sigmoid - 1/2 and sigmoid'' are odd.
    const double sign = k < K || kDerivative == 1 ? 1 : -1;
    for (int a = 0; a < p; ++a) table[k * p + a] *= sign * fit.c[k % K];
  }
  return table;
}

// Entry [d * kFarTerms + k]: e^(-(k + 1) d), and 0 for d = kPanelReach.
template <class T>
std::vector<double> make_far_decays() {
  constexpr int reach = kPanelReach<T>, K = kFarTerms<T>;
  std::vector<double> decays((reach + 1) * K);
  for (int d = 0; d < reach; ++d)
    for (int k = 0; k < K; ++k) decays[d * K + k] = static_cast<double>(std::exp(-(k + 1.0L) * d));
  return decays;
}

}  // namespace sodeep_fast
