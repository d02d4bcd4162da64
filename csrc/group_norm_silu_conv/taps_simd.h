// The CPU kernels of the convolution over taps.
#pragma once

#include <cstdint>

#include "common/cpu_isa.h"
#include "group_norm_silu_conv/taps.h"

namespace vdm {

// How the work is cut: into segments of rows i of an image, for all phases together. The cut, and with it
// every partial result, depends on the shapes alone; but that of a pointwise convolution, which has no
// partial results, on the number of threads too.
struct TapsPlan {
  ConvInput input;
  TapAxis axis;
  int64_t out_height, out_width, out_channels;
  int64_t segment_rows, segments;   // of an image
  int64_t read_rows, read_columns;  // of the input, for one segment
  bool in_place;                    // the input is read where it is: float32, no activation, no padding

  int64_t panels() const { return (out_channels + kTapsPanel - 1) / kTapsPanel; }
  int phases() const { return axis.out_step * axis.out_step; }
  int64_t read_size() const { return in_place ? 0 : read_rows * read_columns * input.channels; }
  // Rows of a segment, and columns, that a phase has.
  int64_t rows(int64_t segment, int y) const {
    const int64_t rest = (out_height - y + axis.out_step - 1) / axis.out_step - segment * segment_rows;
    return rest < segment_rows ? rest : segment_rows;
  }
  int64_t columns(int x) const { return (out_width - x + axis.out_step - 1) / axis.out_step; }
};

// One segment of each of the images [image, image + images), for the panels [panel, last_panel).
struct TapsTask {
  int64_t image, images, segment, panel, last_panel;
};

struct TapsConv {
  TapsPlan plan;
  ConvOutput output;
  const float* packed;
  ConvMoments* moments;  // (images, segments, phases, channels), or null
};

// scratch: images * read_size()
VDM_DECLARE_SIMD(taps_conv, (const TapsConv& conv, const TapsTask& task, float* scratch))

struct TapsWeightGradient {
  TapsPlan plan;
  ConvInput dy;

  int64_t pixels() const { return plan.segment_rows * plan.columns(0); }
  int64_t dy_size() const { return pixels() * kTapsPanel; }
  // Of a pointwise convolution's input, at most, which is copied tile by tile: 12 channels are, for each
  // pixel, a row of 16 floats with AVX-512, and two of 8 without; each tile is followed by a gap of 16. x and
  // x2 are rounded up to whole tiles.
  int64_t packed_size() const {
    if (!plan.axis.is_pointwise()) return 0;
    return (pixels() + 2) * 16 * (plan.input.channels / 12 + 2);
  }
};

// Adds the sum over the task's pixels to dpacked, which is like a packed weight, and to dbias (panels,
// kTapsPanel). scratch: images * (read_size() + dy_size()) + packed_size()
VDM_DECLARE_SIMD(taps_weight_gradient, (const TapsWeightGradient& gradient, const TapsTask& task,
                                        float* dpacked, float* dbias, float* scratch))

}  // namespace vdm
