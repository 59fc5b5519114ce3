// CPU loops of affine_sample. An image with all its transforms belongs to one thread, so gradients need no atomics and
// are bitwise repeatable.
#include "../common/cpu.h"
#include "affine_sample.h"

namespace lada::cpu {
namespace {

template <class T>
void sample_image(const AffineSample& k, int64_t image) {
  using A = arithmetic_t<T>;
  const AffineGeometry& g = k.geometry;
  const int64_t plane = g.height * g.width, out_plane = g.out_height * g.out_width;
  const T* in = static_cast<const T*>(k.image) + image * k.channels * plane;
  for (int64_t t = image * k.transforms; t < (image + 1) * k.transforms; ++t) {
    const A* theta = static_cast<const A*>(k.theta) + t * 6;
    T* out = static_cast<T*>(k.out) + t * k.channels * out_plane;
    for (int64_t pixel = 0; pixel < out_plane; ++pixel) {
      const Sampling<A> s = sampling_of(theta, g, pixel / g.out_width, pixel % g.out_width);
      for (int64_t channel = 0; channel < k.channels; ++channel) {
        A value = s.finite() ? A(0) : not_a_number<A>();
        for_each_tap(s, [&](int64_t row, int64_t column, A weight_y, A weight_x, A, A) {
          value += weight_y * weight_x * widen(in[channel * plane + row * g.width + column]);
        });
        out[channel * out_plane + pixel] = static_cast<T>(value);
      }
    }
  }
}

template <class T>
void sample_image_backward(const AffineSampleBackward& k, int64_t image) {
  using A = arithmetic_t<T>;
  const AffineGeometry& g = k.geometry;
  const int64_t plane = g.height * g.width, out_plane = g.out_height * g.out_width;
  const T* in = static_cast<const T*>(k.image) + image * k.channels * plane;
  A* grad_in = k.grad_image ? static_cast<A*>(k.grad_image) + image * k.channels * plane : nullptr;
  for (int64_t t = image * k.transforms; t < (image + 1) * k.transforms; ++t) {
    const A* theta = static_cast<const A*>(k.theta) + t * 6;
    const T* grad = static_cast<const T*>(k.grad) + t * k.channels * out_plane;
    A sums[6] = {};
    for (int64_t pixel = 0; pixel < out_plane; ++pixel) {
      const Sampling<A> s = sampling_of(theta, g, pixel / g.out_width, pixel % g.out_width);
      A grad_x = s.finite() ? A(0) : not_a_number<A>(), grad_y = grad_x;
      for_each_tap(s, [&](int64_t row, int64_t column, A weight_y, A weight_x, A sign_y, A sign_x) {
        A dot = 0;
        for (int64_t channel = 0; channel < k.channels; ++channel) {
          const int64_t at = channel * plane + row * g.width + column;
          const A go = widen(grad[channel * out_plane + pixel]);
          if (grad_in) grad_in[at] += weight_y * weight_x * go;
          dot += go * widen(in[at]);
        }
        grad_x += sign_x * weight_y * dot;
        grad_y += sign_y * weight_x * dot;
      });
      grad_x *= s.x.slope;
      grad_y *= s.y.slope;
      const A terms[6] = {grad_x * s.grid_x, grad_x * s.grid_y, grad_x, grad_y * s.grid_x, grad_y * s.grid_y, grad_y};
      for (int i = 0; i < 6; ++i) sums[i] += terms[i];
    }
    if (k.grad_theta) std::copy_n(sums, 6, static_cast<A*>(k.grad_theta) + t * 6);
  }
}

int64_t cost_of_image(const AffineGeometry& g, int64_t transforms, int64_t channels) {
  return transforms * g.out_height * g.out_width * (channels + 4);
}

}  // namespace

void affine_sample(const AffineSample& k, int threads) {
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    parallel_for(k.images, cost_of_image(k.geometry, k.transforms, k.channels), threads,
                 [&](int64_t begin, int64_t end) {
                   for (int64_t image = begin; image < end; ++image) sample_image<T>(k, image);
                 });
  });
}

void affine_sample_backward(const AffineSampleBackward& k, int threads) {
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    parallel_for(k.images, cost_of_image(k.geometry, k.transforms, k.channels), threads,
                 [&](int64_t begin, int64_t end) {
                   for (int64_t image = begin; image < end; ++image) sample_image_backward<T>(k, image);
                 });
  });
}

}  // namespace lada::cpu
