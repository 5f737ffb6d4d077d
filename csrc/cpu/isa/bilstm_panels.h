// Products of many rows with all panels of packed weights. Included once for each instruction set,
// hence no include guard.

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// to [panel, row, kPanelColumns] = rows [count, depth] * packed weights. The rows of `to` are
// padded to padded_rows(count); packed panels lie `stride` apart. Takes only as much of a panel's
// depth at a time as the L1 cache holds.
template <class T>
void panel_products(int64_t count, const T* rows, int64_t depth, const T* packed, int64_t stride,
                    int64_t panels, T* to) {
  constexpr int64_t kBytes = 32 << 10, width = kPanelColumns<T>;
  constexpr int64_t kStepBytes = kPieces * kDepthStep * width * static_cast<int64_t>(sizeof(T));
  constexpr int64_t kDepth = kBytes / kStepBytes * kDepthStep;
  for (int64_t panel = 0; panel < panels; ++panel) {
    for (int64_t begin = 0; begin < depth; begin += kDepth)
      for_each_rows(count, [&](auto together, int64_t first) {
        product<T, together>(rows + first * kPieces * depth + begin, kPieces * depth, depth,
                             std::min(kDepth, depth - begin), packed + kPieces * begin * width,
                             to + first * width, begin > 0);
      });
    packed += stride;
    to += padded_rows(count) * width;
  }
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
