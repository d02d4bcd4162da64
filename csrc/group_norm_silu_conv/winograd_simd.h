// The CPU kernels of winograd.h. Work is cut into blocks of tiles, each small enough that its transformed
// input stays in the L2 cache while all output channels are computed from it.
#pragma once

#include <cstdint>

#include "common/cpu_isa.h"
#include "common/fingerprint_simd.h"
#include "group_norm_silu_conv/winograd.h"

namespace vdm {

constexpr int64_t kMostTiles = 64;  // per block

// The geometry. Tiles are numbered by image, strip (a range of columns, so that rows of it stay in the
// cache), row and column. It depends on shapes only: results must not depend on the number of threads.
struct WinogradTiles {
  int size;     // output pixels of the convolution per side of a tile, 4 or 2
  int points;   // products per side
  int inputs;   // matrices of v per side: points, or 4 of an upsampled input, where two products share one
  int step;     // input pixels between tiles: size, or half of it where the input is upsampled
  int overlap;  // input pixels of a tile: step + 2
  int64_t rows, columns, strip;  // per image; columns per strip
  int64_t count;                 // of all images
  int64_t block;                 // tiles per block
  int64_t channels;              // rounded up to a multiple of 16
  int64_t pixel_row;             // floats between the activated rows of a strip
  int64_t v_row;                 // floats between the tiles of v
  int64_t m_row;                 // floats between the products of tiles
  int64_t d_row, d_matrix;       // the same of d, the transformed gradient of the output
  int64_t slots;                 // blocks that an image may be part of
  int64_t v_matrix;              // floats between its matrices

  // The matrix of v that product `i` of points^2 is of.
  int64_t input_of(int64_t i) const {
    const int64_t row = i / points, column = i % points;
    return inputs == points ? i : (row - row / 3) * inputs + column - column / 3;
  }
};

// The last rows of a strip that were activated. What one tile row shares with the next is not computed again.
struct WinogradRows {
  float* data;      // overlap rows of pixel_row floats
  int64_t held[6];  // which row is in each slot, counted over all images and strips; -1: none
};

// Activates the input of tiles [begin, end) and transforms it: v[inputs^2][tile - begin][channels].
VDM_DECLARE_SIMD(winograd_transform_input, (const ConvInput& input, const WinogradTiles& tiles, int64_t begin,
                                            int64_t end, WinogradRows& rows, float* v))

struct WinogradMultiply {
  const ConvInput& input;
  const ConvOutput& output;
  bool pool;        // the 2x2 blocks of the convolution's result are added up
  float* partials;  // moments of the output, (images, slots, 4, channels rounded up to 16), or null
  // Or null. The output is times silu'(u) of this, and of partials [0] are its sums and [1] those times
  // x - center.
  const ConvInput* activation;
};

// What comes nearer during some products, besides the next tiles' input.
struct WinogradAhead {
  const char* data[2];      // read by the thread afterwards
  int64_t lines[2];         // consecutive ones of the cache
  FingerprintShare weight;  // mixed part by part between these products
};

// The products of tiles [begin, end) for output channels [first, first + columns), 32 of them or 16 for the
// last ones, on their way to the output.
struct WinogradProducts {
  int64_t begin, end, first;
  int columns;
  const float* weights;  // transformed, of these channels
  float* m;              // block * m_row floats
  WinogradAhead ahead;
};

// Makes the products; meanwhile, a few tiles after each matrix, those of the previous call become output,
// unless `previous` is null. So reading residuals and writing the output takes place all the time.
VDM_DECLARE_SIMD(winograd_multiply, (const WinogradMultiply& conv, const WinogradTiles& tiles, const float* v,
                                     const WinogradProducts& products, const WinogradProducts* previous))

// The output of the last products.
VDM_DECLARE_SIMD(winograd_output,
                 (const WinogradMultiply& conv, const WinogradTiles& tiles, const WinogradProducts& products))

// Read channels [begin, end) of one panel of transformed weights, panel[points^2][read channel][columns];
// with `stream`, written around the caches.
VDM_DECLARE_SIMD(winograd_transform_weights, (const WinogradWeight& weight, int64_t first, int columns,
                                              int64_t begin, int64_t end, float* panel, bool stream))

// Transforms dout of tiles [begin, end): d[points^2][tile - begin][out_channels, rounded up to 16]. dbias
// gets the sums of dout over these tiles.
VDM_DECLARE_SIMD(winograd_transform_output_gradient,
                 (const WinogradWeightGradientParams& params, const WinogradTiles& tiles, int64_t begin,
                  int64_t end, float* d, float* dbias))

// One matrix and panel of dU, from `count` tiles.
VDM_DECLARE_SIMD(winograd_multiply_gradient,
                 (const WinogradTiles& tiles, int64_t count, int64_t channels, int columns, const float* v,
                  const float* d, bool accumulate, float* du))

// Read channels [begin, end) of dweight, from a panel of dU.
VDM_DECLARE_SIMD(winograd_transform_weight_gradient,
                 (const WinogradWeightGradientParams& params, int64_t first, int columns, int64_t begin,
                  int64_t end, const float* du))

}  // namespace vdm
