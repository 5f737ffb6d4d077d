// Sums over the items between two cuts that move along an order with the points. Nothing is
// subtracted from a sum, as the result would keep the rounding errors of what was removed. Included
// once for each instruction set, hence no include guard.

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// A long sum; for T = double, its rounding errors are summed separately (Knuth's two-sum).
template <class T, class V>
struct RunningSum {
  V total, error;

  inline void add(V x) {
    if constexpr (sizeof(T) == sizeof(double)) {
      const V sum = total + x, kept = sum - x;
      error += (total - kept) + (x - (sum - kept));
      total = sum;
    } else {
      total += x;
    }
  }
  inline void scale(V factor) { total *= factor, error *= factor; }
  inline V value() const { return sizeof(T) == sizeof(double) ? total + error : total; }
};

// Calls use(i, origin, sum of term(k, origin) over the items k from begin(i) to end(i)) for each
// point i. Neither cut ever decreases. The origin is i itself, or an earlier point whose window
// shares an item with that of i. `front` has room for the items and one more.
template <class T, class Begin, class End, class Term, class Use>
void for_each_window(int64_t points, const Begin& begin, const End& end, double* front,
                     const Term& term, const Use& use) {
  // front[k] is the sum from item k to the middle, `back` that from the middle to the end.
  uint32_t middle = 0, next = 0;
  int64_t origin = 0;
  RunningSum<T, double> back{};
  for (int64_t i = 0; i < points; ++i) {
    const uint32_t first = begin(i), last = end(i);
    if (i == 0 || first >= middle) {
      origin = i, middle = next = last;
      RunningSum<T, double> sum{};
      front[middle] = 0;
      for (uint32_t k = middle; k-- > first;) {
        sum.add(term(k, origin));
        front[k] = sum.value();
      }
      back = {};
    }
    for (; next < last; ++next) back.add(term(next, origin));
    use(i, origin, front[first] + back.value());
  }
}

// Calls use(i, sum of p_i - q_k over the items k before end(i)) for each point p_i.
template <class T, class End, class Use>
void for_each_distance(const T* q, const T* p, int64_t points, const End& end, const Use& use) {
  uint32_t count = 0;
  RunningSum<T, double> sum{};
  for (int64_t i = 0; i < points; ++i) {
    const auto at = static_cast<double>(p[i]);
    if (count > 0) sum.add(count * (at - static_cast<double>(p[i - 1])));
    for (const uint32_t last = end(i); count < last; ++count)
      sum.add(at - static_cast<double>(q[count]));
    use(i, sum.value());
  }
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
