// What the forward and the backward kernel of spatial_attention share. Scores are transposed, with lanes over
// queries: the softmax runs down the lanes, and as i runs along an image row, b_ij runs along a row of the
// table, so that the bias is copied in runs and is where the product of K and Q starts.
#pragma once

#include "common/activation_simd.h"
#include "common/convert_simd.h"
#include "common/gemm_simd.h"
#include "spatial_attention/spatial_attention_simd.h"

namespace vdm {
namespace VDM_ISA {
namespace {

constexpr int64_t kQueries = kSpatialQueries, kKeys = kSpatialKeys;
static_assert(kSpatialPadding == kHalfPanel && kQueries % kPanel == 0, "queries fill panels");

VDM_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
VDM_INLINE int64_t pad(int64_t count) {
  return (count + kSpatialPadding - 1) / kSpatialPadding * kSpatialPadding;
}

// Channels c to c + kLanes of a row, followed by zeros.
VDM_INLINE F32 read(const SpatialRows& rows, int64_t row, int64_t c) {
  const int64_t i = row * rows.stride + c, left = rows.channels - c;
  if (left >= kLanes) return load(rows.tensor, rows.dtype, i);
  return left > 0 ? load_partial(rows.tensor, rows.dtype, i, static_cast<int>(left)) : splat(0.0f);
}

VDM_INLINE void write(const SpatialOutput& out, int64_t row, int64_t c, F32 value) {
  const int64_t i = row * out.stride + c, left = out.channels - c;
  if (left >= kLanes)
    store(out.tensor, out.dtype, i, value);
  else if (left > 0)
    store_partial(out.tensor, out.dtype, i, value, static_cast<int>(left));
}

// As read, and has the row kAhead further on fetched: rows are as a rule apart by a multiple of a power of
// two, which no prefetcher follows, and would compete for the same few places of the caches. So each is read
// once.
VDM_INLINE F32 read_once(const SpatialRows& rows, int64_t row, int64_t c) {
  constexpr int64_t kAhead = 16;
  const int64_t i = least(row + kAhead, rows.count - 1) * rows.stride + c;
  prefetch(static_cast<const char*>(rows.tensor) + i * size_of(rows.dtype));
  return read(rows, row, c);
}

// `count` rows times scale, padded.
VDM_INLINE void pack(const SpatialRows& rows, int64_t first, int64_t count, float scale, float* out) {
  const int64_t padded = pad(rows.channels);
  for (int64_t row = 0; row < count; ++row) {
    for (int64_t c = 0; c < padded; c += kLanes) {
      store(out + row * padded + c, read_once(rows, first + row, c) * splat(scale));
    }
  }
}

// `count` rows times scale as the columns of out (padded channels, kQueries), padded with zeros.
VDM_INLINE void pack_transposed(const SpatialRows& rows, int64_t first, int64_t count, float scale,
                                float* out) {
  for (int64_t row = 0; row < pad(count); row += kLanes) {
    for (int64_t c = 0; c < rows.channels; c += kLanes) {
      F32 block[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        block[i] = row + i < count ? read_once(rows, first + row + i, c) * splat(scale) : splat(0.0f);
      }
      transpose(block);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) store(out + (c + i) * kQueries + row, block[i]);
    }
  }
}

// C (rows, columns) (+)= A B; columns is a multiple of kHalfPanel. Not inline: it is 48 micro-kernels.
template <bool kAccumulate>
__attribute__((noinline)) void multiply(int64_t rows, int64_t columns, GemmA a, const float* b,
                                        int64_t b_step, float* c, int64_t c_row, int64_t k) {
  for (int64_t n = 0; n < columns; n += kPanel) {
    const int panel = columns - n < kPanel ? kHalfPanel : kPanel;
    gemm_panel<kAccumulate>(rows, panel, a, b + n, b_step, c + n, c_row, k);
  }
}

// Queries next to each other in a row of the image.
struct Run {
  int64_t column, length;
  int64_t table;  // where the table has the bias of the first of them for the first key
};

// A group of at most kQueries queries, cut into runs. Vectors are what has kLanes queries of them, or the
// last fewer of a run.
struct Runs {
  Run runs[kQueries], vectors[kQueries];
  int count = 0, vector_count = 0;

