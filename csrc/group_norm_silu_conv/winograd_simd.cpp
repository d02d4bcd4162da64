// The forward pass. Per block of 32 or 64 tiles, for float32 and F(4x4):
//
//     x     is read once, in rows; activated rows stay in a ring of 6 (L2), so that each element is activated
//           once
//     v     36 matrices (tiles x channels), written and read once per panel of 32 output channels, in L2
//     u     36 matrices (channels x 32) per panel, read once per block, from L2 or L3
//     m     36 products (tiles x 32), in L2 twice: while those of one panel are made, those of the one
//           before become outputs, a tile or two after each: bias, residual, store, statistics. Meanwhile
//           each step of a product prefetches a line of what comes next (GemmAhead): no bursts of memory
//
// The products are 36 tiles x channels x 32 multiplications and take most of the time, at the peak of the
// multipliers (gemm_simd.h). Rows of v are 16 floats longer than the channels: a power of two would map all
// rows of a register tile to the same few sets of the L1 cache.
#include "group_norm_silu_conv/winograd_simd.h"

#include "group_norm_silu_conv/conv_simd.h"
#include "group_norm_silu_conv/winograd_points_simd.h"
#include "group_norm_silu_conv/winograd_tiles_simd.h"

namespace vdm {
namespace VDM_ISA {
namespace {

// What the products fetched for the next block may be in L3 by now: it is fetched again so many pixels before
// it is read. Behind the last pixel of a row comes the next row.
constexpr int64_t kPixelsAhead = 8;

// kVectors vectors of channels of the pixels of a row, of which each has `count` lanes. What the activation
// needs stays in registers.
template <bool kActivate, int kVectors>
VDM_INLINE void activate_channels(const void* x, DType dtype, int64_t offset, int64_t x_pixel, int64_t pixels,
                                  const float* center, const float* gain, const float* shift, float* out,
                                  int64_t out_pixel, int count) {
  F32 c[kVectors], g[kVectors], s[kVectors];
  for (int v = 0; kActivate && v < kVectors; ++v) {
    c[v] = load_partial(center + v * kLanes, count);
    g[v] = load_partial(gain + v * kLanes, count);
    s[v] = load_partial(shift + v * kLanes, count);
  }
  for (int64_t p = 0; p < pixels; ++p) {
    F32 a[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const int64_t at = offset + p * x_pixel + v * kLanes;
      prefetch(x, dtype, at + kPixelsAhead * x_pixel);
      a[v] = count == kLanes ? load(x, dtype, at) : load_partial(x, dtype, at, count);
      if (kActivate) a[v] = fma(a[v] - c[v], g[v], s[v]);
    }
    if (kActivate) silu(a);
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      float* to = out + p * out_pixel + v * kLanes;
      count == kLanes ? store(to, a[v]) : store_partial(to, a[v], count);
    }
  }
}

// The channels of one tensor in the pixels of a row.
template <bool kActivate>
VDM_INLINE void activate_pixels(const void* x, DType dtype, int64_t offset, int64_t channels, int64_t pixels,
                                const float* center, const float* gain, const float* shift, float* out,
                                int64_t out_pixel) {
  constexpr int kVectors = 4;
  int64_t i = 0;
  for (; i + kVectors * kLanes <= channels; i += kVectors * kLanes) {
    activate_channels<kActivate, kVectors>(x, dtype, offset + i, channels, pixels, center + i, gain + i,
                                           shift + i, out + i, out_pixel, kLanes);
  }
  for (; i < channels; i += kLanes) {
    activate_channels<kActivate, 1>(x, dtype, offset + i, channels, pixels, center + i, gain + i, shift + i,
                                    out + i, out_pixel, static_cast<int>(min_of(kLanes, channels - i)));
  }
}

// One row of a strip, `pixels` wide from column `first`, in pixels of tiles.channels floats; zeros outside of
// the image and after the last channel.
template <bool kActivate>
VDM_INLINE void activate_row(const ConvInput& in, const WinogradTiles& tiles, int64_t image, int64_t row,
                             int64_t first, int64_t pixels, float* out) {
  if (row < 0 || row >= in.height) return fill_zero(out, pixels * tiles.channels);
  const int64_t begin = max_of(0, -first), end = min_of(pixels, in.width - first), count = end - begin;
  const int64_t c1 = in.channels1, c2 = in.channels - c1, per_image = image * in.channels;
  const int64_t pixel = (image * in.height + row) * in.width + first + begin;
  float* to = out + begin * tiles.channels;
  if (in.channels % kHalfPanel != 0) fill_zero(to, count * tiles.channels);
  activate_pixels<kActivate>(in.x, in.dtype, pixel * c1, c1, count, in.center + per_image,
                             in.gain + per_image, in.offset + per_image, to, tiles.channels);
  if (c2 > 0) {
    activate_pixels<kActivate>(in.x2, in.dtype, pixel * c2, c2, count, in.center + per_image + c1,
                               in.gain + per_image + c1, in.offset + per_image + c1, to + c1, tiles.channels);
  }
  fill_zero(out, begin * tiles.channels);
  fill_zero(out + end * tiles.channels, (pixels - end) * tiles.channels);
}

// The activated rows of a tile row, computed where they are not held. rows[i] is input row row * step - 1 +
// i.
VDM_INLINE void activated_rows(const ConvInput& in, const WinogradTiles& tiles, const TileRun& run,
                               WinogradRows& ring, const float** rows) {
  const int64_t strips = (tiles.columns + tiles.strip - 1) / tiles.strip;
  const int64_t width = min_of(tiles.strip, tiles.columns - run.strip_column);
  for (int i = 0; i < tiles.overlap; ++i) {
    const int64_t row = run.row * tiles.step - 1 + i;
    const int64_t slot = (row + 1) % tiles.overlap;
    const int64_t id = (run.image * strips + run.strip) * (tiles.rows * tiles.step + 2) + row + 1;
    float* data = ring.data + slot * tiles.pixel_row;
    rows[i] = data;
    if (ring.held[slot] == id) continue;
    ring.held[slot] = id;
    const int64_t first = run.strip_column * tiles.step - 1, pixels = width * tiles.step + 2;
    if (in.center != nullptr)
      activate_row<true>(in, tiles, run.image, row, first, pixels, data);
    else
      activate_row<false>(in, tiles, run.image, row, first, pixels, data);
  }
}

template <typename Transform>
VDM_INLINE void transform_input(const ConvInput& in, const WinogradTiles& tiles, int64_t begin, int64_t end,
                                WinogradRows& ring, float* v) {
  constexpr int kPoints = Transform::kTo, kShared = 2;  // columns of neighbours
  for (int64_t tile = begin; tile < end;) {
    const TileRun run = tile_run(tiles, tile, end);
    const float* rows[Transform::kFrom];
    activated_rows(in, tiles, run, ring, rows);
    for (int64_t t = 0; t < run.count; ++t) {
      const int64_t pixel = (run.first + t) * tiles.step * tiles.channels;
      float* out = v + (tile - begin + t) * tiles.v_row;
      for (int64_t c = 0; c < tiles.channels; c += kLanes) {
        transform_square<Transform>(
            [&](int i, F32* row) {
#pragma GCC unroll 6
              for (int j = 0; j < Transform::kFrom; ++j) {
                const float* const from = rows[i] + pixel + j * tiles.channels + c;
                row[j] = load(from);
                // The next tile's: rows come from L2, and the processor's prefetcher does not follow them.
                if (j >= kShared) prefetch(from + tiles.step * tiles.channels);
              }
            },
            [&](int j, const F32* column) {
#pragma GCC unroll 6
              for (int i = 0; i < kPoints; ++i) {
                float* const to = out + (i * kPoints + j) * tiles.v_matrix + c;
                store(to, column[i]);
                __builtin_prefetch(to + 2 * kLanes, 1);  // v of many channels is in L3
              }
            });
      }
    }
    tile += run.count;
  }
}

// Offsets of consecutive cache lines.
struct Consecutive {
  static constexpr int64_t kCount = 1024;
  int32_t offsets[kCount];
  constexpr Consecutive() : offsets() {
    for (int i = 0; i < kCount; ++i) offsets[i] = 64 * i;
  }
};
constexpr Consecutive kConsecutive;

// What the products of one matrix fetch, in this order; what does not fit is left out, and comes when it is
// read.
class LineList {
 public:
  VDM_MEMBER void clear() { count_ = 0; }
  VDM_MEMBER void add(const char* data, const int32_t* offsets, int64_t count) {
    if (count_ < kCapacity) lines_[count_++] = {data, offsets, offsets + count};
  }
  VDM_MEMBER void add(const void* data, int64_t count) {
    if (count <= 0) return;
    add(static_cast<const char*>(data), kConsecutive.offsets, min_of(count, Consecutive::kCount));
  }
  VDM_MEMBER GemmAhead ahead() const { return {lines_, lines_ + count_, {nullptr, nullptr, nullptr}}; }

