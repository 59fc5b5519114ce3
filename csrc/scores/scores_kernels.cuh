// Device code of the row scores: a warp reads one row with coalesced loads, each lane keeps the online statistics of
// its elements, and a butterfly of shuffles merges them. Nothing but the result is written.
#pragma once
#include "../common/device.cuh"
#include "scores.h"

namespace lada::cuda {

template <class A>
__device__ __forceinline__ RowStats<A> warp_merge(RowStats<A> stats) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    RowStats<A> other;
    other.max = __shfl_xor_sync(kAllLanes, stats.max, offset);
    other.rest = __shfl_xor_sync(kAllLanes, stats.rest, offset);
    other.weighted = __shfl_xor_sync(kAllLanes, stats.weighted, offset);
    other.argmax = __shfl_xor_sync(kAllLanes, stats.argmax, offset);
    stats = merge(stats, other);
  }
  return stats;
}

// The statistics of z[0..classes), the same in every lane.
template <class T>
__device__ __forceinline__ RowStats<arithmetic_t<T>> row_stats(const T* __restrict__ z, int64_t classes) {
  RowStats<arithmetic_t<T>> stats;
  for (int64_t j = threadIdx.x % kWarp; j < classes; j += kWarp) push(stats, widen(z[j]), j);
  return warp_merge(stats);
}

template <class T, int kThreads>
__global__ void __launch_bounds__(kThreads) row_scores_kernel(RowScores k) {
  using A = arithmetic_t<T>;
  constexpr int kRowsPerBlock = kThreads / kWarp;
  const T* logits = static_cast<const T*>(k.logits);
  for (int64_t row = int64_t{blockIdx.x} * kRowsPerBlock + threadIdx.x / kWarp; row < k.rows;
       row += int64_t{gridDim.x} * kRowsPerBlock) {
    const RowStats<A> stats = row_stats(logits + row * k.classes, k.classes);
    if (threadIdx.x % kWarp == 0) static_cast<A*>(k.out)[row] = k.scale.as<A>() * score_of(stats, k.score);
  }
}

template <class T, int kThreads>
__global__ void __launch_bounds__(kThreads) row_scores_backward_kernel(RowScoresBackward k) {
  using A = arithmetic_t<T>;
  constexpr int kRowsPerBlock = kThreads / kWarp;
  for (int64_t row = int64_t{blockIdx.x} * kRowsPerBlock + threadIdx.x / kWarp; row < k.rows;
       row += int64_t{gridDim.x} * kRowsPerBlock) {
    const T* z = static_cast<const T*>(k.logits) + row * k.classes;
    T* grad_z = static_cast<T*>(k.grad_logits) + row * k.classes;
    const RowStats<A> stats = row_stats(z, k.classes);
    const A g = k.scale.as<A>() * static_cast<const A*>(k.grad)[row / k.group];
    for (int64_t j = threadIdx.x % kWarp; j < k.classes; j += kWarp)
      grad_z[j] = narrow<T>(g * score_gradient(stats, k.score, widen(z[j]), j));
  }
}

}  // namespace lada::cuda
