#include "common/fingerprint.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "common/parallel.h"

namespace vdm {
namespace {

// Bytes that have a fingerprint of their own, whatever the number of threads.
constexpr int64_t kPiece = 1 << 18;

// The two halves of a 128-bit product, folded: every bit of the result depends on every bit of a and b.
uint64_t fold(uint64_t a, uint64_t b) {
  const unsigned __int128 product = static_cast<unsigned __int128>(a ^ 0xA0761D6478BD642F) * (b | 1);
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

uint64_t piece_fingerprint(const char* data, int64_t bytes) {
  uint64_t state[kFingerprintLanes];
  for (uint64_t i = 0; i < kFingerprintLanes; ++i) state[i] = fold(i + 1, 0xE7037ED1A0B428DB);
  const int64_t stripes = bytes / kFingerprintStripe, rest = bytes % kFingerprintStripe;
  const auto mix = VDM_SIMD(mix_stripes);
  mix(data, stripes, state);
  if (rest > 0) {
    char last[kFingerprintStripe] = {};
    std::memcpy(last, data + stripes * kFingerprintStripe, static_cast<size_t>(rest));
    mix(last, 1, state);
  }
  uint64_t result = static_cast<uint64_t>(bytes);
  for (const uint64_t lane : state) result = fold(result ^ lane, 0x8EBC6AF09C88C6E3);
  return result;
}

}  // namespace

uint64_t fingerprint(const void* data, int64_t bytes) {
  const int64_t count = (bytes + kPiece - 1) / kPiece;
  std::vector<uint64_t> pieces(static_cast<size_t>(count));
  parallel_for(count, 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      pieces[static_cast<size_t>(i)] = piece_fingerprint(static_cast<const char*>(data) + i * kPiece,
                                                         std::min(kPiece, bytes - i * kPiece));
  });
  uint64_t result = static_cast<uint64_t>(bytes);
  for (const uint64_t piece : pieces) result = fold(result ^ piece, 0x589965CC75374CC3);
  return result;
}

}  // namespace vdm
