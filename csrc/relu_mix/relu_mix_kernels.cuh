// Device code of logits of mixtures. A block of threads takes a few samples of one pair, and in the forward pass a few
// classes: each thread mixes every so many packets of features in its registers and sums what they contribute, then the
// threads' sums are added in a fixed order. No mixture reaches memory, and no two blocks add to one number.
#pragma once
#include "../common/packet.cuh"
#include "relu_mix.h"

namespace lada::cuda {

constexpr int kMixSamples = 5, kMixClasses = 5;  // of a block; where there are fewer, the last is repeated

// The sum over a block of each of kCount values; thread i has the i-th. Every thread of the block must call it.
template <int kThreads, int kCount, class A>
__device__ __forceinline__ A block_sums(const A (&value)[kCount]) {
  constexpr int kWarps = kThreads / kWarp;
  static_assert(kCount <= kThreads);
  SHARED_ARRAY(A, partial, kWarps * kCount);
  __syncthreads();  // the previous call's readers are done with `partial`
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const A sum = warp_sum(value[i]);
    if (threadIdx.x % kWarp == 0) partial[threadIdx.x / kWarp * kCount + i] = sum;
  }
  __syncthreads();
  A total = 0;
  if (threadIdx.x < kCount)
    for (int warp = 0; warp < kWarps; ++warp) total += partial[warp * kCount + threadIdx.x];
  return total;
}

// The rows of a pair and the weights of some of its samples.
template <class T>
struct MixedRows {
  using A = arithmetic_t<T>;
  const T *a, *b, *weight;
  int64_t features;
  bool aligned;
  A lam[kMixSamples];

  __device__ __forceinline__ MixedRows(const ReluMix& k, int64_t pair, int64_t sample)
      : a(static_cast<const T*>(k.a) + pair * k.features),
        b(static_cast<const T*>(k.b) + pair * k.features),
        weight(static_cast<const T*>(k.weight)),
        features(k.features),
        aligned(is_aligned(a) && is_aligned(b) && is_aligned(weight) && features % Packet<T>::kSize == 0) {
    const A* of_pair = static_cast<const A*>(k.lam) + pair * k.samples;
#pragma unroll
    for (int s = 0; s < kMixSamples; ++s) lam[s] = of_pair[sample + s < k.samples ? sample + s : k.samples - 1];
  }

  __device__ __forceinline__ Packet<T> load(const T* row, int64_t d) const {
    return load_packet(row, d, features, aligned, narrow<T>(A(0)));
  }

  __device__ __forceinline__ A mixed(int s, T a_d, T b_d) const {
    return mixture(lam[s], 1 - lam[s], widen(a_d), widen(b_d));
  }
};

template <class T, int kThreads>
__global__ void __launch_bounds__(kThreads) relu_mix_logits_kernel(ReluMixLogits k) {
  using A = arithmetic_t<T>;
  constexpr int kSize = Packet<T>::kSize;
  const int64_t samples = k.mix.samples, classes = k.mix.classes, features = k.mix.features;
  const int64_t chunks = (classes + kMixClasses - 1) / kMixClasses, groups = (samples + kMixSamples - 1) / kMixSamples;
  for (int64_t task = blockIdx.x; task < k.mix.pairs * groups * chunks; task += gridDim.x) {
    const int64_t first = task % chunks * kMixClasses, pair = task / chunks / groups;
    const int64_t sample = task / chunks % groups * kMixSamples;
    const MixedRows<T> rows(k.mix, pair, sample);
    A sum[kMixSamples * kMixClasses] = {};
    for (int64_t d = threadIdx.x * kSize; d < features; d += kThreads * kSize) {
      const Packet<T> a = rows.load(rows.a, d), b = rows.load(rows.b, d);
      Packet<T> weight[kMixClasses];
#pragma unroll
      for (int c = 0; c < kMixClasses; ++c) {
        const int64_t row = first + c < classes ? first + c : classes - 1;
        weight[c] = rows.load(rows.weight + row * features, d);
      }
#pragma unroll
      for (int i = 0; i < kSize; ++i)
#pragma unroll
        for (int s = 0; s < kMixSamples; ++s) {
          const A value = d + i < features ? relu(rows.mixed(s, a.value[i], b.value[i])) : A(0);
#pragma unroll
          for (int c = 0; c < kMixClasses; ++c) sum[s * kMixClasses + c] += value * widen(weight[c].value[i]);
        }
    }
    const A total = block_sums<kThreads>(sum);
    const int64_t n = sample + threadIdx.x / kMixClasses, c = first + threadIdx.x % kMixClasses;
    if (threadIdx.x < kMixSamples * kMixClasses && n < samples && c < classes)
      static_cast<A*>(k.logits)[(pair * samples + n) * classes + c] =
          total + (k.bias ? static_cast<const A*>(k.bias)[c] : A(0));
  }
}

template <class T, int kThreads>
__global__ void __launch_bounds__(kThreads) relu_mix_logits_backward_kernel(ReluMixLogitsBackward k) {
  using A = arithmetic_t<T>;
  constexpr int kSize = Packet<T>::kSize;
  const int64_t samples = k.mix.samples, classes = k.mix.classes, features = k.mix.features;
  const int64_t groups = (samples + kMixSamples - 1) / kMixSamples;
  for (int64_t task = blockIdx.x; task < k.mix.pairs * groups; task += gridDim.x) {
    const int64_t pair = task / groups, sample = task % groups * kMixSamples;
    const MixedRows<T> rows(k.mix, pair, sample);
    const A* grad = static_cast<const A*>(k.grad) + (pair * samples + sample) * classes;
    const int64_t last = samples - sample - 1;
    A sum[kMixSamples] = {};
    for (int64_t d = threadIdx.x * kSize; d < features; d += kThreads * kSize) {
      A pull[kMixSamples][kSize] = {};
      for (int64_t c = 0; c < classes; ++c) {
        const Packet<T> weight = rows.load(rows.weight + c * features, d);
#pragma unroll
        for (int s = 0; s < kMixSamples; ++s) {
          const A g = grad[(s < last ? s : last) * classes + c];
#pragma unroll
          for (int i = 0; i < kSize; ++i) pull[s][i] += g * widen(weight.value[i]);
        }
      }
      const Packet<T> a = rows.load(rows.a, d), b = rows.load(rows.b, d);
#pragma unroll
      for (int i = 0; i < kSize; ++i) {
        const A difference = widen(a.value[i]) - widen(b.value[i]);
#pragma unroll
        for (int s = 0; s < kMixSamples; ++s)
          if (d + i < features) sum[s] += relu_gradient(rows.mixed(s, a.value[i], b.value[i]), pull[s][i] * difference);
      }
    }
    const A total = block_sums<kThreads>(sum);
    if (threadIdx.x < kMixSamples && sample + threadIdx.x < samples)
      static_cast<A*>(k.grad_lam)[pair * samples + sample + threadIdx.x] = total;
  }
}

}  // namespace lada::cuda
