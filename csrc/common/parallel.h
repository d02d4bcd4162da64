// Splits work over OpenMP threads. For launchers only: the SIMD kernels know nothing of threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cassert>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>

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

struct IndexRange {
  int64_t begin, end;
};

// Ranges of [0, count), count < 2^32, one for each thread at first. A thread that has none left takes half of
// what another still has, if that half is `least` or more: cores may be shared with other work, and then one
// is slower than the next.
class SharedRanges {
 public:
  SharedRanges(int64_t count, int64_t threads, int64_t least)
      : threads_(threads), least_(least), ranges_(new Range[static_cast<size_t>(threads)]) {
    assert(count >> 32 == 0);
    for (int64_t t = 0; t < threads; ++t)
      ranges_[t].store(pack({count * t / threads, count * (t + 1) / threads}));
  }
  int64_t threads() const { return threads_; }

  // What a thread has to do next, perhaps some of it taken from another; none: all is done, or will be by
  // others. Others may take from its end.
  std::optional<IndexRange> claim(int64_t thread) {
    const IndexRange own = unpack(ranges_[thread]);
    return own.begin < own.end ? own : take(thread);
  }
  // The next index of what was claimed; -1: there is none left.
  int64_t next(int64_t thread) {
    for (uint64_t packed = ranges_[thread];;) {
      const IndexRange range = unpack(packed);
      if (range.begin == range.end) return -1;
      if (ranges_[thread].compare_exchange_weak(packed, pack({range.begin + 1, range.end})))
        return range.begin;
    }
  }

 private:
  struct alignas(64) Range : std::atomic<uint64_t> {};

  std::optional<IndexRange> take(int64_t thread) {
    for (;;) {
      uint64_t longest = 0;
      int64_t most = 0, victim = 0;
      for (int64_t t = 0; t < threads_; ++t) {
        const uint64_t packed = ranges_[t];
        const int64_t length = unpack(packed).end - unpack(packed).begin;
        if (length > most) most = length, longest = packed, victim = t;
      }
      if (most / 2 < least_) return {};
      const IndexRange range = unpack(longest);
      const int64_t middle = range.end - most / 2;
      if (!ranges_[victim].compare_exchange_strong(longest, pack({range.begin, middle}))) continue;
      ranges_[thread].store(pack({middle, range.end}));
      return IndexRange{middle, range.end};
    }
  }

  static uint64_t pack(IndexRange range) {
    return static_cast<uint64_t>(range.begin) << 32 | static_cast<uint64_t>(range.end);
  }
  static IndexRange unpack(uint64_t packed) {
    return {static_cast<int64_t>(packed >> 32), static_cast<int64_t>(packed & 0xFFFFFFFF)};
  }

  int64_t threads_, least_;
  std::unique_ptr<Range[]> ranges_;
};

// Calls body(ranges, thread) once for each of `ranges.threads()` threads, which does what it claims:
//
//     while (const auto range = ranges.claim(thread))
//       for (int64_t i = ranges.next(thread); i >= 0; i = ranges.next(thread)) ...
//
// One that begins late may find nothing left.
template <typename Body>
void parallel_for_shared(int64_t count, int64_t least, const Body& body) {
  SharedRanges ranges(count, std::min<int64_t>(max_threads(), count), least);
  parallel_for(ranges.threads(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; ++thread) body(ranges, thread);
  });
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
