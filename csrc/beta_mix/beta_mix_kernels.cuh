// Device code of the Beta ops. lam is drawn where it is used and drawn again in the backward pass, so no tensor of
// lam or of 1 - lam is read from memory; grad_a, grad_b and grad_tau come from one kernel.
#pragma once
#include "../common/device.cuh"
#include "beta_mix.h"
#include "formula.h"

namespace lada::cuda {

template <class A>
__device__ __forceinline__ BetaDraw<A> draw_of(const BetaSource& source, int64_t pair, int64_t n) {
  return beta_draw(source.key, source.index_of(pair), n, static_cast<const A*>(source.tau)[pair]);
}

template <class A, int kThreads>
__global__ void __launch_bounds__(kThreads) beta_logit_gradient_kernel(BetaLogitGradient k) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < k.count; i += int64_t{gridDim.x} * kThreads)
    static_cast<A*>(k.out)[i] =
        lada::beta_logit_gradient(static_cast<const A*>(k.x)[i], static_cast<const A*>(k.tau)[i]);
}

template <class A, int kThreads>
__global__ void __launch_bounds__(kThreads) beta_sample_kernel(BetaSample k) {
  const int64_t samples = k.source.samples, count = k.source.pairs * samples;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += int64_t{gridDim.x} * kThreads)
    static_cast<A*>(k.lam)[i] = draw_of<A>(k.source, i / samples, i % samples).lam;
}

// One thread a pair.
template <class A, int kThreads>
__global__ void __launch_bounds__(kThreads) beta_sample_backward_kernel(BetaSampleBackward k) {
  const int64_t samples = k.source.samples;
  for (int64_t pair = int64_t{blockIdx.x} * kThreads + threadIdx.x; pair < k.source.pairs;
       pair += int64_t{gridDim.x} * kThreads) {
    const A tau = static_cast<const A*>(k.source.tau)[pair];
    A sum = 0;
    for (int64_t n = 0; n < samples; ++n)
      sum += static_cast<const A*>(k.grad)[pair * samples + n] *
             beta_lam_gradient_log_tau(draw_of<A>(k.source, pair, n), tau);
    static_cast<A*>(k.grad_tau)[pair] = sum / clamp_tau(tau);
  }
}

// The weights of up to kDraws samples of one pair, drawn by the first threads of a block into shared memory.
constexpr int kDraws = 32;

template <class A>
struct Weights {
  A *lam, *mu, *slope;  // slope = dlam / dlog tau
};

template <class A>
__device__ __forceinline__ void draw_weights(const BetaSource& source, int64_t pair, int64_t first, int count,
                                             const Weights<A>& weights) {
  if (threadIdx.x >= count) return;
  const BetaDraw<A> draw = draw_of<A>(source, pair, first + threadIdx.x);
  weights.lam[threadIdx.x] = draw.lam;
  weights.mu[threadIdx.x] = draw.mu;
  if (weights.slope)
    weights.slope[threadIdx.x] = beta_lam_gradient_log_tau(draw, static_cast<const A*>(source.tau)[pair]);
}

__device__ __forceinline__ int draws_from(int64_t first, int64_t samples) {
  return static_cast<int>(samples - first < kDraws ? samples - first : kDraws);
}