 private:
  static constexpr int64_t kCapacity = 32;
  int64_t count_ = 0;
  GemmLines lines_[kCapacity];
};

// The cache lines of channels [first, last), those that there are, in size x size pixels of a tensor.
class TileLines {
 public:
  VDM_MEMBER TileLines(const void* tensor, DType dtype, int64_t channels, int64_t width, int size,
                       int64_t first, int64_t last)
      : bytes_(channels * size_of(dtype)) {
    if (tensor == nullptr) return;
    first = max_of(0, first);
    const int64_t part = (min_of(last, channels) - first) * size_of(dtype);
    data_ = static_cast<const char*>(tensor) + first * size_of(dtype);
    for (int i = 0; i < size; ++i) {
      for (int j = 0; j < size; ++j) {
        for (int64_t at = 0; at < part; at += 64)
          offsets_[count_++] = static_cast<int32_t>((i * width + j) * bytes_ + at);
      }
    }
  }
  VDM_MEMBER void add_to(LineList& lines, int64_t pixel) const {
    if (count_ > 0) lines.add(data_ + pixel * bytes_, offsets_, count_);
  }

 private:
  const char* data_ = nullptr;
  int64_t bytes_, count_ = 0;
  int32_t offsets_[4 * 4 * kPanel / 16];
};

VDM_INLINE F32 total(const F32 (&v)[4]) { return (v[0] + v[1]) + (v[2] + v[3]); }
VDM_INLINE F32 total(const F32 (&v)[2]) { return v[0] + v[1]; }
VDM_INLINE F32 total(const F32 (&v)[1]) { return v[0]; }

// The pixels of a tile of kSize x kSize that are inside the image: all of them, or rows x columns.
template <int kSize, bool kWhole>
struct TilePixels {
  int rows, columns;

