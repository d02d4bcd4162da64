// Pixels are read in the order of memory, kRows at a time, so that the sums, which live in the L1 cache, are
// loaded and stored once for kRows vectors: three operations on a vector of x, which comes from memory no
// faster than that. Adding up kRows pixels before they are added to the rest halves the rounding error.
#include "channel_statistics/channel_statistics_simd.h"

#include "common/convert_simd.h"

namespace vdm {
namespace VDM_ISA {
namespace {

constexpr int kRows = 8;

// Some pixels of one image.
struct Rows {
  const void* x;
  DType dtype;
  int64_t channels;

  VDM_MEMBER F32 read(int64_t pixel, int64_t c, int lanes) const {
    const int64_t at = pixel * channels + c;
    prefetch(x, dtype, at + kRows * channels);  // of the next rows
    return load_partial(x, dtype, at, lanes);
  }
};

VDM_INLINE int lanes_from(int64_t c, int64_t channels) {
  return static_cast<int>(channels - c < kLanes ? channels - c : kLanes);
}

VDM_INLINE void start(Rows rows, int64_t begin, int64_t end, ShiftedSums sums) {
  const int count = static_cast<int>(end - begin < kRows ? end - begin : kRows);
  const F32 share = splat(1.0f / static_cast<float>(count));
  for (int64_t c = 0; c < rows.channels; c += kLanes) {
    const int lanes = lanes_from(c, rows.channels);
    const F32 first = rows.read(begin, c, lanes);
    F32 sum = splat(0.0f);
    for (int row = 1; row < count; ++row) sum = sum + (rows.read(begin + row, c, lanes) - first);
    store(sums.shift + c, fma(sum, share, first));
    store(sums.sum + c, splat(0.0f));
    store(sums.squares + c, splat(0.0f));
  }
}

// Adds `count` pixels.
template <int count>
VDM_INLINE void add(Rows rows, int64_t pixel, ShiftedSums sums) {
  const auto add_channels = [&](int64_t c, int lanes) VDM_LAMBDA {
    const F32 shift = load(sums.shift + c);
    F32 sum = splat(0.0f), squares = sum;
#pragma GCC unroll 8
    for (int row = 0; row < count; ++row) {
      const F32 d = rows.read(pixel + row, c, lanes) - shift;
      sum = sum + d;
      squares = fma(d, d, squares);
    }
    store(sums.sum + c, load(sums.sum + c) + sum);
    store(sums.squares + c, load(sums.squares + c) + squares);
  };
  int64_t c = 0;
  for (; c + kLanes <= rows.channels; c += kLanes) add_channels(c, kLanes);
  if (c < rows.channels) add_channels(c, lanes_from(c, rows.channels));
}

}  // namespace

void sum_channels(const void* x, DType dtype, int64_t channels, int64_t begin, int64_t end,
                  const ShiftedSums& sums) {
  with_constant(dtype, [=](DType constant) VDM_LAMBDA {
    const Rows rows = {x, constant, channels};
    start(rows, begin, end, sums);
    int64_t pixel = begin;
    for (; pixel + kRows <= end; pixel += kRows) add<kRows>(rows, pixel, sums);
    for (; pixel < end; ++pixel) add<1>(rows, pixel, sums);
  });
}

}  // namespace VDM_ISA
}  // namespace vdm
