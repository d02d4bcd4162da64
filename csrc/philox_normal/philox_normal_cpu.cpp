#include "common/cache.h"
#include "common/parallel.h"
#include "philox_normal/philox_normal.h"
#include "philox_normal/philox_normal_simd.h"

namespace vdm {

void philox_normal_cpu(const PhiloxNormalParams& params) {
  const int64_t sample_bytes = params.n * size_of(params.dtype);
  const bool stream = exceeds_cache(params.batch * sample_bytes);
  const auto kernel = VDM_SIMD(philox_normal);
  parallel_for_chunks(params.batch, params.n, [&](int64_t b, int64_t begin, int64_t end) {
    kernel({static_cast<char*>(params.out) + b * sample_bytes, params.dtype, params.seed[b], *params.draw,
            stream},
           begin, end);
  });
}

}  // namespace vdm