  template <typename Body>
  VDM_MEMBER void each(const Body& body) const {
#pragma GCC unroll 4
    for (int i = 0; i < (kWhole ? kSize : rows); ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < (kWhole ? kSize : columns); ++j) body(i, j);
    }
  }
  VDM_MEMBER int count() const { return kWhole ? kSize * kSize : rows * columns; }
};

// One vector of channels of a tile's outputs: adds bias and residual, stores, and adds what was stored to the
// moments, of which these are the first or not.
template <int kSize, bool kWhole>
VDM_INLINE void store_tile(const ConvOutput& out, DType dtype, TilePixels<kSize, kWhole> pixels,
                           F32 (&y)[kSize][kSize], F32 bias, int64_t offset, int lanes, Moments* moments,
                           bool first) {
  const int64_t pixel = out.channels, row = out.width * pixel;
  const auto at = [=](int i, int j) VDM_LAMBDA { return offset + i * row + j * pixel; };
  pixels.each([&](int i, int j) VDM_LAMBDA { y[i][j] = y[i][j] + bias; });
  if (out.residual != nullptr) {
    pixels.each([&](int i, int j) VDM_LAMBDA {
      y[i][j] = y[i][j] + (kWhole ? load(out.residual, dtype, at(i, j))
                                  : load_partial(out.residual, dtype, at(i, j), lanes));
    });
  }
  if (kWhole && out.stream) {
    pixels.each([&](int i, int j) VDM_LAMBDA { store(out.y, dtype, at(i, j), y[i][j], true); });
  } else {
    pixels.each([&](int i, int j) VDM_LAMBDA {
      kWhole ? store(out.y, dtype, at(i, j), y[i][j]) : store_partial(out.y, dtype, at(i, j), y[i][j], lanes);
    });
  }
  if (moments == nullptr) return;
  if (first) {
    F32 sum = splat(0.0f);
    pixels.each([&](int i, int j) VDM_LAMBDA { sum = sum + rounded(y[i][j], dtype); });
    *moments = {sum * splat(1.0f / static_cast<float>(pixels.count())), splat(0.0f), splat(0.0f)};
  }
  // One sum per column: a single one would be a chain of dependent additions.
  F32 sums[kSize], squares[kSize];
#pragma GCC unroll 4
  for (int j = 0; j < kSize; ++j) sums[j] = squares[j] = splat(0.0f);
  const F32 shift = moments->shift;
  pixels.each([&](int i, int j) VDM_LAMBDA {
    const F32 deviation = rounded(y[i][j], dtype) - shift;
    sums[j] = i == 0 ? deviation : sums[j] + deviation;
    squares[j] = i == 0 ? deviation * deviation : fma(deviation, deviation, squares[j]);
  });
  moments->sum = moments->sum + total(sums);
  moments->squares = moments->squares + total(squares);
}

// One vector of channels of what silu((x - center) gain + offset) is the activation of, in the pixels of a
// tile.
struct NormedVector {
  const void* x;
  int64_t at, row_stride, pixel_stride;
  F32 center, gain, offset;
};

// Sums of dz and of dz (x - center).
struct GradientSums {
  F32 dz, dz_x;
};

// As store_tile, of da: stores dz = da silu'(u) and adds it to the sums.
template <int kSize, bool kWhole>
VDM_INLINE void store_gradient_tile(const ConvOutput& out, DType dtype, TilePixels<kSize, kWhole> pixels,
                                    const F32 (&da)[kSize][kSize], const NormedVector& normed, int64_t offset,
                                    int lanes, GradientSums& sums) {
  const int64_t pixel = out.channels, row = out.width * pixel;
  F32 sum = splat(0.0f), x_sum = sum;
#pragma GCC unroll 4
  for (int i = 0; i < (kWhole ? kSize : pixels.rows); ++i) {
    F32 x[kSize], derivative[kSize];
#pragma GCC unroll 4
    for (int j = 0; j < kSize; ++j) {
      const int64_t from = normed.at + i * normed.row_stride + j * normed.pixel_stride;
      x[j] = kWhole               ? load(normed.x, dtype, from)
             : j < pixels.columns ? load_partial(normed.x, dtype, from, lanes)
                                  : normed.center;
      x[j] = x[j] - normed.center;
      derivative[j] = fma(x[j], normed.gain, normed.offset);
    }
    silu_derivative(derivative);
#pragma GCC unroll 4
    for (int j = 0; j < (kWhole ? kSize : pixels.columns); ++j) {
      const F32 dz = da[i][j] * derivative[j];
      const int64_t at = offset + i * row + j * pixel;
      kWhole ? store(out.y, dtype, at, dz, out.stream) : store_partial(out.y, dtype, at, dz, lanes);
      sum = sum + dz;
      x_sum = fma(dz, x[j], x_sum);
    }
  }
  sums.dz = sums.dz + sum;
  sums.dz_x = sums.dz_x + x_sum;
}

// Where the output of a tile is, from its first pixel on, and how much of it is inside the image.
struct TilePlace {
  int64_t image, pixel;
  int rows, columns;
};

// Turns the products of a panel into output, tile after tile. Moments of the tiles of one image go to
// conv.partials (images, slots, 4, channels rounded up to 16): a value near the mean, the mean relative to
// it, the sum of squared deviations, and how many pixels they are of.
class OutputStage {
 public:
  VDM_MEMBER OutputStage(const WinogradMultiply& conv, const WinogradTiles& tiles,
                         const WinogradProducts& products)
      : conv_(conv), tiles_(tiles), products_(products), at_(tiles, products.begin) {
    const ConvOutput& out = conv.output;
    last_ = min_of(products.first + products.columns, out.channels);
    vectors_ = static_cast<int>((last_ - products.first + kLanes - 1) / kLanes);
    for (int v = 0; v < vectors_; ++v) {
      const int64_t channel = products.first + v * kLanes;
      lanes_[v] = lanes_of(out.channels - channel);
      sums_[v] = {splat(0.0f), splat(0.0f)};
      bias_[v] = out.bias == nullptr ? splat(0.0f) : load_lanes(out.bias + channel, lanes_[v]);
    }
  }

