// Sums over pixels are made in two stages: of blocks of pixels in float32, then of all of them in double in
// the blocks' order.
#include <memory>

#include "common/cache.h"
#include "common/pixel_blocks.h"
#include "group_norm_silu/group_norm_silu.h"
#include "group_norm_silu/group_norm_silu_simd.h"

namespace vdm {
namespace {

// One of the inputs that share the channels of the norm, (images, pixels, channels) dtype.
struct Input {
  const void* x;
  void* dx;
  DType dtype;
  int64_t pixels, first_channel, channels;

  int64_t pixel_bytes() const { return channels * size_of(dtype); }
};

// Where an image of (images, pixels, channels) is written, in a pass over `bytes` of memory.
PixelOutput output(const Input& input, void* data, int64_t image, int64_t bytes) {
  const bool aligned = input.pixel_bytes() % 64 == 0 && reinterpret_cast<uintptr_t>(data) % 64 == 0;
  return {static_cast<char*>(data) + image * input.pixels * input.pixel_bytes(),
          aligned && exceeds_cache(bytes)};
}

// center, gain and offset of every image and channel.
class FoldedNorm {
 public:
  explicit FoldedNorm(const GroupNorm& norm)
      : channels_(norm.channels),
        size_(norm.images() * norm.channels),
        values_(new float[static_cast<size_t>(3 * size_)]) {
    fold_group_norm(norm, values_.get(), values_.get() + size_, values_.get() + 2 * size_);
  }

  NormedPixels pixels(const Input& input, const PixelBlock& block) const {
    const float* values = values_.get() + block.image * channels_ + input.first_channel;
    return {static_cast<const char*>(input.x) + block.image * input.pixels * input.pixel_bytes(),
            input.dtype,
            input.channels,
            values,
            values + size_,
            values + 2 * size_,
            block.begin,
            block.end};
  }

