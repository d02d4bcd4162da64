// For each pixel and head, from P recomputed:
//
//     dP = dO V^T;  dS = P (dP - rowsum(P dP));  dbias += dS
//     dQ = dS K / sqrt(width);  dK = dS^T Q / sqrt(width);  dV = P^T dO
//
// Scores are transposed, with lanes over queries. Each tensor is read once and written once, in place.
#include "temporal_attention/attention_simd.h"

namespace vdm {
namespace VDM_ISA {
namespace {

// From P and dP, both (keys, queries): dP becomes dS scale; dS is added to dbias where it is not null.
VDM_INLINE void softmax_bwd(const float* p, float* dp, int64_t keys, int64_t queries, float scale,
                            float* dbias) {
  for (int64_t i = 0; i < queries; i += kLanes) {
    F32 sum = splat(0.0f);
    for (int64_t j = i; j < keys * queries; j += queries) sum = fma(load(p + j), load(dp + j), sum);
    for (int64_t j = i; j < keys * queries; j += queries) {
      const F32 ds = load(p + j) * (load(dp + j) - sum);
      store(dp + j, ds * splat(scale));
      if (dbias != nullptr) store(dbias + j, load(dbias + j) + ds);
    }
  }
}

}  // namespace

void attend_bwd(const AttentionTask& task, const void* dout, void* dqkv, float* dbias,
                const AttentionScratch& scratch) {
  const AttentionSegment& segment = task.segment;
  const int64_t width = task.width, part = task.heads * width, frames = segment.frames;
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(width));
  const bool matrices = has_matrices(task), in_place = matrices && segment.frames <= kFramesInPlace;
  Rows q = {task.qkv, task.dtype, width, segment.qkv, 0}, k = q, v = q;
  Rows o = {dout, task.dtype, width, segment.out, 0};
  OutputRows dq = {dqkv, task.dtype, width, segment.qkv, 0, task.stream}, dk = dq, dv = dq;
  float* out_scratch = matrices ? nullptr : scratch.out;
  for (int64_t pixel = task.first_pixel; pixel < task.last_pixel; ++pixel) {
    Prefetch prefetch(task, task.qkv, segment.qkv, 3, pixel + 1);
    Prefetch prefetch_dout(task, dout, segment.out, 1, pixel + 1);
    for (int64_t head = task.first_head; head < task.last_head; ++head) {
      dq.first = q.first = 3 * pixel * part + head * width;
      dk.first = k.first = q.first + part;
      dv.first = v.first = k.first + part;
      o.first = pixel * part + head * width;
      const Matrix keys = matrix_of(k, frames, in_place, scratch.k);
      transpose_rows(q, segment.padded, scale, scratch.queries);
      score(frames, segment.padded, keys, scratch.queries, width, bias_of(segment, head, scratch),
            scratch.scores, prefetch);
      softmax(scratch.scores, frames, segment.padded);
      transpose_rows(o, segment.padded, 1.0f, scratch.douts);
      score(frames, segment.padded, matrix_of(v, frames, in_place, scratch.v), scratch.douts, width,
            {scratch.zeros, 0}, scratch.dscores, prefetch_dout);
      softmax_bwd(scratch.scores, scratch.dscores, frames, segment.padded, scale,
                  dbias ? dbias + head * frames * segment.padded : nullptr);
      if (dqkv == nullptr) continue;
      combine(frames, {scratch.dscores, 1, segment.padded}, keys, dq, out_scratch, prefetch);
      combine(frames, {scratch.dscores, segment.padded, 1}, matrix_of(q, frames, in_place, scratch.q), dk,
              out_scratch, prefetch);
      combine(frames, {scratch.scores, segment.padded, 1}, matrix_of(o, frames, in_place, scratch.dout), dv,
              out_scratch, prefetch);
    }
  }
  if (task.stream) stream_fence();
}

}  // namespace VDM_ISA
}  // namespace vdm
