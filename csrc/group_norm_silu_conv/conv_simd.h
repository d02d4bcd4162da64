// Reading a convolution's input, activated, into rows of float32, and writing tiles of its output.
#pragma once

#include "common/activation_simd.h"
#include "common/convert_simd.h"
#include "common/gemm_simd.h"
#include "group_norm_silu_conv/conv.h"

namespace vdm {
namespace VDM_ISA {

VDM_INLINE int lanes_of(int64_t rest) { return static_cast<int>(rest < kLanes ? rest : kLanes); }

VDM_INLINE F32 load_lanes(const float* p, int lanes) {
  return lanes == kLanes ? load(p) : load_partial(p, lanes);
}
VDM_INLINE F32 load_lanes(const void* tensor, DType dtype, int64_t i, int lanes) {
  return lanes == kLanes ? load(tensor, dtype, i) : load_partial(tensor, dtype, i, lanes);
}
VDM_INLINE void store_lanes(float* p, F32 a, int lanes) {
  lanes == kLanes ? store(p, a) : store_partial(p, a, lanes);
}
VDM_INLINE void store_lanes(void* tensor, DType dtype, int64_t i, F32 a, int lanes, bool streams) {
  lanes == kLanes ? store(tensor, dtype, i, a, streams) : store_partial(tensor, dtype, i, a, lanes);
}

VDM_INLINE void fill_zero(float* out, int64_t count) {
  __builtin_memset(out, 0, static_cast<size_t>(count) * sizeof(float));
}

// Elements [offset, offset + count) of a tensor, as float32.
VDM_INLINE void read_elements(const void* tensor, DType dtype, int64_t offset, int64_t count, float* out) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const int lanes = lanes_of(count - i);
    store_lanes(out + i, load_lanes(tensor, dtype, offset + i, lanes), lanes);
  }
}

// The same, activated: the channels of one pixel.
VDM_INLINE void activate_elements(const void* tensor, DType dtype, int64_t offset, int64_t count,
                                  const float* center, const float* gain, const float* shift, float* out) {
  for (int64_t c = 0; c < count; c += kLanes) {
    const int lanes = lanes_of(count - c);
    const F32 centered = load_lanes(tensor, dtype, offset + c, lanes) - load_lanes(center + c, lanes);
    const F32 affine = fma(centered, load_lanes(gain + c, lanes), load_lanes(shift + c, lanes));
    store_lanes(out + c, silu(affine), lanes);
  }
}

// The channels that x or x2 gives to `count` pixels of an image, where `pixel` counts among those of all
// images.
VDM_INLINE void read_source(const ConvInput& input, const void* source, int64_t first_channel,
                            int64_t channels, int64_t image, int64_t pixel, int64_t count, float* out) {
  out += first_channel;
  if (input.center != nullptr) {
    const int64_t affine = image * input.channels + first_channel;
    for (int64_t p = 0; p < count; ++p) {
      activate_elements(source, input.dtype, (pixel + p) * channels, channels, input.center + affine,
                        input.gain + affine, input.offset + affine, out + p * input.channels);
    }
  } else if (channels == input.channels) {
    read_elements(source, input.dtype, pixel * channels, count * channels, out);
  } else {
    for (int64_t p = 0; p < count; ++p) {
      read_elements(source, input.dtype, (pixel + p) * channels, channels, out + p * input.channels);
    }
  }
}

// Columns [column, column + count) of one row of an image, (count, channels), with zeros outside of the
// image.
VDM_INLINE void read_row(const ConvInput& input, int64_t image, int64_t row, int64_t column, int64_t count,
                         float* out) {
  const int64_t last = column + count;
  int64_t begin = column < 0 ? 0 : column, end = last < input.width ? last : input.width;
  if (row < 0 || row >= input.height || begin >= end) begin = end = last;
  const int64_t pixel = (image * input.height + row) * input.width + begin;
  float* const inside = out + (begin - column) * input.channels;
  fill_zero(out, (begin - column) * input.channels);
  read_source(input, input.x, 0, input.channels1, image, pixel, end - begin, inside);
  if (input.x2 != nullptr) {
    read_source(input, input.x2, input.channels1, input.channels - input.channels1, image, pixel, end - begin,
                inside);
  }
  fill_zero(out + (end - column) * input.channels, (last - end) * input.channels);
}

// Sums of the values of some channels relative to a value near their mean, so that the mean stays out of the
// variance.
struct Moments {
  F32 shift, sum, squares;
};

// The first tile, whose mean is the shift, may be unlike the others: after 2, 4, 8, ... of them the shift
// follows the mean.
VDM_INLINE bool recenters_after(int64_t tiles) { return tiles > 1 && (tiles & (tiles - 1)) == 0; }

