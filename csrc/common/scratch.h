// Memory that a launcher's threads keep between calls: an allocation of a few hundred kilobytes per call
// would be given back to the system and faulted in again.
#pragma once

#include <cstdint>

namespace vdm {

// At least `count` floats, 64-byte aligned, of this thread, until its next call with the same slot. They keep
// what they held; new ones are not initialized. Throws std::bad_alloc.
enum class ScratchSlot : int { kThread = 0, kShared = 1, kGradient = 2, kCount = 3 };
float* scratch(ScratchSlot slot, int64_t count);

}  // namespace vdm
