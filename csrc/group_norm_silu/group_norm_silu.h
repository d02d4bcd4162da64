// group_norm_silu: a = silu((x - center) gain + offset), see common/group_norm.h, and its gradients.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "common/group_norm.h"
#include "common/types.h"

namespace vdm {

struct GroupNormSiluParams {
  const void* x;  // (images, pixels, channels) dtype
  void* a;        // (images, pixels, channels) dtype
  DType dtype;
  int64_t pixels;
  GroupNorm norm;
};

// x may be the first of two inputs, whose channels together are those of `da` and of the norm.
struct GroupNormSiluBackwardParams {
  const void* da;  // (images, pixels, channels) da_dtype
  const void* x;   // (images, pixels, x_channels) dtype
  const void* x2;  // (images, pixels, channels - x_channels) dtype, or null where there are none
  void* dx;        // as x, or null
  void* dx2;       // as x2, or null
  float* dweight;  // (channels,), or null
  float* dbias;    // (channels,), or null
  float* dscale;   // (batch, modulation_frames, channels), or null
  float* dshift;   // (batch, modulation_frames, channels), or null
  DType da_dtype, dtype;
  int64_t pixels, x_channels;
  GroupNorm norm;
};

void group_norm_silu_cpu(const GroupNormSiluParams& params);
void group_norm_silu_bwd_cpu(const GroupNormSiluBackwardParams& params);

// The same, some images at a time, whose `da` need not exist all at once: it may still be in a cache, and so
// is x when it is read for the second time.
class GroupNormSiluBackward {
 public:
  explicit GroupNormSiluBackward(const GroupNormSiluBackwardParams& params);

  // dx of images [first, first + count), whole videos where a group's statistics are over videos. `da` begins
  // with the first of them.
  void images(int64_t first, int64_t count, const void* da);

  // The same from dz = da silu'(u), where u = (x - center) gain + offset is what SiLU is applied to, and from
  // its sums over the pixels, (count, channels, 2): of dz and of dz (x - center).
  void images(int64_t first, int64_t count, const void* dz, const Statistic* sums);

  // Those of an image, (channels,) each.
  const float* center(int64_t image) const { return folded_.get() + image * params_.norm.channels; }
  const float* gain(int64_t image) const { return center(params_.norm.images() + image); }
  const float* offset(int64_t image) const { return gain(params_.norm.images() + image); }

  // The other gradients, after all images.
  void finish() const;

 private:
  void add(int64_t first, int64_t count, const Statistic* sums);
  void write_dx(int64_t first, int64_t count, const void* gradient, bool of_u) const;

  const GroupNormSiluBackwardParams params_;
  std::vector<GroupMoments> moments_;  // (images, groups)
  std::unique_ptr<float[]> folded_;    // (3, images, channels): center, gain, offset
  std::vector<double> s1_, s2_;        // (images, channels): sum dz, sum dz x_hat over an image's pixels
};

}  // namespace vdm
