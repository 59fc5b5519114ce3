// Device code of affine_sample. Forward: one thread an output pixel, all channels. Backward: one block a transform, so
// that the gradient of theta is summed inside the block and no gradient of a grid exists; the image gradient is
// scattered with atomics, or, for bitwise repeatability, gathered by the kernel at the end.
#pragma once
#include "../common/device.cuh"
#include "affine_sample.h"

namespace lada::cuda {

template <class T, int kThreads>
__global__ void __launch_bounds__(kThreads) affine_sample_kernel(AffineSample k) {
  using A = arithmetic_t<T>;
  const AffineGeometry& g = k.geometry;
  const int64_t plane = g.height * g.width, out_plane = g.out_height * g.out_width;
  const int64_t count = k.images * k.transforms * out_plane;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += int64_t{gridDim.x} * kThreads) {
    const int64_t transform = i / out_plane, pixel = i % out_plane;
    const T* in = static_cast<const T*>(k.image) + transform / k.transforms * k.channels * plane;
    T* out = static_cast<T*>(k.out) + transform * k.channels * out_plane + pixel;
    const Sampling<A> s =
        sampling_of(static_cast<const A*>(k.theta) + transform * 6, g, pixel / g.out_width, pixel % g.out_width);
    for (int64_t channel = 0; channel < k.channels; ++channel) {
      A value = s.finite() ? A(0) : not_a_number<A>();
      for_each_tap(s, [&](int64_t row, int64_t column, A weight_y, A weight_x, A, A) {
        value += weight_y * weight_x * widen(in[channel * plane + row * g.width + column]);
      });
      out[channel * out_plane] = narrow<T>(value);
    }
  }
}

// grad_image (if `scatter`) and grad_theta.
template <class T, int kThreads>
__global__ void __launch_bounds__(kThreads) affine_sample_backward_kernel(AffineSampleBackward k, bool scatter) {
  using A = arithmetic_t<T>;
  const AffineGeometry& g = k.geometry;
  const int64_t plane = g.height * g.width, out_plane = g.out_height * g.out_width;
  for (int64_t transform = blockIdx.x; transform < k.images * k.transforms; transform += gridDim.x) {
    const int64_t image = transform / k.transforms;
    const A* theta = static_cast<const A*>(k.theta) + transform * 6;
    const T* in = static_cast<const T*>(k.image) + image * k.channels * plane;
    const T* grad = static_cast<const T*>(k.grad) + transform * k.channels * out_plane;
    A* grad_in = static_cast<A*>(k.grad_image) + image * k.channels * plane;
    A sums[6] = {};
    for (int64_t pixel = threadIdx.x; pixel < out_plane; pixel += kThreads) {
      const Sampling<A> s = sampling_of(theta, g, pixel / g.out_width, pixel % g.out_width);
      A grad_x = s.finite() ? A(0) : not_a_number<A>(), grad_y = grad_x;
      for_each_tap(s, [&](int64_t row, int64_t column, A weight_y, A weight_x, A sign_y, A sign_x) {
        A dot = 0;
        for (int64_t channel = 0; channel < k.channels; ++channel) {
          const int64_t at = channel * plane + row * g.width + column;
          const A go = widen(grad[channel * out_plane + pixel]);
          if (scatter) atomicAdd(grad_in + at, weight_y * weight_x * go);
          dot += go * widen(in[at]);
        }
        grad_x += sign_x * weight_y * dot;
        grad_y += sign_y * weight_x * dot;
      });
      grad_x *= s.x.slope;
      grad_y *= s.y.slope;
      sums[0] += grad_x * s.grid_x;
      sums[1] += grad_x * s.grid_y;
      sums[2] += grad_x;
      sums[3] += grad_y * s.grid_x;
      sums[4] += grad_y * s.grid_y;
      sums[5] += grad_y;
    }
    for (int i = 0; i < 6; ++i) {
      const A sum = block_sum<kThreads>(sums[i]);
      if (k.grad_theta && threadIdx.x == 0) static_cast<A*>(k.grad_theta)[transform * 6 + i] = sum;
    }
  }
}

// grad_image in a fixed order of summation: one thread an input pixel gathers from the output pixels that read it.
template <class T, int kThreads>
__global__ void __launch_bounds__(kThreads) affine_sample_gather_kernel(AffineSampleBackward k) {
  using A = arithmetic_t<T>;
  const AffineGeometry& g = k.geometry;
  const int64_t plane = g.height * g.width, out_plane = g.out_height * g.out_width, count = k.images * plane;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += int64_t{gridDim.x} * kThreads) {
    const int64_t image = i / plane, in_row = i % plane / g.width, in_column = i % g.width;
    A* grad_in = static_cast<A*>(k.grad_image) + image * k.channels * plane + i % plane;
    for (int64_t transform = image * k.transforms; transform < (image + 1) * k.transforms; ++transform) {
      const A* theta = static_cast<const A*>(k.theta) + transform * 6;
      const T* grad = static_cast<const T*>(k.grad) + transform * k.channels * out_plane;
      const Box box = preimage_box(theta, g, in_row, in_column);
      for (int64_t row = box.row_begin; row < box.row_end; ++row)
        for (int64_t column = box.column_begin; column < box.column_end; ++column)
          for_each_tap(sampling_of(theta, g, row, column),
                       [&](int64_t tap_row, int64_t tap_column, A weight_y, A weight_x, A, A) {
                         if (tap_row != in_row || tap_column != in_column) return;
                         for (int64_t channel = 0; channel < k.channels; ++channel)
                           grad_in[channel * plane] +=
                               weight_y * weight_x * widen(grad[channel * out_plane + row * g.out_width + column]);
                       });
    }
  }
}

}  // namespace lada::cuda
