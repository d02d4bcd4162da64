#include "temporal_attention/segments.h"

#include <algorithm>
#include <utility>

namespace vdm {
namespace {

int64_t pad(int64_t count) { return (count + kAttentionPadding - 1) / kAttentionPadding * kAttentionPadding; }

}  // namespace

Segment::Segment(std::vector<int64_t> frames, int64_t total, int64_t heads, const float* bias,
                 FrameOffsets qkv, FrameOffsets out)
    : frames_(std::move(frames)) {
  const int64_t padded = pad(count());
  for (int64_t i = 0; i < padded; ++i) {
    const int64_t at = frame(std::min(i, count() - 1));
    qkv_.push_back(qkv.first + at * qkv.step);
    out_.push_back(out.first + at * out.step);
  }
  if (bias == nullptr) return;
  bias_.resize(static_cast<size_t>(heads * table()));
  for (int64_t head = 0; head < heads; ++head, bias += total * total)
    for (int64_t i = 0; i < count(); ++i)
      for (int64_t j = 0; j < count(); ++j)
        bias_[static_cast<size_t>(head * table() + j * padded + i)] = bias[frame(i) * total + frame(j)];
}

std::vector<Segment> segments_of(const int64_t* ids, int64_t frames, int64_t heads, const float* bias,
                                 FrameOffsets qkv, FrameOffsets out) {
  std::vector<int64_t> found_ids;
  std::vector<std::vector<int64_t>> members;
  for (int64_t frame = 0; frame < frames; ++frame) {
    const int64_t id = ids ? ids[frame] : 0;
    const auto found = std::find(found_ids.begin(), found_ids.end(), id);
    const auto i = static_cast<size_t>(found - found_ids.begin());
    if (found == found_ids.end()) {
      found_ids.push_back(id);
      members.emplace_back();
    }
    members[i].push_back(frame);
  }
  std::vector<Segment> segments;
  for (auto& own : members) segments.emplace_back(std::move(own), frames, heads, bias, qkv, out);
  return segments;
}

int64_t longest(const std::vector<std::vector<Segment>>& segments) {
  int64_t frames = 0;
  for (const auto& of_sample : segments)
    for (const Segment& segment : of_sample) frames = std::max(frames, segment.count());
  return frames;
}

AttentionMemory::AttentionMemory(int64_t frames, int64_t width, bool backward) {
  const int64_t rows = frames * pad(width), columns = pad(width) * pad(frames), scores = frames * pad(frames);
  float* zeros = nullptr;
  const struct {
    float** pointer;
    int64_t size;
  } parts[] = {{&zeros, pad(frames)},     {&view_.k, rows},        {&view_.v, rows}, {&view_.out, rows},
               {&view_.queries, columns}, {&view_.scores, scores}, {&view_.q, rows}, {&view_.dout, rows},
               {&view_.douts, columns},   {&view_.dscores, scores}};
  const size_t count = backward ? 10 : 6;
  int64_t total = 0;
  for (size_t i = 0; i < count; ++i) total += parts[i].size;
  memory_ = allocate(total);
  float* next = memory_.get();
  for (size_t i = 0; i < count; next += parts[i++].size) *parts[i].pointer = next;
  std::fill_n(zeros, pad(frames), 0.0f);
  view_.zeros = zeros;
}

}  // namespace vdm
