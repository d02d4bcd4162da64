// Launch arithmetic of the kernels over a channels-last tensor (images, pixels, channels). It is host code
// and constexpr, so that the static_asserts below test it at every compilation. It does not ask for the
// device: sums are cut in the same places, and so give the same bits, on every one.
//
// A thread block serves one image, one chunk of its pixels and one block of its channels. `lanes` threads
// stand along the channels, `width` consecutive channels (one access) each, and `rows` such rows of threads
// walk the chunk's pixels side by side: a thread keeps its channels.
#pragma once

#include <cstdint>

#include "common/group_grid.h"
#include "common/host_device.h"

namespace vdm {

constexpr int kChannelThreads = 256;

struct ChannelGrid {
  int64_t pixels, channels;
  int width, lanes, rows;
  int64_t channel_blocks, chunks, chunk_pixels;
  int64_t thread_blocks;  // the grid; 0 where there is nothing to do, -1 where it is too large
};

// Chunks are whole multiples of rows * unroll pixels, the last one excepted; `resident` is how many thread
// blocks a large device holds. Small tensors fill it once, large ones four times or more, so that a partial
// last wave costs little.
constexpr ChannelGrid channel_grid(int64_t images, int64_t pixels, int64_t channels, int width, int unroll,
                                   int64_t resident) {
  if (images == 0 || pixels == 0 || channels == 0) return {pixels, channels, width, 1, 1, 1, 1, 1, 0};
  const int64_t vectors = ceil_div(channels, width);
  const int64_t channel_blocks = ceil_div(vectors, kChannelThreads);
  const int64_t lanes = ceil_div(vectors, channel_blocks);
  const int64_t rows = kChannelThreads / lanes;
  const int64_t slabs = images * channel_blocks;
  const int64_t wanted = 4 * slabs <= resident ? resident / slabs : ceil_div(4 * resident, slabs);
  const int64_t step = rows * unroll;
  const int64_t chunk_pixels = ceil_div(ceil_div(pixels, wanted), step) * step;
  const int64_t chunks = ceil_div(pixels, chunk_pixels);
  return {pixels,
          channels,
          width,
          static_cast<int>(lanes),
          static_cast<int>(rows),
          channel_blocks,
          chunks,
          chunk_pixels,
          slabs > kMaxGrid / chunks ? -1 : slabs * chunks};
}

// What a thread works on: its first channel, and the pixels begin + row, begin + row + rows, ... before end.
struct ChannelPosition {
  int64_t image, chunk, channel, begin, end;
  int lane, row;
  bool active;  // threads beyond rows * lanes, and lanes beyond the channels, have nothing
};

constexpr VDM_HOST_DEVICE ChannelPosition channel_position(const ChannelGrid& grid, int64_t block,
                                                           int thread) {
  const int64_t chunk_of_all = block / grid.channel_blocks;
  const int64_t image = chunk_of_all / grid.chunks, chunk = chunk_of_all % grid.chunks;
  const int lane = thread % grid.lanes, row = thread / grid.lanes;
  const int64_t channel = (block % grid.channel_blocks * grid.lanes + lane) * grid.width;
  const int64_t begin = chunk * grid.chunk_pixels, end = begin + grid.chunk_pixels;
  return {image,
          chunk,
          channel,
          begin,
          end < grid.pixels ? end : grid.pixels,
          lane,
          row,
          row < grid.rows && channel < grid.channels};
}

// The number of its pixels.
constexpr VDM_HOST_DEVICE int position_count(const ChannelGrid& grid, const ChannelPosition& at) {
  const int64_t left = at.end - at.begin - at.row;
  return at.active && left > 0 ? static_cast<int>(ceil_div(left, grid.rows)) : 0;
}

// How the pixels of an image are cut for partial sums: tiles of tile_height x tile_width, row after row, of
// which those at the lower and right edge may be smaller. Chunks of consecutive pixels are such tiles of an
// image of one row.
struct Tiling {
  int64_t height, width, tile_height, tile_width;

  constexpr VDM_HOST_DEVICE int64_t columns() const { return ceil_div(width, tile_width); }
  constexpr VDM_HOST_DEVICE int64_t tiles() const { return ceil_div(height, tile_height) * columns(); }
  constexpr VDM_HOST_DEVICE int64_t pixels() const { return height * width; }
  // The number of pixels of tile t.
  constexpr VDM_HOST_DEVICE int64_t pixels(int64_t t) const {
    return extent(height, tile_height, t / columns()) * extent(width, tile_width, t % columns());
  }

 private:
  static constexpr VDM_HOST_DEVICE int64_t extent(int64_t size, int64_t tile, int64_t index) {
    const int64_t left = size - index * tile;
    return left < tile ? left : tile;
  }
};

constexpr Tiling chunk_tiling(const ChannelGrid& grid) { return {1, grid.pixels, 1, grid.chunk_pixels}; }

namespace channel_grid_test {

constexpr bool valid(int64_t images, int64_t pixels, int64_t channels, int width) {
  const ChannelGrid grid = channel_grid(images, pixels, channels, width, 4, 528);
  const ChannelPosition last = channel_position(grid, grid.thread_blocks - 1, kChannelThreads - 1);
  return grid.lanes * grid.rows <= kChannelThreads && grid.chunks * grid.chunk_pixels >= pixels &&
         (grid.chunks - 1) * grid.chunk_pixels < pixels && last.image == images - 1 && last.end == pixels &&
         grid.lanes * grid.channel_blocks * width >= channels &&
         grid.lanes * (grid.channel_blocks - 1) * width < channels;
}
static_assert(valid(1, 4096, 64, 8) && valid(3, 35, 15, 1) && valid(1, 1, 1, 1) && valid(128, 4096, 320, 8));
static_assert(valid(2, 77, 4104, 8) && valid(7, 1 << 20, 2049, 1));
static_assert(valid(1, int64_t{1} << 33, 64, 8) && valid(70'000, 4096, 1024, 8));

// One wave at least 80 % full, or many.
static_assert(channel_grid(1, 65536, 64, 8, 4, 528).thread_blocks == 512);
static_assert(channel_grid(16, 4096, 64, 8, 4, 528).thread_blocks == 512);
static_assert(channel_grid(128, 4096, 64, 8, 4, 528).thread_blocks == 512);
static_assert(channel_grid(512, 4096, 64, 8, 4, 528).thread_blocks == 2560);
static_assert(channel_grid(0, 4096, 64, 8, 4, 528).thread_blocks == 0);
static_assert(channel_grid(kMaxGrid + 1, 4096, 64, 8, 4, 528).thread_blocks == -1);
// A wide tensor is cut into balanced blocks of channels.
static_assert(channel_grid(1, 64, 2304, 8, 4, 528).channel_blocks == 2 &&
              channel_grid(1, 64, 2304, 8, 4, 528).lanes == 144);
// Tiles at the edges.
constexpr Tiling kTiling{33, 40, 16, 16};
static_assert(kTiling.tiles() == 9 && kTiling.pixels(0) == 256 && kTiling.pixels(5) == 128 &&
              kTiling.pixels(8) == 8);

}  // namespace channel_grid_test
}  // namespace vdm
