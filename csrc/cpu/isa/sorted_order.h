// Argsort of floating-point numbers without NaN, ascending and stable. Included once for each
// instruction set, after simd.h, hence no include guard.

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

template <class Key>
struct KeyedItem {
  Key key;
  uint32_t origin;
};

// Replaces the number of items with each digit by the place of the first of them.
inline void to_positions(uint32_t* counts, int64_t digits) {
  uint32_t position = 0;
  for (int64_t d = 0; d < digits; ++d) {
    const uint32_t count = counts[d];
    counts[d] = position;
    position += count;
  }
}

// Radix sort by all bits of the numbers, a byte at a time.
template <class T>
void order_by_bits(const T* values, int64_t n, Buffer<char>& scratch, uint32_t* order) {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  using Item = KeyedItem<Bits>;
  constexpr int kDigits = sizeof(T);
  constexpr Bits kSign = Bits(1) << (8 * sizeof(T) - 1);

  Item* from = reinterpret_cast<Item*>(scratch.reserve(2 * n * sizeof(Item)));
  Item* to = from + n;
  std::array<std::array<uint32_t, 256>, kDigits> counts{};
  for (int64_t i = 0; i < n; ++i) {
    const T value = values[i] + T(0);  // -0 equals 0, so it gets the same bits
    Bits bits;
    std::memcpy(&bits, &value, sizeof(bits));
    // Order of the bits = order of the numbers: flip negatives whole, others only in their sign.
    bits ^= bits & kSign ? ~Bits(0) : kSign;
    from[i] = {bits, static_cast<uint32_t>(i)};
    for (int digit = 0; digit < kDigits; ++digit) ++counts[digit][(bits >> (8 * digit)) & 255];
  }
  for (int digit = 0; digit < kDigits; ++digit) {
    auto& count = counts[digit];
    const auto digit_of = [digit](const Item& item) { return (item.key >> (8 * digit)) & 255; };
    if (count[digit_of(from[0])] == n) continue;
    to_positions(count.data(), 256);
    for (int64_t i = 0; i < n; ++i) to[count[digit_of(from[i])]++] = from[i];
    std::swap(from, to);
  }
  for (int64_t i = 0; i < n; ++i) order[i] = from[i].origin;
}

// Radix sort by position in the range, in two digits, then insertion sort. That has few neighbours
// to exchange unless most numbers share a small part of the range; then this gives up: false.
template <class T>
bool order_by_place(const T* values, int64_t n, Buffer<char>& scratch, uint32_t* order) {
  constexpr int kBits = 10, kDigits = 1 << kBits;
  T lo, hi;
  if (!find_range(values, n, lo, hi)) return false;
  const T scale = ((1 << (2 * kBits)) - 1) / (hi - lo);
  if (!(scale > 0 && std::isfinite(scale))) return false;

  using Item = KeyedItem<uint32_t>;
  auto* items = reinterpret_cast<Item*>(scratch.reserve(n * (sizeof(Item) + sizeof(int32_t))));
  auto* places = reinterpret_cast<int32_t*>(items + n);
  uint32_t low_counts[kDigits] = {}, high_counts[kDigits] = {};
  for (int64_t i = 0; i < n; ++i) places[i] = static_cast<int32_t>((values[i] - lo) * scale);
  for (int64_t i = 0; i < n; ++i) {
    ++low_counts[places[i] & (kDigits - 1)];
    ++high_counts[places[i] >> kBits];
  }
  to_positions(low_counts, kDigits);
  to_positions(high_counts, kDigits);
  for (int64_t i = 0; i < n; ++i)
    items[low_counts[places[i] & (kDigits - 1)]++] = {static_cast<uint32_t>(places[i] >> kBits),
                                                      static_cast<uint32_t>(i)};
  for (int64_t i = 0; i < n; ++i) order[high_counts[items[i].key]++] = items[i].origin;

  int64_t exchanges_left = n;
  T last = values[order[0]];
  for (int64_t i = 1; i < n; ++i) {
    const uint32_t origin = order[i];
    const T value = values[origin];
    if (!(value < last)) {
      last = value;
      continue;
    }
    int64_t k = i;
    for (; k > 0 && values[order[k - 1]] > value; --k) order[k] = order[k - 1];
    order[k] = origin;
    exchanges_left -= i - k;
    if (exchanges_left < 0) return false;
  }
  return true;
}

// Fewer numbers take less time by bits (AVX-512, 2026-11).
constexpr int64_t kFewToSort = 512;

template <class T>
void sorted_order(const T* values, int64_t n, Buffer<char>& scratch, uint32_t* order) {
  if (n < kFewToSort || !order_by_place(values, n, scratch, order))
    order_by_bits(values, n, scratch, order);
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
