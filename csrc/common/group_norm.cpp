#include "common/group_norm.h"

#include <cmath>

namespace vdm {
namespace {

// Of `channels` consecutive channels in `frames` consecutive images; `stride` is from image to image.
GroupMoments pool(const Statistic* statistics, int64_t frames, int64_t stride, int64_t channels, double eps) {
  const double share = 1.0 / static_cast<double>(frames * channels);
  double mean = 0.0, variance = 0.0;
  for (int64_t f = 0; f < frames; ++f)
    for (int64_t c = 0; c < channels; ++c) mean += statistics[f * stride + 2 * c];
  mean *= share;
  for (int64_t f = 0; f < frames; ++f)
    for (int64_t c = 0; c < channels; ++c) {
      const double deviation = statistics[f * stride + 2 * c] - mean;
      variance += statistics[f * stride + 2 * c + 1] + deviation * deviation;
    }
  return {mean, 1.0 / std::sqrt(variance * share + eps)};
}

}  // namespace

std::vector<GroupMoments> group_moments(const GroupNorm& norm) {
  const int64_t pooled = norm.video ? norm.frames : 1, stride = 2 * norm.channels;
  std::vector<GroupMoments> moments;
  moments.reserve(static_cast<size_t>(norm.images() * norm.groups));
  for (int64_t image = 0; image < norm.images(); ++image)
    for (int64_t g = 0; g < norm.groups; ++g) {
      if (image % pooled == 0)
        moments.push_back(pool(norm.statistics + image * stride + 2 * g * norm.group_channels(), pooled,
                               stride, norm.group_channels(), norm.eps));
      else
        moments.push_back(moments[moments.size() - static_cast<size_t>(norm.groups)]);
    }
  return moments;
}

void fold_group_norm(const GroupNorm& norm, float* center, float* gain, float* offset) {
  const std::vector<GroupMoments> moments = group_moments(norm);
  for (int64_t image = 0; image < norm.images(); ++image) {
    const float* scale = norm.scale ? norm.scale + norm.modulation(image) : nullptr;
    const float* shift = norm.shift ? norm.shift + norm.modulation(image) : nullptr;
    for (int64_t g = 0; g < norm.groups; ++g) {
      const auto [mean, rstd] = moments[static_cast<size_t>(image * norm.groups + g)];
      const float rounded = static_cast<float>(mean);
      for (int64_t c = g * norm.group_channels(); c < (g + 1) * norm.group_channels(); ++c) {
        const double factor = scale ? 1.0 + double{scale[c]} : 1.0, k = rstd * norm.weight[c] * factor;
        const double moved = norm.bias[c] * factor + (shift ? double{shift[c]} : 0.0);
        const int64_t i = image * norm.channels + c;
        center[i] = rounded;
        gain[i] = static_cast<float>(k);
        offset[i] = static_cast<float>(moved - (mean - double{rounded}) * k);
      }
    }
  }
}

}  // namespace vdm
