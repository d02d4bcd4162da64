// LayerNorm and the two linear layers, for tokens whose rows stay in the L2 cache: x is read once and out
// written once. A panel of a weight is multiplied with all tokens before the next one is read.
#include "temporal_attention_block/temporal_attention_block_simd.h"

#include "common/convert_simd.h"
#include "common/gemm_simd.h"

namespace vdm {
namespace VDM_ISA {
namespace {

static_assert(kBlockPanel == kPanel, "packed weights have the panels of the matrix products");

// Rows of tokens between two errands.
constexpr int64_t kTile = 4 * kGemmRows;

VDM_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

VDM_INLINE float sum_of_lanes(F32 a) {
  alignas(64) float lanes[kLanes];
  store(lanes, a);
#pragma GCC unroll 4
  for (int half = kLanes / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

// Calls body(c, kLanes) for whole vectors of channels, and body(c, count) for the rest.
template <typename Body>
VDM_INLINE void each_vector(int64_t channels, const Body& body) {
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) body(c, kLanes);
  if (c < channels) body(c, static_cast<int>(channels - c));
}

VDM_INLINE F32 load_some(const float* p, int count) {
  return count == kLanes ? load(p) : load_partial(p, count);
}
VDM_INLINE void store_some(float* p, F32 a, int count) {
  count == kLanes ? store(p, a) : store_partial(p, a, count);
}

// The mean is subtracted before anything is squared; its own rounding error, which matters where the mean is
// large, is the mean of what is left.
VDM_INLINE void normalize(const void* x, DType dtype, int64_t offset, int64_t channels, const TokenNorm& norm,
                          float* copy, float* normed) {
  const float share = 1.0f / static_cast<float>(channels);
  F32 sum = splat(0.0f);
  each_vector(channels, [&](int64_t c, int count) VDM_LAMBDA {
    const F32 value = load_partial(x, dtype, offset + c, count);
    store(copy + c, value);
    sum = sum + value;
  });
  const F32 mean = splat(sum_of_lanes(sum) * share);
  F32 rest = splat(0.0f), squares = splat(0.0f);
  each_vector(channels, [&](int64_t c, int count) VDM_LAMBDA {
    store_some(normed + c, load(copy + c) - mean, count);
    const F32 deviation = load_some(normed + c, count);
    rest = rest + deviation;
    squares = fma(deviation, deviation, squares);
  });
  const float shift = sum_of_lanes(rest) * share;
  const float variance = sum_of_lanes(squares) * share - shift * shift;
  const F32 scale = splat(1.0f / __builtin_sqrtf((variance > 0.0f ? variance : 0.0f * variance) + norm.eps));
  each_vector(channels, [&](int64_t c, int count) VDM_LAMBDA {
    const F32 standard = (load(normed + c) - splat(shift)) * scale;
    store(normed + c, fma(standard, load_some(norm.weight + c, count), load_some(norm.bias + c, count)));
  });
}

// Asks for part i of n of the next pixels.
VDM_INLINE void prefetch_part(const PixelTokens& next, const void* x, int64_t i, int64_t n) {
  const int64_t size = size_of(next.dtype), lines = (next.pixels * next.channels * size + 63) / 64;
  const int64_t first = next.frames * lines * i / n;
  if (lines == 0) return;
  const char* frame = static_cast<const char*>(x) + (next.first + first / lines * next.frame_step) * size;
  int64_t line = first % lines;
  for (int64_t count = next.frames * lines * (i + 1) / n - first; count > 0; --count) {
    __builtin_prefetch(frame + line * 64, 0, 2);
    if (++line == lines) {
      line = 0;
      frame += next.frame_step * size;
    }
  }
}

// Out of line, so that the tile sizes exist once.
__attribute__((noinline)) void multiply(int64_t rows, int64_t columns, GemmA a, const float* b, float* c,
                                        int64_t c_row, int64_t k) {
  gemm_panel<false>(rows, columns > kHalfPanel ? kPanel : kHalfPanel, a, b, kPanel, c, c_row, k);
}

}  // namespace

void normalize_tokens(const PixelTokens& tokens, const void* x, const TokenNorm& norm, float* copy,
                      float* normed) {
  const int64_t row = block_row(tokens.channels);
  with_constant(tokens.dtype, [&](DType dtype) VDM_LAMBDA {
    for (int64_t frame = 0; frame < tokens.frames; ++frame) {
      for (int64_t pixel = 0; pixel < tokens.pixels; ++pixel) {
        const int64_t to = (pixel * tokens.frames + frame) * row;
        normalize(x, dtype, tokens.first + frame * tokens.frame_step + pixel * tokens.channels,
                  tokens.channels, norm, copy + to, normed + to);
      }
    }
  });
}

void project_tokens(const TokenLinear& linear, const float* tokens, int64_t count, float* y,
                    const PixelTokens& next, const void* x) {
  const int64_t row = block_row(linear.in), y_row = block_row(linear.out);
  const int64_t panels = (linear.out + kPanel - 1) / kPanel, tiles = (count + kTile - 1) / kTile;
  for (int64_t panel = 0; panel < panels; ++panel) {
    for (int64_t tile = 0; tile < tiles; ++tile) {
      prefetch_part(next, x, panel * tiles + tile, panels * tiles);
      const int64_t token = tile * kTile;
      multiply(smaller(count - token, kTile), linear.out - panel * kPanel, {tokens + token * row, row, 1},
               linear.packed + panel * kPanel * linear.in, y + token * y_row + panel * kPanel, y_row,
               linear.in);
    }
  }
}

void project_attended(const TokenLinear& linear, const float* bias, const float* attended,
                      const float* residual, const PixelTokens& tokens, void* out, bool stream) {
  const int64_t row = block_row(linear.in), residual_row = block_row(linear.out), count = tokens.tokens();
  alignas(64) float tile[kTile * kPanel];
  for (int64_t panel = 0; panel < linear.out; panel += kPanel) {
    const int64_t columns = smaller(linear.out - panel, kPanel);
    int64_t pixel = 0, frame = 0;
    for (int64_t token = 0; token < count; token += kTile) {
      const int64_t rows = smaller(count - token, kTile);
      multiply(rows, columns, {attended + token * row, row, 1}, linear.packed + panel * linear.in, tile,
               kPanel, linear.in);
      with_constant(tokens.dtype, [&](DType dtype) VDM_LAMBDA {
        for (int64_t m = 0; m < rows; ++m) {
          const int64_t to = tokens.first + frame * tokens.frame_step + pixel * tokens.channels + panel;
          const float* add = residual + (token + m) * residual_row + panel;
          each_vector(columns, [&](int64_t c, int lanes) VDM_LAMBDA {
            const F32 sum = load(tile + m * kPanel + c) + load(bias + panel + c) + load(add + c);
            store_partial(out, dtype, to + c, sum, lanes, stream);
          });
          if (++frame == tokens.frames) {
            frame = 0;
            ++pixel;
          }
        }
      });
    }
  }
  if (stream) stream_fence();
}

}  // namespace VDM_ISA
}  // namespace vdm
