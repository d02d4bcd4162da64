// abs_quantile on CUDA: radix selection. The bit patterns of |x| are ordered as the numbers are, so that the
// order statistic's digits are found one after the other from histograms of the elements that share the
// digits before: 11, 10 and 10 bits of float32, 11 and 4 of a 16-bit type. The next order statistic is equal,
// or the next non-empty bin of the last histogram, or the smallest element above the prefix, which the last
// pass tracks.
//
// Traffic: one read of x per pass, 16 bytes a thread. Counts are integers, in shared memory and then in
// global memory, so that the result is exact and does not depend on the order of the atomics. Few large
// samples are split over thread blocks, with a row of the workspace each and a small kernel that selects a
// digit between the passes; many or small samples take one thread block each and one launch. Nothing waits
// for the host.
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "abs_quantile/abs_quantile.h"
#include "common/launch.cuh"

namespace vdm {
namespace {

constexpr int kThreads = 512;
constexpr int kBlocksPerSm = 2;  // of 64 registers a thread; their vectors in flight are 64 KiB
constexpr int kBins = 2048;
constexpr int kBinsPerThread = kBins / kThreads;
constexpr int kUnroll = 4;  // vectors in flight per thread

constexpr int64_t kSplitBatch = 1024;               // from so many samples on, one thread block each
constexpr int64_t kSplitElements = 1 << 16;         // up to so many elements too
constexpr int64_t kMaxPerBlock = int64_t{1} << 31;  // 32-bit counts in shared memory

// How many thread blocks share a sample; 1 means one kernel for all passes.
constexpr int64_t quantile_splits(int64_t batch, int64_t n, int64_t resident) {
  if (batch >= kSplitBatch || n <= kSplitElements) return 1;
  const int64_t useful = ceil_div(n, int64_t{kThreads} * kUnroll * 4);
  const int64_t wanted = ceil_div(resident, batch);
  const int64_t needed = ceil_div(n, kMaxPerBlock);
  const int64_t splits = wanted < useful ? wanted : useful;
  return splits < needed ? needed : splits;
}
static_assert(quantile_splits(1, 25'000'000, 396) == 396);
static_assert(quantile_splits(8, 196'608, 396) == 24);
static_assert(quantile_splits(8, 65'536, 396) == 1 && quantile_splits(100'000, 1'000'000, 396) == 1);
static_assert(quantile_splits(500, int64_t{1} << 33, 396) == 4);

// The digits of an element's magnitude, from the highest. float32 has 31 bits of magnitude, the 16-bit types
// have 15.
template <typename T>
struct Digits {
  using Word = std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>;
  static constexpr int kPasses = sizeof(T) == 4 ? 3 : 2;
  static constexpr uint32_t kMagnitude = sizeof(T) == 4 ? 0x7FFFFFFFu : 0x7FFFu;
  static constexpr uint32_t kInfinity = sizeof(T) == 4                     ? 0x7F800000u
                                        : std::is_same_v<T, __nv_bfloat16> ? 0x7F80u
                                                                           : 0x7C00u;
  static constexpr __host__ __device__ int shift(int pass) {
    return sizeof(T) == 4 ? (pass == 0 ? 20 : pass == 1 ? 10 : 0) : (pass == 0 ? 4 : 0);
  }
  static constexpr __host__ __device__ int width(int pass) {
    return pass == 0 ? 11 : sizeof(T) == 4 ? 10 : 4;
  }
};

// What the thread blocks of one sample share; all zero at first.
struct Row {
  unsigned long long counts[kBins];
  unsigned long long rank;  // of the order statistic among the elements with this prefix
  uint32_t prefix;          // the digits chosen so far
  uint32_t complement;      // kMagnitude - the smallest element above the prefix; 0: there is none
  uint32_t has_nan;
  uint32_t unused;
};

struct Selected {
  uint32_t digit;
  unsigned long long rank;   // within the digit's bin
  unsigned long long count;  // of the digit's bin
  uint32_t next;             // the next non-empty bin, kBins where there is none
};

// Counts digit kPass of the elements of one sample whose higher digits are `prefix`: `thread` of `threads` in
// all. The last pass also gives the largest complement of an element above the prefix, the first whether
// there is a NaN.
template <typename T, int kPass>
__device__ void count_digits(const T* x, int64_t n, int64_t thread, int64_t threads, uint32_t prefix,
                             uint32_t* counts, uint32_t* complement, bool* has_nan) {
  using D = Digits<T>;
  using Word = typename D::Word;
  constexpr int kPerVector = 16 / sizeof(Word);
  const auto visit = [&](uint32_t word) {
    const uint32_t bits = word & D::kMagnitude;
    if constexpr (kPass == 0) {
      *has_nan = *has_nan || bits > D::kInfinity;
      atomicAdd(&counts[bits >> D::shift(0)], 1u);
    } else {
      const uint32_t higher = bits >> D::shift(kPass - 1);
      if (higher == prefix) {
        atomicAdd(&counts[(bits >> D::shift(kPass)) & ((1u << D::width(kPass)) - 1)], 1u);
      } else if (kPass == D::kPasses - 1 && higher > prefix) {
        *complement = max(*complement, D::kMagnitude - bits);
      }
    }
  };
  // The sample may begin anywhere: single elements up to a 16-byte boundary and after the last whole vector.
  const Word* const words = reinterpret_cast<const Word*>(x);
  const int64_t misaligned = static_cast<int64_t>(reinterpret_cast<uintptr_t>(x) % 16 / sizeof(Word));
  const int64_t head = min(n, (kPerVector - misaligned) % kPerVector);
  const int64_t vectors = (n - head) / kPerVector;
  const int64_t tail = head + vectors * kPerVector;
  for (int64_t i = thread; i < head; i += threads) visit(words[i]);
  for (int64_t i = tail + thread; i < n; i += threads) visit(words[i]);
  const uint4* const body = reinterpret_cast<const uint4*>(words + head);
  for (int64_t i = thread; i < vectors; i += kUnroll * threads) {
    uint4 vector[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
      if (i + u * threads < vectors) vector[u] = body[i + u * threads];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (i + u * threads >= vectors) break;
      const uint32_t parts[4] = {vector[u].x, vector[u].y, vector[u].z, vector[u].w};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        visit(parts[j]);  // of a 16-bit type, the low half: visit masks the high one away
        if constexpr (sizeof(Word) == 2) visit(parts[j] >> 16);
      }
    }
  }
}

struct SharedSelection {
  unsigned long long sums[kThreads];
  Selected selected;
};

// The bin of `counts` that holds the element of 0-based `rank`. All threads of the block call it and get the
// same.
template <typename Count>
__device__ Selected select_digit(const Count* counts, unsigned long long rank, SharedSelection* shared) {
  const int thread = static_cast<int>(threadIdx.x);
  unsigned long long own[kBinsPerThread], sum = 0;
#pragma unroll
  for (int j = 0; j < kBinsPerThread; ++j) sum += own[j] = counts[thread * kBinsPerThread + j];
  shared->sums[thread] = sum;
  if (thread == 0) shared->selected.next = kBins;
  __syncthreads();
  for (int offset = 1; offset < kThreads; offset *= 2) {  // inclusive scan
    const unsigned long long below = thread >= offset ? shared->sums[thread - offset] : 0;
    __syncthreads();
    shared->sums[thread] += below;
    __syncthreads();
  }
  unsigned long long before = shared->sums[thread] - sum;
  if (before <= rank && rank < before + sum) {  // one thread
#pragma unroll
    for (int j = 0; j < kBinsPerThread; ++j) {
      if (before <= rank && rank < before + own[j]) {
        shared->selected.digit = static_cast<uint32_t>(thread * kBinsPerThread + j);
        shared->selected.rank = rank - before;
        shared->selected.count = own[j];
      }
      before += own[j];
    }
  }
  __syncthreads();
  const uint32_t digit = shared->selected.digit;
#pragma unroll
  for (int j = kBinsPerThread - 1; j >= 0; --j) {
    const uint32_t bin = static_cast<uint32_t>(thread * kBinsPerThread + j);
    if (bin > digit && own[j] > 0) atomicMin(&shared->selected.next, bin);
  }
  __syncthreads();
  return shared->selected;
}

template <typename T>
__device__ float magnitude(uint32_t bits) {
  if constexpr (sizeof(T) == 4) {
    return __uint_as_float(bits);
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __uint_as_float(bits << 16);
  } else {
    return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
  }
}

// lower + weight (upper - lower), once the last digit is selected; `prefix` has the digits before it.
template <typename T>
__device__ float interpolate(uint32_t prefix, const Selected& last, uint32_t complement, float weight) {
  using D = Digits<T>;
  constexpr int kWidth = D::width(D::kPasses - 1);
  const uint32_t lower_bits = prefix << kWidth | last.digit;
  uint32_t upper_bits = lower_bits;
  if (last.rank + 1 >= last.count) {
    if (last.next < kBins) {
      upper_bits = prefix << kWidth | last.next;
    } else if (complement > 0) {
      upper_bits = D::kMagnitude - complement;
    }
  }
  const float lower = magnitude<T>(lower_bits);
  if (weight == 0.0f || upper_bits == lower_bits) return lower;  // without inf - inf
  return __fadd_rn(lower, __fmul_rn(weight, magnitude<T>(upper_bits) - lower));
}

__device__ float nan_float() { return __uint_as_float(0x7FC00000u); }

// One pass of one split of a sample.
template <typename T, int kPass>
__global__ void __launch_bounds__(kThreads, kBlocksPerSm)
    histogram_kernel(const T* x, int64_t n, uint32_t splits, Row* rows) {
  __shared__ uint32_t counts[kBins];
  __shared__ uint32_t shared_complement;
  const int64_t sample = blockIdx.x / splits, split = blockIdx.x % splits;
  Row& row = rows[sample];
  for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kThreads) counts[bin] = 0;
  if (threadIdx.x == 0) shared_complement = 0;
  __syncthreads();
  uint32_t complement = 0;
  bool has_nan = false;
  count_digits<T, kPass>(x + sample * n, n, split * kThreads + threadIdx.x, int64_t{splits} * kThreads,
                         row.prefix, counts, &complement, &has_nan);
  if (complement > 0) atomicMax(&shared_complement, complement);
  if (has_nan) atomicMax(&row.has_nan, 1u);
  __syncthreads();
  for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kThreads)
    if (counts[bin] > 0) atomicAdd(&row.counts[bin], static_cast<unsigned long long>(counts[bin]));
  if (threadIdx.x == 0 && shared_complement > 0) atomicMax(&row.complement, shared_complement);
}

// Selects digit kPass of every sample, one thread block each, and clears the histogram for the next pass;
// after the last digit, writes the result.
template <typename T, int kPass>
__global__ void __launch_bounds__(kThreads)
    select_kernel(Row* rows, int64_t index, float weight, float* out) {
  __shared__ SharedSelection shared;
  Row& row = rows[blockIdx.x];
  const unsigned long long rank = kPass == 0 ? static_cast<unsigned long long>(index) : row.rank;
  const uint32_t prefix = row.prefix;
  const Selected selected = select_digit(row.counts, rank, &shared);
  if constexpr (kPass + 1 < Digits<T>::kPasses) {
    for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kThreads) row.counts[bin] = 0;
    if (threadIdx.x == 0) {
      row.prefix = prefix << Digits<T>::width(kPass) | selected.digit;
      row.rank = selected.rank;
    }
  } else if (threadIdx.x == 0) {
    out[blockIdx.x] = row.has_nan ? nan_float() : interpolate<T>(prefix, selected, row.complement, weight);
  }
}

