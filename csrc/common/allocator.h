// The process's allocator policy.
#pragma once

namespace vdm {

// Keeps large tensors' memory in the process instead of returning it to the system at every free: a tensor
// whose pages are faulted in again costs more than most kernels. Memory held stays at the peak of what was in
// use. False where the C library is not glibc, and nothing changed.
bool set_allocator_policy();

}  // namespace vdm
