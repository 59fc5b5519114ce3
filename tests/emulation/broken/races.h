// Races: two threads touch one word, one writes, and no barrier stands between. Results are often right all the same.
#pragma once
#include "case.h"

// A thread reads what its neighbour has written.
template <bool kBroken>
__global__ void missing_barrier(const float* in, float* out, int count) {
  SHARED_ARRAY(float, row, 64);
  row[threadIdx.x] = in[threadIdx.x];
  if constexpr (!kBroken) __syncthreads();
  out[threadIdx.x] = row[(threadIdx.x + 1) % count];
}
CASE(missing_barrier, "tsan", "data race")

// The next turn overwrites what slow threads still read.
template <bool kBroken>
__global__ void missing_second_barrier(const float* in, float* out, int count) {
  SHARED_ARRAY(float, row, 64);
  for (int turn = 0; turn < 3; ++turn) {
    row[threadIdx.x] = in[threadIdx.x] + turn;
    __syncthreads();
    out[threadIdx.x] = row[count - 1 - threadIdx.x];
    if constexpr (!kBroken) __syncthreads();
  }
}
CASE(missing_second_barrier, "tsan", "data race")

// A read-modify-write of shared memory by many threads.
template <bool kBroken>
__global__ void shared_sum_without_atomics(const float* in, float* out, int) {
  SHARED_ARRAY(float, total, 1);
  if (threadIdx.x == 0) total[0] = 0;
  __syncthreads();
  if constexpr (kBroken)
    total[0] += in[threadIdx.x];
  else
    atomicAdd(&total[0], in[threadIdx.x]);
  __syncthreads();
  out[threadIdx.x] = total[0];
}
CASE(shared_sum_without_atomics, "tsan", "data race")

// The same in global memory, by several blocks.
template <bool kBroken>
__global__ void global_sum_without_atomics(const float* in, float* out, int) {
  if (blockIdx.x == 0 && threadIdx.x < 2) out[threadIdx.x] = 0;
  float* total = out + 2 + threadIdx.x % 2 + 2 * blockIdx.x;
  if (threadIdx.x < 2) *total = 0;
  __syncthreads();
  if constexpr (kBroken)
    *total += in[threadIdx.x];
  else
    atomicAdd(total, in[threadIdx.x]);
}
CASE(global_sum_without_atomics, "tsan", "data race", .blocks = 2, .outputs = 6)

// Two blocks write one word: nothing orders blocks.
template <bool kBroken>
__global__ void two_blocks_one_word(const float* in, float* out, int) {
  out[kBroken ? threadIdx.x : blockIdx.x * 64 + threadIdx.x] = in[threadIdx.x];
}
CASE(two_blocks_one_word, "tsan", "data race", .blocks = 2, .outputs = 64 * (1 + 1))

// A shuffle lets the lanes meet, but orders no memory.
template <bool kBroken>
__global__ void shuffle_as_fence(const float* in, float* out, int) {
  SHARED_ARRAY(float, row, 32);
  row[threadIdx.x] = in[threadIdx.x];
  const float sum = __shfl_xor_sync(0xffffffffu, in[threadIdx.x], 1);
  if constexpr (!kBroken) __syncwarp();
  out[threadIdx.x] = sum + row[threadIdx.x ^ 1];
}
CASE(shuffle_as_fence, "tsan", "data race", .threads = 32, .outputs = 32)

// Each step of a warp reduction in shared memory writes what the step before still reads.
template <bool kBroken>
__global__ void missing_syncwarp(const float* in, float* out, int) {
  SHARED_ARRAY(float, row, 32);
  row[threadIdx.x] = in[threadIdx.x];
  __syncwarp();
  for (int offset = 16; offset > 0; offset /= 2) {
    const float value = row[threadIdx.x] + row[threadIdx.x ^ offset];
    __syncwarp();
    row[threadIdx.x] = value;
    if constexpr (!kBroken) __syncwarp();
  }
  out[threadIdx.x] = row[threadIdx.x];
}
CASE(missing_syncwarp, "tsan", "data race", .threads = 32, .outputs = 32)
