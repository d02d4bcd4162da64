// Some images at a time go through norm and projection, attention, projection and sum. Each of the three is
// shared out over all threads, in the same order, so that where there are images enough a thread finds in its
// cache what it has written: q, k and v of an image are some megabytes.
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

}  // namespace

void spatial_attention_block_cpu(const SpatialAttentionBlockParams& p) {
  const int64_t channels = p.heads * p.channels, pixels = p.height * p.width;
  if (p.images * pixels * channels == 0) return;
  const int64_t row = block_row(channels), qkv_row = block_row(3 * channels);
  std::vector<float> out_bias(static_cast<size_t>(row));
  if (p.out_bias != nullptr) std::copy_n(p.out_bias, channels, out_bias.begin());
  const TokenNorm norm = {p.norm_weight, p.norm_bias, p.eps};
  const TokenLinear to_qkv = {p.qkv_weight, channels, 3 * channels},
                    to_out = {p.out_weight, channels, channels};
  const int64_t row_bytes = channels * size_of(p.dtype);
  const bool stream = exceeds_cache(2 * p.images * pixels * row_bytes) && row_bytes % 64 == 0 &&
                      reinterpret_cast<uintptr_t>(p.out) % 64 == 0;

  // An image for each thread, or as many as make a block.
  const int64_t most = std::min(p.images, max_threads() * ceil_div(kBlockTokens, pixels));
  float* const copy = scratch(ScratchSlot::kShared, most * pixels * (2 * row + qkv_row));
  float *const attended = copy + most * pixels * row, *const qkv = attended + most * pixels * row;
  for (int64_t image = 0; image < p.images; image += most) {
    const int64_t images = std::min(most, p.images - image), first_token = image * pixels;
    const auto tokens_of = [&](int64_t first, int64_t last) -> PixelTokens {
      return {p.dtype, 1, last - first, channels, (first_token + first) * channels, 0};
    };
    parallel_for_tokens(images * pixels, [&](int64_t first, int64_t last) {
      float* const normed = scratch(ScratchSlot::kThread, (last - first) * row);
      const PixelTokens tokens = tokens_of(first, last), none = tokens_of(last, last);
      VDM_SIMD(normalize_tokens)(tokens, p.x, norm, copy + first * row, normed);
      VDM_SIMD(project_tokens)(to_qkv, normed, tokens.tokens(), qkv + first * qkv_row, none, p.x);
    });
    spatial_attention_cpu(
        {{qkv, p.bias_table, DType::kFloat32, images, p.height, p.width, p.heads, p.channels, qkv_row, row},
         attended});
    parallel_for_tokens(images * pixels, [&](int64_t first, int64_t last) {
      VDM_SIMD(project_attended)(to_out, out_bias.data(), attended + first * row, copy + first * row,
                                 tokens_of(first, last), p.out, stream);
    });
  }
}

}  // namespace vdm
