// The tile instructions of AMX on a processor without them, for bilstm_tiles.h: included before all
// else, it replaces the compiler's intrinsics. It also reports what a processor would not: tiles
// that are used before they are configured, or in shapes that do not fit together.
#pragma once

#include <immintrin.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace amx_emulator {

struct Tile {
  int rows = 0, bytes = 0;
  alignas(64) unsigned char data[16][64];
};

inline thread_local Tile tiles[8];
inline std::atomic<int64_t> products{0};

inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "amx_emulator: %s\n", what);
  std::abort();
}

inline Tile& configured(int k) {
  require(tiles[k].rows > 0 && tiles[k].bytes > 0, "a tile is used that was not configured");
  return tiles[k];
}

inline void release() {
  for (Tile& tile : tiles) tile.rows = tile.bytes = 0;
}

inline void configure(const void* shapes) {
  const auto* bytes = static_cast<const unsigned char*>(shapes);
  require(bytes[0] == 1, "the palette must be 1");
  for (int k = 0; k < 8; ++k) {
    uint16_t width;
    std::memcpy(&width, bytes + 16 + 2 * k, sizeof(width));
    require(bytes[48 + k] <= 16 && width <= 64, "a tile has at most 16 rows of 64 bytes");
    tiles[k].rows = bytes[48 + k], tiles[k].bytes = width;
    std::memset(tiles[k].data, 0, sizeof(tiles[k].data));
  }
}

inline void zero(int k) { std::memset(configured(k).data, 0, sizeof(Tile::data)); }

inline void load(int k, const void* from, int64_t stride) {
  zero(k);
  for (int r = 0; r < tiles[k].rows; ++r)
    std::memcpy(tiles[k].data[r], static_cast<const char*>(from) + r * stride, tiles[k].bytes);
}

inline void store(int k, void* to, int64_t stride) {
  const Tile& tile = configured(k);
  for (int r = 0; r < tile.rows; ++r)
    std::memcpy(static_cast<char*>(to) + r * stride, tile.data[r], tile.bytes);
}

// The first or the second bfloat16 of a place, as the processor takes it: subnormal numbers are 0.
inline float half_of(const unsigned char* place, int half) {
  uint32_t bits;
  std::memcpy(&bits, place, sizeof(bits));
  bits = half == 0 ? bits << 16 : bits & 0xffff0000u;
  if ((bits & 0x7f800000u) == 0) bits &= 0x80000000u;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// sums += rows * columns, both of pairs of bfloat16. The first numbers of the pairs are summed, and
// separately the second ones, and both sums are added to what was there.
inline void multiply(int sums, int rows, int columns) {
  ++products;
  Tile &to = configured(sums), &a = configured(rows), &b = configured(columns);
  require(a.rows == to.rows && b.bytes == to.bytes && a.bytes == 4 * b.rows,
          "the shapes of the tiles of a product do not fit");
  float terms[16][2][16];
  for (int k = 0; k < b.rows; ++k)
    for (int half = 0; half < 2; ++half)
      for (int c = 0; c < 16; ++c) terms[k][half][c] = half_of(b.data[k] + 4 * c, half);
  for (int r = 0; r < to.rows; ++r) {
    float total[2][16] = {}, sum[16];
    for (int k = 0; k < b.rows; ++k)
      for (int half = 0; half < 2; ++half) {
        const float factor = half_of(a.data[r] + 4 * k, half);
        for (int c = 0; c < 16; ++c) total[half][c] += factor * terms[k][half][c];
      }
    std::memcpy(sum, to.data[r], sizeof(sum));
    for (int c = 0; c < 16; ++c) sum[c] += total[0][c] + total[1][c];
    std::memcpy(to.data[r], sum, sizeof(sum));
  }
}

}  // namespace amx_emulator

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_loadconfig amx_emulator::configure
#define _tile_release amx_emulator::release
#define _tile_zero amx_emulator::zero
#define _tile_loadd amx_emulator::load
#define _tile_stored amx_emulator::store
#define _tile_dpbf16ps amx_emulator::multiply
