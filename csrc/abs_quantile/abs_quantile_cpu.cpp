// Radix selection: one pass counts the magnitudes by their top 11 bits (the exponent and 3 bits of the
// mantissa), which finds the bin of the wanted order statistic; one more gathers that bin's few members,
// among which it is selected. Where the bin holds too many (nearly constant data), the next 11 bits are
// counted first: 4 reads at most.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "abs_quantile/abs_quantile.h"
#include "abs_quantile/abs_quantile_simd.h"
#include "common/parallel.h"

namespace vdm {
namespace {

constexpr int64_t kGrain = 2 * kChunk;  // elements that pay for a thread
constexpr int kFirstShift = kMagnitudeBits - kDigitBits;
constexpr uint32_t kInfinity = 0x7F800000u;

// Two neighbouring order statistics.
struct OrderStatistics {
  uint32_t lower, upper;
};

// One sample, cut into one slice per thread; the cut stays the same from pass to pass, so that what was
// counted in a slice is what will be gathered from it.
class Sample {
 public:
  Sample(const void* x, DType dtype, int64_t n) : n_(n) {
    const int64_t cuts = std::clamp<int64_t>(n / kGrain, 1, max_threads());
    for (int64_t i = 0; i < cuts; ++i)
      slices_.push_back({x, dtype, n / cuts * i, i + 1 == cuts ? n : n / cuts * (i + 1)});
    counts_.resize(slices_.size());
    count(0, kFirstShift);
  }

  bool has_nan() const {
    int64_t suspects = 0;  // infinities too
    for (int bin = kInfinity >> kFirstShift; bin < kBins; ++bin) suspects += total(bin);
    return suspects > 0 && next_above(kInfinity) != kNoMagnitude;
  }

  // The order statistics rank and rank + 1, from 0; upper is kNoMagnitude where rank is the last. Called
  // once.
  OrderStatistics select(int64_t rank) {
    uint32_t low = 0;
    for (int shift = kFirstShift;;) {
      int bin = 0;
      for (; rank >= total(bin); ++bin) rank -= total(bin);
      low += static_cast<uint32_t>(bin) << shift;
      if (shift == 0) return {low, rank + 1 < total(bin) ? low : next_above(low)};
      if (total(bin) <= std::max(kGrain, n_ / 8))
        return select_among(bin, low, low + ((1u << shift) - 1), rank);
      shift = std::max(shift - kDigitBits, 0);
      count(low, shift);
    }
  }

 private:
  void count(uint32_t low, int shift) {
    const auto kernel = VDM_SIMD(count_magnitudes);
    for_each_slice([&](size_t i) {
      counts_[i].fill(0);
      kernel(slices_[i], low, shift, counts_[i].data());
    });
  }

  int64_t total(int bin) const {
    int64_t sum = 0;
    for (const auto& counts : counts_) sum += counts[static_cast<size_t>(bin)];
    return sum;
  }

  uint32_t next_above(uint32_t magnitude) const {
    std::vector<uint32_t> next(slices_.size(), kNoMagnitude);
    const auto kernel = VDM_SIMD(gather_magnitudes);
    for_each_slice([&](size_t i) { kernel(slices_[i], {magnitude + 1, magnitude}, nullptr, &next[i]); });
    return *std::min_element(next.begin(), next.end());
  }

  // Among the members of `bin`, the magnitudes in [low, high].
  OrderStatistics select_among(int bin, uint32_t low, uint32_t high, int64_t rank) const {
    std::vector<uint32_t> found(static_cast<size_t>(total(bin))), next(slices_.size(), kNoMagnitude);
    std::vector<uint32_t*> begin(1, found.data());
    for (const auto& counts : counts_) begin.push_back(begin.back() + counts[static_cast<size_t>(bin)]);
    const auto kernel = VDM_SIMD(gather_magnitudes);
    for_each_slice([&](size_t i) { kernel(slices_[i], {low, high}, begin[i], &next[i]); });
    const auto lower = found.begin() + rank, upper = lower + 1;
    std::nth_element(found.begin(), lower, found.end());
    return {*lower, upper != found.end() ? *std::min_element(upper, found.end())
                                         : *std::min_element(next.begin(), next.end())};
  }

  template <typename Body>
  void for_each_slice(const Body& body) const {
    parallel_for(static_cast<int64_t>(slices_.size()), 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) body(static_cast<size_t>(i));
    });
  }

  int64_t n_;
  std::vector<MagnitudeSlice> slices_;
  std::vector<std::array<int64_t, kBins>> counts_;
};

float value(uint32_t magnitude) {
  float x;
  std::memcpy(&x, &magnitude, sizeof x);
  return x;
}

float sample_quantile(const void* x, DType dtype, int64_t n, double q) {
  if (n == 0) return std::numeric_limits<float>::quiet_NaN();
  Sample sample(x, dtype, n);
  if (sample.has_nan()) return std::numeric_limits<float>::quiet_NaN();
  const double position = q * static_cast<double>(n - 1);
  const int64_t rank = std::min(static_cast<int64_t>(position), n - 1);
  const double weight = position - static_cast<double>(rank);
  const auto [lower, upper] = sample.select(rank);
  if (weight == 0.0 || upper == lower) return value(lower);
  const double a = value(lower), b = value(upper);
  return static_cast<float>(a + weight * (b - a));
}

}  // namespace

// Small samples are shared out to the threads; large ones are worked on by all threads, one after the other.
void abs_quantile_cpu(const AbsQuantileParams& params) {
  const int64_t samples_per_thread = params.n >= 2 * kGrain ? params.batch + 1 : kGrain / (params.n + 1) + 1;
  parallel_for(params.batch, samples_per_thread, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) {
      const void* x = static_cast<const char*>(params.x) + b * params.n * size_of(params.dtype);
      params.out[b] = sample_quantile(x, params.dtype, params.n, params.q);
    }
  });
}

}  // namespace vdm
