// Memory read before it was written, and results that depend on which thread comes first.
#pragma once
#include "case.h"

// The last element of the output is forgotten.
template <bool kBroken>
__global__ void output_never_written(const float* in, float* out, int count) {
  if (threadIdx.x < count - (kBroken ? 1 : 0)) out[threadIdx.x] = in[threadIdx.x];
}
CASE(output_never_written, "plain", "results differ")

// Shared memory is not zero at the start; the maximum even swallows a NaN.
template <bool kBroken>
__global__ void shared_read_before_write(const float* in, float* out, int) {
  SHARED_ARRAY(float, best, 64);
  if constexpr (!kBroken) best[threadIdx.x] = 0;
  best[threadIdx.x] = fmaxf(best[threadIdx.x], in[threadIdx.x]);
  out[threadIdx.x] = best[threadIdx.x];
}
CASE(shared_read_before_write, "plain", "results differ")

// Slots in the order of arrival.
template <bool kBroken>
__global__ void order_of_arrival(const float* in, float* out, int) {
  SHARED_ARRAY(int, taken, 1);
  if (threadIdx.x == 0) taken[0] = 0;
  __syncthreads();
  const int slot = atomicAdd(&taken[0], 1);
  out[kBroken ? slot : static_cast<int>(threadIdx.x)] = in[threadIdx.x];
}
CASE(order_of_arrival, "plain", "results differ")