struct SharedSample {
  uint32_t counts[kBins];
  uint32_t complement, has_nan;
  SharedSelection selection;
};

template <typename T, int kPass>
__device__ float sample_quantile(const T* x, int64_t n, uint32_t prefix, unsigned long long rank,
                                 float weight, SharedSample* shared) {
  for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kThreads) shared->counts[bin] = 0;
  if (threadIdx.x == 0) shared->complement = 0;
  if (kPass == 0 && threadIdx.x == 0) shared->has_nan = 0;
  __syncthreads();
  uint32_t complement = 0;
  bool has_nan = false;
  count_digits<T, kPass>(x, n, threadIdx.x, kThreads, prefix, shared->counts, &complement, &has_nan);
  if (complement > 0) atomicMax(&shared->complement, complement);
  if (has_nan) atomicMax(&shared->has_nan, 1u);
  __syncthreads();
  const Selected selected = select_digit(shared->counts, rank, &shared->selection);
  if constexpr (kPass + 1 < Digits<T>::kPasses) {
    return sample_quantile<T, kPass + 1>(x, n, prefix << Digits<T>::width(kPass) | selected.digit,
                                         selected.rank, weight, shared);
  } else {
    return shared->has_nan ? nan_float() : interpolate<T>(prefix, selected, shared->complement, weight);
  }
}

