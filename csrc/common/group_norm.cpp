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
    for (int64_t g = 0; g < norm.groups; ++g) {
      const GroupMoments& group = moments[static_cast<size_t>(image * norm.groups + g)];
      for (int64_t c = g * norm.group_channels(); c < (g + 1) * norm.group_channels(); ++c) {
        const double factor = norm.factor(image, c), k = group.rstd * norm.weight[c] * factor;
        const double moved = norm.bias[c] * factor + norm.added(image, c);
        const int64_t i = image * norm.channels + c;
        center[i] = group.center();
        gain[i] = static_cast<float>(k);
        offset[i] = static_cast<float>(moved - group.beyond_center() * k);
      }
    }
  }
}

}  // namespace vdm