// One block a pair and slice of kSlice features: a and b are read once, N rows are written.
template <class T, int kThreads, int kSlice>
__global__ void __launch_bounds__(kThreads) beta_mix_kernel(BetaMix k) {
  using A = arithmetic_t<T>;
  SHARED_ARRAY(A, lam, kDraws);
  SHARED_ARRAY(A, mu, kDraws);
  const int64_t samples = k.source.samples;
  const int64_t slices = k.features > kSlice ? (k.features + kSlice - 1) / kSlice : 1;  // lam is written also if D = 0
  for (int64_t task = blockIdx.x; task < k.source.pairs * slices; task += gridDim.x) {
    const int64_t pair = task / slices, begin = task % slices * kSlice;
    const int64_t end = begin + kSlice < k.features ? begin + kSlice : k.features;
    const T* a = static_cast<const T*>(k.a) + pair * k.features;
    const T* b = static_cast<const T*>(k.b) + pair * k.features;
    for (int64_t first = 0; first < samples; first += kDraws) {
      const int count = draws_from(first, samples);
      draw_weights<A>(k.source, pair, first, count, {lam, mu, nullptr});
      __syncthreads();
      if (begin == 0 && threadIdx.x < count)
        static_cast<A*>(k.lam)[pair * samples + first + threadIdx.x] = lam[threadIdx.x];
      T* mixed = static_cast<T*>(k.mixed) + (pair * samples + first) * k.features;
      for (int64_t d = begin + threadIdx.x; d < end; d += kThreads) {
        const A value_a = widen(a[d]), value_b = widen(b[d]);
        for (int n = 0; n < count; ++n) mixed[n * k.features + d] = narrow<T>(lam[n] * value_a + mu[n] * value_b);
      }
      __syncthreads();  // lam and mu are free for the next draws
    }
  }
}

// One block a pair; each g[n, d] is read once and enters three sums over n. Since dlam / dlog tau = slope_n depends on
// n alone,  grad_log_tau = sum_d (a_d - b_d) sum_n slope_n g_nd + sum_n slope_n grad_lam_n  needs one register a
// thread.
template <class T, int kThreads>
__global__ void __launch_bounds__(kThreads) beta_mix_backward_kernel(BetaMixBackward k) {
  using A = arithmetic_t<T>;
  SHARED_ARRAY(A, lam, kDraws);
  SHARED_ARRAY(A, mu, kDraws);
  SHARED_ARRAY(A, slope, kDraws);
  const int64_t samples = k.source.samples;
  for (int64_t pair = blockIdx.x; pair < k.source.pairs; pair += gridDim.x) {
    const int64_t row = pair * k.features;
    A grad_log_tau = 0;
    for (int64_t tile = 0; tile == 0 || tile < k.features; tile += kThreads) {
      const int64_t d = tile + threadIdx.x;
      A sum_a = 0, sum_b = 0, sum_slope = 0;
      for (int64_t first = 0; first < samples; first += kDraws) {
        const int count = draws_from(first, samples);
        if (tile == 0 || samples > kDraws) {  // otherwise the weights are still there
          __syncthreads();
          draw_weights<A>(k.source, pair, first, count, {lam, mu, slope});
          __syncthreads();
          if (tile == 0 && threadIdx.x < count)
            grad_log_tau +=
                slope[threadIdx.x] * static_cast<const A*>(k.grad_lam)[pair * samples + first + threadIdx.x];
        }
        if (d < k.features) {
          const T* g = static_cast<const T*>(k.grad_mixed) + (pair * samples + first) * k.features + d;
          for (int n = 0; n < count; ++n) {
            const A value = widen(g[n * k.features]);
            sum_a += lam[n] * value;
            sum_b += mu[n] * value;
            sum_slope += slope[n] * value;
          }
        }
      }
      if (d < k.features) {
        if (k.grad_a) static_cast<T*>(k.grad_a)[row + d] = narrow<T>(sum_a);
        if (k.grad_b) static_cast<T*>(k.grad_b)[row + d] = narrow<T>(sum_b);
        grad_log_tau +=
            sum_slope * (widen(static_cast<const T*>(k.a)[row + d]) - widen(static_cast<const T*>(k.b)[row + d]));
      }
    }
    grad_log_tau = block_sum<kThreads>(grad_log_tau);
    if (k.grad_tau && threadIdx.x == 0)
      static_cast<A*>(k.grad_tau)[pair] = grad_log_tau / clamp_tau(static_cast<const A*>(k.source.tau)[pair]);
  }
}

}  // namespace lada::cuda
