#include "common/fingerprint.h"

#include <algorithm>
#include <cstring>

#include "common/parallel.h"

namespace vdm {
namespace {

// Bytes that have a state of their own, whatever the number of threads.
constexpr int64_t kPiece = 1 << 20, kPieceStripes = kPiece / kFingerprintStripe;

// The two halves of a 128-bit product, folded: every bit of the result depends on every bit of a and b.
uint64_t fold(uint64_t a, uint64_t b) {
  const unsigned __int128 product = static_cast<unsigned __int128>(a ^ 0xA0761D6478BD642F) * (b | 1);
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

}  // namespace

Fingerprint::Fingerprint(const void* data, int64_t bytes)
    : data_(static_cast<const char*>(data)),
      bytes_(bytes),
      states_(static_cast<size_t>((bytes + kPiece - 1) / kPiece)) {
  for (auto& state : states_)
    for (uint64_t i = 0; i < kFingerprintLanes; ++i) state[i] = fold(i + 1, 0xE7037ED1A0B428DB);
}

int64_t Fingerprint::first_stripe(int64_t piece) const {
  return std::min(piece * kPieceStripes, bytes_ / kFingerprintStripe);
}

FingerprintShare Fingerprint::share(int64_t begin, int64_t end) {
  const int64_t piece = begin / kPieceStripes;
  return {data_ + begin * kFingerprintStripe, std::min(end, (piece + 1) * kPieceStripes) - begin,
          states_[static_cast<size_t>(piece)].data()};
}

uint64_t Fingerprint::value() {
  const int64_t rest = bytes_ % kFingerprintStripe;
  if (rest > 0) {
    char last[kFingerprintStripe] = {};
    std::memcpy(last, data_ + bytes_ - rest, static_cast<size_t>(rest));
    VDM_SIMD(mix_stripes)({last, 1, states_.back().data()});
  }
  uint64_t result = static_cast<uint64_t>(bytes_);
  for (size_t i = 0; i < states_.size(); ++i) {
    uint64_t piece = static_cast<uint64_t>(std::min(kPiece, bytes_ - static_cast<int64_t>(i) * kPiece));
    for (const uint64_t lane : states_[i]) piece = fold(piece ^ lane, 0x8EBC6AF09C88C6E3);
    result = fold(result ^ piece, 0x589965CC75374CC3);
  }
  return result;
}

uint64_t fingerprint(const void* data, int64_t bytes) {
  Fingerprint whole(data, bytes);
  parallel_for(whole.pieces(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      VDM_SIMD(mix_stripes)(whole.share(whole.first_stripe(i), whole.first_stripe(i + 1)));
  });
  return whole.value();
}

}  // namespace vdm
