// Work is split over blocks of pixels, and over heads where blocks are few. The frames of a segment are
// listed, and their bias packed, for each sample: frames of other segments then cost nothing. Each block adds
// up its own bias gradient, which makes the sum independent of the number of threads.
#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "common/cache.h"
#include "common/parallel.h"
#include "temporal_attention/temporal_attention.h"
#include "temporal_attention/temporal_attention_simd.h"

namespace vdm {
namespace {

constexpr int64_t kBlockPixels = 16;  // at least, so that a block's dbias tables cost little
constexpr int64_t kMostBlocks = 128;  // of pixels, in all samples together

int64_t pad(int64_t count) { return (count + kAttentionPadding - 1) / kAttentionPadding * kAttentionPadding; }

// One segment of one sample: its frames, and everything about them that kernels want packed.
class Segment {
 public:
  Segment(const TemporalAttentionInput& in, int64_t sample, std::vector<int64_t> frames)
      : frames_(std::move(frames)) {
    const int64_t row = in.pixels * in.heads * in.width;
    for (int64_t i = 0; i < pad(count()); ++i) {
      const int64_t frame = sample * in.frames + frames_[static_cast<size_t>(std::min(i, count() - 1))];
      qkv_.push_back(3 * frame * row);
      out_.push_back(frame * row);
    }
    if (in.bias != nullptr) pack_bias(in, sample);
  }

  int64_t count() const { return static_cast<int64_t>(frames_.size()); }
  int64_t frame(int64_t i) const { return frames_[static_cast<size_t>(i)]; }
  // Floats of a packed table for one head.
  int64_t table() const { return count() * pad(count()); }
  AttentionSegment view() const {
    return {count(), pad(count()), qkv_.data(), out_.data(), bias_.empty() ? nullptr : bias_.data()};
  }

 private:
  void pack_bias(const TemporalAttentionInput& in, int64_t sample) {
    const int64_t padded = pad(count()), frames = in.frames;
    const float* bias = in.bias + (in.bias_per_sample ? sample * in.heads * frames * frames : 0);
    bias_.resize(static_cast<size_t>(in.heads * table()));
    for (int64_t head = 0; head < in.heads; ++head, bias += frames * frames)
      for (int64_t i = 0; i < count(); ++i)
        for (int64_t j = 0; j < count(); ++j)
          bias_[static_cast<size_t>(head * table() + j * padded + i)] = bias[frame(i) * frames + frame(j)];
  }

  std::vector<int64_t> frames_, qkv_, out_;
  std::vector<float> bias_;
};

std::vector<Segment> segments_of(const TemporalAttentionInput& in, int64_t sample) {
  std::vector<int64_t> ids;
  std::vector<std::vector<int64_t>> members;
  for (int64_t frame = 0; frame < in.frames; ++frame) {
    const int64_t id = in.segment_ids ? in.segment_ids[sample * in.frames + frame] : 0;
    const auto found = std::find(ids.begin(), ids.end(), id);
    const auto i = static_cast<size_t>(found - ids.begin());
    if (found == ids.end()) {
      ids.push_back(id);
      members.emplace_back();
    }
    members[i].push_back(frame);
  }
  std::vector<Segment> segments;
  for (auto& frames : members) segments.emplace_back(in, sample, std::move(frames));
  return segments;
}

// What a thread's kernels work in.
class Scratch {
 public:
  Scratch(int64_t frames, int64_t width, bool backward) {
    const int64_t rows = frames * pad(width), columns = pad(width) * pad(frames),
                  scores = frames * pad(frames);
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
    memory_.reset(new (std::align_val_t{64}) float[static_cast<size_t>(total)]);
    float* next = memory_.get();
    for (size_t i = 0; i < count; next += parts[i++].size) *parts[i].pointer = next;
    std::fill_n(zeros, pad(frames), 0.0f);
    view_.zeros = zeros;
  }

  const AttentionScratch& view() const { return view_; }

 private:
  struct Free {
    void operator()(float* p) const { ::operator delete[](p, std::align_val_t{64}); }
  };
  std::unique_ptr<float[], Free> memory_;
  AttentionScratch view_ = {};
};

// A call, cut into blocks of pixels. The cut depends on nothing but the sizes: a block's sum of bias
// gradients is the same whatever the number of threads.
class Blocks {
 public:
  explicit Blocks(const TemporalAttentionInput& in)
      : in_(in),
        per_sample_(std::clamp<int64_t>(in.pixels / kBlockPixels, 1,
                                        std::max<int64_t>(1, kMostBlocks / std::max<int64_t>(1, in.batch)))) {
    for (int64_t sample = 0; sample < in.batch; ++sample) segments_.push_back(segments_of(in, sample));
  }

