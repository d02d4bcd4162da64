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

// Where the tokens are in x or out, one after another: (pixels, frames).
class TokenOffsets {
 public:
  VDM_MEMBER explicit TokenOffsets(const PixelTokens& tokens)
      : frames_(tokens.frames),
        frame_step_(tokens.frame_step),
        channels_(tokens.channels),
        pixel_(tokens.first) {}

  VDM_MEMBER int64_t next() {
    const int64_t offset = pixel_ + frame_ * frame_step_;
    if (++frame_ == frames_) {
      frame_ = 0;
      pixel_ += channels_;
    }
    return offset;
  }

 private:
  int64_t frames_, frame_step_, channels_, pixel_, frame_ = 0;
};

// Lane i is the sum of the lanes of rows[i].
VDM_INLINE F32 sums_of_lanes(F32 (&rows)[kLanes]) {
  transpose(rows);
#pragma GCC unroll 4
  for (int half = kLanes / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) rows[i] = rows[i] + rows[i + half];
  }
  return rows[0];
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

// Up to kLanes tokens of x at `from`, to consecutive rows. The mean is subtracted before anything is squared;
// its own rounding error, which matters where the mean is large, is the mean of what is left.
VDM_INLINE void normalize(const void* x, DType dtype, const int64_t* from, int tokens, int64_t channels,
                          const TokenNorm& norm, float* copy, float* normed) {
  const int64_t row = block_row(channels);
  const float share = 1.0f / static_cast<float>(channels);
  F32 sums[kLanes] = {}, squares[kLanes] = {};
  alignas(64) float mean[kLanes], shift[kLanes], scale[kLanes];
  for (int i = 0; i < tokens; ++i) {
    F32 sum = splat(0.0f);
    each_vector(channels, [&](int64_t c, int count) VDM_LAMBDA {
      const F32 value = load_partial(x, dtype, from[i] + c, count);
      store(copy + i * row + c, value);
      sum = sum + value;
    });
    sums[i] = sum;
  }
  store(mean, sums_of_lanes(sums) * splat(share));
  for (int i = 0; i < tokens; ++i) {
    F32 rest = splat(0.0f), square = splat(0.0f);
    each_vector(channels, [&](int64_t c, int count) VDM_LAMBDA {
      float* const to = normed + i * row + c;
      store_some(to, load(copy + i * row + c) - splat(mean[i]), count);
      const F32 deviation = load_some(to, count);
      rest = rest + deviation;
      square = fma(deviation, deviation, square);
    });
    sums[i] = rest;
    squares[i] = square;
  }
  store(shift, sums_of_lanes(sums) * splat(share));
  store(scale, sums_of_lanes(squares) * splat(share));
  for (int i = 0; i < kLanes; ++i) {
    const float variance = scale[i] - shift[i] * shift[i];
    scale[i] = 1.0f / __builtin_sqrtf((variance > 0.0f ? variance : 0.0f * variance) + norm.eps);
  }
  for (int i = 0; i < tokens; ++i) {
    each_vector(channels, [&](int64_t c, int count) VDM_LAMBDA {
      float* const to = normed + i * row + c;
      const F32 standard = (load(to) - splat(shift[i])) * splat(scale[i]);
      store(to, fma(standard, load_some(norm.weight + c, count), load_some(norm.bias + c, count)));
    });
  }
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

// Some tokens of one panel of the output.
struct OutputTile {
  void* out;
  DType dtype;
  bool stream;
  int64_t rows, columns;
  const float *bias, *residual;
  int64_t residual_row;
  int64_t to[kGemmRows];  // where each token is in out
};

// Brings lines of a tile's residual and of the output nearer while its product is computed: stores that miss
// the caches would stall in a burst.
struct OutputLines {
  const OutputTile& tile;
  int64_t i = 0;

  VDM_MEMBER void operator()() {
    const int64_t m = i / 2, c = i % 2 * kHalfPanel;
    if (m == tile.rows) return;
    prefetch(tile.residual + m * tile.residual_row + c);
    if (!tile.stream)
      __builtin_prefetch(static_cast<const char*>(tile.out) + (tile.to[m] + c) * size_of(tile.dtype), 1);
    ++i;
  }
};

// out = residual + bias + A B.
__attribute__((noinline)) void project_tile(const OutputTile& tile, GemmA a, const float* b, int64_t k) {
  alignas(64) float product[kGemmRows * kPanel];
  OutputLines lines = {tile};
  gemm_panel<false>(tile.rows, tile.columns > kHalfPanel ? kPanel : kHalfPanel, a, b, kPanel, product, kPanel,
                    k, kOneProduct, lines);
  with_constant(tile.dtype, [&](DType dtype) VDM_LAMBDA {
    for (int64_t m = 0; m < tile.rows; ++m) {
      const float* residual = tile.residual + m * tile.residual_row;
      each_vector(tile.columns, [&](int64_t c, int lanes) VDM_LAMBDA {
        const F32 sum = load(product + m * kPanel + c) + load(tile.bias + c) + load(residual + c);
        store_partial(tile.out, dtype, tile.to[m] + c, sum, lanes, tile.stream);
      });
    }
  });
}

}  // namespace

void normalize_tokens(const PixelTokens& tokens, const void* x, const TokenNorm& norm, float* copy,
                      float* normed) {
  const int64_t row = block_row(tokens.channels), count = tokens.tokens();
  with_constant(tokens.dtype, [&](DType dtype) VDM_LAMBDA {
    TokenOffsets offsets(tokens);
    for (int64_t token = 0; token < count; token += kLanes) {
      const int group = static_cast<int>(smaller(count - token, kLanes));
      int64_t from[kLanes];
      for (int i = 0; i < group; ++i) from[i] = offsets.next();
      normalize(x, dtype, from, group, tokens.channels, norm, copy + token * row, normed + token * row);
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
  for (int64_t panel = 0; panel < linear.out; panel += kPanel) {
    OutputTile tile = {out,          tokens.dtype, stream,       0, smaller(linear.out - panel, kPanel),
                       bias + panel, nullptr,      residual_row, {}};
    TokenOffsets offsets(tokens);
    for (int64_t token = 0; token < count; token += tile.rows) {
      tile.rows = gemm_rows(count - token);
      tile.residual = residual + token * residual_row + panel;
      for (int64_t m = 0; m < tile.rows; ++m) tile.to[m] = offsets.next() + panel;
      project_tile(tile, {attended + token * row, row, 1}, linear.packed + panel * linear.in, linear.in);
    }
  }
  if (stream) stream_fence();
}

}  // namespace VDM_ISA
}  // namespace vdm
