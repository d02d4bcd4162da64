// A thread takes some pixels with all their frames through the whole block: the tokens, their projections and
// what they attended to stay in its L2 cache.
#include <algorithm>
#include <cstring>
#include <vector>

#include "common/cache.h"
#include "common/parallel.h"
#include "common/scratch.h"
#include "temporal_attention/segments.h"
#include "temporal_attention_block/temporal_attention_block.h"
#include "temporal_attention_block/temporal_attention_block_simd.h"

namespace vdm {
namespace {

// What the tokens of a thread's pixels take of the L2 cache, which panels of the weights pass through as
// well.
constexpr int64_t kBlockBytes = 512 << 10;
// More tokens at once gain nothing: the weights are in L1 long enough.
constexpr int64_t kBlockTokens = 256;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A call's rows of scratch, and its cut into blocks of pixels. A result does not depend on the cut.
struct Plan {
  explicit Plan(const TemporalAttentionBlockParams& p)
      : channels(p.heads * p.width), row(block_row(channels)), qkv_row(block_row(3 * channels)) {
    const int64_t bytes = p.frames * token_floats() * int64_t{sizeof(float)};
    const int64_t shared = ceil_div(p.batch * p.pixels, 4 * max_threads());
    const int64_t most = std::max<int64_t>(1, std::min(kBlockBytes / bytes, kBlockTokens / p.frames));
    blocks = ceil_div(p.pixels, std::min(most, shared));
    block_pixels = ceil_div(p.pixels, blocks);
  }

  // Of x, its norm, qkv and what was attended to.
  int64_t token_floats() const { return 3 * row + qkv_row; }

  int64_t channels, row, qkv_row;
  int64_t blocks, block_pixels;  // of a sample
};

// Attention for all heads of one pixel: qkv (frames, qkv_row) to out (frames, row).
void attend_pixel(const std::vector<Segment>& segments, AttentionTask task, const Plan& plan,
                  const float* qkv, float* out, const AttentionScratch& scratch) {
  const auto kernel = VDM_SIMD(attend);
  task.qkv = qkv;
  for (const Segment& segment : segments) {
    task.segment = segment.view();
    if (segment.count() > 1)
      kernel(task, out, scratch);
    else  // its weight is 1
      std::memcpy(out + *task.segment.out, qkv + *task.segment.qkv + 2 * plan.channels,
                  static_cast<size_t>(plan.channels) * sizeof(float));
  }
}

}  // namespace

void temporal_attention_block_cpu(const TemporalAttentionBlockParams& p) {
  if (p.batch * p.frames * p.pixels * p.heads * p.width == 0) return;
  const Plan plan(p);
  std::vector<std::vector<Segment>> segments;
  for (int64_t sample = 0; sample < p.batch; ++sample) {
    const float* bias = p.bias_per_sample ? p.bias + sample * p.heads * p.frames * p.frames : p.bias;
    segments.push_back(segments_of(p.segment_ids ? p.segment_ids + sample * p.frames : nullptr, p.frames,
                                   p.heads, bias, {0, plan.qkv_row}, {0, plan.row}));
  }
  std::vector<float> out_bias(static_cast<size_t>(plan.row));
  if (p.out_bias != nullptr) std::copy_n(p.out_bias, plan.channels, out_bias.begin());
  const TokenNorm norm = {p.norm_weight, p.norm_bias, p.eps};
  const TokenLinear to_qkv = {p.qkv_weight, plan.channels, 3 * plan.channels},
                    to_out = {p.out_weight, plan.channels, plan.channels};
  AttentionTask task = {};
  task.dtype = DType::kFloat32;
  task.heads = task.last_head = p.heads;
  task.width = p.width;
  task.last_pixel = 1;

  const int64_t row_bytes = plan.channels * size_of(p.dtype);
  const bool stream = exceeds_cache(2 * p.batch * p.frames * p.pixels * row_bytes) && row_bytes % 64 == 0 &&
                      reinterpret_cast<uintptr_t>(p.out) % 64 == 0;
  const auto tokens_of = [&](int64_t block) -> PixelTokens {
    const int64_t sample = block / plan.blocks, first = block % plan.blocks * p.pixels / plan.blocks;
    const int64_t last = (block % plan.blocks + 1) * p.pixels / plan.blocks;
    return {p.dtype,
            p.frames,
            last - first,
            plan.channels,
            (sample * p.frames * p.pixels + first) * plan.channels,
            p.pixels * plan.channels};
  };
  parallel_for(p.batch * plan.blocks, 1, [&](int64_t begin, int64_t end) {
    const int64_t most = p.frames * plan.block_pixels;
    float* const copy = scratch(ScratchSlot::kThread, most * plan.token_floats());
    float *const normed = copy + most * plan.row, *const attended = normed + most * plan.row,
                 *const qkv = attended + most * plan.row;
    const AttentionMemory memory(longest(segments), p.width, false);
    for (int64_t block = begin; block < end; ++block) {
      const PixelTokens tokens = tokens_of(block);
      PixelTokens next = tokens_of(block + 1 < end ? block + 1 : block);
      if (block + 1 == end) next.pixels = 0;
      VDM_SIMD(normalize_tokens)(tokens, p.x, norm, copy, normed);
      VDM_SIMD(project_tokens)(to_qkv, normed, tokens.tokens(), qkv, next, p.x);
      for (int64_t pixel = 0; pixel < tokens.pixels; ++pixel) {
        attend_pixel(segments[static_cast<size_t>(block / plan.blocks)], task, plan,
                     qkv + pixel * p.frames * plan.qkv_row, attended + pixel * p.frames * plan.row,
                     memory.view());
      }
      VDM_SIMD(project_attended)(to_out, out_bias.data(), attended, copy, tokens, p.out, stream);
    }
  });
}

}  // namespace vdm
