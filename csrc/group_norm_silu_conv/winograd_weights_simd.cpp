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
VDM_INLINE F32 round_f32(F64 a) {
  const F32Portable rounded = __builtin_convertvector(a, F32Portable);
  F32 result;
  __builtin_memcpy(&result, &rounded, sizeof result);
  return result;
}

using Taps = float[9][kPanel];

// The 3x3 blocks of `count` written channels that are `stride` apart, as columns of taps, rotated by 180
// degrees where asked for; zeros from `count` on. The blocks `ahead` elements further on are fetched.
VDM_INLINE void gather_blocks(const float* blocks, int64_t stride, int64_t count, int64_t ahead, bool rotate,
                              Taps& taps) {
  for (int64_t n = 0; n < kPanel; n += kLanes) {
#pragma GCC unroll 3
    for (int first = 0; first < 9; first += kLanes) {
      const int taken = 9 - first < kLanes ? 9 - first : kLanes;
      F32 rows[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        const float* const block = blocks + (n + i) * stride;
        prefetch(block + ahead);
        rows[i] = n + i < count ? load_partial(block + first, taken) : splat(0.0f);
      }
      transpose(rows);
#pragma GCC unroll 16
      for (int i = 0; i < taken; ++i) store(taps[rotate ? 8 - first - i : first + i] + n, rows[i]);
    }
  }
}

template <typename Points>
VDM_INLINE void transform_weights(const WinogradWeight& weight, int64_t first, int columns, int64_t begin,
                                  int64_t end, float* panel, bool stream) {
  constexpr int kPoints = Points::kPoints;
  const WinogradKernel& kernel = weight.kernel;
  const int64_t write_stride = weight.strides[kernel.transposed ? 1 : 0];
  const int64_t read_stride = weight.strides[kernel.transposed ? 0 : 1];
  const int64_t matrix = kernel.reads() * columns + kMatrixGap;
  const int64_t writes = min_of(columns, kernel.writes() - first);
  const bool adjacent = weight.dtype == DType::kFloat32 && weight.strides[2] == 3 && weight.strides[3] == 1;
  stream = stream && kLanes * sizeof(float) == 64;  // whole lines
  alignas(64) Taps taps = {};
  for (int64_t c = begin; c < end; ++c) {
    const int64_t from = first * write_stride + c * read_stride;
    if (adjacent) {
      gather_blocks(static_cast<const float*>(weight.data) + from, write_stride, writes, 2 * read_stride,
                    kernel.transposed, taps);
    } else {
      for (int64_t n = 0; n < writes; ++n) {
        for (int tap = 0; tap < 9; ++tap) {
          const int64_t at =
              from + n * write_stride + tap / 3 * weight.strides[2] + tap % 3 * weight.strides[3];
          taps[kernel.transposed ? 8 - tap : tap][n] = load_element(weight.data, weight.dtype, at);
        }
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
              const int64_t at = (i * kPoints + j) * matrix + c * columns + n;
              store(panel, DType::kFloat32, at, round_f32(column[i]), stream);
            }
          });
    }
  }
  if (stream) stream_fence();
}

}  // namespace

void winograd_transform_weights(const WinogradWeight& weight, int64_t first, int columns, int64_t begin,
                                int64_t end, float* panel, bool stream) {
  const WinogradKernel& kernel = weight.kernel;
  const auto transform = [&](auto points) {
    transform_weights<decltype(points)>(weight, first, columns, begin, end, panel, stream);
  };
  if (kernel.upsample)
    kernel.transposed ? transform(WinogradPooled{}) : transform(WinogradUpsampled{});
  else
    kernel.tile == 4 ? transform(Winograd4{}) : transform(Winograd2{});
}

}  // namespace VDM_ISA
}  // namespace vdm
