// What the forward and the backward kernel of spatial_attention share. Scores are transposed, with lanes over
// queries: the softmax runs down the lanes, and as i runs along an image row, b_ij runs along a row of the
// table: a vector of scores finds its bias in a vector of the table.
#pragma once

#include "common/convert_simd.h"
#include "common/gemm_simd.h"
#include "spatial_attention/exp2_simd.h"
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
// scores.
VDM_INLINE void find_bias(const SpatialTask& task, const Runs& runs, int64_t block, int64_t keys,
                          int64_t columns, float* scores, Bias& bias) {
  const bool in_place = task.width % kLanes == 0;
  if (!in_place) copy_bias(task, runs, block, keys, scores);
  for (int64_t v = 0; v < columns / kLanes; ++v) {
    bias.vectors[v] =
        in_place ? task.table + runs.vectors[least(v, runs.vector_count - 1)].table : scores + v * kLanes;
  }
  for_each_row(task.width, block, keys,
               [&](int64_t key, int64_t in_row, int64_t offset) __attribute__((always_inline)) {
                 for (int64_t j = 0; j < in_row; ++j) {
                   const int64_t m = key - block + j;
                   bias.keys[m] = in_place ? offset + j : -m * kQueries;
                 }
               });
}

// Some vectors of queries and a block of keys, whose scores are scores[key * kQueries + query]. What is
// summed so far is relative to 2^top, which has to follow the greatest score of a query, but need not be it.
struct Group {
  const float* q;            // transposed and scaled
  const float* const* bias;  // see Bias; null where there is none
  const int64_t* bias_keys;
  float* scores;
  const float* dscores;  // read for dot only
  float *top, *sum, *dot, *factor;
  float* out;  // (queries, padded): what else is relative to 2^top
  int64_t queries, padded;
};

// A vector of scores becomes e = 2^(score - top), and sum that of all e so far. With dscores, dot is the sum
// of e dscores.
template <bool kDot>
VDM_INLINE void weigh_vector(float* scores, const float* dscores, F32 top, F32& sum, F32& dot) {
  const F32 e = exp2(load(scores) - top);
  sum = sum + e;
  if (kDot) dot = fma(e, load(dscores), dot);
  store(scores, e);
}

// As weigh_vector, vector i of a group and some keys.
template <bool kDot>
VDM_INLINE void weigh_keys(const Group& group, int64_t i, int64_t key, int64_t keys) {
  constexpr int kChains = 4;
  const F32 top = load(group.top + i), zero = splat(0.0f);
  F32 sums[kChains] = {zero, zero, zero, zero}, dots[kChains] = {zero, zero, zero, zero};
  const auto weigh = [&](int64_t j, int n) VDM_LAMBDA {
    const int64_t at = j * kQueries + i;
    weigh_vector<kDot>(group.scores + at, group.dscores + at, top, sums[n], dots[n]);
  };
  for (; key + kChains <= keys; key += kChains) {
#pragma GCC unroll 4
    for (int n = 0; n < kChains; ++n) weigh(key + n, n);
  }
  for (; key < keys; ++key) weigh(key, 0);
  store(group.sum + i, load(group.sum + i) + ((sums[0] + sums[1]) + (sums[2] + sums[3])));
  if (kDot) store(group.dot + i, load(group.dot + i) + ((dots[0] + dots[1]) + (dots[2] + dots[3])));
}

// The same for all vectors of the group, one at each step of something else: those of a key take turns, and
// their sums change places.
template <bool kDot, int kColumnVectors>
class Weights {
 public:
  VDM_MEMBER Weights(const Group& group, int64_t key)
      : scores_(group.scores), dscores_(group.dscores), top_(group.top), at_(key * kQueries) {
#pragma GCC unroll 2
    for (int v = 0; v < kColumnVectors; ++v) sums_[v] = dots_[v] = splat(0.0f);
  }

  VDM_MEMBER void next() {
    F32 sum = sums_[0], dot = dots_[0];
    weigh_vector<kDot>(scores_ + at_, dscores_ + at_, load(top_ + (at_ & kLanes)), sum, dot);
    sums_[0] = sums_[kColumnVectors - 1];
    dots_[0] = dots_[kColumnVectors - 1];
    sums_[kColumnVectors - 1] = sum;
    dots_[kColumnVectors - 1] = dot;
    at_ += kColumnVectors == 1 ? kQueries : kLanes + (at_ & kLanes) * (kQueries / kLanes - 2);
  }

