// Device code of the consistency score: a warp a row. It first finds the softmax of every view of the row, then each
// lane takes a class through all views; the second reading comes from cache.
#pragma once
#include "../common/device.cuh"
#include "consistency.h"

namespace lada::cuda {

constexpr int kKeptViews = 64;  // whose softmax a warp keeps; those of further views are computed again

template <class T>
__device__ __forceinline__ Softmax<arithmetic_t<T>> warp_softmax(const T* z, int64_t classes) {
  using A = arithmetic_t<T>;
  const int lane = threadIdx.x % kWarp;
  A max = -infinity<A>(), sum = 0;
  for (int64_t c = lane; c < classes; c += kWarp) max = widen(z[c]) > max ? widen(z[c]) : max;
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const A other = __shfl_xor_sync(kAllLanes, max, offset);
    max = other > max ? other : max;
  }
  for (int64_t c = lane; c < classes; c += kWarp) sum += std::exp(widen(z[c]) - max);
  return {max, warp_sum(sum)};
}

// The views of one row, with the softmax of the first ones kept in shared memory.
template <class T>
struct Views {
  using A = arithmetic_t<T>;
  const T* first;
  int64_t stride, count, classes;
  A *max, *sum;

  __device__ __forceinline__ const T* logits(int64_t view) const { return first + view * stride; }

  __device__ __forceinline__ void keep() const {
    __syncwarp();  // readers of the row before are done
    for (int64_t view = 0; view < count && view < kKeptViews; ++view) {
      const Softmax<A> softmax = warp_softmax(logits(view), classes);
      if (threadIdx.x % kWarp == 0) {
        max[view] = softmax.max;
        sum[view] = softmax.sum;
      }
    }
    __syncwarp();
  }

  // The whole warp must call it with the same view.
  __device__ __forceinline__ Softmax<A> softmax(int64_t view) const {
    if (view < kKeptViews) return {max[view], sum[view]};
    return warp_softmax(logits(view), classes);
  }
};

// The moments over the views of the class that this lane has in the `chunk`th 32 classes.
template <class T>
__device__ __forceinline__ Moments<arithmetic_t<T>> moments_of(const Views<T>& views, int64_t chunk) {
  using A = arithmetic_t<T>;
  const int64_t c = chunk * kWarp + threadIdx.x % kWarp;
  Moments<A> moments;
  for (int64_t view = 0; view < views.count; ++view) {
    const Softmax<A> softmax = views.softmax(view);
    if (c < views.classes) moments.push(softmax(widen(views.logits(view)[c])), view + 1);
  }
  return moments;
}

template <class T, int kThreads>
__global__ void __launch_bounds__(kThreads, 4) consistency_kernel(Consistency k) {
  using A = arithmetic_t<T>;
  constexpr int kWarps = kThreads / kWarp;
  SHARED_ARRAY(A, max, kWarps * kKeptViews);
  SHARED_ARRAY(A, sum, kWarps * kKeptViews);
  const int warp = threadIdx.x / kWarp;
  for (int64_t row = int64_t{blockIdx.x} * kWarps + warp; row < k.rows; row += int64_t{gridDim.x} * kWarps) {
    const Views<T> views = {static_cast<const T*>(k.logits) + row * k.classes,
                            k.rows * k.classes,
                            k.views,
                            k.classes,
                            max + warp * kKeptViews,
                            sum + warp * kKeptViews};
    views.keep();
    A squares = 0;
    for (int64_t chunk = 0; chunk * kWarp < k.classes; ++chunk) squares += moments_of(views, chunk).squares;
    squares = warp_sum(squares);
    if (threadIdx.x % kWarp == 0) static_cast<A*>(k.out)[row] = squares / static_cast<A>(k.views);
  }
}

template <class T, int kThreads>
__global__ void __launch_bounds__(kThreads, 4) consistency_backward_kernel(ConsistencyBackward k) {
  using A = arithmetic_t<T>;
  constexpr int kWarps = kThreads / kWarp;
  SHARED_ARRAY(A, max, kWarps * kKeptViews);
  SHARED_ARRAY(A, sum, kWarps * kKeptViews);
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  for (int64_t row = int64_t{blockIdx.x} * kWarps + warp; row < k.rows; row += int64_t{gridDim.x} * kWarps) {
    const Views<T> views = {static_cast<const T*>(k.logits) + row * k.classes,
                            k.rows * k.classes,
                            k.views,
                            k.classes,
                            max + warp * kKeptViews,
                            sum + warp * kKeptViews};
    views.keep();
    A* mean = static_cast<A*>(k.means) + row * k.classes;  // a lane reads what it wrote itself
    for (int64_t chunk = 0; chunk * kWarp < k.classes; ++chunk) {
      const A value = moments_of(views, chunk).mean;
      if (chunk * kWarp + lane < k.classes) mean[chunk * kWarp + lane] = value;
    }
    const A scale = 2 * static_cast<const A*>(k.grad)[row] / static_cast<A>(k.views);
    for (int64_t view = 0; view < k.views; ++view) {
      const Softmax<A> softmax = views.softmax(view);
      const T* z = views.logits(view);
      A pull = 0;
      for (int64_t c = lane; c < k.classes; c += kWarp) {
        const A p = softmax(widen(z[c]));
        pull += p * (p - mean[c]);
      }
      pull = warp_sum(pull);
      T* grad_z = static_cast<T*>(k.grad_logits) + (view * k.rows + row) * k.classes;
      for (int64_t c = lane; c < k.classes; c += kWarp) {
        const A p = softmax(widen(z[c]));
        grad_z[c] = narrow<T>(scale * p * (p - mean[c] - pull));
      }
    }
  }
}

}  // namespace lada::cuda
