// What the forward and the backward kernel of temporal_attention share: rows of tensors, products of small
// matrices whose operands and results may be such rows, and the softmax.
#pragma once

#include "common/activation_simd.h"
#include "common/convert_simd.h"
#include "common/gemm_simd.h"
#include "temporal_attention/temporal_attention_simd.h"

namespace vdm {
namespace VDM_ISA {
namespace {

static_assert(kAttentionPadding == kHalfPanel, "rows are padded to whole tiles");

VDM_INLINE int64_t pad(int64_t count) {
  return (count + kAttentionPadding - 1) / kAttentionPadding * kAttentionPadding;
}

// One row of each frame of a segment, of `width` elements, for a pixel and a head.
struct Rows {
  const void* tensor;
  DType dtype;
  int64_t width;
  const int64_t* frames;  // where each frame is
  int64_t first;          // where the row is in a frame

  // Elements c to c + kLanes; those from width on are zero.
  VDM_MEMBER F32 read(int64_t frame, int64_t c) const {
    const int64_t i = frames[frame] + first + c, left = width - c;
    if (left >= kLanes) return load(tensor, dtype, i);
    return left > 0 ? load_partial(tensor, dtype, i, static_cast<int>(left)) : splat(0.0f);
  }
};

// The same, to be written; with `stream`, around the caches.
struct OutputRows {
  void* tensor;
  DType dtype;
  int64_t width;
  const int64_t* frames;
  int64_t first;
  bool stream;

  // As much of c to c + kLanes as there is.
  VDM_MEMBER void write(int64_t frame, int64_t c, F32 value) const {
    const int64_t i = frames[frame] + first + c, left = width - c;
    if (left >= kLanes)
      store(tensor, dtype, i, value, stream);
    else
      store_partial(tensor, dtype, i, value, static_cast<int>(left));
  }
};

// A float32 matrix, in a tensor or in scratch.
struct Matrix {
  const float* data;
  int64_t row;
};

// Frames are as a rule apart by a multiple of 4 KB, so that their lines compete for the same few places of
// the L1 cache. It has room for a tile's rows, and the L2 cache for this many; more are copied.
constexpr int64_t kFramesInPlace = 16;

// Whether the rows of a tensor of the task are a float32 matrix of whole tiles.
VDM_INLINE bool has_matrices(const AttentionTask& task) {
  const AttentionSegment& segment = task.segment;
  if (task.dtype != DType::kFloat32 || task.width % kHalfPanel != 0) return false;
  for (int64_t i = 2; i < segment.frames; ++i) {
    if (segment.qkv[i] - segment.qkv[i - 1] != segment.qkv[1] - segment.qkv[0]) return false;
  }
  return true;
}

// The rows of all frames: where they are, or copied to scratch (frames, padded width).
VDM_INLINE Matrix matrix_of(const Rows& rows, int64_t frames, bool in_place, float* scratch) {
  if (in_place) {
    const float* data = static_cast<const float*>(rows.tensor) + rows.frames[0] + rows.first;
    return {data, rows.frames[1] - rows.frames[0]};
  }
  const int64_t padded = pad(rows.width);
  for (int64_t frame = 0; frame < frames; ++frame) {
    for (int64_t c = 0; c < padded; c += kLanes) store(scratch + frame * padded + c, rows.read(frame, c));
  }
  return {scratch, padded};
}

// The rows of `frames` frames, padded, times scale as the columns of out (padded width, frames).
VDM_INLINE void transpose_rows(const Rows& rows, int64_t frames, float scale, float* out) {
  for (int64_t frame = 0; frame < frames; frame += kLanes) {
    for (int64_t c = 0; c < rows.width; c += kLanes) {
      F32 block[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) block[i] = rows.read(frame + i, c) * splat(scale);
      transpose(block);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) store(out + (c + i) * frames + frame, block[i]);
    }
  }
}

// The bias of one head, or zeros.
VDM_INLINE Matrix bias_of(const AttentionSegment& segment, int64_t head, const AttentionScratch& scratch) {
  if (segment.bias == nullptr) return {scratch.zeros, 0};
  return {segment.bias + head * segment.frames * segment.padded, segment.padded};
}

// Lines to prefetch, one at each call: into the L2 cache, as those of a pixel are too many for L1.
struct PrefetchLines {
  const char* line;
  int64_t step;