  int64_t per_sample() const { return per_sample_; }
  const std::vector<Segment>& segments(int64_t sample) const {
    return segments_[static_cast<size_t>(sample)];
  }

  // Calls body(sample, block, task, scratch) in parallel, for all of a block's heads together where that
  // makes tasks enough.
  template <typename Body>
  void parallel(bool backward, const Body& body) const {
    const int64_t blocks = in_.batch * per_sample_;
    const int64_t cuts = blocks >= 4 * max_threads() ? 1 : std::max<int64_t>(1, in_.heads);
    const int64_t elements = 3 * in_.frames * in_.pixels * in_.heads * in_.width / (per_sample_ * cuts) + 1;
    parallel_for(blocks * cuts, kGrain / elements, [&](int64_t begin, int64_t end) {
      const Scratch scratch(longest(), in_.width, backward);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t block = i / cuts % per_sample_, cut = i % cuts, sample = i / cuts / per_sample_;
        AttentionTask task = {};
        task.qkv = in_.qkv;
        task.dtype = in_.dtype;
        task.heads = in_.heads;
        task.width = in_.width;
        task.first_pixel = in_.pixels * block / per_sample_;
        task.last_pixel = in_.pixels * (block + 1) / per_sample_;
        task.first_head = in_.heads * cut / cuts;
        task.last_head = in_.heads * (cut + 1) / cuts;
        body(sample, block, task, scratch.view());
      }
    });
  }

 private:
  // The most frames that a segment has.
  int64_t longest() const {
    int64_t frames = 0;
    for (const auto& segments : segments_)
      for (const auto& segment : segments) frames = std::max(frames, segment.count());
    return frames;
  }

  static constexpr int64_t kGrain = int64_t{1} << 15;  // elements that pay for a thread

  const TemporalAttentionInput& in_;
  int64_t per_sample_;
  std::vector<std::vector<Segment>> segments_;
};

// The part of a task that is one frame alone: its weight is 1, so that out is v, and dout is dv.
class SingleFrame {
 public:
  SingleFrame(const AttentionTask& task, const AttentionSegment& segment)
      : task_(task),
        size_(size_of(task.dtype)),
        part_(task.heads * task.width),
        qkv_(*segment.qkv + task.first_head * task.width),
        out_(*segment.out + task.first_head * task.width),
        bytes_(static_cast<size_t>((task.last_head - task.first_head) * task.width * size_)) {}

  void attend(const void* qkv, void* out) const {
    for (int64_t pixel = task_.first_pixel; pixel < task_.last_pixel; ++pixel)
      std::memcpy(at(out, out_ + pixel * part_), at(qkv, qkv_ + (3 * pixel + 2) * part_), bytes_);
  }

  void attend_bwd(const void* dout, void* dqkv) const {
    for (int64_t pixel = task_.first_pixel; pixel < task_.last_pixel; ++pixel) {
      std::memset(at(dqkv, qkv_ + 3 * pixel * part_), 0, bytes_);
      std::memset(at(dqkv, qkv_ + (3 * pixel + 1) * part_), 0, bytes_);
      std::memcpy(at(dqkv, qkv_ + (3 * pixel + 2) * part_), at(dout, out_ + pixel * part_), bytes_);
    }
  }

 private:
  const char* at(const void* tensor, int64_t i) const { return static_cast<const char*>(tensor) + i * size_; }
  char* at(void* tensor, int64_t i) const { return static_cast<char*>(tensor) + i * size_; }

  const AttentionTask& task_;
  int64_t size_, part_, qkv_, out_;
  size_t bytes_;
};

// Partial sums of the bias gradient: for each block, one packed table per segment and head.
class BiasGradient {
 public:
  BiasGradient(const TemporalAttentionInput& in, const Blocks& blocks) : in_(in), blocks_(blocks) {
    int64_t total = 0;
    for (int64_t sample = 0; sample < in.batch; ++sample) {
      starts_.push_back(total);
      sizes_.push_back(0);
      for (const Segment& segment : blocks.segments(sample)) sizes_.back() += in.heads * segment.table();
      total += blocks.per_sample() * sizes_.back();
    }
    tables_.reset(new float[static_cast<size_t>(total)]);
  }

