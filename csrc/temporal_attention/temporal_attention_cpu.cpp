// Work is split over blocks of pixels, and over heads where blocks are few. The frames of a segment are
// listed, and their bias packed, for each sample: frames of other segments then cost nothing. Each block adds
// up its own bias gradient, which makes the sum independent of the number of threads.
#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "common/cache.h"
#include "common/parallel.h"
#include "temporal_attention/segments.h"
#include "temporal_attention/temporal_attention.h"
#include "temporal_attention/temporal_attention_simd.h"

namespace vdm {
namespace {

constexpr int64_t kBlockPixels = 16;  // at least, so that a block's dbias tables cost little
constexpr int64_t kMostBlocks = 128;  // of pixels, in all samples together

std::vector<Segment> sample_segments(const TemporalAttentionInput& in, int64_t sample) {
  const int64_t row = in.pixels * in.heads * in.width, first = sample * in.frames * row;
  const int64_t* ids = in.segment_ids ? in.segment_ids + sample * in.frames : nullptr;
  const float* bias = in.bias;
  if (in.bias_per_sample) bias += sample * in.heads * in.frames * in.frames;
  return segments_of(ids, in.frames, in.heads, bias, {3 * first, 3 * row}, {first, row});
}

// A call, cut into blocks of pixels. The cut depends on nothing but the sizes: a block's sum of bias
// gradients is the same whatever the number of threads.
class Blocks {
 public:
  explicit Blocks(const TemporalAttentionInput& in)
      : in_(in),
        per_sample_(std::clamp<int64_t>(in.pixels / kBlockPixels, 1,
                                        std::max<int64_t>(1, kMostBlocks / std::max<int64_t>(1, in.batch)))) {
    for (int64_t sample = 0; sample < in.batch; ++sample) segments_.push_back(sample_segments(in, sample));
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
      const AttentionMemory memory(longest(segments_), in_.width, backward);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t block = i / cuts % per_sample_, cut = i % cuts, sample = i / cuts / per_sample_;
        AttentionTask task = {};
        task.qkv = in_.qkv;
        task.dtype = in_.dtype;
        task.heads = in_.heads;
        task.width = in_.width;
        task.ahead = true;
        task.first_pixel = in_.pixels * block / per_sample_;
        task.last_pixel = in_.pixels * (block + 1) / per_sample_;
        task.first_head = in_.heads * cut / cuts;
        task.last_head = in_.heads * (cut + 1) / cuts;
        body(sample, block, task, memory.view());
      }
    });
  }

 private:
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
      const int64_t size = segment.table(), padded = segment.padded();
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
