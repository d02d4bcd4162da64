// For each pixel and head: scores transposed, with lanes over queries, so that the softmax runs down the
// lanes; then P V with lanes over the width, from registers to out. Each tensor is read once and written
// once, in place. At 16 frames that is 4 FLOP for each byte, and takes as long to move as to compute.
#include "temporal_attention/attention_simd.h"

namespace vdm {
namespace VDM_ISA {
namespace {

#if defined(VDM_ISA_AVX512)
// As many frames as a vector has lanes, which is what most models have, and in place: a head's scores stay in
// registers until they are P. Tiles are half of the frames, so that their lines fit in the L1 cache's ways.
constexpr int kFrames = kLanes;
constexpr int kHalf = kFrames / 2;

// scores[j] += k_j . q for half of the keys, from q transposed. Half blocks of channels add up apart: a sum
// alone would wait for its own last addition.
VDM_INLINE void score_half(F32* scores, Matrix k, const float* q, int64_t width, PrefetchLines lines) {
  const float* rows[] = {k.data, k.data + 3 * k.row, k.data + 6 * k.row};
  F32 other[kHalf];
#  pragma GCC unroll 8
  for (int j = 0; j < kHalf; ++j) other[j] = splat(0.0f);
  for (int64_t c = 0; c < width; c += 2 * kHalf) {
    for (int64_t i = c; i < c + kHalf; ++i) {
      const F32 queries = load(q + i * kFrames), other_queries = load(q + (i + kHalf) * kFrames);
#  pragma GCC unroll 8
      for (int j = 0; j < kHalf; ++j)
        scores[j] = fma(splat(rows[j / 3][j % 3 * k.row + i]), queries, scores[j]);
#  pragma GCC unroll 8
      for (int j = 0; j < kHalf; ++j)
        other[j] = fma(splat(rows[j / 3][j % 3 * k.row + i + kHalf]), other_queries, other[j]);
      lines();
      lines();
    }
  }
#  pragma GCC unroll 8
  for (int j = 0; j < kHalf; ++j) scores[j] = scores[j] + other[j];
}

// What a softmax needs of all keys, pairwise.
template <typename Op>
VDM_INLINE F32 reduce_keys(const F32 (&s)[kFrames], const Op& op) {
  F32 part[kHalf];
#  pragma GCC unroll 8
  for (int j = 0; j < kHalf; ++j) part[j] = op(s[j], s[j + kHalf]);
#  pragma GCC unroll 4
  for (int j = 0; j < kHalf / 2; ++j) part[j] = op(part[j], part[j + kHalf / 2]);
  return op(op(part[0], part[1]), op(part[2], part[3]));
}

// P as score and softmax give it: (keys, queries).
VDM_INLINE void weigh(Matrix k, const float* q, int64_t width, Matrix bias, float* p, Prefetch& prefetch) {
  F32 s[kFrames];
#  pragma GCC unroll 16
  for (int j = 0; j < kFrames; ++j) s[j] = load(bias.data + j * bias.row);
  score_half(s, k, q, width, prefetch.lines(width));
  score_half(s + kHalf, {k.data + kHalf * k.row, k.row}, q, width, prefetch.lines(width));
  const F32 top = reduce_keys(s, [](F32 a, F32 b) VDM_LAMBDA { return max(a, b); });
  const F32 limit = splat(kExpLimit), least_exp = exp_minus(limit);
#  pragma GCC unroll 16
  for (int j = 0; j < kFrames; ++j) s[j] = exp_minus(min(limit, top - s[j])) - least_exp;
  const F32 share = splat(1.0f) / reduce_keys(s, [](F32 a, F32 b) VDM_LAMBDA { return a + b; });
#  pragma GCC unroll 16
  for (int j = 0; j < kFrames; ++j) store(p + j * kFrames, s[j] * share);
}

// P V of half of the queries and one or two vectors of channels.
template <int kColumnVectors, bool kStream>
VDM_INLINE void mix_half(const float* p, Matrix v, float* out, int64_t out_row, PrefetchLines lines) {
  F32 sum[kHalf][kColumnVectors];
#  pragma GCC unroll 16
  for (int j = 0; j < kFrames; ++j) {
    F32 values[kColumnVectors];
#  pragma GCC unroll 2
    for (int n = 0; n < kColumnVectors; ++n) values[n] = load(v.data + j * v.row + n * kLanes);
    lines();
#  pragma GCC unroll 8
    for (int m = 0; m < kHalf; ++m) {
      const F32 weight = splat(p[j * kFrames + m]);
#  pragma GCC unroll 2
      for (int n = 0; n < kColumnVectors; ++n)
        sum[m][n] = j == 0 ? weight * values[n] : fma(weight, values[n], sum[m][n]);
    }
  }
#  pragma GCC unroll 8
  for (int m = 0; m < kHalf; ++m) {
#  pragma GCC unroll 2
    for (int n = 0; n < kColumnVectors; ++n)
      store_or_stream(out + m * out_row + n * kLanes, sum[m][n], kStream);
  }
}

template <bool kStream>
__attribute__((noinline)) void mix(const float* p, Matrix v, float* out, int64_t out_row, int64_t width,
                                   Prefetch& prefetch) {
  for (int64_t c = 0; c < width; c += 2 * kLanes) {
    for (int i = 0; i < kFrames; i += kHalf) {
      const Matrix values = {v.data + c, v.row};
      float* to = out + i * out_row + c;
      if (width - c > kLanes)
        mix_half<2, kStream>(p + i, values, to, out_row, prefetch.lines(kFrames));
      else
        mix_half<1, kStream>(p + i, values, to, out_row, prefetch.lines(kFrames));
    }
  }
}

// A pixel and head, from q transposed.
VDM_INLINE void attend_in_place(const Rows& k, const Rows& v, Matrix bias, const OutputRows& out,
                                const AttentionScratch& scratch, Prefetch& prefetch) {
  weigh(matrix_of(k, kFrames, true, nullptr), scratch.queries, k.width, bias, scratch.scores, prefetch);
  float* to = static_cast<float*>(out.tensor) + out.frames[0] + out.first;
  const auto mix_into = out.stream ? mix<true> : mix<false>;
  mix_into(scratch.scores, matrix_of(v, kFrames, true, nullptr), to, out.frames[1] - out.frames[0], k.width,
           prefetch);
}
#else
constexpr int kFrames = 0;
VDM_INLINE void attend_in_place(const Rows&, const Rows&, Matrix, const OutputRows&, const AttentionScratch&,
                                Prefetch&) {}
#endif

}  // namespace

void attend(const AttentionTask& task, void* out, const AttentionScratch& scratch) {
  const AttentionSegment& segment = task.segment;
  const int64_t width = task.width, part = task.heads * width;
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(width));
  const bool matrices = has_matrices(task), in_place = matrices && segment.frames <= kFramesInPlace;
  Rows q = {task.qkv, task.dtype, width, segment.qkv, 0}, k = q, v = q;
  OutputRows output = {out, task.dtype, width, segment.out, 0, task.stream};
  for (int64_t pixel = task.first_pixel; pixel < task.last_pixel; ++pixel) {
    Prefetch prefetch(task, task.qkv, segment.qkv, 3, pixel + 1);
    for (int64_t head = task.first_head; head < task.last_head; ++head) {
      q.first = 3 * pixel * part + head * width;
      k.first = q.first + part;
      v.first = k.first + part;
      output.first = pixel * part + head * width;
      const Matrix bias = bias_of(segment, head, scratch);
      transpose_rows(q, segment.padded, scale, scratch.queries);
      if (in_place && segment.frames == kFrames) {
        attend_in_place(k, v, bias, output, scratch, prefetch);
        continue;
      }
      score(segment.frames, segment.padded, matrix_of(k, segment.frames, in_place, scratch.k),
            scratch.queries, width, bias, scratch.scores, prefetch);
      softmax(scratch.scores, segment.frames, segment.padded);
      combine(segment.frames, {scratch.scores, 1, segment.padded},
              matrix_of(v, segment.frames, in_place, scratch.v), output, matrices ? nullptr : scratch.out,
              prefetch);
    }
  }
  if (task.stream) stream_fence();
}

}  // namespace VDM_ISA
}  // namespace vdm
