// What launchers of the temporal attention kernels share: the frames that attend to each other, listed with
// their bias packed, and the memory that kernels work in.
#pragma once

#include <cstdint>
#include <vector>

#include "common/buffer.h"
#include "temporal_attention/temporal_attention_simd.h"

namespace vdm {

// Frame i begins at element first + i * step.
struct FrameOffsets {
  int64_t first, step;
};

// One segment of one sample: its frames, and everything about them that kernels want packed.
class Segment {
 public:
  // bias: (heads, total, total) of all `total` frames of the sample, or null.
  Segment(std::vector<int64_t> frames, int64_t total, int64_t heads, const float* bias, FrameOffsets qkv,
          FrameOffsets out);

  int64_t count() const { return static_cast<int64_t>(frames_.size()); }
  int64_t frame(int64_t i) const { return frames_[static_cast<size_t>(i)]; }
  int64_t padded() const { return static_cast<int64_t>(qkv_.size()); }
  // Floats of a packed table for one head.
  int64_t table() const { return count() * padded(); }
  AttentionSegment view() const {
    return {count(), padded(), qkv_.data(), out_.data(), bias_.empty() ? nullptr : bias_.data()};
  }

 private:
  std::vector<int64_t> frames_, qkv_, out_;
  std::vector<float> bias_;
};

// The segments of a sample: frames of equal ids, or all frames where ids is null.
std::vector<Segment> segments_of(const int64_t* ids, int64_t frames, int64_t heads, const float* bias,
                                 FrameOffsets qkv, FrameOffsets out);

// The most frames that a segment has.
int64_t longest(const std::vector<std::vector<Segment>>& segments);

// What one thread's kernels work in, for segments of up to `frames` frames.
class AttentionMemory {
 public:
  AttentionMemory(int64_t frames, int64_t width, bool backward);

  const AttentionScratch& view() const { return view_; }

 private:
  Buffer memory_;
  AttentionScratch view_ = {};
};

}  // namespace vdm
