// group_norm_silu_conv as a sum over taps: the general algorithm on the CPU, for everything that Winograd's
// does not do, and for its gradients.
//
// A 3x3 convolution, a strided or pointwise one, one after nearest-neighbour upsampling (computed at low
// resolution), and the gradients of all these with respect to their input are of one kind. Along each axis,
// output out_step i + phase is a sum over taps t of input in_step i + first[phase] + t, and a tap's weight is
// a sum of kernel positions.
#pragma once

#include <array>
#include <cstdint>

#include "common/group_norm.h"
#include "group_norm_silu_conv/conv.h"

namespace vdm {

// The columns of a packed weight: a multiple of every vector width.
constexpr int64_t kTapsPanel = 32;

// The taps along one axis, which are the same for both.
struct TapAxis {
  int in_step, out_step;
  int first[2], taps[2];     // of each of the out_step phases
  uint32_t positions[2][4];  // bit k: position k of the kernel is part of this tap's weight

  // Each output is of the same input pixel alone.
  bool is_pointwise() const { return in_step == 1 && out_step == 1 && taps[0] == 1 && first[0] == 0; }

  // All phases' taps are in [lowest, end).
  int lowest() const { return taps[1] > 0 && first[1] < first[0] ? first[1] : first[0]; }
  int end() const {
    const int end0 = first[0] + taps[0], end1 = first[1] + taps[1];
    return taps[1] > 0 && end1 > end0 ? end1 : end0;
  }

  // The taps of phase (y, x) follow those of the phases before it, row by row.
  int total() const { return (taps[0] + taps[1]) * (taps[0] + taps[1]); }
  int first_tap(int y, int x) const {
    return (y > 0 ? taps[0] * (taps[0] + taps[1]) : 0) + (x > 0 ? taps[y] * taps[0] : 0);
  }
};

// How a weight (out_channels, in_channels, size, size) acts.
struct TapsKernel {
  int64_t out_channels, in_channels;
  int size, stride;
  bool upsample;
  bool transposed;  // from the gradient of the output (out_channels) to that of the input (in_channels)

  TapAxis axis() const;
  int64_t reads() const { return transposed ? out_channels : in_channels; }
  int64_t writes() const { return transposed ? in_channels : out_channels; }
};

// A packed weight is float32 (panel of kTapsPanel written channels, tap, read channel, kTapsPanel).
int64_t taps_packed_size(const TapsKernel& kernel);

struct TapsPackParams {
  TapsKernel kernel;
  const float* weight;
  std::array<int64_t, 4> strides;
  float* packed;
};
void taps_pack_cpu(const TapsPackParams& params);

struct TapsConvParams {
  TapsKernel kernel;
  ConvInput input;  // without an activation: that is made from the norm
  GroupNorm norm;   // 0 groups: none
  ConvOutput output;
  const float* packed;
  Statistic* statistics;  // (images, channels, 2) of the output: mean, biased variance; or null
};
void taps_conv_cpu(const TapsConvParams& params);

// The gradients of the weight and of the bias.
struct TapsWeightGradientParams {
  TapsKernel kernel;
  ConvInput input;
  GroupNorm norm;
  ConvInput dy;
  float* dweight;  // without gaps
  std::array<int64_t, 4> strides;
  float* dbias;  // (out_channels,)
};
void taps_weight_gradient_cpu(const TapsWeightGradientParams& params);

}  // namespace vdm
