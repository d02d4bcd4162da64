// Flash attention (Dao et al. 2022): a group of queries meets the keys block by block, and scores never leave
// the L1 and L2 caches. K and V are packed once for all groups of a thread, block by block as the first of
// them meets them. Products fetch what is packed or written next, the next head's too.
#include "spatial_attention/attention_blocks_simd.h"

namespace vdm {
namespace VDM_ISA {

void spatial_attend(const SpatialTask& task, const SpatialOutput& out, int64_t first, int64_t last,
                    const SpatialScratch& scratch) {
  const int64_t pixels = task.height * task.width, channels = task.q.channels, padded = pad(channels);
  const float scale = kLog2E / __builtin_sqrtf(static_cast<float>(channels));
  RowsAhead rows;
  const Ahead ahead = {&rows};
  for (int64_t query = first; query < last; query += kQueries) {
    const int64_t count = least(kQueries, last - query);
    const Runs runs(task.height, task.width, query, count);
    pack_transposed(task.q, query, count, scale, scratch.q_transposed);
    begin_softmax(scratch, count);
    rows.add(out, query, count);
    if (query + count < last) {
      rows.add(task.q, query + count, kQueries);
    } else if (task.next != nullptr) {
      rows.add(task.next->q, 0, kQueries);
      rows.add(task.next->k, 0, kKeys);
      rows.add(task.next->v, 0, kKeys);
    }
    for (int64_t key = 0; key < pixels; key += kKeys) {
      const int64_t keys = least(kKeys, pixels - key);
      if (query == first) {
        pack(task.k, key, keys, 1.0f, scratch.k + key * padded);
        pack(task.v, key, keys, 1.0f, scratch.v + key * padded);
        rows.add(task.k, key + keys, kKeys);
        rows.add(task.v, key + keys, kKeys);
      }
      float* const summed = key > 0 ? scratch.out : nullptr;
      weigh<false>(task, runs, scratch, key, keys, count, scratch.scores, nullptr, summed, ahead);
      const auto product = key > 0 ? multiply<true> : multiply<false>;
      product(count, padded, {scratch.scores, 1, kQueries}, scratch.v + key * padded, padded, scratch.out,
              padded, keys, ahead);
    }
    for (int64_t row = 0; row < count; ++row) {
      const F32 share = splat(1.0f) / splat(scratch.sum[row]);
      for (int64_t c = 0; c < padded; c += kLanes) {
        write(out, query + row, c, load(scratch.out + row * padded + c) * share);
      }
    }
  }
}

}  // namespace VDM_ISA
}  // namespace vdm