  // The tables of all heads of a block's first segment; the other segments' follow.
  float* tables(int64_t sample, int64_t block) const {
    const auto i = static_cast<size_t>(sample);
    return tables_.get() + starts_[i] + block * sizes_[i];
  }

  // Adds up the blocks, in double, and writes dbias.
  void finish(float* dbias) const {
    const int64_t samples = in_.bias_per_sample ? in_.batch : 1, square = in_.frames * in_.frames;
    parallel_for(samples * in_.heads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t sample = i / in_.heads, last = in_.bias_per_sample ? sample + 1 : in_.batch;
        std::vector<double> sums(static_cast<size_t>(square));
        for (int64_t b = sample; b < last; ++b) add(b, i % in_.heads, sums.data());
        std::copy(sums.begin(), sums.end(), dbias + i * square);
      }
    });
  }

 private:
  void add(int64_t sample, int64_t head, double* sums) const {
    int64_t offset = 0;
    for (const Segment& segment : blocks_.segments(sample)) {
      const int64_t size = segment.table(), padded = pad(segment.count());
      std::vector<double> packed(static_cast<size_t>(size));
      for (int64_t block = 0; block < blocks_.per_sample(); ++block) {
        const float* table = tables(sample, block) + offset + head * size;
        for (int64_t k = 0; k < size; ++k) packed[static_cast<size_t>(k)] += table[k];
      }
      for (int64_t i = 0; i < segment.count(); ++i)
        for (int64_t j = 0; j < segment.count(); ++j)
          sums[segment.frame(i) * in_.frames + segment.frame(j)] +=
              packed[static_cast<size_t>(j * padded + i)];
      offset += in_.heads * size;
    }
  }

  const TemporalAttentionInput& in_;
  const Blocks& blocks_;
  std::vector<int64_t> starts_, sizes_;
  std::unique_ptr<float[]> tables_;
};

// Whether to write rows around the caches: they must be whole cache lines.
bool streams(const TemporalAttentionInput& in, const void* out, int64_t tensors) {
  const int64_t elements = in.batch * in.frames * in.pixels * in.heads * in.width;
  return exceeds_cache(tensors * elements * size_of(in.dtype)) && in.width * size_of(in.dtype) % 64 == 0 &&
         reinterpret_cast<uintptr_t>(out) % 64 == 0;
}

}  // namespace

void temporal_attention_cpu(const TemporalAttentionParams& params) {
  const TemporalAttentionInput& in = params.input;
  const Blocks blocks(in);
  const auto kernel = VDM_SIMD(attend);
  const bool stream = streams(in, params.out, 4);
  blocks.parallel(false, [&](int64_t sample, int64_t, AttentionTask task, const AttentionScratch& scratch) {
    task.stream = stream;
    for (const Segment& segment : blocks.segments(sample)) {
      task.segment = segment.view();
      if (segment.count() == 1)
        SingleFrame(task, task.segment).attend(in.qkv, params.out);
      else
        kernel(task, params.out, scratch);
    }
  });
}

void temporal_attention_bwd_cpu(const TemporalAttentionBackwardParams& params) {
  const TemporalAttentionInput& in = params.input;
  const Blocks blocks(in);
  std::unique_ptr<BiasGradient> dbias;
  if (params.dbias != nullptr) dbias = std::make_unique<BiasGradient>(in, blocks);
  const auto kernel = VDM_SIMD(attend_bwd);
  const bool stream = params.dqkv != nullptr && streams(in, params.dqkv, 7);
  blocks.parallel(true,
                  [&](int64_t sample, int64_t block, AttentionTask task, const AttentionScratch& scratch) {
                    task.stream = stream;
                    float* tables = dbias ? dbias->tables(sample, block) : nullptr;
                    for (const Segment& segment : blocks.segments(sample)) {
                      task.segment = segment.view();
                      if (tables != nullptr)
                        std::fill(tables + task.first_head * segment.table(),
                                  tables + task.last_head * segment.table(), 0.0f);
                      if (segment.count() > 1)
                        kernel(task, params.dout, params.dqkv, tables, scratch);
                      else if (params.dqkv != nullptr)
                        SingleFrame(task, task.segment).attend_bwd(params.dout, params.dqkv);
                      if (tables != nullptr) tables += in.heads * segment.table();
                    }
                  });
  if (dbias) dbias->finish(params.dbias);
}

}  // namespace vdm
