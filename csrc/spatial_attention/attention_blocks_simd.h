// What the forward and the backward kernel of spatial_attention share. Scores are transposed, with lanes over
// queries: the softmax runs down the lanes, and as i runs along an image row, b_ij runs along a row of the
// table: a vector of scores finds its bias in a vector of the table.
#pragma once

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

VDM_INLINE void write_rows(const float* data, int64_t padded, const SpatialOutput& out, int64_t first,
                           int64_t count, float scale) {
  for (int64_t row = 0; row < count; ++row) {
    for (int64_t c = 0; c < padded; c += kLanes) {
      write(out, first + row, c, load(data + row * padded + c) * splat(scale));
    }
  }
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

// What is read or written next: rows that products fetch a line of at each step, since memory that is used in
// bursts is waited for.
class RowsAhead {
 public:
  template <typename Tensor>
  VDM_MEMBER void add(const SpatialTensor<Tensor>& rows, int64_t first, int64_t count) {
    count = least(count, rows.count - first);
    if (rows.tensor == nullptr || count <= 0 || end_ == kMost) return;
    const int64_t size = size_of(rows.dtype), stride = rows.stride * size;
    const char* const tensor = static_cast<const char*>(rows.tensor);
    pieces_[end_++] = {tensor + first * stride, stride, (rows.channels * size + kLine - 1) / kLine, count};
  }

  VDM_MEMBER void fetch() {
    if (piece_ == end_) return;
    Piece& piece = pieces_[piece_];
    prefetch(piece.row + line_ * kLine);
    if (++line_ < piece.lines) return;
    line_ = 0;
    piece.row += piece.stride;
    if (--piece.rows > 0) return;
    if (++piece_ == end_) piece_ = end_ = 0;
  }

 private:
  struct Piece {
    const char* row;
    int64_t stride, lines, rows;
  };
  static constexpr int64_t kLine = 64;
  static constexpr int kMost = 8;
  Piece pieces_[kMost];
  int piece_ = 0, end_ = 0;
  int64_t line_ = 0;
};

struct Ahead {
  RowsAhead* rows;
  VDM_MEMBER void operator()() const { rows->fetch(); }
};

// C (rows, columns) (+)= A B; columns is a multiple of kHalfPanel. Not inline: it is 48 micro-kernels.
template <bool kAccumulate>
__attribute__((noinline)) void multiply(int64_t rows, int64_t columns, GemmA a, const float* b,
                                        int64_t b_step, float* c, int64_t c_row, int64_t k, Ahead ahead) {
  for (int64_t n = 0; n < columns; n += kPanel) {
    const int panel = columns - n < kPanel ? kHalfPanel : kPanel;
    gemm_panel<kAccumulate>(rows, panel, a, b + n, b_step, c + n, c_row, k, kOneProduct, ahead);
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

// Where a product of a block of keys and the queries finds the bias: that of key m and vector v of queries is
// vectors[v] - keys[m].
struct Bias {
  const float* vectors[kQueries / kLanes];
  int64_t keys[kKeys];
};

// The table itself, where no vector of queries lies in two rows of the image; otherwise it is copied to
// scores. Without a table it is zero.
VDM_INLINE void find_bias(const SpatialTask& task, const Runs& runs, int64_t block, int64_t keys,
                          int64_t columns, const float* zeros, float* scores, Bias& bias) {
  const bool in_place = task.table != nullptr && task.width % kLanes == 0;
  const int64_t key_step = task.table != nullptr ? -kQueries : 0;
  if (task.table != nullptr && !in_place) copy_bias(task, runs, block, keys, scores);
  for (int64_t v = 0; v < columns / kLanes; ++v) {
    bias.vectors[v] = in_place ? task.table + runs.vectors[least(v, runs.vector_count - 1)].table
                      : task.table != nullptr ? scores + v * kLanes
                                              : zeros;
  }
  for_each_row(task.width, block, keys,
               [&](int64_t key, int64_t in_row, int64_t offset) __attribute__((always_inline)) {
                 for (int64_t j = 0; j < in_row; ++j) {
                   const int64_t m = key - block + j;
                   bias.keys[m] = in_place ? offset + j : m * key_step;
                 }
               });
}

// One tile of `score`.
template <int kRows, int kColumnVectors>
VDM_INLINE void score_tile(GemmA k, const float* q, int64_t channels, const float* const* bias,
                           const int64_t* bias_keys, float* scores, float* highest, Ahead ahead) {
  F32 sum[kRows][kColumnVectors];
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
    for (int v = 0; v < kColumnVectors; ++v) sum[m][v] = splat(0.0f);
  }
  gemm_add(sum, k, q, kQueries, channels, ahead);
#pragma GCC unroll 2
  for (int v = 0; v < kColumnVectors; ++v) {
    F32 top = load(highest + v * kLanes);
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) {
      const F32 score = load(bias[v] - bias_keys[m]) + sum[m][v];
      store(scores + m * kQueries + v * kLanes, score);
      top = max(score, top);
    }
    store(highest + v * kLanes, top);
  }
}

// As score_tile, of 1 to kGemmRows rows.
template <int kColumnVectors, int kRows = kGemmRows>
VDM_INLINE void score_tile_of(int64_t rows, GemmA k, const float* q, int64_t channels,
                              const float* const* bias, const int64_t* bias_keys, float* scores,
                              float* highest, Ahead ahead) {
  if constexpr (kRows > 1) {
    if (rows < kRows) {
      return score_tile_of<kColumnVectors, kRows - 1>(rows, k, q, channels, bias, bias_keys, scores, highest,
                                                      ahead);
    }
  }
  score_tile<kRows, kColumnVectors>(k, q, channels, bias, bias_keys, scores, highest, ahead);
}

template <int kColumnVectors>
__attribute__((noinline)) void score_columns(int64_t keys, GemmA k, const float* q, int64_t channels,
                                             const float* const* bias, const int64_t* bias_keys,
                                             float* scores, float* highest, Ahead ahead) {
  while (keys > 0) {
    const int64_t rows = gemm_rows(keys);
    score_tile_of<kColumnVectors>(rows, k, q, channels, bias, bias_keys, scores, highest, ahead);
    k.data += rows * k.row;
    bias_keys += rows;
    scores += rows * kQueries;
    keys -= rows;
  }
}

// scores (keys, columns) = log2(e) (q . k / sqrt(channels) + b) for a block of keys, and the greatest of each
// column; q_transposed is scaled.
VDM_INLINE void score(const SpatialTask& task, const Runs& runs, const SpatialScratch& scratch, int64_t key,
                      int64_t keys, int64_t columns, float* scores, float* highest, Ahead ahead) {
  const int64_t padded = pad(task.k.channels);
  const GemmA k = {scratch.k + key * padded, padded, 1};
  float zeros[kLanes];
  store(zeros, splat(0.0f));
  Bias bias;
  find_bias(task, runs, key, keys, columns, zeros, scores, bias);
  for (int64_t i = 0; i < columns; i += kLanes) store(highest + i, splat(-__FLT_MAX__));
  for (int64_t n = 0; n < columns; n += 2 * kLanes) {
    const bool half = kLanes == kHalfPanel && columns - n == kHalfPanel;
    const auto product = half ? score_columns<1> : score_columns<2>;
    product(keys, k, scratch.q_transposed + n, task.k.channels, bias.vectors + n / kLanes, bias.keys,
            scores + n, highest + n, ahead);
  }
}

// 2^a within 1 ulp (2 without FMA), for -126 <= a <= 126, and 2^-126 below; NaN stays NaN. a = n + r with
// |r| <= 1/2: adding 1.5 2^23 rounds to the integer n, and adding 127 besides leaves 2^n's exponent in the
// low bits.
VDM_INLINE F32 exp2(F32 a) {
  const F32 shift = splat(0x1.8p23f + 127.0f);
  a = max(splat(-126.0f), a);
  const F32 shifted = a + shift;
  const F32 r = a - (shifted - shift);
  F32 p = fma(splat(1.53458124e-4f), r, splat(1.33999309e-3f));
  p = fma(p, r, splat(9.61848907e-3f));
  p = fma(p, r, splat(5.55032864e-2f));
  p = fma(p, r, splat(2.40226462e-1f));
  p = fma(p, r, splat(6.93147182e-1f));
  p = fma(p, r, splat(1.0f));
  return p * as_float(bits(shifted) << 23);
}

// The online softmax (Milakov & Gimelshein 2018), to the base 2: before the first block.
VDM_INLINE void begin_softmax(const SpatialScratch& scratch) {
  for (int64_t i = 0; i < kQueries; i += kLanes) {
    store(scratch.top + i, splat(-__FLT_MAX__));
    store(scratch.sum + i, splat(0.0f));
    store(scratch.dot + i, splat(0.0f));
  }
}

// Before a block's softmax: what is summed so far is relative to 2^top, which has to follow the greatest
// score, but need not be it. Only where one of the queries' exceeds it by kMostRise, top becomes the greatest
// so far, sums are multiplied with factor, and true is returned: most blocks cost nothing.
VDM_INLINE bool raise_top(const SpatialScratch& scratch, int64_t count, const float* highest) {
  constexpr float kMostRise = 8.0f;
  F32 most = splat(0.0f);
  for (int64_t i = 0; i < count; i += kLanes) {
    const int lanes = static_cast<int>(least(kLanes, count - i));
    most = max(load_partial(highest + i, lanes) - load_partial(scratch.top + i, lanes), most);
  }
  float rises[kLanes];
  store(rises, most);
  bool raise = false;
  for (int i = 0; i < kLanes; ++i) raise |= rises[i] > kMostRise;
  if (!raise) return false;
  for (int64_t i = 0; i < count; i += kLanes) {
    const F32 before = load(scratch.top + i), top = max(load(highest + i), before);
    const F32 factor = exp2(before - top);
    store(scratch.top + i, top);
    store(scratch.factor + i, factor);
    store(scratch.sum + i, load(scratch.sum + i) * factor);
    store(scratch.dot + i, load(scratch.dot + i) * factor);
  }
  return true;
}

// One block: scores become e = 2^(score - top), and sum that of all e so far. With dscores, dot is the sum of
// e dscores.
template <bool kDot>
VDM_INLINE void softmax(const SpatialScratch& scratch, int64_t keys, int64_t columns, float* scores,
                        const float* dscores) {
  constexpr int kChains = 4;
  for (int64_t i = 0; i < columns; i += kLanes) {
    const F32 top = load(scratch.top + i), zero = splat(0.0f);
    F32 sums[kChains] = {zero, zero, zero, zero}, dots[kChains] = {zero, zero, zero, zero};
    const auto add = [&](int64_t j, int n) VDM_LAMBDA {
      const int64_t at = j * kQueries + i;
      const F32 e = exp2(load(scores + at) - top);
      sums[n] = sums[n] + e;
      if (kDot) dots[n] = fma(e, load(dscores + at), dots[n]);
      store(scores + at, e);
    };
    int64_t j = 0;
    for (; j + kChains <= keys; j += kChains) {
#pragma GCC unroll 4
      for (int n = 0; n < kChains; ++n) add(j + n, n);
    }
    for (; j < keys; ++j) add(j, 0);
    store(scratch.sum + i, load(scratch.sum + i) + ((sums[0] + sums[1]) + (sums[2] + sums[3])));
    if (kDot) store(scratch.dot + i, load(scratch.dot + i) + ((dots[0] + dots[1]) + (dots[2] + dots[3])));
  }
}

}  // namespace
}  // namespace VDM_ISA
}  // namespace vdm
