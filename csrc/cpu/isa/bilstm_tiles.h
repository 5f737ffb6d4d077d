// The product of 16 rows with a panel in the tile registers of AMX. Included where the instruction
// set has them, hence no include guard.

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// While it lives, this thread's tile registers have `rows` rows, at most 16: 0 to 3 hold sums, 4 to
// 6 pieces of the rows' numbers. Number 7, for a panel, always has 16.
class Tiles {
 public:
  explicit Tiles(int64_t rows) {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {0, 0, 0, 0, 0, 0, 0, 16};
    } shapes;
    for (int k = 0; k <= 6; ++k) shapes.rows[k] = static_cast<uint8_t>(std::min<int64_t>(16, rows));
    fence();
    _tile_loadconfig(&shapes);
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

  // The compiler does not know that tile loads read memory: all stores must come before.
  static void fence() { __asm__ volatile("" ::: "memory"); }
};

// Adds the products of the rows and a vector of columns. A macro, because tile register numbers
// must be literals. With three pieces, the smallest products come first, and those below rounding
// are left out.
#define SODEEP_FAST_ADD_PRODUCTS(sums)                                    \
  do {                                                                    \
    if constexpr (kPieces == 3) {                                         \
      _tile_loadd(7, columns, kTileBytes);                                \
      _tile_dpbf16ps(sums, 4, 7);                                         \
      _tile_loadd(7, columns - kPanelPiece<T>, kTileBytes);               \
      _tile_dpbf16ps(sums, 5, 7);                                         \
      _tile_dpbf16ps(sums, 4, 7);                                         \
    }                                                                     \
    _tile_loadd(7, columns - (kPieces - 1) * kPanelPiece<T>, kTileBytes); \
    if constexpr (kPieces == 3) {                                         \
      _tile_dpbf16ps(sums, 6, 7);                                         \
      _tile_dpbf16ps(sums, 5, 7);                                         \
    }                                                                     \
    _tile_dpbf16ps(sums, 4, 7);                                           \
  } while (false)

// sums [kProductRows, kPanelColumns] = rows [kProductRows, depth] * panel [depth, kPanelColumns],
// depth in places, computed step by step.
template <class T>
class TileProduct {
 public:
  // Starts from `sums` [kProductRows, kPanelColumns], or from zeros if null.
  TileProduct(const T* rows, int64_t stride, int64_t next_piece, int64_t depth, const T* panel,
              const T* sums = nullptr)
      : rows_(rows),
        panel_(panel),
        end_(rows + depth),
        next_piece_(next_piece),
        bytes_(stride * int64_t(sizeof(T))) {
    Tiles::fence();
    if (sums == nullptr) {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    } else {
      _tile_loadd(0, sums, kPanelBytes);
      _tile_loadd(1, sums + kLanes<T>, kPanelBytes);
      _tile_loadd(2, sums + 2 * kLanes<T>, kPanelBytes);
      _tile_loadd(3, sums + 3 * kLanes<T>, kPanelBytes);
    }
  }

  // Adds the next kDepthStep places of the depth, if any are left, to the sums of one vector of
  // columns. Must be called for each vector in turn, from 0 on.
  SODEEP_FAST_INLINE void step(int vector) {
    if (rows_ == end_) return;
    // Without this, the compiler would move the work between steps to after them.
    Tiles::fence();
    if (vector == 0) {
      _tile_loadd(4, rows_, bytes_);
      if constexpr (kPieces == 3) {
        _tile_loadd(5, rows_ + next_piece_, bytes_);
        _tile_loadd(6, rows_ + 2 * next_piece_, bytes_);
      }
    }
    const T* columns = panel_ + vector * kVectorSize;
    if (vector == 0) SODEEP_FAST_ADD_PRODUCTS(0);
    if (vector == 1) SODEEP_FAST_ADD_PRODUCTS(1);
    if (vector == 2) SODEEP_FAST_ADD_PRODUCTS(2);
    if (vector == 3) {
      SODEEP_FAST_ADD_PRODUCTS(3);
      rows_ += kDepthStep, panel_ += kPanelVectors * kVectorSize;
    }
  }

  SODEEP_FAST_INLINE void finish(T* sums) {
    while (rows_ != end_)
#pragma GCC unroll 4
      for (int v = 0; v < kPanelVectors; ++v) step(v);
    _tile_stored(0, sums, kPanelBytes);
    _tile_stored(1, sums + kLanes<T>, kPanelBytes);
    _tile_stored(2, sums + 2 * kLanes<T>, kPanelBytes);
    _tile_stored(3, sums + 3 * kLanes<T>, kPanelBytes);
  }

 private:
  static constexpr int kTileBytes = kLanes<T> * sizeof(T);
  static constexpr int kPanelBytes = kPanelVectors * kTileBytes;
  static constexpr int64_t kVectorSize = kPieces * kDepthStep * kLanes<T>;
  const T *rows_, *panel_, *end_;
  int64_t next_piece_, bytes_;
};

#undef SODEEP_FAST_ADD_PRODUCTS

template <class T, int kRows>
__attribute__((noinline)) void product(const T* rows, int64_t stride, int64_t next_piece,
                                       int64_t depth, const T* panel, T* to, bool adds = false) {
  static_assert(kRows == kProductRows);
  TileProduct<T>(rows, stride, next_piece, depth, panel, adds ? to : nullptr).finish(to);
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