  VDM_MEMBER Runs(int64_t height, int64_t width, int64_t first, int64_t queries) {
    for (int64_t column = 0; column < queries; ++count) {
      const int64_t y = (first + column) / width, x = (first + column) % width;
      const int64_t length = least(width - x, queries - column);
      const int64_t table = (y + height - 1) * (2 * width - 1) + x + width - 1;
      runs[count] = {column, length, table};
      for (int64_t i = 0; i < length; i += kLanes) {
        vectors[vector_count++] = {column + i, least(kLanes, length - i), table + i};
      }
      column += length;
    }
  }
};

// Calls body(first key, keys, how far the first is from key 0 in the table) for every image row of a block of
// keys.
template <typename Body>
VDM_INLINE void for_each_row(int64_t width, int64_t key, int64_t keys, const Body& body) {
  for (const int64_t end = key + keys; key < end;) {
    const int64_t y = key / width, x = key % width, in_row = least(width - x, end - key);
    body(key, in_row, y * (2 * width - 1) + x);
    key += in_row;
  }
}

// Rows of scores, one each key, are set to the bias.
VDM_INLINE void copy_bias(const SpatialTask& task, const Runs& runs, int64_t block, int64_t keys,
                          float* scores) {
  for_each_row(task.width, block, keys,
               [&](int64_t key, int64_t in_row, int64_t offset) __attribute__((always_inline)) {
                 for (int v = 0; v < runs.vector_count; ++v) {
                   const Run& run = runs.vectors[v];
                   const float* table = task.table + run.table - offset;
                   float* out = scores + (key - block) * kQueries + run.column;
                   if (run.length == kLanes) {
                     for (int64_t j = 0; j < in_row; ++j) store(out + j * kQueries, load(table - j));
                   } else {
                     const int length = static_cast<int>(run.length);
                     for (int64_t j = 0; j < in_row; ++j) {
                       store_partial(out + j * kQueries, load_partial(table - j, length), length);
                     }
                   }
                 }
               });
}

// scores (keys, columns) = q . k / sqrt(channels) + b for a block of keys; q_transposed is scaled.
VDM_INLINE void score(const SpatialTask& task, const Runs& runs, const SpatialScratch& scratch, int64_t key,
                      int64_t keys, int64_t columns, float* scores) {
  const int64_t padded = pad(task.k.channels);
  const GemmA k = {scratch.k + key * padded, padded, 1};
  auto product = multiply<false>;
  if (task.table != nullptr) {
    copy_bias(task, runs, key, keys, scores);
    product = multiply<true>;
  }
  product(keys, columns, k, scratch.q_transposed, kQueries, scores, kQueries, task.k.channels);
}

// The online softmax (Milakov & Gimelshein 2018): before the first block.
VDM_INLINE void begin_softmax(const SpatialScratch& scratch) {
  for (int64_t i = 0; i < kQueries; i += kLanes) {
    store(scratch.top + i, splat(-__FLT_MAX__));
    store(scratch.sum + i, splat(0.0f));
  }
}

// One block: scores become e = exp(score - top), with top the greatest so far; sum is that of all e so far,
// and factor what e of the blocks before must be multiplied with. With dscores, dot is the sum of e dscores.
template <bool kDot>
VDM_INLINE void softmax(const SpatialScratch& scratch, int64_t keys, int64_t columns, float* scores,
                        const float* dscores) {
  constexpr int kChains = 4;
  const F32 limit = splat(kExpLimit);
  for (int64_t i = 0; i < columns; i += kLanes) {
    const F32 before = load(scratch.top + i);
    F32 tops[kChains] = {before, before, before, before};
    int64_t j = 0;
    for (; j + kChains <= keys; j += kChains) {
#pragma GCC unroll 4
      for (int n = 0; n < kChains; ++n) tops[n] = max(load(scores + (j + n) * kQueries + i), tops[n]);
    }
    for (; j < keys; ++j) tops[0] = max(load(scores + j * kQueries + i), tops[0]);
    const F32 top = max(max(tops[0], tops[1]), max(tops[2], tops[3]));
    const F32 factor = exp_minus(min(limit, top - before));
    F32 sum = splat(0.0f), dot = sum;
#pragma GCC unroll 4
    for (j = 0; j < keys; ++j) {
      const int64_t at = j * kQueries + i;
      const F32 e = exp_minus(min(limit, top - load(scores + at)));  // NaN stays
      sum = sum + e;
      if (kDot) dot = fma(e, load(dscores + at), dot);
      store(scores + at, e);
    }
    store(scratch.top + i, top);
    store(scratch.factor + i, factor);
    store(scratch.sum + i, fma(load(scratch.sum + i), factor, sum));
    if (kDot) store(scratch.dot + i, fma(load(scratch.dot + i), factor, dot));
  }
}

}  // namespace
}  // namespace VDM_ISA
}  // namespace vdm