  // After whole keys.
  VDM_MEMBER void add_to(const Group& group) const {
#pragma GCC unroll 2
    for (int v = 0; v < kColumnVectors; ++v) {
      float *const sum = group.sum + v * kLanes, *const dot = group.dot + v * kLanes;
      store(sum, load(sum) + sums_[v]);
      if (kDot) store(dot, load(dot) + dots_[v]);
    }
  }

 private:
  float* scores_;
  const float *dscores_, *top_;
  int64_t at_;
  F32 sums_[kColumnVectors], dots_[kColumnVectors];
};

// top becomes the greatest score so far, and what is summed is multiplied with the factor that this makes: of
// this block the weights of `keys`, too.
VDM_INLINE void raise_top(const Group& group, int64_t columns, const float* highest, int64_t keys) {
  for (int64_t i = 0; i < columns; i += kLanes) {
    const F32 before = load(group.top + i), top = max(load(highest + i), before);
    const F32 factor = exp2(before - top);
    store(group.top + i, top);
    store(group.factor + i, factor);
    store(group.sum + i, load(group.sum + i) * factor);
    store(group.dot + i, load(group.dot + i) * factor);
    for (int64_t key = 0; key < keys; ++key) {
      float* const e = group.scores + key * kQueries + i;
      store(e, load(e) * factor);
    }
  }
  for (int64_t i = 0; i < group.queries; ++i) {
    float* const row = group.out + i * group.padded;
    for (int64_t c = 0; c < group.padded; c += kLanes) store(row + c, load(row + c) * splat(group.factor[i]));
  }
}

// Raises top where a score exceeds it by a factor of 2^8: most of the time nothing is to be done.
template <int kColumnVectors>
VDM_INLINE void follow(const Group& group, const float* highest, int64_t keys) {
  F32 rise = splat(0.0f);
#pragma GCC unroll 2
  for (int i = 0; i < kColumnVectors * kLanes; i += kLanes) {
    rise = max(load(highest + i) - load(group.top + i), rise);
  }
  const U32 beyond = bits(splat(8.0f)) + splat(1u);
  if (lanes_within(bits(rise), beyond, splat(0x7FFFFFFFu)) != 0) {
    raise_top(group, kColumnVectors * kLanes, highest, keys);
  }
}

// Whether scores become weights while the next ones are computed, so that the multipliers do not wait for a
// softmax: where registers have room for both.
constexpr bool kMeanwhile = kLanes == 16;

// Scores of a tile of keys, from `first` on, and the highest of each query. Those from `weighed` to `first`
// may become weights meanwhile.
template <bool kDot, int kRows, int kColumnVectors>
VDM_INLINE void score_tile(const Group& group, int64_t weighed, int64_t first, GemmA k, int64_t channels,
                           float* highest, Ahead ahead) {
  F32 sum[kRows][kColumnVectors];
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
    for (int v = 0; v < kColumnVectors; ++v) sum[m][v] = splat(0.0f);
  }
  int64_t steps = 0;
  if constexpr (kMeanwhile) {
    Weights<kDot, kColumnVectors> weights(group, weighed);
    const int64_t vectors = (first - weighed) * kColumnVectors;
    steps = least(vectors, channels);
    gemm_add(sum, k, group.q, kQueries, steps, [&]() VDM_LAMBDA { weights.next(); });
    for (int64_t i = steps; i < vectors; ++i) weights.next();
    weights.add_to(group);
  }
  gemm_add(sum, {k.data + steps, k.row, k.step}, group.q + steps * kQueries, kQueries, channels - steps,
           ahead);
  const auto finish = [&](const auto& with_bias) VDM_LAMBDA {
#pragma GCC unroll 2
    for (int v = 0; v < kColumnVectors; ++v) {
      F32 top = load(highest + v * kLanes);
#pragma GCC unroll 16
      for (int m = 0; m < kRows; ++m) {
        const F32 score = with_bias(m, v, sum[m][v]);
        store(group.scores + (first + m) * kQueries + v * kLanes, score);
        top = max(score, top);
      }
      store(highest + v * kLanes, top);
    }
  };
  if (group.bias == nullptr) return finish([](int, int, F32 score) VDM_LAMBDA { return score; });
  const int64_t* const keys = group.bias_keys + first;
  finish([&](int m, int v, F32 score) VDM_LAMBDA { return load(group.bias[v] - keys[m]) + score; });
}