  // The next tile.
  VDM_MEMBER const TileWalk& at() const { return at_; }

  // In the order of the tiles.
  VDM_MEMBER void store_tiles(int64_t begin, int64_t end) {
    if (tiles_.points == WinogradUpsampled::kPoints)
      conv_.pool ? store_with<WinogradPooled::Output>(begin, end)
                 : store_with<WinogradUpsampled::Output>(begin, end);
    else
      tiles_.size == 4 ? store_with<Winograd4::Output>(begin, end)
                       : store_with<Winograd2::Output>(begin, end);
  }

 private:
  template <typename Transform>
  __attribute__((noinline)) void store_with(int64_t begin, int64_t end) {
    with_constant(conv_.output.dtype, [&](DType dtype) VDM_LAMBDA {
      for (int64_t t = begin; t < end; ++t) store_one<Transform>(t, dtype);
    });
  }

  template <typename Transform>
  VDM_MEMBER void store_one(int64_t t, DType dtype) {
    const ConvOutput& out = conv_.output;
    constexpr int kSize = Transform::kTo;
    const TilePlace place = {at_.image, at_.pixel(kSize, out.height, out.width),
                             static_cast<int>(min_of(kSize, out.height - at_.row * kSize)),
                             static_cast<int>(min_of(kSize, out.width - at_.column * kSize))};
    at_.next();
    const float* const products = products_.m + t * tiles_.m_row;
    const bool whole = place.rows == kSize && place.columns == kSize;
    if (makes_moments() && recenters_after(stored_)) {
      for (int v = 0; v < vectors_; ++v) recenter(moments_[v], count_);
    }
    for (int v = 0; v < vectors_; ++v) {
      if (whole && lanes_[v] == kLanes)
        store_vector<Transform, true>(place, products, v, dtype);
      else
        store_part<Transform>(place, products, v);
    }
    count_ += static_cast<float>(place.rows * place.columns);
    ++stored_;
    const bool ends_image = t + 1 == products_.end - products_.begin || at_.image != place.image;
    if (conv_.partials != nullptr && ends_image) store_moments(place.image);
  }

