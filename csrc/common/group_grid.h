// Launch arithmetic of the elementwise kernels that make noise. It is host code and constexpr, so that the
// static_asserts below test it at every compilation.
//
// A sample of n elements is ceil(n / 4) groups of four, one Philox counter and one thread each; a block is
// kGroupsPerBlock of them. A thread block serves one sample, whose coefficients it computes once, and walks
// the blocks split, split + splits, ... of it. The grid has one axis, of batch * splits thread blocks.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace vdm {

constexpr int kGroupsPerBlock = 128;
constexpr int64_t kMaxGrid = (int64_t{1} << 31) - 1;

struct GroupGrid {
  int64_t blocks;         // of one sample
  uint32_t splits;        // thread blocks of one sample
  int64_t thread_blocks;  // the grid; 0 where there is nothing to do, -1 where the batch is too large
};

constexpr VDM_HOST_DEVICE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// With samples up to a quarter of the resident thread blocks, the grid is one wave, at least four fifths
// full; with more it is four waves or more, so that a partial last one costs little.
constexpr GroupGrid group_grid(int64_t batch, int64_t n, int64_t resident) {
  if (batch == 0 || n == 0) return {0, 1, 0};
  const int64_t blocks = ceil_div(ceil_div(n, 4), kGroupsPerBlock);
  const int64_t wanted = 4 * batch <= resident ? resident / batch : ceil_div(4 * resident, batch);
  const int64_t splits = wanted < blocks ? wanted : blocks;
  const int64_t thread_blocks = batch > kMaxGrid / splits ? -1 : batch * splits;
  return {blocks, static_cast<uint32_t>(splits), thread_blocks};
}

// One wave, and one block each where the sample is small.
static_assert(group_grid(1, 25'000'000, 1584).thread_blocks == 1584);
static_assert(group_grid(8, 3'145'728, 1584).splits == 198);
static_assert(group_grid(5, 513, 1584).blocks == 2 && group_grid(5, 513, 1584).splits == 2);
// Ragged ends are counted, empty tensors launch nothing.
static_assert(group_grid(1, 512, 1584).blocks == 1 && group_grid(1, 1, 1584).blocks == 1);
static_assert(group_grid(0, 512, 1584).thread_blocks == 0 && group_grid(7, 0, 1584).thread_blocks == 0);
// Beyond 2^31 elements, and beyond 65,535 samples.
static_assert(group_grid(1, (int64_t{1} << 33) + 1, 1584).blocks == (int64_t{1} << 24) + 1);
static_assert(group_grid(100'000, 196'608, 1584).thread_blocks == 100'000);
static_assert(group_grid(kMaxGrid, 3, 1584).thread_blocks == kMaxGrid);
static_assert(group_grid(kMaxGrid + 1, 3, 1584).thread_blocks == -1);

}  // namespace vdm
