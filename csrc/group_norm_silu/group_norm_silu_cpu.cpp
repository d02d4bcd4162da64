// Sums over pixels are made in two stages: of blocks of pixels in float32, then of all of them in double in
// the blocks' order.
#include <array>
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

// center, gain and offset of every image and channel, (3, images, channels).
std::unique_ptr<float[]> folded(const GroupNorm& norm) {
  const int64_t size = norm.images() * norm.channels;
  std::unique_ptr<float[]> values(new float[static_cast<size_t>(3 * size)]);
  fold_group_norm(norm, values.get(), values.get() + size, values.get() + 2 * size);
  return values;
}

NormedPixels pixels_of(const Input& input, const GroupNorm& norm, const float* folded, int64_t image,
                       const PixelBlock& block) {
  const int64_t size = norm.images() * norm.channels;
  const float* values = folded + image * norm.channels + input.first_channel;
  return {static_cast<const char*>(input.x) + image * input.pixels * input.pixel_bytes(),
          input.dtype,
          input.channels,
          values,
          values + size,
          values + 2 * size,
          block.begin,
          block.end};
}

// The two inputs that share a norm; the second may be absent.
std::array<Input, 2> inputs_of(const GroupNormSiluBackwardParams& p) {
  return {{{p.x, p.dx, p.dtype, p.pixels, 0, p.x_channels},
           {p.x2, p.dx2, p.dtype, p.pixels, p.x_channels, p.norm.channels - p.x_channels}}};
}

// Of the `image`th one that `data` has.
ActivationGradient gradient_of(const GroupNormSiluBackwardParams& params, const Input& input,
                               const void* data, bool of_u, int64_t image) {
  const int64_t bytes = params.pixels * params.norm.channels * size_of(params.da_dtype);
  return {static_cast<const char*>(data) + image * bytes, params.da_dtype, params.norm.channels,
          input.first_channel, of_u};
}

// With k = weight (1 + scale), the gradient with respect to x_hat is k dz, and
//
//     dx = rstd (k dz - mean(k dz) - x_hat mean(k dz x_hat)) = gain dz + slope (x - center) + constant
//
// where the means are over what the statistics are over. Writes (count, channels) values each, of the images
// from `begin` on.
void input_gradient_terms(const GroupNorm& norm, const std::vector<GroupMoments>& moments, const double* s1,
                          const double* s2, int64_t pixels, int64_t begin, int64_t count, float* slope,
                          float* constant) {
  const int64_t pooled = norm.video ? norm.frames : 1, group_channels = norm.group_channels();
  const double share = 1.0 / static_cast<double>(pooled * group_channels * pixels);
  for (int64_t first = begin; first < begin + count; first += pooled)
    for (int64_t g = 0; g < norm.groups; ++g) {
      double sum1 = 0.0, sum2 = 0.0;
      for (int64_t image = first; image < first + pooled; ++image)
        for (int64_t c = g * group_channels; c < (g + 1) * group_channels; ++c) {
          const double k = norm.weight[c] * norm.factor(image, c);
          sum1 += k * s1[image * norm.channels + c];
          sum2 += k * s2[image * norm.channels + c];
        }
      const GroupMoments& group = moments[static_cast<size_t>(first * norm.groups + g)];
      const double group_slope = -group.rstd * group.rstd * sum2 * share;
      const double group_constant = -group.rstd * sum1 * share - group_slope * group.beyond_center();
      for (int64_t image = first; image < first + pooled; ++image) {
        const int64_t i = (image - begin) * norm.channels + g * group_channels;
        std::fill_n(slope + i, group_channels, static_cast<float>(group_slope));
        std::fill_n(constant + i, group_channels, static_cast<float>(group_constant));
      }
    }
}

}  // namespace

void group_norm_silu_cpu(const GroupNormSiluParams& params) {
  const PixelBlocks blocks = {params.norm.images(), params.pixels, params.norm.channels};
  const Input input = {params.x, nullptr, params.dtype, params.pixels, 0, blocks.channels};
  const std::unique_ptr<float[]> values = folded(params.norm);
  const int64_t bytes = 2 * blocks.images * blocks.pixels * input.pixel_bytes();
  const auto kernel = VDM_SIMD(group_norm_silu);
  blocks.each([&](const PixelBlock& block) {
    kernel(pixels_of(input, params.norm, values.get(), block.image, block),
           output(input, params.a, block.image, bytes));
  });
}

GroupNormSiluBackward::GroupNormSiluBackward(const GroupNormSiluBackwardParams& params)
    : params_(params),
      moments_(group_moments(params.norm)),
      folded_(folded(params.norm)),
      s1_(static_cast<size_t>(params.norm.images() * params.norm.channels)),
      s2_(s1_.size()) {}

