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
