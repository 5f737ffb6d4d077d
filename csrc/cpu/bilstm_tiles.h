// The product of 16 rows with a panel in the tile registers of AMX. Included where the instruction
// set has them, hence no include guard.

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// While it lives, this thread's tile registers have so many rows, 16 at most: 0 to 3 hold sums, 4
// of the rows' numbers, 5 to 7 a panel's.
class Tiles {
 public:
  explicit Tiles(int64_t rows) {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {0, 0, 0, 0, 0, 16, 16, 16};
    } shapes;
    for (int k = 0; k <= 4; ++k) shapes.rows[k] = static_cast<uint8_t>(std::min<int64_t>(16, rows));
    fence();
    _tile_loadconfig(&shapes);
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

  // The compiler does not know that tiles read memory: all of it must have been written.
  static void fence() { __asm__ volatile("" ::: "memory"); }
};

// sums [kProductRows, kPanelColumns] = rows [kProductRows, depth] * panel [depth, kPanelColumns],
// depth in places, a part at a time.
template <class T>
class TileProduct {
 public:
  TileProduct(const T* rows, int64_t stride, int64_t depth, const T* panel)
      : rows_(rows), panel_(panel), end_(rows + depth), bytes_(stride * int64_t(sizeof(T))) {
    Tiles::fence();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }

  // Adds kDepthStep places of the depth, if there are any left.
  SODEEP_FAST_INLINE void step() {
    if (rows_ == end_) return;
    _tile_loadd(4, rows_, bytes_);
    _tile_loadd(5, panel_, kPanelBytes);
    _tile_dpbf16ps(0, 4, 5);
    _tile_loadd(6, panel_ + kLanes<T>, kPanelBytes);
    _tile_dpbf16ps(1, 4, 6);
    _tile_loadd(7, panel_ + 2 * kLanes<T>, kPanelBytes);
    _tile_dpbf16ps(2, 4, 7);
    _tile_loadd(5, panel_ + 3 * kLanes<T>, kPanelBytes);
    _tile_dpbf16ps(3, 4, 5);
    rows_ += kDepthStep, panel_ += kDepthStep * kPanelColumns<T>;
  }

  SODEEP_FAST_INLINE void finish(T* sums) {
    while (rows_ != end_) step();
    _tile_stored(0, sums, kPanelBytes);
    _tile_stored(1, sums + kLanes<T>, kPanelBytes);
    _tile_stored(2, sums + 2 * kLanes<T>, kPanelBytes);
    _tile_stored(3, sums + 3 * kLanes<T>, kPanelBytes);
  }

 private:
  static constexpr int kPanelBytes = kPanelColumns<T> * sizeof(T);
  const T *rows_, *panel_, *end_;
  int64_t bytes_;
};

template <class T, int kRows>
__attribute__((noinline)) void product(const T* rows, int64_t stride, int64_t depth, const T* panel,
                                       T* sums) {
  static_assert(kRows == kProductRows);
  TileProduct<T>(rows, stride, depth, panel).finish(sums);
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
