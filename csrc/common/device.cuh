// What device code is written in: shared memory, storage types, warp and block reductions. No torch header.
// Kernels use only these names and plain CUDA C++, so that the same files can be compiled and run on a host.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "dtype.h"
#include "math.h"

#ifndef SHARED_ARRAY  // the host emulation has its own
#define SHARED_ARRAY(T, name, count) __shared__ alignas(16) T name[count]
#endif

namespace lada::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

__device__ __forceinline__ double widen(double value) { return value; }
__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ float widen(__half value) { return __half2float(value); }
__device__ __forceinline__ float widen(__nv_bfloat16 value) { return __bfloat162float(value); }

template <class T>
__device__ __forceinline__ T narrow(arithmetic_t<T> value) {
  return value;
}
template <>
__device__ __forceinline__ __half narrow<__half>(float value) {
  return __float2half_rn(value);
}
template <>
__device__ __forceinline__ __nv_bfloat16 narrow<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

template <class A>
__device__ __forceinline__ A warp_sum(A value) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(kAllLanes, value, offset);
  return value;
}

// Sum over a block of kThreads; thread 0 has the result. Every thread of the block must call it.
template <int kThreads, class A>
__device__ __forceinline__ A block_sum(A value) {
  SHARED_ARRAY(A, partial, kThreads / kWarp);
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  value = warp_sum(value);
  __syncthreads();  // the previous call's readers are done with `partial`
  if (lane == 0) partial[warp] = value;
  __syncthreads();
  if (warp == 0) {
    value = lane < kThreads / kWarp ? partial[lane] : A(0);
    value = warp_sum(value);
  }
  return value;
}

}  // namespace lada::cuda
