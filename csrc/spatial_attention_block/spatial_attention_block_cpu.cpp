// A thread takes its images through norm and projection, attention, projection and sum, one after another: q,
// k and v of an image are some megabytes, which stay in its caches. Images that are fewer than the threads
// are shared by all of them, step by step.
#include <algorithm>
#include <vector>

#include "common/cache.h"
#include "common/parallel.h"
#include "common/scratch.h"
#include "spatial_attention/spatial_attention.h"
#include "spatial_attention_block/spatial_attention_block.h"
#include "temporal_attention_block/temporal_attention_block_simd.h"

namespace vdm {
namespace {

// Tokens that are projected together stay in the L2 cache, through which panels of the weights pass as well;
// more of them gain nothing.
constexpr int64_t kBlockTokens = 256;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Calls body(first, last) for blocks of tokens.
template <typename Body>
void parallel_for_tokens(int64_t tokens, const Body& body) {
  const int64_t threads = max_threads();
  const int64_t blocks = std::min(tokens, threads * ceil_div(tokens, threads * kBlockTokens));
  parallel_for(blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      body(tokens * block / blocks, tokens * (block + 1) / blocks);
    }
  });
}

class Images {
 public:
  explicit Images(const SpatialAttentionBlockParams& params)
      : p_(params),
        channels_(p_.heads * p_.channels),
        pixels_(p_.height * p_.width),
        out_bias_(static_cast<size_t>(block_row(channels_))) {
    if (p_.out_bias != nullptr) std::copy_n(p_.out_bias, channels_, out_bias_.begin());
    const int64_t row_bytes = channels_ * size_of(p_.dtype);
    stream_ = exceeds_cache(2 * p_.images * pixels_ * row_bytes) && row_bytes % 64 == 0 &&
              reinterpret_cast<uintptr_t>(p_.out) % 64 == 0;
  }

  // Images [begin, end), one at a time for each thread that may be used, or as many as make a block of
  // tokens.
  void attend(int64_t begin, int64_t end) const {
    const int64_t row = block_row(channels_), qkv_row = block_row(3 * channels_);
    const TokenNorm norm = {p_.norm_weight, p_.norm_bias, p_.eps};
    const TokenLinear to_qkv = {p_.qkv_weight, channels_, 3 * channels_},
                      to_out = {p_.out_weight, channels_, channels_};
    const int64_t most = std::min(end - begin, max_threads() * ceil_div(kBlockTokens, pixels_));
    float* const copy = scratch(ScratchSlot::kShared, most * pixels_ * (2 * row + qkv_row));
    float *const attended = copy + most * pixels_ * row, *const qkv = attended + most * pixels_ * row;
    for (int64_t image = begin; image < end; image += most) {
      const int64_t images = std::min(most, end - image);
      const auto tokens_of = [&](int64_t first, int64_t last) -> PixelTokens {
        return {p_.dtype, 1, last - first, channels_, (image * pixels_ + first) * channels_, 0};
      };
      parallel_for_tokens(images * pixels_, [&](int64_t first, int64_t last) {
        float* const normed = scratch(ScratchSlot::kThread, (last - first) * row);
        const PixelTokens tokens = tokens_of(first, last), none = tokens_of(last, last);
        VDM_SIMD(normalize_tokens)(tokens, p_.x, norm, copy + first * row, normed);
        VDM_SIMD(project_tokens)(to_qkv, normed, tokens.tokens(), qkv + first * qkv_row, none, p_.x);
      });
      const SpatialAttentionInput input = {qkv,      p_.bias_table, DType::kFloat32, images,  p_.height,
                                           p_.width, p_.heads,      p_.channels,     qkv_row, row};
      spatial_attention_cpu({input, attended});
      parallel_for_tokens(images * pixels_, [&](int64_t first, int64_t last) {
        VDM_SIMD(project_attended)(to_out, out_bias_.data(), attended + first * row, copy + first * row,
                                   tokens_of(first, last), p_.out, stream_);
      });
    }
  }

 private:
  const SpatialAttentionBlockParams& p_;
  int64_t channels_, pixels_;
  std::vector<float> out_bias_;  // whole panels
  bool stream_;
};

}  // namespace

void spatial_attention_block_cpu(const SpatialAttentionBlockParams& p) {
  if (p.images * p.height * p.width * p.heads * p.channels == 0) return;
  const Images images(p);
  const int64_t own = p.images / max_threads() * max_threads();
  parallel_for(own, 1, [&](int64_t begin, int64_t end) { images.attend(begin, end); });
  if (own < p.images) images.attend(own, p.images);
}

}  // namespace vdm