 private:
  int64_t channels_, size_;
  std::unique_ptr<float[]> values_;
};

// S1 = sum dz and S2 = sum dz x_hat over an image's pixels, (images, channels) each.
struct ActivationSums {
  std::vector<double> s1, s2;
};

// Combines the blocks' sums of dz and dz (x - center), (blocks, 2, channels rounded up).
ActivationSums combine(const GroupNorm& norm, const std::vector<GroupMoments>& moments,
                       const PixelBlocks& blocks, const float* sums) {
  const int64_t channels = norm.channels, stride = blocks.sums_stride();
  const size_t size = static_cast<size_t>(norm.images() * channels);
  ActivationSums out = {std::vector<double>(size), std::vector<double>(size)};
  blocks.each_image([&](int64_t image) {
    double* s1 = out.s1.data() + image * channels;
    double* s2 = out.s2.data() + image * channels;
    const float* block = sums + image * blocks.per_image() * 2 * stride;
    for (int64_t b = 0; b < blocks.per_image(); ++b, block += 2 * stride)
      for (int64_t c = 0; c < channels; ++c) {
        s1[c] += block[c];
        s2[c] += block[stride + c];
      }
    for (int64_t g = 0, c = 0; g < norm.groups; ++g) {
      const GroupMoments& group = moments[static_cast<size_t>(image * norm.groups + g)];
      for (; c < (g + 1) * norm.group_channels(); ++c)
        s2[c] = group.rstd * (s2[c] - group.beyond_center() * s1[c]);
    }
  });
  return out;
}

// With k = weight (1 + scale), the gradient with respect to x_hat is k dz, and
//
//     dx = rstd (k dz - mean(k dz) - x_hat mean(k dz x_hat)) = gain dz + slope (x - center) + constant
//
// where the means are over what the statistics are over. Writes (images, channels) values each.
void input_gradient_terms(const GroupNorm& norm, const std::vector<GroupMoments>& moments,
                          const ActivationSums& sums, int64_t pixels, float* slope, float* constant) {
  const int64_t pooled = norm.video ? norm.frames : 1, group_channels = norm.group_channels();
  const double share = 1.0 / static_cast<double>(pooled * group_channels * pixels);
  for (int64_t first = 0; first < norm.images(); first += pooled)
    for (int64_t g = 0; g < norm.groups; ++g) {
      double sum1 = 0.0, sum2 = 0.0;
      for (int64_t image = first; image < first + pooled; ++image)
        for (int64_t c = g * group_channels; c < (g + 1) * group_channels; ++c) {
          const size_t i = static_cast<size_t>(image * norm.channels + c);
          const double k = norm.weight[c] * norm.factor(image, c);
          sum1 += k * sums.s1[i];
          sum2 += k * sums.s2[i];
        }
      const GroupMoments& group = moments[static_cast<size_t>(first * norm.groups + g)];
      const double group_slope = -group.rstd * group.rstd * sum2 * share;
      const double group_constant = -group.rstd * sum1 * share - group_slope * group.beyond_center();
      for (int64_t image = first; image < first + pooled; ++image) {
        const int64_t i = image * norm.channels + g * group_channels;
        std::fill_n(slope + i, group_channels, static_cast<float>(group_slope));
        std::fill_n(constant + i, group_channels, static_cast<float>(group_constant));
      }
    }
}

// dz/dshift = 1, dz/dscale = x_hat weight + bias, dz/dbias = 1 + scale, dz/dweight = x_hat (1 + scale).
void affine_gradients(const GroupNormSiluBackwardParams& params, const ActivationSums& sums) {
  const GroupNorm& norm = params.norm;
  const size_t channels = static_cast<size_t>(norm.channels);
  const int64_t rows = norm.batch * norm.modulation_frames, frames = norm.frames / norm.modulation_frames;
  std::vector<double> dweight(channels), dbias(channels), s1(channels), s2(channels);
  for (int64_t row = 0; row < rows; ++row) {
    std::fill(s1.begin(), s1.end(), 0.0);
    std::fill(s2.begin(), s2.end(), 0.0);
    for (int64_t image = row * frames; image < (row + 1) * frames; ++image)
      for (size_t c = 0; c < channels; ++c) {
        s1[c] += sums.s1[static_cast<size_t>(image) * channels + c];
        s2[c] += sums.s2[static_cast<size_t>(image) * channels + c];
      }
    for (size_t c = 0; c < channels; ++c) {
      const double factor = norm.factor(row * frames, static_cast<int64_t>(c));
      const size_t i = static_cast<size_t>(row) * channels + c;
      dweight[c] += factor * s2[c];
      dbias[c] += factor * s1[c];
      if (params.dscale) params.dscale[i] = static_cast<float>(norm.weight[c] * s2[c] + norm.bias[c] * s1[c]);
      if (params.dshift) params.dshift[i] = static_cast<float>(s1[c]);
    }
  }
  for (size_t c = 0; c < channels; ++c) {
    params.dweight[c] = static_cast<float>(dweight[c]);
    params.dbias[c] = static_cast<float>(dbias[c]);
  }
}

}  // namespace

void group_norm_silu_cpu(const GroupNormSiluParams& params) {
  const PixelBlocks blocks = {params.norm.images(), params.pixels, params.norm.channels};
  const Input input = {params.x, nullptr, params.dtype, params.pixels, 0, blocks.channels};
  const FoldedNorm norm(params.norm);
  const int64_t bytes = 2 * blocks.images * blocks.pixels * input.pixel_bytes();
  const auto kernel = VDM_SIMD(group_norm_silu);
  blocks.each([&](const PixelBlock& block) {
    kernel(norm.pixels(input, block), output(input, params.a, block.image, bytes));
  });
}

void group_norm_silu_bwd_cpu(const GroupNormSiluBackwardParams& params) {
  const GroupNorm& norm = params.norm;
  const PixelBlocks blocks = {norm.images(), params.pixels, norm.channels};
  const Input inputs[] = {{params.x, params.dx, params.dtype, params.pixels, 0, params.x_channels},
                          {params.x2, params.dx2, params.dtype, params.pixels, params.x_channels,
                           norm.channels - params.x_channels}};
  const int64_t da_bytes = params.pixels * norm.channels * size_of(params.da_dtype);  // of an image
  const auto gradient = [&](const Input& input, int64_t image) -> ActivationGradient {
    return {static_cast<const char*>(params.da) + image * da_bytes, params.da_dtype, norm.channels,
            input.first_channel};
  };
  const FoldedNorm folded(norm);
  const std::vector<GroupMoments> moments = group_moments(norm);

  const int64_t stride = blocks.sums_stride();
  const std::unique_ptr<float[]> sums(new float[static_cast<size_t>(blocks.count() * 2 * stride)]);
  const auto sums_kernel = VDM_SIMD(group_norm_silu_bwd_sums);
  blocks.each([&](const PixelBlock& block) {
    // In this order: the last vector of the first input's sums may reach into the second's.
    for (const Input& input : inputs) {
      if (input.x == nullptr) continue;
      float* sum = sums.get() + block.index * 2 * stride + input.first_channel;
      sums_kernel(folded.pixels(input, block), gradient(input, block.image), sum, sum + stride);
    }
  });
  const ActivationSums total = combine(norm, moments, blocks, sums.get());
  affine_gradients(params, total);
  if (params.dx == nullptr && params.dx2 == nullptr) return;

  const int64_t size = norm.images() * norm.channels;
  const std::unique_ptr<float[]> slope(new float[static_cast<size_t>(2 * size)]);
  float* constant = slope.get() + size;
  input_gradient_terms(norm, moments, total, params.pixels, slope.get(), constant);
  const int64_t bytes = norm.images() * da_bytes + 2 * size * params.pixels * size_of(params.dtype);
  const auto dx_kernel = VDM_SIMD(group_norm_silu_bwd_dx);
  blocks.each([&](const PixelBlock& block) {
    for (const Input& input : inputs) {
      if (input.dx == nullptr) continue;
      const int64_t i = block.image * norm.channels + input.first_channel;
      dx_kernel(folded.pixels(input, block), gradient(input, block.image), slope.get() + i, constant + i,
                output(input, input.dx, block.image, bytes));
    }
  });
}

}  // namespace vdm
