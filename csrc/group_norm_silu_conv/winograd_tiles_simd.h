// Walks over the tiles of winograd_simd.h.
#pragma once

#include "common/convert_simd.h"
#include "group_norm_silu_conv/winograd_simd.h"

namespace vdm {
namespace VDM_ISA {

VDM_INLINE int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
VDM_INLINE int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }

// Consecutive tiles of one row of one strip.
struct TileRun {
  int64_t image, strip, row;  // of tiles
  int64_t strip_column;       // where the strip begins, in tiles
  int64_t first, count;       // tiles, counted from there
};

// The longest run that starts at `tile` and ends at `end` or before.
VDM_INLINE TileRun tile_run(const WinogradTiles& tiles, int64_t tile, int64_t end) {
  const int64_t per_image = tiles.rows * tiles.columns, per_strip = tiles.rows * tiles.strip;
  const int64_t image = tile / per_image, in_image = tile % per_image;
  const int64_t strip = in_image / per_strip, in_strip = in_image % per_strip;
  const int64_t width = min_of(tiles.strip, tiles.columns - strip * tiles.strip);
  const int64_t first = in_strip % width;
  return {image, strip, in_strip / width, strip * tiles.strip, first, min_of(width - first, end - tile)};
}

// One tile after the other.
class TileWalk {
 public:
  VDM_MEMBER TileWalk(const WinogradTiles& tiles, int64_t tile) : tiles_(tiles) {
    const TileRun run = tile_run(tiles, tile, tile + 1);
    image = run.image;
    row = run.row;
    strip_ = run.strip_column;
    column = run.strip_column + run.first;
  }
  VDM_MEMBER void next() {
    if (++column < min_of(strip_ + tiles_.strip, tiles_.columns)) return;
    if (++row == tiles_.rows) {
      row = 0;
      strip_ = column < tiles_.columns ? column : 0;
      image += strip_ == 0;
    }
    column = strip_;
  }
  // The first of the tile, counted over all images of height x width, where tiles are `size` pixels apart.
  VDM_MEMBER int64_t pixel(int64_t size, int64_t height, int64_t width) const {
    return (image * height + row * size) * width + column * size;
  }

  int64_t image, row, column;  // of tiles

 private:
  const WinogradTiles& tiles_;
  int64_t strip_;  // its first column
};

// One element of a tensor of any DType.
VDM_INLINE float load_element(const void* tensor, DType dtype, int64_t i) {
  if (dtype == DType::kFloat32) return static_cast<const float*>(tensor)[i];
  float lanes[kLanes];
  store(lanes, load_partial(tensor, dtype, i, 1));
  return lanes[0];
}
VDM_INLINE void store_element(void* tensor, DType dtype, int64_t i, float value) {
  if (dtype == DType::kFloat32)
    static_cast<float*>(tensor)[i] = value;
  else
    store_partial(tensor, dtype, i, splat(value), 1);
}

}  // namespace VDM_ISA
}  // namespace vdm