// All passes over one sample by one thread block.
template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocksPerSm)
    sample_kernel(const T* x, int64_t n, int64_t index, float weight, float* out) {
  __shared__ SharedSample shared;
  const float value = sample_quantile<T, 0>(x + int64_t{blockIdx.x} * n, n, 0,
                                            static_cast<unsigned long long>(index), weight, &shared);
  if (threadIdx.x == 0) out[blockIdx.x] = value;
}

struct Launch {
  int64_t batch, n, index;
  float weight;
  uint32_t splits;
  Row* rows;
  float* out;
  cudaStream_t stream;
};

template <typename T, int kPass>
void launch_passes(const T* x, const Launch& launch) {
  const auto blocks = static_cast<unsigned>(launch.batch * launch.splits);
  histogram_kernel<T, kPass><<<blocks, kThreads, 0, launch.stream>>>(x, launch.n, launch.splits, launch.rows);
  select_kernel<T, kPass><<<static_cast<unsigned>(launch.batch), kThreads, 0, launch.stream>>>(
      launch.rows, launch.index, launch.weight, launch.out);
  if constexpr (kPass + 1 < Digits<T>::kPasses) launch_passes<T, kPass + 1>(x, launch);
}

}  // namespace

int64_t abs_quantile_cuda_workspace_bytes(int64_t batch) {
  return batch < kSplitBatch ? batch * static_cast<int64_t>(sizeof(Row)) : 0;
}