  VDM_MEMBER void operator()() {
    __builtin_prefetch(line, 0, 2);
    line += step;
  }
};

// Prefetches the next pixel's rows while this one's are computed with, in the order of memory, so that the
// processor's own prefetcher sees streams.
class Prefetch {
 public:
  // The rows of a task's heads in `parts` parts of a tensor's pixel: 3 of qkv, 1 of dout.
  VDM_MEMBER Prefetch(const AttentionTask& task, const void* tensor, const int64_t* frames, int64_t parts,
                      int64_t pixel)
      : frame_(frames),
        last_(task.ahead ? frames + task.segment.frames : frames),
        element_(size_of(task.dtype)) {
    const int64_t heads = task.last_head - task.first_head, part = task.heads * task.width;
    const bool whole = heads == task.heads;
    line_ = static_cast<const char*>(tensor);
    first_ =
        static_cast<const char*>(tensor) + (pixel * parts * part + task.first_head * task.width) * element_;
    rows_ = whole ? 1 : parts;
    bytes_ = (whole ? parts * part : heads * task.width) * element_;
    part_ = part * element_;
    next_row();
  }

  // The next `count`. Where a row ends among them, they run into the pixel after the next, and as many of the
  // next row are fetched at once.
  VDM_MEMBER PrefetchLines lines(int64_t count) {
    const PrefetchLines lines = {line_, step_};
    line_ += count * step_;
    while (line_ >= end_ && step_ != 0) {
      const int64_t excess = line_ - end_;
      if (!next_row()) break;
      for (const char* end = line_ + excess; line_ < end; line_ += step_) __builtin_prefetch(line_, 0, 2);
    }
    return lines;
  }

 private:
  // False after the last one: then the last line is fetched again and again, which costs nothing.
  VDM_MEMBER bool next_row() {
    if (frame_ == last_) {
      step_ = 0;
      return false;
    }
    line_ = first_ + *frame_ * element_ + row_ * part_;
    end_ = line_ + bytes_;
    if (++row_ == rows_) {
      row_ = 0;
      ++frame_;
    }
    return true;
  }

  const char *line_, *end_ = nullptr, *first_;
  const int64_t *frame_, *last_;
  int64_t element_, rows_, row_ = 0, bytes_, part_, step_ = 64;
};

// One tile of a product A B: begin(m, c) gives the vector of row m and columns from c on that its sum starts
// from, end(m, c, sum) takes it. 1 to kRows rows.
template <int kColumnVectors, int kRows, typename Begin, typename End>
VDM_INLINE void product_tile(int64_t rows, int64_t row, int64_t column, GemmA a, Matrix b, int64_t k,
                             PrefetchLines lines, const Begin& begin, const End& end) {
  if constexpr (kRows > 1) {
    if (rows < kRows)
      return product_tile<kColumnVectors, kRows - 1>(rows, row, column, a, b, k, lines, begin, end);
  }
  F32 sum[kRows][kColumnVectors];
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
    for (int v = 0; v < kColumnVectors; ++v) sum[m][v] = begin(row + m, column + v * kLanes);
  }
  gemm_add(sum, {a.data + row * a.row, a.row, a.step}, b.data + column, b.row, k, lines);
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
    for (int v = 0; v < kColumnVectors; ++v) end(row + m, column + v * kLanes, sum[m][v]);
  }
}