// As score_tile, of 1 to kGemmRows keys.
template <bool kDot, int kColumnVectors, int kRows = kGemmRows>
VDM_INLINE void score_tile_of(int64_t rows, const Group& group, int64_t weighed, int64_t first, GemmA k,
                              int64_t channels, float* highest, Ahead ahead) {
  if constexpr (kRows > 1) {
    if (rows < kRows) {
      return score_tile_of<kDot, kColumnVectors, kRows - 1>(rows, group, weighed, first, k, channels, highest,
                                                            ahead);
    }
  }
  score_tile<kDot, kRows, kColumnVectors>(group, weighed, first, k, channels, highest, ahead);
}

template <bool kDot, int kColumnVectors>
__attribute__((noinline)) void weigh_group(const Group& group, int64_t keys, GemmA k, int64_t channels,
                                           Ahead ahead) {
  alignas(64) float highest[kColumnVectors * kLanes];
  for (int v = 0; v < kColumnVectors; ++v) store(highest + v * kLanes, splat(-__FLT_MAX__));
  int64_t weighed = 0;
  for (int64_t first = 0; first < keys;) {
    const int64_t rows = gemm_rows(keys - first);
    score_tile_of<kDot, kColumnVectors>(rows, group, weighed, first, k, channels, highest, ahead);
    if (kMeanwhile) {
      follow<kColumnVectors>(group, highest, first);
      weighed = first;
    }
    k.data += rows * k.row;
    first += rows;
  }
  if (!kMeanwhile) follow<kColumnVectors>(group, highest, 0);
  for (int v = 0; v < kColumnVectors; ++v) weigh_keys<kDot>(group, v * kLanes, weighed, keys);
}

// Before the first block. Nothing exceeds the top of a query that does not exist.
VDM_INLINE void begin_softmax(const SpatialScratch& scratch, int64_t count) {
  for (int64_t i = 0; i < kQueries; i += kLanes) {
    store(scratch.top + i, splat(-__FLT_MAX__));
    store(scratch.sum + i, splat(0.0f));
    store(scratch.dot + i, splat(0.0f));
  }
  for (int64_t i = count; i < kQueries; ++i) scratch.top[i] = __builtin_inff();
}

// A block of keys of the online softmax (Milakov & Gimelshein 2018): scores (keys, columns) become 2^(score -
// top), where a score is log2(e) (q . k / sqrt(channels) + b), with q_transposed scaled. `out` is what is
// summed so far of P V, if anything; with kDot there is dP in dscores.
template <bool kDot>
VDM_INLINE void weigh(const SpatialTask& task, const Runs& runs, const SpatialScratch& scratch, int64_t key,
                      int64_t keys, int64_t count, float* scores, const float* dscores, float* out,
                      Ahead ahead) {
  const int64_t padded = pad(task.k.channels), columns = pad(count);
  const GemmA k = {scratch.k + key * padded, padded, 1};
  Bias bias;
  if (task.table != nullptr) find_bias(task, runs, key, keys, columns, scores, bias);
  for (int64_t n = 0; n < columns; n += 2 * kLanes) {
    const bool half = kLanes == kHalfPanel && columns - n == kHalfPanel;
    const Group group = {scratch.q_transposed + n,
                         task.table != nullptr ? bias.vectors + n / kLanes : nullptr,
                         bias.keys,
                         scores + n,
                         kDot ? dscores + n : scores + n,
                         scratch.top + n,
                         scratch.sum + n,
                         scratch.dot + n,
                         scratch.factor + n,
                         out != nullptr ? out + n * padded : nullptr,
                         out != nullptr ? least(count - n, 2 * kLanes) : 0,
                         padded};
    const auto product = half ? weigh_group<kDot, 1> : weigh_group<kDot, 2>;
    product(group, keys, k, task.k.channels, ahead);
  }
}

}  // namespace
}  // namespace VDM_ISA
}  // namespace vdm