  template <typename Transform>
  __attribute__((noinline)) void store_part(const TilePlace& place, const float* products, int v) {
    store_vector<Transform, false>(place, products, v, conv_.output.dtype);
  }

  template <typename Transform, bool kWhole>
  VDM_MEMBER void store_vector(const TilePlace& place, const float* products, int v, DType dtype) {
    constexpr int kPoints = Transform::kFrom, kSize = Transform::kTo;
    F32 y[kSize][kSize];
    transform_square<Transform>(
        [&](int i, F32* row) {
#pragma GCC unroll 6
          for (int j = 0; j < kPoints; ++j) row[j] = load(products + (i * kPoints + j) * kPanel + v * kLanes);
        },
        [&](int j, const F32* column) {
#pragma GCC unroll 4
          for (int i = 0; i < kSize; ++i) y[i][j] = column[i];
        });
    const ConvOutput out = conv_.output;
    const int64_t offset = place.pixel * out.channels + products_.first + v * kLanes;
    const TilePixels<kSize, kWhole> pixels{place.rows, place.columns};
    if (conv_.activation != nullptr) {
      store_gradient_tile(out, dtype, pixels, y, normed_vector(place, v), offset, lanes_[v], sums_[v]);
    } else {
      Moments* const moments = makes_moments() ? moments_ + v : nullptr;
      store_tile(out, dtype, pixels, y, bias_[v], offset, lanes_[v], moments, stored_ == 0);
    }
  }

  VDM_MEMBER bool makes_moments() const { return conv_.partials != nullptr && conv_.activation == nullptr; }

  // A vector is of x or of x2, never of both.
  VDM_MEMBER NormedVector normed_vector(const TilePlace& place, int v) const {
    const ConvInput& in = *conv_.activation;
    const int64_t channel = products_.first + v * kLanes, affine = place.image * in.channels + channel;
    const bool second = channel >= in.channels1;
    const int64_t channels = second ? in.channels - in.channels1 : in.channels1;
    return {second ? in.x2 : in.x,
            place.pixel * channels + (second ? channel - in.channels1 : channel),
            in.width * channels,
            channels,
            load_lanes(in.center + affine, lanes_[v]),
            load_lanes(in.gain + affine, lanes_[v]),
            load_lanes(in.offset + affine, lanes_[v])};
  }

