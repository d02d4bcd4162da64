// With P recomputed, lanes over queries in everything transposed:
//
//     dP = dO V^T;  D = rowsum(P dP);  dS = P (dP - D);  dtable[y_i - y_j, x_i - x_j] += dS_ij
//     dQ = dS K / sqrt(channels);  dK = dS^T Q / sqrt(channels);  dV = P^T dO
//
// A group of queries meets all keys twice: first for the scores and dP, which stay in scratch (two rows of
// kSpatialQueries floats a key: in the L2 cache for 1024 pixels) while the online softmax finds the row sums
// and D, then for the gradients. So there are five products, as where the forward pass has saved its results.
#include "spatial_attention/attention_blocks_simd.h"

namespace vdm {
namespace VDM_ISA {
namespace {

VDM_INLINE void clear(float* out, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) store(out + i, splat(0.0f));
}

// What the second meeting multiplies e of a block with, since top and sum are final only now.
VDM_INLINE F32 final_factor(const SpatialScratch& scratch, int64_t block, int64_t i) {
  const F32 rise = load(scratch.tops + block * kQueries + i) - load(scratch.top + i);
  return exp2(rise) / load(scratch.sum + i);
}

// e and dP of a block become P and dS.
VDM_INLINE void softmax_bwd(const SpatialScratch& scratch, int64_t block, int64_t keys, int64_t columns,
                            float* scores, float* dscores) {
  for (int64_t i = 0; i < columns; i += kLanes) {
    const F32 factor = final_factor(scratch, block, i);
    const F32 dot = load(scratch.dot + i) / load(scratch.sum + i);
#pragma GCC unroll 4
    for (int64_t j = 0; j < keys; ++j) {
      const int64_t at = j * kQueries + i;
      const F32 p = load(scores + at) * factor;
      store(scores + at, p);
      store(dscores + at, p * (load(dscores + at) - dot));
    }
  }
}

// Adds dS of one run of queries and `keys` keys of one image row to the table's row for them, from dtable on:
// where it has the first query and the first key. Element u of it, from 1 - keys to the run's length, is the
// sum of ds[s][u + s] over the keys s. Rows are copied between zeros, so that a vector of u is a sum of
// vectors that need no mask.
VDM_INLINE void add_to_row(const float* ds, int64_t keys, int64_t length, float* skewed, float* dtable) {
  const int64_t pitch = length + kLanes;
  store(skewed, splat(0.0f));
  float* const rows = skewed + kLanes;
  for (int64_t s = 0; s < keys; ++s) {
    for (int64_t i = 0; i < length; i += kLanes) {
      store(rows + s * pitch + i, load(ds + s * kQueries + i));
    }
    store(rows + s * pitch + length, splat(0.0f));
  }
  for (int64_t u = 1 - keys; u < length; u += kLanes) {
    const int64_t begin = u + kLanes > 0 ? 0 : 1 - kLanes - u, end = least(keys, length - u);
    const float* row = rows + u;
    F32 even = splat(0.0f), odd = even;
    int64_t s = begin;
    for (; s + 2 <= end; s += 2) {
      even = even + load(row + s * (pitch + 1));
      odd = odd + load(row + (s + 1) * (pitch + 1));
    }
    if (s < end) even = even + load(row + s * (pitch + 1));
    store(dtable + u, load(dtable + u) + (even + odd));
  }
}

// Adds dS of a block of keys to the gradient of the table.
VDM_INLINE void add_to_table(const SpatialGradientTask& gradient, const Runs& runs, int64_t block,
                             int64_t keys, const float* ds, float* skewed) {
  for_each_row(gradient.task.width, block, keys,
               [&](int64_t key, int64_t in_row, int64_t offset) __attribute__((always_inline)) {
                 for (int r = 0; r < runs.count; ++r) {
                   const Run& run = runs.runs[r];
                   add_to_row(ds + (key - block) * kQueries + run.column, in_row, run.length, skewed,
                              gradient.dtable + run.table - offset);
                 }
               });
}

}  // namespace

void spatial_attend_bwd(const SpatialGradientTask& gradient, int64_t first, int64_t last,
                        const SpatialScratch& scratch) {
  const SpatialTask& task = gradient.task;
  const int64_t pixels = task.height * task.width, channels = task.q.channels, padded = pad(channels);
  const bool rows = gradient.dq.tensor != nullptr, table = gradient.dtable != nullptr;
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(channels));
  RowsAhead rows_ahead;
  const Ahead ahead = {&rows_ahead};
  if (table) clear(gradient.dtable, (2 * task.height - 1) * (2 * task.width - 1));
  for (int64_t query = first; query < last; query += kQueries) {
    const int64_t count = least(kQueries, last - query), columns = pad(count);
    const bool is_first = query == first, is_last = query + count == last;
    const Runs runs(task.height, task.width, query, count);
    pack(task.q, query, count, scale, scratch.q);
    pack(gradient.dout, query, count, 1.0f, scratch.dout);
    pack_transposed({scratch.q, DType::kFloat32, count, padded, channels}, 0, count, kLog2E,
                    scratch.q_transposed);
    pack_transposed({scratch.dout, DType::kFloat32, count, padded, channels}, 0, count, 1.0f,
                    scratch.dout_transposed);
    begin_softmax(scratch, count);
    rows_ahead.add(gradient.dq, query, count);
    if (!is_last) {
      rows_ahead.add(task.q, query + count, kQueries);
      rows_ahead.add(gradient.dout, query + count, kQueries);
    }
    for (int64_t key = 0; key < pixels; key += kKeys) {
      const int64_t keys = least(kKeys, pixels - key);
      float* const scores = scratch.scores + key * kQueries;
      float* const dscores = scratch.dscores + key * kQueries;
      if (is_first) {
        pack(task.k, key, keys, 1.0f, scratch.k + key * padded);
        pack(task.v, key, keys, 1.0f, scratch.v + key * padded);
        rows_ahead.add(task.k, key + keys, kKeys);
        rows_ahead.add(task.v, key + keys, kKeys);
      }
      multiply<false>(keys, columns, {scratch.v + key * padded, padded, 1}, scratch.dout_transposed, kQueries,
                      dscores, kQueries, channels, ahead);
      weigh<true>(task, runs, scratch, key, keys, count, scores, dscores, nullptr, ahead);
      float* const tops = scratch.tops + key / kKeys * kQueries;
      for (int64_t i = 0; i < kQueries; i += kLanes) store(tops + i, load(scratch.top + i));
    }
    if (is_last) {
      rows_ahead.add(gradient.dk_rows, 0, kKeys);
      rows_ahead.add(gradient.dv_rows, 0, kKeys);
      if (gradient.next != nullptr) {
        rows_ahead.add(gradient.next->task.q, 0, kQueries);
        rows_ahead.add(gradient.next->dout, 0, kQueries);
        rows_ahead.add(gradient.next->task.k, 0, kKeys);
        rows_ahead.add(gradient.next->task.v, 0, kKeys);
      }
    }
    for (int64_t key = 0; key < pixels; key += kKeys) {
      const int64_t keys = least(kKeys, pixels - key);
      float *const p = scratch.scores + key * kQueries, *const ds = scratch.dscores + key * kQueries;
      softmax_bwd(scratch, key / kKeys, keys, columns, p, ds);
      if (table) add_to_table(gradient, runs, key, keys, ds, scratch.skewed);
      if (!rows) continue;
      float *const dk = gradient.dk + key * padded, *const dv = gradient.dv + key * padded;
      const auto add_keys = key > 0 ? multiply<true> : multiply<false>;
      const auto add_queries = is_first ? multiply<false> : multiply<true>;
      add_keys(count, padded, {ds, 1, kQueries}, scratch.k + key * padded, padded, scratch.out, padded, keys,
               ahead);
      add_queries(keys, padded, {p, kQueries, 1}, scratch.dout, padded, dv, padded, count, ahead);
      add_queries(keys, padded, {ds, kQueries, 1}, scratch.q, padded, dk, padded, count, ahead);
      if (is_last && gradient.dk_rows.tensor != nullptr) {
        write_rows(dk, padded, gradient.dk_rows, key, keys, 1.0f);
        write_rows(dv, padded, gradient.dv_rows, key, keys, 1.0f);
        rows_ahead.add(gradient.dk_rows, key + keys, kKeys);
        rows_ahead.add(gradient.dv_rows, key + keys, kKeys);
      }
    }
    if (rows) write_rows(scratch.out, padded, gradient.dq, query, count, scale);
  }
}

void spatial_write_sum(const float* partials, int64_t count, int64_t partial, int64_t rows,
                       const SpatialOutput& out) {
  const int64_t padded = pad(out.channels);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t c = 0; c < padded; c += kLanes) {
      const float* at = partials + row * padded + c;
      F32 sum = load(at);
      for (int64_t i = 1; i < count; ++i) sum = sum + load(at + i * partial);
      write(out, row, c, sum);
    }
  }
}

}  // namespace VDM_ISA
}  // namespace vdm
