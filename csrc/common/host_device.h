// VDM_HOST_DEVICE marks the functions that C++ and CUDA share.
#pragma once

#ifdef __CUDACC__
#  define VDM_HOST_DEVICE __host__ __device__
#else
#  define VDM_HOST_DEVICE
#endif
