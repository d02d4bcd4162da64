// Flash attention (Dao et al. 2022): a group of queries meets the keys block by block, and scores never leave
// the L1 cache. K and V are packed once for all groups of a thread. With AVX-512 on Zen 5 each pair of pixels
// takes channels / 16 cycles for the two products, at the multipliers' limit, 0.5 for the softmax and 0.2 for
// the bias.
#include "spatial_attention/attention_blocks_simd.h"

namespace vdm {
namespace VDM_ISA {
namespace {

// Rows of what is summed so far, multiplied with factor. Once the greatest score was met, it is 1.
VDM_INLINE void rescale(float* rows, int64_t count, int64_t padded, const float* factor) {
  for (int64_t row = 0; row < count; ++row, rows += padded) {
    if (factor[row] == 1.0f) continue;
    for (int64_t c = 0; c < padded; c += kLanes) store(rows + c, load(rows + c) * splat(factor[row]));
  }
}

}  // namespace

void spatial_attend(const SpatialTask& task, const SpatialOutput& out, int64_t first, int64_t last,
                    const SpatialScratch& scratch) {
  const int64_t pixels = task.height * task.width, channels = task.q.channels, padded = pad(channels);
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(channels));
  pack(task.k, 0, pixels, 1.0f, scratch.k);
  pack(task.v, 0, pixels, 1.0f, scratch.v);
  for (int64_t query = first; query < last; query += kQueries) {
    const int64_t count = least(kQueries, last - query), columns = pad(count);
    const Runs runs(task.height, task.width, query, count);
    pack_transposed(task.q, query, count, scale, scratch.q_transposed);
    begin_softmax(scratch);
    for (int64_t key = 0; key < pixels; key += kKeys) {
      const int64_t keys = least(kKeys, pixels - key);
      score(task, runs, scratch, key, keys, columns, scratch.scores);
      softmax<false>(scratch, keys, columns, scratch.scores, nullptr);
      if (key > 0) rescale(scratch.out, count, padded, scratch.factor);
      const auto product = key > 0 ? multiply<true> : multiply<false>;
      product(count, padded, {scratch.scores, 1, kQueries}, scratch.v + key * padded, padded, scratch.out,
              padded, keys);
    }
    for (int64_t row = 0; row < count; ++row) {
      const F32 share = reciprocal(splat(scratch.sum[row]));
      for (int64_t c = 0; c < padded; c += kLanes) {
        write(out, query + row, c, load(scratch.out + row * padded + c) * share);
      }
    }
  }
}

}  // namespace VDM_ISA
}  // namespace vdm
