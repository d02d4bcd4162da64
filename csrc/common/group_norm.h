// A modulated GroupNorm of channels-last video, folded into three numbers for each frame n and channel c:
//
//     ((x - mean) rstd weight + bias) (1 + scale) + shift = (x - center[n, c]) gain[n, c] + offset[n, c]
//
// The center is the group's mean in float32, subtracted first: that is exact where mean >> std. What the
// rounding of the center leaves of the mean is in the offset.
#pragma once

#include <cstdint>
#include <vector>

#include "common/host_device.h"

namespace vdm {

// What channel_statistics writes. A mean of 1000 rounded to float32 is off by 3e-5.
using Statistic = double;

struct GroupNorm {
  const Statistic* statistics;  // (batch, frames, channels, 2): mean, biased variance over the pixels
  const float* weight;          // (channels,)
  const float* bias;            // (channels,)
  const float* scale;           // (batch, modulation_frames, channels), or null
  const float* shift;           // (batch, modulation_frames, channels), or null
  int64_t batch, frames, channels, groups;
  int64_t modulation_frames;  // frames, or 1 for all of them
  bool video;                 // a group's statistics are over all frames of a video
  double eps;

  VDM_HOST_DEVICE int64_t images() const { return batch * frames; }
  VDM_HOST_DEVICE int64_t group_channels() const { return channels / groups; }
  // 1 + scale and shift of an image's channel.
  VDM_HOST_DEVICE double factor(int64_t image, int64_t c) const {
    return scale ? 1.0 + double{scale[modulation(image) + c]} : 1.0;
  }
  VDM_HOST_DEVICE double added(int64_t image, int64_t c) const {
    return shift ? double{shift[modulation(image) + c]} : 0.0;
  }
  // Of one image alone, without `video`.
  GroupNorm of_image(int64_t image, const Statistic* its_statistics) const {
    GroupNorm norm = *this;
    norm.statistics = its_statistics;
    if (scale) norm.scale += modulation(image);
    if (shift) norm.shift += modulation(image);
    norm.batch = norm.frames = norm.modulation_frames = 1;
    return norm;
  }

 private:
  VDM_HOST_DEVICE int64_t modulation(int64_t image) const {
    return (modulation_frames == frames ? image : image / frames) * channels;
  }
};

// Of one group of one image.
struct GroupMoments {
  double mean, rstd;

  VDM_HOST_DEVICE float center() const { return static_cast<float>(mean); }
  VDM_HOST_DEVICE double beyond_center() const { return mean - double{center()}; }
};

// (batch * frames, groups), pooled over the group's channels and, with `video`, the frames: the mean is that
// of means, the variance the mean of variances plus the variance of means (Chan et al. 1983).
std::vector<GroupMoments> group_moments(const GroupNorm& norm);

// Writes (batch * frames, channels) values each.
void fold_group_norm(const GroupNorm& norm, float* center, float* gain, float* offset);

}  // namespace vdm
