// Accesses outside an array or off their boundary. On a GPU most of them read a neighbour's data and go on.
#pragma once
#include "case.h"

// One element past the end of global memory.
template <bool kBroken>
__global__ void global_read_past_end(const float* in, float* out, int count) {
  const int next = threadIdx.x + 1;
  out[threadIdx.x] = kBroken || next < count ? in[next] : 0;
}
CASE(global_read_past_end, "asan", "heap-buffer-overflow")

// A vector load whose last elements lie past the end.
template <bool kBroken>
__global__ void vector_read_past_end(const float* in, float* out, int count) {
  const int first = 4 * threadIdx.x;
  float4 v = {0, 0, 0, 0};
  if (kBroken || first + 4 <= count)
    v = *reinterpret_cast<const float4*>(in + first);
  else
    v.x = in[first];
  out[threadIdx.x] = v.x + v.y + v.z + v.w;
}
CASE(vector_read_past_end, "asan", "heap-buffer-overflow", .threads = 4, .inputs = 13, .outputs = 4)

// A vector load that starts between two boundaries of 16 bytes; a GPU faults.
template <bool kBroken>
__global__ void misaligned_vector(const float* in, float* out, int) {
  const float4 v = *reinterpret_cast<const float4*>(in + 4 * threadIdx.x + (kBroken ? 1 : 0));
  out[threadIdx.x] = v.x;
}
CASE(misaligned_vector, "asan", "misaligned address", .threads = 4, .inputs = 20, .outputs = 4)

// Index N of a shared array of N.
template <bool kBroken>
__global__ void shared_index_past_end(const float* in, float* out, int count) {
  SHARED_ARRAY(float, row, 64);
  row[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  const int next = threadIdx.x + 1;
  out[threadIdx.x] = kBroken || next < count ? row[next] : 0;
}
CASE(shared_index_past_end, "asan", "out of bounds|heap-buffer-overflow")

// Past the end of a thread's own array.
template <bool kBroken>
__global__ void local_index_past_end(const float* in, float* out, int count) {
  float window[4];
  for (int i = 0; i < 4; ++i) window[i] = in[(threadIdx.x + i) % count];
  float sum = 0;
  for (int i = 0; i < count / 16 + (kBroken ? 1 : 0); ++i) sum += window[i];
  out[threadIdx.x] = sum;
}
CASE(local_index_past_end, "asan", "out of bounds|stack-buffer-overflow")

// A 32-bit product of sizes that needs 64 bits.
template <bool kBroken>
__global__ void index_overflow(const float* in, float* out, int count) {
  const int rows = 1 << 26, row = rows - 1 + static_cast<int>(threadIdx.x) - static_cast<int>(threadIdx.x);
  const int64_t last = kBroken ? row * count : int64_t{row} * count;
  out[threadIdx.x] = in[threadIdx.x] + static_cast<float>(last);
}
CASE(index_overflow, "asan", "signed integer overflow")