void GroupNormSiluBackward::images(int64_t first, int64_t count, const void* da) {
  const GroupNorm& norm = params_.norm;
  const PixelBlocks blocks = {count, params_.pixels, norm.channels};
  const int64_t stride = blocks.sums_stride();
  const std::unique_ptr<float[]> partials(new float[static_cast<size_t>(blocks.count() * 2 * stride)]);
  const auto kernel = VDM_SIMD(group_norm_silu_bwd_sums);
  blocks.each([&](const PixelBlock& block) {
    // In this order: the last vector of the first input's sums may reach into the second's.
    for (const Input& input : inputs_of(params_)) {
      if (input.x == nullptr) continue;
      float* sum = partials.get() + block.index * 2 * stride + input.first_channel;
      kernel(pixels_of(input, norm, folded_.get(), first + block.image, block),
             gradient_of(params_, input, da, false, block.image), sum, sum + stride);
    }
  });
  const std::unique_ptr<Statistic[]> sums(new Statistic[static_cast<size_t>(2 * count * norm.channels)]());
  blocks.each_image([&](int64_t image) {
    const float* partial = partials.get() + image * blocks.per_image() * 2 * stride;
    Statistic* sum = sums.get() + image * norm.channels * 2;
    for (int64_t b = 0; b < blocks.per_image(); ++b, partial += 2 * stride)
      for (int64_t c = 0; c < norm.channels; ++c) {
        sum[2 * c] += partial[c];
        sum[2 * c + 1] += partial[stride + c];
      }
  });
  add(first, count, sums.get());
  write_dx(first, count, da, false);
}

void GroupNormSiluBackward::images(int64_t first, int64_t count, const void* dz, const Statistic* sums) {
  add(first, count, sums);
  write_dx(first, count, dz, true);
}

void GroupNormSiluBackward::add(int64_t first, int64_t count, const Statistic* sums) {
  const GroupNorm& norm = params_.norm;
  for (int64_t i = first * norm.channels; i < (first + count) * norm.channels; ++i, sums += 2) {
    const GroupMoments& group = moments_[static_cast<size_t>(i / norm.group_channels())];
    s1_[static_cast<size_t>(i)] = sums[0];
    s2_[static_cast<size_t>(i)] = group.rstd * (sums[1] - group.beyond_center() * sums[0]);
  }
}

void GroupNormSiluBackward::write_dx(int64_t first, int64_t count, const void* gradient, bool of_u) const {
  if (params_.dx == nullptr && params_.dx2 == nullptr) return;
  const GroupNorm& norm = params_.norm;
  const int64_t size = count * norm.channels;
  const std::unique_ptr<float[]> slope(new float[static_cast<size_t>(2 * size)]);
  float* constant = slope.get() + size;
  input_gradient_terms(norm, moments_, s1_.data(), s2_.data(), params_.pixels, first, count, slope.get(),
                       constant);
  const int64_t elements = norm.images() * params_.pixels * norm.channels;
  const int64_t bytes = elements * (size_of(params_.da_dtype) + 2 * size_of(params_.dtype));
  const PixelBlocks blocks = {count, params_.pixels, norm.channels};
  const auto kernel = VDM_SIMD(group_norm_silu_bwd_dx);
  blocks.each([&](const PixelBlock& block) {
    for (const Input& input : inputs_of(params_)) {
      if (input.dx == nullptr) continue;
      const int64_t image = first + block.image, i = block.image * norm.channels + input.first_channel;
      kernel(pixels_of(input, norm, folded_.get(), image, block),
             gradient_of(params_, input, gradient, of_u, block.image), slope.get() + i, constant + i,
             output(input, input.dx, image, bytes));
    }
  });
}

// dz/dshift = 1, dz/dscale = x_hat weight + bias, dz/dbias = 1 + scale, dz/dweight = x_hat (1 + scale).
void GroupNormSiluBackward::finish() const {
  const GroupNorm& norm = params_.norm;
  const size_t channels = static_cast<size_t>(norm.channels);
  const int64_t rows = norm.batch * norm.modulation_frames, frames = norm.frames / norm.modulation_frames;
  std::vector<double> dweight(channels), dbias(channels), s1(channels), s2(channels);
  for (int64_t row = 0; row < rows; ++row) {
    std::fill(s1.begin(), s1.end(), 0.0);
    std::fill(s2.begin(), s2.end(), 0.0);
    for (int64_t image = row * frames; image < (row + 1) * frames; ++image)
      for (size_t c = 0; c < channels; ++c) {
        s1[c] += s1_[static_cast<size_t>(image) * channels + c];
        s2[c] += s2_[static_cast<size_t>(image) * channels + c];
      }
    for (size_t c = 0; c < channels; ++c) {
      const double factor = norm.factor(row * frames, static_cast<int64_t>(c));
      const size_t i = static_cast<size_t>(row) * channels + c;
      dweight[c] += factor * s2[c];
      dbias[c] += factor * s1[c];
      if (params_.dscale)
        params_.dscale[i] = static_cast<float>(norm.weight[c] * s2[c] + norm.bias[c] * s1[c]);
      if (params_.dshift) params_.dshift[i] = static_cast<float>(s1[c]);
    }
  }
  for (size_t c = 0; c < channels; ++c) {
    if (params_.dweight) params_.dweight[c] = static_cast<float>(dweight[c]);
    if (params_.dbias) params_.dbias[c] = static_cast<float>(dbias[c]);
  }
}

void group_norm_silu_bwd_cpu(const GroupNormSiluBackwardParams& params) {
  GroupNormSiluBackward backward(params);
  backward.images(0, params.norm.images(), params.da);
  backward.finish();
}

}  // namespace vdm
