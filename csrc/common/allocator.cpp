#include "common/allocator.h"

#include <climits>
#include <cstdlib>  // defines __GLIBC__ there

#ifdef __GLIBC__
#  include <malloc.h>
#endif

namespace vdm {

bool set_allocator_policy() {
#ifdef __GLIBC__
  // Allocate from the heap, never by mmap; a free never shrinks the heap.
  return mallopt(M_MMAP_MAX, 0) == 1 && mallopt(M_TRIM_THRESHOLD, -1) == 1;
#else
  return false;
#endif
}

}  // namespace vdm