  VDM_MEMBER void store_moments(int64_t image) {
    const int64_t padded = (conv_.output.channels + kHalfPanel - 1) / kHalfPanel * kHalfPanel;
    const int64_t first_block = image * tiles_.rows * tiles_.columns / tiles_.block;
    const int64_t slot = image * tiles_.slots + products_.begin / tiles_.block - first_block;
    for (int v = 0; v < vectors_; ++v) {
      float* const to = conv_.partials + slot * 4 * padded + products_.first + v * kLanes;
      if (conv_.activation != nullptr) {
        store(to, sums_[v].dz);
        store(to + padded, sums_[v].dz_x);
        sums_[v] = {splat(0.0f), splat(0.0f)};
        continue;
      }
      const Moments& moments = moments_[v];
      const F32 mean = moments.sum * splat(1.0f / count_);
      store(to, moments.shift);
      store(to + padded, mean);
      store(to + 2 * padded, max(splat(0.0f), moments.squares - mean * moments.sum));
      store(to + 3 * padded, splat(count_));
    }
    count_ = 0.0f;
    stored_ = 0;
  }

  const WinogradMultiply& conv_;
  const WinogradTiles& tiles_;
  const WinogradProducts& products_;
  TileWalk at_;
  int64_t last_;
  int vectors_;
  F32 bias_[kPanel / kLanes];
  int lanes_[kPanel / kLanes];
  Moments moments_[kPanel / kLanes];
  GradientSums sums_[kPanel / kLanes];
  float count_ = 0.0f;  // pixels of this image
  int64_t stored_ = 0;  // tiles of it
};

// How many parts the sum over channels has: their sums are added up at the end. The rounding errors of these
// sums are most of all errors, and those of one long sum grow with the root of its length.
VDM_INLINE int64_t parts_of(int64_t channels) { return channels < 32 ? 1 : max_of(2, channels / 256); }

constexpr int64_t kFollowedChannels = 128;

// One matrix of products. The lines come nearer meanwhile, then the weights and v of the next matrix, as far
// as there are steps left.
__attribute__((noinline)) void multiply(const WinogradMultiply& conv, const WinogradTiles& tiles,
                                        const float* v, const WinogradProducts& products, int matrix,
                                        LineList& lines) {
  const int64_t channels = conv.input.channels, size = channels * products.columns;
  const int64_t rows = products.end - products.begin;
  const float* const u = products.weights + matrix * (size + kMatrixGap);
  // The processor's own prefetcher follows those of few channels.
  if (channels > kFollowedChannels) lines.add(u + size + kMatrixGap, size / kHalfPanel);
  lines.add(v + tiles.input_of(matrix + 1) * tiles.v_matrix, rows * tiles.v_row / kHalfPanel);
  GemmAhead ahead = lines.ahead();
  gemm_parts(rows, products.columns, v + tiles.input_of(matrix) * tiles.v_matrix, tiles.v_row, u,
             products.m + matrix * kPanel, tiles.m_row, channels, parts_of(channels), ahead);
}

// What of a share one of `matrices` products takes with it: with few stripes, only some do, since loading and
// storing the state takes as long as several stripes.
VDM_INLINE FingerprintShare weight_share(const FingerprintShare& all, int matrix, int matrices) {
  constexpr int64_t kLeast = 16;
  if (all.stripes == 0) return all;
  const int64_t parts = min_of(all.stripes / kLeast + 1, matrices);
  const int64_t begin = all.stripes * (matrix * parts / matrices) / parts;
  const int64_t end = all.stripes * ((matrix + 1) * parts / matrices) / parts;
  return {all.data + begin * kFingerprintStripe, end - begin, all.state};
}

}  // namespace

void winograd_transform_input(const ConvInput& input, const WinogradTiles& tiles, int64_t begin, int64_t end,
                              WinogradRows& rows, float* v) {
  const auto transform = [&](auto points) {
    transform_input<decltype(points)>(input, tiles, begin, end, rows, v);
  };
  if (tiles.points == WinogradUpsampled::kPoints)
    tiles.step < tiles.size ? transform(WinogradUpsampled::Input{}) : transform(WinogradPooled::Input{});
  else
    tiles.size == 4 ? transform(Winograd4::Input{}) : transform(Winograd2::Input{});
}

