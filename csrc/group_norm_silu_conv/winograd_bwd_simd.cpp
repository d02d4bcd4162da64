// The gradient of the weights: with v the transformed input of the forward pass and d = A dout A^T,
//
//     dU[point][channel][output] = sum over tiles of v[point][tile][channel] d[point][tile][output]
//
// are points^2 products with the tiles as inner dimension, and dweight = G^T dU G: the transpose of the
// forward pass, step by step. v and d of a group of tiles are made by all threads and stay in the L3 cache;
// then each (point, panel) is one thread's, so that nothing is reduced between threads.
#include "common/convert_simd.h"
#include "common/gemm_simd.h"
#include "group_norm_silu_conv/winograd_points_simd.h"
#include "group_norm_silu_conv/winograd_tiles_simd.h"

namespace vdm {
namespace VDM_ISA {
namespace {

template <typename Transform>
VDM_INLINE void transform_output_gradient(const WinogradWeightGradientParams& params,
                                          const WinogradTiles& tiles, int64_t begin, int64_t end, float* d,
                                          float* dbias) {
  constexpr int kSize = Transform::kFrom, kPoints = Transform::kTo;
  const ConvInput& dy = params.dy;
  for (int64_t c = 0; c < tiles.d_row - kHalfPanel; c += kLanes) store(dbias + c, splat(0.0f));
  for (int64_t tile = begin; tile < end;) {
    const TileRun run = tile_run(tiles, tile, end);
    for (int64_t t = 0; t < run.count; ++t, ++tile, d += tiles.d_row) {
      const int64_t y = run.row * kSize, x = (run.strip_column + run.first + t) * kSize;
      const int rows = static_cast<int>(min_of(kSize, dy.height - y));
      const int columns = static_cast<int>(min_of(kSize, dy.width - x));
      const int64_t pixel = (run.image * dy.height + y) * dy.width + x;
      // Panels of d are whole: channels that do not exist are zeros.
      for (int64_t c = 0; c < tiles.d_row - kHalfPanel; c += kLanes) {
        const int lanes = static_cast<int>(max_of(0, min_of(kLanes, dy.channels - c)));
        const bool whole = rows == kSize && columns == kSize && lanes == kLanes;
        F32 sum = load(dbias + c);
        transform_square<Transform>(
            [&](int i, F32* row) {
#pragma GCC unroll 4
              for (int j = 0; j < kSize; ++j) {
                const int64_t at = (pixel + i * dy.width + j) * dy.channels + c;
                if (whole)
                  row[j] = load(dy.x, dy.dtype, at);
                else if (i < rows && j < columns)
                  row[j] = load_partial(dy.x, dy.dtype, at, lanes);
                else
                  row[j] = splat(0.0f);
                sum = sum + row[j];
              }
            },
            [&](int j, const F32* column) {
#pragma GCC unroll 6
              for (int i = 0; i < kPoints; ++i) store(d + (i * kPoints + j) * tiles.d_matrix + c, column[i]);
            });
        store(dbias + c, sum);
      }
    }
  }
}

template <typename Points>
VDM_INLINE void transform_weight_gradient(const WinogradWeightGradientParams& params, int64_t first,
                                          int columns, int64_t begin, int64_t end, const float* du) {
  constexpr int kPoints = Points::kPoints;
  const int64_t channels = params.input.channels;
  const int64_t outputs = min_of(columns, params.dy.channels - first);
  alignas(64) float taps[9][kPanel];
  for (int64_t c = begin; c < end; ++c) {
    for (int n = 0; n < columns; n += kLanes) {
      transform_square<typename Points::WeightsGradient>(
          [&](int i, F32* row) {
#pragma GCC unroll 6
            for (int j = 0; j < kPoints; ++j) {
              row[j] = load(du + ((i * kPoints + j) * channels + c) * columns + n);
            }
          },
          [&](int j, const F32* column) {
#pragma GCC unroll 3
            for (int i = 0; i < 3; ++i) store(taps[3 * i + j] + n, column[i]);
          });
    }
    for (int64_t n = 0; n < outputs; ++n) {
      const int64_t at = (first + n) * params.strides[0] + c * params.strides[1];
      for (int tap = 0; tap < 9; ++tap) {
        store_element(params.dweight, params.dtype,
                      at + tap / 3 * params.strides[2] + tap % 3 * params.strides[3], taps[tap][n]);
      }
    }
  }
}

}  // namespace

void winograd_transform_output_gradient(const WinogradWeightGradientParams& params,
                                        const WinogradTiles& tiles, int64_t begin, int64_t end, float* d,
                                        float* dbias) {
  if (params.kernel.upsample)
    transform_output_gradient<WinogradUpsampled::OutputGradient>(params, tiles, begin, end, d, dbias);
  else if (tiles.size == 4)
    transform_output_gradient<Winograd4::OutputGradient>(params, tiles, begin, end, d, dbias);
  else
    transform_output_gradient<Winograd2::OutputGradient>(params, tiles, begin, end, d, dbias);
}

void winograd_multiply_gradient(const WinogradTiles& tiles, int64_t count, int64_t channels, int columns,
                                const float* v, const float* d, bool accumulate, float* du) {
  const GemmA a{v, 1, tiles.v_row};
  if (accumulate)
    gemm_panel<true>(channels, columns, a, d, tiles.d_row, du, columns, count);
  else
    gemm_panel<false>(channels, columns, a, d, tiles.d_row, du, columns, count);
}

void winograd_transform_weight_gradient(const WinogradWeightGradientParams& params, int64_t first,
                                        int columns, int64_t begin, int64_t end, const float* du) {
  if (params.kernel.upsample)
    transform_weight_gradient<WinogradUpsampled>(params, first, columns, begin, end, du);
  else if (params.kernel.tile == 4)
    transform_weight_gradient<Winograd4>(params, first, columns, begin, end, du);
  else
    transform_weight_gradient<Winograd2>(params, first, columns, begin, end, du);
}

}  // namespace VDM_ISA
}  // namespace vdm