// Makes them relative to the mean of the `count` values so far.
VDM_INLINE void recenter(Moments& moments, float count) {
  const F32 mean = fma(moments.sum, splat(1.0f / count), moments.shift);
  const F32 d = mean - moments.shift, d_count = d * splat(count);
  moments.squares = moments.squares - d * (moments.sum + (moments.sum - d_count));
  moments.sum = moments.sum - d_count;
  moments.shift = mean;
}

// Those of a panel's channels.
struct PanelMoments {
  int64_t count, tiles;
  Moments vectors[kPanel / kLanes];

  // Tile by tile, so that few roundings follow each other.
  VDM_MEMBER void add(const float* tile, int64_t pixels, int columns) {
    for (int c = 0; c < columns; c += kLanes) {
      Moments& moments = vectors[c / kLanes];
      F32 total = splat(0.0f), total_squares = total;
      if (tiles == 0) {
        for (int64_t p = 0; p < pixels; ++p) total = total + load(tile + p * kPanel + c);
        moments = {total * splat(1.0f / static_cast<float>(pixels)), splat(0.0f), splat(0.0f)};
        total = splat(0.0f);
      }
      if (recenters_after(tiles)) recenter(moments, static_cast<float>(count));
      for (int64_t p = 0; p < pixels; ++p) {
        const F32 deviation = load(tile + p * kPanel + c) - moments.shift;
        total = total + deviation;
        total_squares = fma(deviation, deviation, total_squares);
      }
      moments.sum = moments.sum + total;
      moments.squares = moments.squares + total_squares;
    }
    count += pixels;
    ++tiles;
  }

  VDM_MEMBER void finish(int columns, ConvMoments* out) const {
    for (int first = 0; first < columns; first += kLanes) {
      const Moments& moments = vectors[first / kLanes];
      float shift[kLanes], sum[kLanes], squares[kLanes];
      store(shift, moments.shift);
      store(sum, moments.sum);
      store(squares, moments.squares);
      for (int c = 0; c < kLanes && first + c < columns; ++c) {
        const double mean = double{sum[c]} / static_cast<double>(count);
        const double m2 = double{squares[c]} - double{sum[c]} * mean;
        out[first + c] = {double{shift[c]} + mean, m2 > 0.0 ? m2 : 0.0};
      }
    }
  }
};

// As it will be read from a tensor of this type.
VDM_INLINE F32 rounded(F32 a, DType dtype) {
  if (dtype == DType::kFloat32) return a;
  return widen(narrow(a, dtype == DType::kBFloat16), dtype == DType::kBFloat16);
}

// Asks for the lines that write_tile will touch, so that they come while the tile is computed.
VDM_INLINE void prefetch_tile(const ConvOutput& output, int64_t offset, int64_t step, int64_t pixels,
                              int columns) {
  const int64_t size = size_of(output.dtype), bytes = columns * size;
  for (int64_t p = 0; p < pixels; ++p) {
    const int64_t begin = (offset + p * step) * size;
    for (int64_t b = 0; b < bytes; b += 64) {
      if (!output.stream) __builtin_prefetch(static_cast<const char*>(output.y) + begin + b, 1);
      if (output.residual != nullptr) prefetch(static_cast<const char*>(output.residual) + begin + b);
    }
  }
}

// Whether whole cache lines of the output are written, and around the caches.
VDM_INLINE bool streams_lines(const ConvOutput& output) {
  constexpr int64_t kLine = 64;
  const int64_t size = size_of(output.dtype);
  return output.stream && kLanes * size == kLine && output.channels * size % kLine == 0;
}

// Adds bias and residual to a tile (pixels, kPanel), of which the first `columns` columns exist, and stores
// it from element `offset` and channel `channel` on, `step` elements from pixel to pixel. Moments, where
// wanted, are of the values as rounded, which the tile then has.
VDM_INLINE void write_tile(const ConvOutput& output, int64_t offset, int64_t channel, int64_t step,
                           int64_t pixels, int columns, float* tile, PanelMoments* moments) {
  const DType dtype = output.dtype;
  const bool streams = streams_lines(output);
  for (int c = 0; c < columns; c += kLanes) {
    const int lanes = lanes_of(columns - c);
    const F32 bias = output.bias == nullptr ? splat(0.0f) : load_lanes(output.bias + channel + c, lanes);
    for (int64_t p = 0; p < pixels; ++p) {
      const int64_t at = offset + p * step + channel + c;
      F32 value = load(tile + p * kPanel + c) + bias;
      if (output.residual != nullptr) value = value + load_lanes(output.residual, dtype, at, lanes);
      store_lanes(output.y, dtype, at, value, lanes, streams);
      if (moments != nullptr) store(tile + p * kPanel + c, rounded(value, dtype));
    }
  }
  if (moments != nullptr) moments->add(tile, pixels, columns);
}

}  // namespace VDM_ISA
}  // namespace vdm