void winograd_multiply(const WinogradMultiply& conv, const WinogradTiles& tiles, const float* v,
                       const WinogradProducts& products, const WinogradProducts* previous) {
  const ConvInput& in = conv.input;
  const ConvOutput& out = conv.output;
  const ConvInput* const act = conv.activation;
  const int matrices = tiles.points * tiles.points;
  const auto until = [=](int64_t all, int matrix) { return all * matrix / matrices; };
  const WinogradProducts& made = previous == nullptr ? products : *previous;
  const int64_t outputs = previous == nullptr ? 0 : made.end - made.begin;
  OutputStage output(conv, tiles, made);
  // What the output stage reads and writes; a store to what is in no cache waits for it.
  const int size = conv.pool ? tiles.size / 2 : tiles.size;
  const auto lines_of = [&](const void* tensor, DType dtype, int64_t channels, int64_t first) {
    const int64_t last = first + min_of(made.columns, out.channels - made.first);
    return TileLines(tensor, dtype, channels, out.width, size, first, last);
  };
  const TileLines tensors[] = {act == nullptr ? lines_of(out.residual, out.dtype, out.channels, made.first)
                                              : lines_of(act->x, act->dtype, act->channels1, made.first),
                               act == nullptr ? lines_of(nullptr, out.dtype, 0, 0)
                                              : lines_of(act->x2, act->dtype, act->channels - act->channels1,
                                                         made.first - act->channels1),
                               lines_of(out.stream ? nullptr : out.y, out.dtype, out.channels, made.first)};
  // This panel's share of the input of the next block, on its way meanwhile: with the first half of the
  // panels it would come too early, and be gone again.
  const int64_t panels = (out.channels + kPanel - 1) / kPanel, panel = products.first / kPanel;
  const int64_t next_count = min_of(products.end + tiles.block, tiles.count) - products.end;
  const auto inputs_before = [=](int64_t i) VDM_LAMBDA {
    return next_count * max_of(0, i - panels / 2) / (panels - panels / 2);
  };
  const int64_t first = inputs_before(panel), inputs = inputs_before(panel + 1) - first;
  TileWalk next(tiles, products.end + first);
  LineList lines;
  const auto add_input = [&](const void* x, int64_t channels) {
    if (x == nullptr) return;
    // The row above the tile is in the ring by then, the one below is not.
    const int64_t pixel = next.pixel(tiles.step, in.height, in.width) + in.width;
    const int64_t bytes = channels * size_of(in.dtype);
    const char* const data = static_cast<const char*>(x) + pixel * bytes;
    for (int i = 0; i < tiles.step; ++i)
      lines.add(data + i * in.width * bytes, (tiles.step * bytes + 63) / 64);
  };
  int64_t output_end = 0, input_end = 0;
  for (int i = 0; i < matrices; ++i) {
    const int64_t begin = output_end, input_begin = input_end;
    output_end = until(outputs, i + 1);
    input_end = until(inputs, i + 1);
    lines.clear();
    TileWalk tile = output.at();
    for (int64_t t = begin; t < output_end; ++t, tile.next()) {
      const int64_t pixel = tile.pixel(size, out.height, out.width);
      for (const TileLines& tensor : tensors) tensor.add_to(lines, pixel);
    }
    for (int64_t t = input_begin; t < input_end; ++t, next.next()) {
      add_input(in.x, in.channels1);
      add_input(in.x2, in.channels - in.channels1);
    }
    for (int j = 0; j < 2; ++j) {
      const int64_t all = products.ahead.lines[j];
      if (all == 0) continue;
      const int64_t line = until(all, i);
      lines.add(products.ahead.data[j] + 64 * line, until(all, i + 1) - line);
    }
    const FingerprintShare weight = weight_share(products.ahead.weight, i, matrices);
    lines.add(weight.data, weight.stripes * kFingerprintStripe / 64);
    lines.add(made.m + begin * tiles.m_row, (output_end - begin) * tiles.m_row / kHalfPanel);
    multiply(conv, tiles, v, products, i, lines);
    mix_stripes(weight);
    output.store_tiles(begin, output_end);
  }
}

void winograd_output(const WinogradMultiply& conv, const WinogradTiles& tiles,
                     const WinogradProducts& products) {
  OutputStage(conv, tiles, products).store_tiles(0, products.end - products.begin);
  if (conv.output.stream) stream_fence();
}

}  // namespace VDM_ISA
}  // namespace vdm
