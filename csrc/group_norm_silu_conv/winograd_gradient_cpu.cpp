// A few images at a time, by each thread of its own or by all together: the convolution makes da, turns it
// into dz = da silu'(u) in its output stage, where x is prefetched as a residual would be, and adds up what
// the gradient of the statistics needs; one pass then makes dx of dz and x. Both are still in the cache: dy
// and x are read from memory once, dx is written once. Two exceptions: with weights that are not given,
// which are made once, all images are taken at once; and where a vector of channels may be of both x
// and x2, or x has another type than dy, the convolution leaves da, and one more pass adds up the sums.
#include <algorithm>
#include <memory>
#include <numeric>

#include "common/buffer.h"
#include "common/parallel.h"
#include "common/scratch.h"
#include "group_norm_silu_conv/winograd.h"

namespace vdm {
namespace {

// Of dz, and as much of x, per thread: they stay in the cache between the two.
constexpr int64_t kGroupBytes = 1 << 20;
// Of dz, up to so much per thread is kept for the next call.
constexpr int64_t kKeptBytes = 4 << 20;

constexpr int64_t kVector = 16;  // of the widest instruction set

// Images [first, first + count).
ConvInput images_of(ConvInput input, int64_t first, int64_t count) {
  const int64_t pixels = first * input.height * input.width * size_of(input.dtype);
  input.x = static_cast<const char*>(input.x) + pixels * input.channels1;
  if (input.x2) input.x2 = static_cast<const char*>(input.x2) + pixels * (input.channels - input.channels1);
  input.images = count;
  return input;
}

// How many images must be taken together: whole blocks of tiles, so that no sum depends on what is, and whole
// videos where those share statistics. Weights that are not given are made once for all.
int64_t images_of_unit(const WinogradInputGradientParams& params) {
  const GroupNorm& norm = params.norm.norm;
  if (params.transformed == nullptr) return norm.images();
  return std::lcm(winograd_whole_images(params.weight.kernel, params.dy), norm.video ? norm.frames : 1);
}

int64_t bytes_of_image(const GroupNormSiluBackwardParams& norm) {
  return norm.pixels * norm.norm.channels * size_of(norm.da_dtype);
}

// Whole units of images whose dz stays in the caches of so many threads.
int64_t images_of_group(const WinogradInputGradientParams& params, int64_t unit, int64_t threads) {
  const int64_t bytes = std::max<int64_t>(1, bytes_of_image(params.norm));
  const int64_t fitting = threads * std::max<int64_t>(1, kGroupBytes / bytes);
  return (fitting + unit - 1) / unit * unit;
}

// The images of groups of at most so many, which all threads that there are here share: each_group calls its
// argument with the first of them and their number.
template <typename EachGroup>
void input_gradient(const WinogradInputGradientParams& params, int64_t group, GroupNormSiluBackward& backward,
                    const EachGroup& each_group) {
  const GroupNormSiluBackwardParams& norm = params.norm;
  const int64_t channels = norm.norm.channels, image_bytes = bytes_of_image(norm);
  const int64_t size = group * image_bytes / size_of(DType::kFloat32) + 1;
  const bool keeps = group * image_bytes <= max_threads() * kKeptBytes;
  const Buffer freed = keeps ? nullptr : allocate(size);
  float* const dz = keeps ? scratch(ScratchSlot::kGradient, size) : freed.get();
  const int64_t scale = params.weight.kernel.upsample ? 2 : 1;
  const int64_t height = params.dy.height / scale, width = params.dy.width / scale;
  const ConvInput activation = {norm.x,  norm.x2, norm.dtype,      norm.norm.images(),
                                height,  width,   norm.x_channels, channels,
                                nullptr, nullptr, nullptr};
  // Else what is called dz is da.
  const bool fused = norm.dtype == norm.da_dtype && (norm.x2 == nullptr || norm.x_channels % kVector == 0);
  const std::unique_ptr<Statistic[]> sums(new Statistic[static_cast<size_t>(group * channels * 2)]);
  each_group([&](int64_t first, int64_t count) {
    WinogradConvParams conv{};
    conv.weight = params.weight;
    conv.input = images_of(params.dy, first, count);
    conv.output = {dz, nullptr, nullptr, norm.da_dtype, count, height, width, channels, false};
    conv.transformed = params.transformed;
    if (fused) {
      conv.statistics = sums.get();
      conv.activation = images_of(activation, first, count);
      conv.activation.center = backward.center(first);
      conv.activation.gain = backward.gain(first);
      conv.activation.offset = backward.offset(first);
    }
    winograd_conv_cpu(conv);
    fused ? backward.images(first, count, dz, sums.get()) : backward.images(first, count, dz);
  });
}

}  // namespace

void winograd_input_gradient_cpu(const WinogradInputGradientParams& params) {
  GroupNormSiluBackward backward(params.norm);
  const int64_t images = params.norm.norm.images(), unit = images_of_unit(params);
  const int64_t threads = max_threads(), own = images / threads / unit * unit;
  // Threads with images of their own need not wait for each other.
  if (!params.norm.norm.video && images % unit == 0 && own > 0 &&
      (images % threads == 0 || images >= 8 * threads)) {
    int64_t group = std::min(own, images_of_group(params, unit, 1));
    while (images % group != 0) group -= unit;
    parallel_for_shared(images / group, 1, [&](SharedRanges& ranges, int64_t thread) {
      input_gradient(params, group, backward, [&](const auto& body) {
        while (ranges.claim(thread))
          for (int64_t i = ranges.next(thread); i >= 0; i = ranges.next(thread)) body(i * group, group);
      });
    });
  } else {
    const int64_t group = std::min(images, images_of_group(params, unit, threads));
    input_gradient(params, group, backward, [&](const auto& body) {
      for (int64_t first = 0; first < images; first += group) body(first, std::min(group, images - first));
    });
  }
  backward.finish();
}

}  // namespace vdm
