// temporal_attention on CUDA; see temporal_attention_cuda.cuh.
#include "temporal_attention/temporal_attention_cuda.cuh"

namespace vdm {
namespace {

template <typename T, int kTiles, int kChunks>
__global__ void __launch_bounds__(kThreads<kTiles>, kResidentBlocks<T, kTiles, kChunks, false>)
    temporal_attention_kernel(TemporalAttentionCudaParams params, float scale) {
  __shared__ LaneScores<kTiles> shared[kTiles * kTeams<kTiles>];
  const TemporalAttentionInput& input = params.input;
  const Part part = part_of<kTiles>(input, params.splits);
  if (part.group >= params.groups) return;
  LaneScores<kTiles>& additive = shared[part.warp];
  load_additive<kTiles>(input, part, additive);
  const Video<const T> qkv(static_cast<const T*>(input.qkv), input, part, 3);
  const Video<T> out(static_cast<T*>(params.out), input, part, 1);
  const uint32_t sequences = group_sequences(input, params.groups);
  for (uint32_t turn = part.split; turn < sequences; turn += static_cast<uint32_t>(params.splits)) {
    const uint32_t sequence = static_cast<uint32_t>(part.group) * sequences + turn;
    const Rows<const T> v = qkv.rows(sequence, 2);
    // One tile of v is asked for at once, beside q and k.
    constexpr bool kAhead = kChunks != kAnyChunks;
    Block<T> ahead[kAhead ? kChunks : 1];
    if constexpr (kAhead) {
#pragma unroll
      for (int chunk = 0; chunk < kChunks; ++chunk) ahead[chunk] = load_block(v, 0, chunk);
    }
    const RowProducts<T, kTiles, kChunks> q_k(qkv.rows(sequence, 0), part.tile, qkv.rows(sequence, 1));
    if constexpr (kAhead) {
#pragma unroll
      for (int chunk = 0; chunk < kChunks; ++chunk) keep(ahead[chunk]);
    }
    Scores<kTiles> p = {};
    q_k.add_to(p);
    float inverse[2];
    exponentials<kTiles>(p, additive, scale, inverse);
    combine_rows<kTiles, kChunks, false>(
        out.rows(sequence), part.tile, inverse, [&](int j) { return left_of<kTiles>(p, j); },
        [&](int j, int chunk) {
          if constexpr (kAhead) return ahead[chunk];
          return load_block(v, j, chunk);
        });
  }
}

}  // namespace

void temporal_attention_cuda(const TemporalAttentionCudaParams& params, void* stream) {
  constexpr const char* kWhere = "temporal_attention_cuda";
  with_sizes(params.input, kWhere, [&](auto element, auto tiles, auto chunks) {
    const auto kernel = temporal_attention_kernel<decltype(element), tiles.value, chunks.value>;
    const unsigned blocks = thread_blocks<tiles.value>(params.input, params.groups, params.splits);
    kernel<<<blocks, kThreads<tiles.value>, 0, static_cast<cudaStream_t>(stream)>>>(
        params, scale_of(params.input) * kLog2E);
  });
  check_cuda(cudaGetLastError(), kWhere);
}

}  // namespace vdm