// A B of `rows` rows and `columns` columns, a multiple of kHalfPanel.
template <typename Begin, typename End>
VDM_INLINE void product(int64_t rows, int64_t columns, GemmA a, Matrix b, int64_t k, Prefetch& prefetch,
                        const Begin& begin, const End& end) {
  for (int64_t column = 0; column < columns; column += 2 * kLanes) {
    for (int64_t row = 0, count; row < rows; row += count) {
      count = gemm_rows(rows - row);
      const PrefetchLines lines = prefetch.lines(k);
      if (columns - column > kLanes)
        product_tile<2, kGemmRows>(count, row, column, a, b, k, lines, begin, end);
      else
        product_tile<1, kGemmRows>(count, row, column, a, b, k, lines, begin, end);
    }
  }
}

// scores[j][i] = bias[j][i] + k_j . q_i for `keys` rows j and `queries` columns i, from q transposed.
__attribute__((noinline)) void score(int64_t keys, int64_t queries, Matrix k, const float* q, int64_t width,
                                     Matrix bias, float* scores, Prefetch& prefetch) {
  product(
      keys, queries, {k.data, k.row, 1}, {q, queries}, width, prefetch,
      [&](int64_t j, int64_t i) __attribute__((always_inline)) { return load(bias.data + j * bias.row + i); },
      [&](int64_t j, int64_t i, F32 sum)
          __attribute__((always_inline)) { store(scores + j * queries + i, sum); });
}

template <bool kStream>
__attribute__((noinline)) void combine_into(float* out, int64_t out_row, int64_t frames, int64_t width,
                                            GemmA a, Matrix rows, Prefetch& prefetch) {
  product(
      frames, width, a, rows, frames, prefetch,
      [](int64_t, int64_t) __attribute__((always_inline)) { return splat(0.0f); },
      [&](int64_t m, int64_t c, F32 sum)
          __attribute__((always_inline)) { store_or_stream(out + m * out_row + c, sum, kStream); });
}

// out_m = sum over n of A(m, n) rows_n, for `frames` m and n: in place where `scratch` is null.
VDM_INLINE void combine(int64_t frames, GemmA a, Matrix rows, const OutputRows& out, float* scratch,
                        Prefetch& prefetch) {
  const int64_t padded = pad(out.width);
  if (scratch == nullptr) {
    float* data = static_cast<float*>(out.tensor) + out.frames[0] + out.first;
    const int64_t row = out.frames[1] - out.frames[0];
    const auto into = out.stream ? combine_into<true> : combine_into<false>;
    return into(data, row, frames, padded, a, rows, prefetch);
  }
  combine_into<false>(scratch, padded, frames, padded, a, rows, prefetch);
  for (int64_t frame = 0; frame < frames; ++frame, scratch += padded) {
    for (int64_t c = 0; c < out.width; c += kLanes) out.write(frame, c, load(scratch + c));
  }
}

// The softmax over the keys, the rows of scores (keys, queries).
VDM_INLINE void softmax(float* scores, int64_t keys, int64_t queries) {
  constexpr int kChains = 4;
  // What is below -kExpLimit, -infinity too, shall be zero exactly.
  const F32 limit = splat(kExpLimit), least_exp = exp_minus(limit);
  for (int64_t i = 0; i < queries; i += kLanes) {
    float* column = scores + i;
    const F32 first = load(column);
    F32 tops[kChains] = {first, first, first, first};
    int64_t j = 1;
    for (; j + kChains <= keys; j += kChains) {
#pragma GCC unroll 4
      for (int n = 0; n < kChains; ++n) tops[n] = max(load(column + (j + n) * queries), tops[n]);
    }
    for (; j < keys; ++j) tops[0] = max(load(column + j * queries), tops[0]);
    const F32 top = max(max(tops[0], tops[1]), max(tops[2], tops[3]));
    F32 sum = splat(0.0f);
#pragma GCC unroll 4
    for (j = 0; j < keys; ++j) {
      const F32 e = exp_minus(min(limit, top - load(column + j * queries))) - least_exp;
      sum = sum + e;
      store(column + j * queries, e);
    }
    const F32 share = splat(1.0f) / sum;
    for (j = 0; j < keys; ++j) store(column + j * queries, load(column + j * queries) * share);
  }
}

}  // namespace
}  // namespace VDM_ISA
}  // namespace vdm