void abs_quantile_cuda(const AbsQuantileParams& params, void* workspace, int64_t workspace_bytes,
                       void* stream) {
  constexpr const char* kWhere = "abs_quantile_cuda";
  if (params.batch == 0 || params.n == 0) return;
  if (params.batch > kMaxGrid || (params.batch >= kSplitBatch && params.n > kMaxPerBlock))
    throw std::invalid_argument(std::string(kWhere) + ": the batch or a sample is too large");
  const double position = params.q * static_cast<double>(params.n - 1);
  Launch launch;
  launch.batch = params.batch;
  launch.n = params.n;
  launch.index = std::min(static_cast<int64_t>(std::floor(position)), params.n - 1);
  launch.weight = static_cast<float>(position - static_cast<double>(launch.index));
  launch.splits = static_cast<uint32_t>(
      quantile_splits(params.batch, params.n, int64_t{sm_count(kWhere)} * kBlocksPerSm));
  launch.rows = static_cast<Row*>(workspace);
  launch.out = params.out;
  launch.stream = static_cast<cudaStream_t>(stream);
  if (launch.splits > 1) {
    const int64_t needed = abs_quantile_cuda_workspace_bytes(params.batch);
    if (workspace_bytes < needed)
      throw std::invalid_argument(std::string(kWhere) + ": the workspace is too small");
    check_cuda(cudaMemsetAsync(workspace, 0, static_cast<size_t>(needed), launch.stream), kWhere);
  }
  with_dtype(params.dtype, [&](auto element) {
    using T = decltype(element);
    const T* const x = static_cast<const T*>(params.x);
    if (launch.splits > 1) {
      launch_passes<T, 0>(x, launch);
    } else {
      sample_kernel<T><<<static_cast<unsigned>(params.batch), kThreads, 0, launch.stream>>>(
          x, launch.n, launch.index, launch.weight, launch.out);
    }
  });
  check_cuda(cudaGetLastError(), kWhere);
}

}  // namespace vdm
