// 3x3 convolutions of stride 1 by Winograd's minimal filtering, and their gradients, on the CPU.
//
//     y = conv(up(act(cat[x, x2]))) + bias + residual
//
// with F(4x4, 3x3), which needs a quarter of the multiplications, or F(2x2, 3x3), which needs 4 / 9 and is
// more exact; that of an upsampled input has as small errors with 25 / 144. The transformed weights are an
// argument, so that they can be kept.
#pragma once

#include <array>
#include <cstdint>

#include "common/group_norm.h"
#include "group_norm_silu/group_norm_silu.h"
#include "group_norm_silu_conv/conv.h"

namespace vdm {

struct WinogradKernel {
  int64_t out_channels, in_channels;
  int tile;         // pixels per side of what is computed at once: 4, or 2 without upsampling
  bool upsample;    // the input, nearest neighbour by 2
  bool transposed;  // from the gradient of the output (out_channels) to that of the input (in_channels)

  int points() const { return upsample ? 5 : tile + 2; }  // products per side of a tile
  int64_t reads() const { return transposed ? out_channels : in_channels; }
  int64_t writes() const { return transposed ? in_channels : out_channels; }
};

struct WinogradWeight {
  WinogradKernel kernel;
  const void* data;  // (out_channels, in_channels, 3, 3)
  DType dtype;
  std::array<int64_t, 4> strides;
};

// Floats between the matrices of a panel of transformed weights: without them those of a power of two of
// channels would share a few sets of the caches.
constexpr int64_t kMatrixGap = 16;

// How many floats the transformed weights are that winograd_conv_cpu reads: (panel of 32 written channels,
// point, read channel, 32); the last panel may be 16 wide.
int64_t winograd_weights_size(const WinogradKernel& kernel);

// Whether winograd_conv_cpu makes them itself, panel by panel, where they are not given: where they are too
// many to be read from a cache.
bool winograd_makes_weights(const WinogradKernel& kernel);

struct WinogradWeightsParams {
  WinogradWeight weight;
  float* transformed;
};
void winograd_weights_cpu(const WinogradWeightsParams& params);

struct WinogradConvParams {
  WinogradWeight weight;
  ConvInput input;  // without an activation: that is made from the norm
  GroupNorm norm;   // 0 groups: none. Without statistics where winograd_makes_statistics says so
  ConvOutput output;
  const float* transformed;  // or null, see winograd_makes_weights
  Statistic* statistics;     // (images, channels, 2) of the output: mean, biased variance; or null
  // Where the output is the gradient of an activation, that activation: the output becomes dz, the gradient
  // of what SiLU is applied to, and its statistics are sums, of dz and of dz (x - center). Else x is null.
  // It has the output's dtype; the channels of x, where there is x2, are a multiple of 16.
  ConvInput activation;
  // The weight, whose elements are dense, is read between the products: a caller who is not sure that
  // `transformed` is of these bytes is told.
  bool checks_weight;
};
// The fingerprint of the bytes of the weight, or 0 where it was not asked for.
uint64_t winograd_conv_cpu(const WinogradConvParams& params);

// Whether winograd_conv_cpu takes a norm of frames without statistics and makes them, the same as
// channel_statistics: that spares a pass over memory, as long as few images are shared by threads, which all
// make theirs.
bool winograd_makes_statistics(const WinogradKernel& kernel, int64_t images);

// So many images, or a multiple, are whole blocks of tiles: their statistics are the same bits with and
// without other images.
int64_t winograd_whole_images(const WinogradKernel& kernel, const ConvInput& input);

// The gradients of the weight and of the bias.
struct WinogradWeightGradientParams {
  WinogradKernel kernel;
  ConvInput input;
  GroupNorm norm;
  ConvInput dy;
  void* dweight;  // like the weight
  DType dtype;
  std::array<int64_t, 4> strides;
  float* dbias;  // (out_channels,)
};
void winograd_weight_gradient_cpu(const WinogradWeightGradientParams& params);

// The gradients of x and x2, and of the norm: those that group_norm_silu_bwd_cpu computes from the gradient
// of the activation, which is the convolution of dy.
struct WinogradInputGradientParams {
  WinogradWeight weight;  // transposed
  ConvInput dy;
  const float* transformed;          // as above
  GroupNormSiluBackwardParams norm;  // da is not read
};
void winograd_input_gradient_cpu(const WinogradInputGradientParams& params);

}  // namespace vdm
