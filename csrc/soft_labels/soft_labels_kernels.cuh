// Device code over mixed labels. A group of kGroup threads, a part of a warp, works on one row; all lanes of a warp
// make the same number of rounds, so that all of them meet at every shuffle. A class that does not exist gives NaN.
#pragma once
#include "../common/device.cuh"
#include "soft_labels.h"

namespace lada::cuda {

template <int kGroup, class A>
__device__ __forceinline__ A sum_in_group(A value) {
  for (int offset = kGroup / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(kAllLanes, value, offset);
  return value;
}

template <int kGroup, class A>
__device__ __forceinline__ A max_in_group(A value) {
  for (int offset = kGroup / 2; offset > 0; offset /= 2) {
    const A other = __shfl_xor_sync(kAllLanes, value, offset);
    value = other > value ? other : value;
  }
  return value;
}

// The maximum of a row and the sum of exp(z - max); with every thread of the group. Inactive groups read nothing.
template <int kGroup, class T, class A>
__device__ __forceinline__ void softmax_of_row(const T* z, int64_t classes, bool active, A& max, A& sum) {
  const int lane = threadIdx.x % kGroup;
  max = -infinity<A>();
  sum = 0;
  if (active)
    for (int64_t c = lane; c < classes; c += kGroup) max = widen(z[c]) > max ? widen(z[c]) : max;
  max = max_in_group<kGroup>(max);
  if (active)
    for (int64_t c = lane; c < classes; c += kGroup) sum += exp_below_max(widen(z[c]), max);
  sum = sum_in_group<kGroup>(sum);
}

template <class A, int kThreads>
__global__ void __launch_bounds__(kThreads) mix_labels_kernel(MixLabels k) {
  const int64_t classes = k.labels.classes, count = k.labels.rows * classes;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += int64_t{gridDim.x} * kThreads) {
    const int64_t row = i / classes;
    const auto label = k.labels.label<A>(row);
    static_cast<A*>(k.out)[i] = label.exists ? label.weight(i - row * classes) : not_a_number<A>();
  }
}

template <class A, int kThreads>
__global__ void __launch_bounds__(kThreads) mix_labels_backward_kernel(MixLabelsBackward k) {
  for (int64_t row = int64_t{blockIdx.x} * kThreads + threadIdx.x; row < k.labels.rows;
       row += int64_t{gridDim.x} * kThreads) {
    const auto label = k.labels.label<A>(row);
    const A* g = static_cast<const A*>(k.grad) + row * k.labels.classes;
    static_cast<A*>(k.grad_lam)[row] = label.exists ? g[label.a] - g[label.b] : not_a_number<A>();
  }
}

template <class T, int kGroup, int kThreads>
__global__ void __launch_bounds__(kThreads) soft_cross_entropy_kernel(SoftCrossEntropy k) {
  using A = arithmetic_t<T>;
  constexpr int kGroups = kThreads / kGroup;
  for (int64_t base = int64_t{blockIdx.x} * kGroups; base < k.labels.rows; base += int64_t{gridDim.x} * kGroups) {
    const int64_t row = base + threadIdx.x / kGroup;
    const bool active = row < k.labels.rows;
    const T* z = static_cast<const T*>(k.logits) + row * k.labels.classes;
    A max, sum;
    softmax_of_row<kGroup>(z, k.labels.classes, active, max, sum);
    if (!active || threadIdx.x % kGroup != 0) continue;
    const auto label = k.labels.label<A>(row);
    const A z_a = label.exists ? widen(z[label.a]) : A(0), z_b = label.exists ? widen(z[label.b]) : A(0);
    static_cast<A*>(k.loss)[row] = soft_cross_entropy_of_row(max, sum, z_a, z_b, label);
  }
}

template <class T, int kGroup, int kThreads>
__global__ void __launch_bounds__(kThreads) soft_cross_entropy_backward_kernel(SoftCrossEntropyBackward k) {
  using A = arithmetic_t<T>;
  constexpr int kGroups = kThreads / kGroup;
  const int lane = threadIdx.x % kGroup;
  for (int64_t base = int64_t{blockIdx.x} * kGroups; base < k.labels.rows; base += int64_t{gridDim.x} * kGroups) {
    const int64_t row = base + threadIdx.x / kGroup;
    const bool active = row < k.labels.rows;
    const T* z = static_cast<const T*>(k.logits) + row * k.labels.classes;
    A max = 0, sum = 1;
    if (k.grad_logits) softmax_of_row<kGroup>(z, k.labels.classes, active, max, sum);
    if (!active) continue;
    const auto label = k.labels.label<A>(row);
    const A g = label.exists ? static_cast<const A*>(k.grad)[row] : not_a_number<A>(), inverse = 1 / sum;
    if (k.grad_lam && lane == 0)
      static_cast<A*>(k.grad_lam)[row] =
          label.exists && label.a != label.b ? g * (widen(z[label.b]) - widen(z[label.a])) : g * A(0);
    if (!k.grad_logits) continue;
    T* out = static_cast<T*>(k.grad_logits) + row * k.labels.classes;
    for (int64_t c = lane; c < k.labels.classes; c += kGroup)
      out[c] = narrow<T>(g * soft_cross_entropy_gradient(widen(z[c]), max, inverse, c, label));
  }
}

}  // namespace lada::cuda
