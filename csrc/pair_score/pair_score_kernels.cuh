// Device code of the pair score: a warp scores the 2 + N rows of one pair and writes one number.
#pragma once
#include "../scores/scores_kernels.cuh"
#include "pair_score.h"

namespace lada::cuda {

template <class T>
__device__ __forceinline__ arithmetic_t<T> row_score(const void* rows, int64_t row, const PairScores& k) {
  return score_of(row_stats(static_cast<const T*>(rows) + row * k.classes, k.classes), k.score);
}

template <class T, int kThreads>
__global__ void __launch_bounds__(kThreads) pair_scores_kernel(PairScores k) {
  using A = arithmetic_t<T>;
  constexpr int kPairsPerBlock = kThreads / kWarp;
  for (int64_t pair = int64_t{blockIdx.x} * kPairsPerBlock + threadIdx.x / kWarp; pair < k.pairs;
       pair += int64_t{gridDim.x} * kPairsPerBlock) {
    A mixtures = 0;
    for (int64_t n = 0; n < k.samples; ++n) mixtures += row_score<T>(k.mixed, pair * k.samples + n, k);
    const A ends = row_score<T>(k.logits_a, pair, k) + row_score<T>(k.logits_b, pair, k);
    if (threadIdx.x % kWarp == 0)
      static_cast<A*>(k.out)[pair] = k.scale.as<A>() * (ends + k.gamma.as<A>() * mixtures / static_cast<A>(k.samples));
  }
}

}  // namespace lada::cuda
