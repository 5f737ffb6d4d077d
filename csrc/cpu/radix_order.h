// Argsort of finite floating-point numbers, ascending and stable, by their bits.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

#include "cpu/row.h"

namespace sodeep_fast {

template <class T>
void radix_order(const T* values, int64_t n, Buffer<char>& scratch, uint32_t* order) {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  struct Item {
    Bits key;
    uint32_t origin;
  };
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
    uint32_t position = 0;
    for (uint32_t& c : count) {
      const uint32_t next = position + c;
      c = position;
      position = next;
    }
    for (int64_t i = 0; i < n; ++i) to[count[digit_of(from[i])]++] = from[i];
    std::swap(from, to);
  }
  for (int64_t i = 0; i < n; ++i) order[i] = from[i].origin;
}

}  // namespace sodeep_fast
