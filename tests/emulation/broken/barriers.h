// Threads that do not meet: a GPU hangs or goes on with garbage.
#pragma once
#include "case.h"

// Half the threads wait at another barrier than the rest.
template <bool kBroken>
__global__ void barriers_in_two_branches(const float* in, float* out, int) {
  if (kBroken && threadIdx.x < 32) {
    out[threadIdx.x] = in[threadIdx.x];
    __syncthreads();
  } else {
    out[threadIdx.x] = in[threadIdx.x];
    __syncthreads();
  }
}
CASE(barriers_in_two_branches, "plain", "meet at different barriers")

// Threads without work leave before a barrier.
template <bool kBroken>
__global__ void exit_before_barrier(const float* in, float* out, int) {
  if (kBroken && threadIdx.x >= 60) return;
  out[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
}
CASE(exit_before_barrier, "plain", "threads 60-63 exited")

// A full mask, but only half the lanes come.
template <bool kBroken>
__global__ void shuffle_of_half_a_warp(const float* in, float* out, int) {
  float value = in[threadIdx.x];
  if (!kBroken || threadIdx.x % 32 < 16) value += __shfl_xor_sync(0xffffffffu, value, 1);
  out[threadIdx.x] = value;
}
CASE(shuffle_of_half_a_warp, "plain", "do not meet")

// A shuffle reads a lane that the mask leaves out.
template <bool kBroken>
__global__ void shuffle_from_outside_its_mask(const float* in, float* out, int) {
  float value = in[threadIdx.x];
  if (threadIdx.x < 16) value += __shfl_down_sync(0xffffu, value, 8, kBroken ? 32 : 16);
  out[threadIdx.x] = value;
}
CASE(shuffle_from_outside_its_mask, "plain", "a lane that its mask leaves out")

// The mask of the other half.
template <bool kBroken>
__global__ void lane_outside_its_own_mask(const float* in, float* out, int) {
  const unsigned mask = (threadIdx.x < 16) != kBroken ? 0x0000ffffu : 0xffff0000u;
  out[threadIdx.x] = __shfl_xor_sync(mask, in[threadIdx.x], 1);
}
CASE(lane_outside_its_own_mask, "plain", "mask leaves it out", .threads = 32, .outputs = 32)

// A warp of 16 threads has no lanes 16 to 31.
template <bool kBroken>
__global__ void lanes_that_do_not_exist(const float* in, float* out, int) {
  const unsigned mask = kBroken ? 0xffffffffu : 0x0000ffffu;
  out[threadIdx.x] = __shfl_xor_sync(mask, in[threadIdx.x], 1);
}
CASE(lanes_that_do_not_exist, "plain", "do not meet", .threads = 16, .outputs = 16)
