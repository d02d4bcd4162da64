#include <vector>

#include "common/cache.h"
#include "common/coefficients.h"
#include "common/parallel.h"
#include "q_sample/q_sample.h"
#include "q_sample/q_sample_simd.h"

namespace vdm {

void q_sample_cpu(const QSampleParams& params) {
  const int64_t sample_bytes = params.n * size_of(params.dtype);
  const bool stream = exceeds_cache(3 * params.batch * sample_bytes);
  std::vector<QSample> samples(static_cast<size_t>(params.batch));
  for (int64_t b = 0; b < params.batch; ++b) {
    const auto [alpha, sigma, norm2] = signal_noise(double{params.logsnr[b]}, params.variance_preserving);
    samples[static_cast<size_t>(b)] = {static_cast<const char*>(params.x) + b * sample_bytes,
                                       static_cast<char*>(params.z) + b * sample_bytes,
                                       static_cast<char*>(params.eps) + b * sample_bytes,
                                       params.dtype,
                                       static_cast<float>(alpha),
                                       static_cast<float>(sigma),
                                       params.seed[b],
                                       *params.draw,
                                       stream};
  }
  const auto kernel = VDM_SIMD(q_sample);
  parallel_for_chunks(params.batch, params.n, [&](int64_t b, int64_t begin, int64_t end) {
    kernel(samples[static_cast<size_t>(b)], begin, end);
  });
}

}  // namespace vdm
