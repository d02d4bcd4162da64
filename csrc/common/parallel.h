// Splits work over OpenMP threads. For launchers only: the SIMD kernels know nothing of threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>

#ifdef _OPENMP
#  include <omp.h>
#endif

namespace vdm {

// How many threads a parallel loop may use here: one inside another parallel region.
inline int max_threads() {
#ifdef _OPENMP
  return omp_in_parallel() ? 1 : omp_get_max_threads();
#else
  return 1;
#endif
}

// Calls body(begin, end) on contiguous ranges that cover [0, count), one per thread, none shorter than
// `grain` unless count is. What a body throws, say for lack of memory, is thrown when all have ended.
template <typename Body>
void parallel_for(int64_t count, int64_t grain, const Body& body) {
  const int64_t threads = std::min<int64_t>(max_threads(), count / std::max<int64_t>(grain, 1));
  if (threads <= 1) {
    if (count > 0) body(int64_t{0}, count);
    return;
  }
#ifdef _OPENMP
  std::exception_ptr failure;
#  pragma omp parallel num_threads(static_cast<int>(threads))
  {
    // The runtime may give fewer threads than were asked for.
    const int64_t team = omp_get_num_threads(), thread = omp_get_thread_num();
    const int64_t begin = count / team * thread + std::min(thread, count % team);
    const int64_t end = begin + count / team + (thread < count % team ? 1 : 0);
    try {
      if (begin < end) body(begin, end);
    } catch (...) {
#  pragma omp critical
      failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
#endif
}

// Elements per chunk: a multiple of every SIMD block, and a power of two, so that the group counter's low 32
// bits do not wrap inside a chunk.
constexpr int64_t kChunk = 1 << 14;

// Calls body(sample, begin, end) for every chunk of every sample; all threads work even where batch = 1.
template <typename Body>
void parallel_for_chunks(int64_t batch, int64_t n, const Body& body) {
  const int64_t chunks = (n + kChunk - 1) / kChunk;
  const int64_t grain = 2 * kChunk / std::clamp<int64_t>(n, 1, kChunk);  // 32 K elements pay for a thread
  parallel_for(batch * chunks, grain, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t sample = i / chunks, begin = i % chunks * kChunk;
      body(sample, begin, std::min(n, begin + kChunk));
    }
  });
}

}  // namespace vdm
