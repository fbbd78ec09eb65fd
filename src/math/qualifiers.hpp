#pragma once

/// Marks for functions that are compiled for the host and for the device from one source.

#if defined(__CUDACC__)
#define SHARDMIX_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define SHARDMIX_HOST_DEVICE inline __attribute__((always_inline))
#endif
