// Transformed weights: a gather of 3x3 blocks, and G g G^T of vectors of written channels.
#include "common/convert_simd.h"
#include "common/gemm_simd.h"
#include "group_norm_silu_conv/winograd_points_simd.h"
#include "group_norm_silu_conv/winograd_tiles_simd.h"

namespace vdm {
namespace VDM_ISA {
namespace {

VDM_INLINE F64 load_f64(const float* p) {
  F32Portable a;
  __builtin_memcpy(&a, p, sizeof a);
  return __builtin_convertvector(a, F64);
}
VDM_INLINE void store_f32(float* p, F64 a) {
  const F32Portable rounded = __builtin_convertvector(a, F32Portable);
  __builtin_memcpy(p, &rounded, sizeof rounded);
}

template <typename Points>
VDM_INLINE void transform_weights(const WinogradWeightsParams& params, int64_t first, int columns,
                                  int64_t begin, int64_t end) {
  constexpr int kPoints = Points::kPoints;
  const WinogradKernel& kernel = params.kernel;
  const int64_t write_stride = params.strides[kernel.transposed ? 1 : 0];
  const int64_t read_stride = params.strides[kernel.transposed ? 0 : 1];
  const int64_t reads = kernel.reads(), writes = min_of(columns, kernel.writes() - first);
  float* panel = params.transformed + first * kPoints * kPoints * reads;
  alignas(64) float taps[9][kPanel] = {};
  for (int64_t c = begin; c < end; ++c) {
    for (int64_t n = 0; n < writes; ++n) {
      const int64_t at = (first + n) * write_stride + c * read_stride;
      for (int tap = 0; tap < 9; ++tap) {
        const int from = kernel.transposed ? 8 - tap : tap;  // rotated by 180 degrees
        taps[tap][n] = load_element(params.weight, params.dtype,
                                    at + from / 3 * params.strides[2] + from % 3 * params.strides[3]);
      }
    }
    for (int n = 0; n < columns; n += kLanes) {
      transform_square<typename Points::Weights, F64>(
          [&](int i, F64* row) {
#pragma GCC unroll 3
            for (int j = 0; j < 3; ++j) row[j] = load_f64(taps[3 * i + j] + n);
          },
          [&](int j, const F64* column) {
#pragma GCC unroll 6
            for (int i = 0; i < kPoints; ++i) {
              store_f32(panel + ((i * kPoints + j) * reads + c) * columns + n, column[i]);
            }
          });
    }
  }
}

}  // namespace

void winograd_transform_weights(const WinogradWeightsParams& params, int64_t first, int columns,
                                int64_t begin, int64_t end) {
  if (params.kernel.tile == 4)
    transform_weights<Winograd4>(params, first, columns, begin, end);
  else
    transform_weights<Winograd2>(params, first, columns, begin, end);
}

}  // namespace VDM_ISA
}  // namespace vdm
