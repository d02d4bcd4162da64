// Cuts images into blocks of pixels for two-stage reductions: the blocks depend on the shape only, so that a
// result does not depend on the number of threads, and all threads work on a single image. For launchers.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/parallel.h"

namespace vdm {

// Pixels of a block: float32 sums of this many are good to 1e-6.
constexpr int64_t kBlockPixels = 256;

// Pixels [begin, end) of an image.
struct PixelBlock {
  int64_t index, image, begin, end;
};

struct PixelBlocks {
  int64_t images, pixels, channels;

  int64_t per_image() const { return (pixels + kBlockPixels - 1) / kBlockPixels; }
  int64_t count() const { return images * per_image(); }
  PixelBlock at(int64_t index) const {
    const int64_t begin = index % per_image() * kBlockPixels;
    return {index, index / per_image(), begin, std::min(pixels, begin + kBlockPixels)};
  }

  // Floats of a row of sums: room for the channels, and for the last vectors of two inputs that share them.
  int64_t sums_stride() const { return (channels + 15) / 16 * 16 + 16; }

  // Calls body(block) for every block, in parallel.
  template <typename Body>
  void each(const Body& body) const {
    constexpr int64_t kElements = int64_t{1} << 15;  // pay for a thread
    const int64_t grain = kElements / std::max<int64_t>(1, std::min(pixels, kBlockPixels) * channels);
    parallel_for(count(), grain, [&](int64_t first, int64_t last) {
      for (int64_t index = first; index < last; ++index) body(at(index));
    });
  }

  // Calls body(image) for every image, in parallel: the second stage.
  template <typename Body>
  void each_image(const Body& body) const {
    constexpr int64_t kSums = int64_t{1} << 13;  // pay for a thread
    parallel_for(images, kSums / std::max<int64_t>(1, per_image() * channels),
                 [&](int64_t first, int64_t last) {
                   for (int64_t image = first; image < last; ++image) body(image);
                 });
  }
};

}  // namespace vdm
