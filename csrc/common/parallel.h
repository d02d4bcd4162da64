// Splits work over OpenMP threads. For launchers only: the SIMD kernels know nothing of threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>

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

// Ranges of [0, count), one for each thread at first. A thread that has none left takes half of what another
// still has: cores may be shared with other work, and then one is slower than the next.
class SharedRanges {
 public:
  SharedRanges(int64_t count, int64_t threads)
      : threads_(threads), ranges_(new Range[static_cast<size_t>(threads)]) {
    for (int64_t t = 0; t < threads; ++t)
      ranges_[t].store(pack(count * t / threads, count * (t + 1) / threads));
  }
  int64_t threads() const { return threads_; }

  // The next of a thread's range; -1: there is none.
  int64_t next(int64_t thread) {
    for (uint64_t range = ranges_[thread];;) {
      const int64_t begin = begin_of(range), end = end_of(range);
      if (begin == end) return -1;
      if (ranges_[thread].compare_exchange_weak(range, pack(begin + 1, end))) return begin;
    }
  }

  // Gives a thread without a range half of the longest one that there is, if that is two or more.
  bool refill(int64_t thread) {
    for (;;) {
      int64_t longest = 0, victim = 0;
      for (int64_t t = 0; t < threads_; ++t) {
        const int64_t length = end_of(ranges_[t]) - begin_of(ranges_[t]);
        if (length > longest) longest = length, victim = t;
      }
      if (longest < 2) return false;
      uint64_t range = ranges_[victim];
      const int64_t begin = begin_of(range), end = end_of(range), middle = end - (end - begin) / 2;
      if (middle == end || !ranges_[victim].compare_exchange_strong(range, pack(begin, middle))) continue;
      ranges_[thread].store(pack(middle, end));
      return true;
    }
  }

  int64_t begin(int64_t thread) const { return begin_of(ranges_[thread]); }
  int64_t end(int64_t thread) const { return end_of(ranges_[thread]); }

 private:
  struct alignas(64) Range : std::atomic<uint64_t> {};

  static uint64_t pack(int64_t begin, int64_t end) {
    return static_cast<uint64_t>(begin) << 32 | static_cast<uint64_t>(end);
  }
  static int64_t begin_of(uint64_t range) { return static_cast<int64_t>(range >> 32); }
  static int64_t end_of(uint64_t range) { return static_cast<int64_t>(range & 0xFFFFFFFF); }

  int64_t threads_;
  std::unique_ptr<Range[]> ranges_;
};

// One thread's part in SharedRanges.
class Share {
 public:
  Share(SharedRanges& ranges, int64_t thread) : ranges_(ranges), thread_(thread) {}

  // [begin, end) is the range to do next; false: all are done, or will be by others.
  bool claim() { return ranges_.begin(thread_) < ranges_.end(thread_) || ranges_.refill(thread_); }
  int64_t begin() const { return ranges_.begin(thread_); }
  int64_t end() const { return ranges_.end(thread_); }
  int64_t next() { return ranges_.next(thread_); }

 private:
  SharedRanges& ranges_;
  int64_t thread_;
};

// Calls body(share) for a share of [0, count) per thread, whose body does what it claims:
//
//     while (share.claim())
//       for (int64_t i = share.next(); i >= 0; i = share.next()) ...
//
// What is done does not depend on how many threads there are, who does it does.
template <typename Body>
void parallel_shares(int64_t count, const Body& body) {
  SharedRanges ranges(count, std::min<int64_t>(max_threads(), count));
  parallel_for(ranges.threads(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; ++thread) {
      Share share(ranges, thread);
      body(share);
    }
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
