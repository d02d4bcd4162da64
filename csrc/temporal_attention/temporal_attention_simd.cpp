// For each pixel and head: scores transposed, with lanes over queries, so that the softmax runs down the
// lanes; then P V with lanes over the width, from registers to out. Each tensor is read once and written
// once, in place. At 16 frames that is 4 FLOP for each byte, and takes as long to move as to compute.
#include "temporal_attention/attention_simd.h"

namespace vdm {
namespace VDM_ISA {

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
      transpose_rows(q, segment.padded, scale, scratch.queries);
      score(segment.frames, segment.padded, matrix_of(k, segment.frames, in_place, scratch.k),
            scratch.queries, width, bias_of(segment, head, scratch), scratch.scores, prefetch);
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
