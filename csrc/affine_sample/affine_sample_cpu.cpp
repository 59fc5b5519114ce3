// CPU loops of affine_sample. An image with all its transforms belongs to one thread, so gradients need no atomics and
// are bitwise repeatable.
#include <vector>

#include "../common/cpu.h"
#include "affine_sample.h"

namespace lada::cpu {
namespace {

// The samplings of one output row, computed once for all channels.
template <class A>
void sample_row(const A* theta, const AffineGeometry& g, int64_t row, std::vector<Sampling<A>>& samplings) {
  for (int64_t column = 0; column < g.out_width; ++column) samplings[column] = sampling_of(theta, g, row, column);
}

template <class T>
void sample_image(const AffineSample& k, int64_t image) {
  using A = arithmetic_t<T>;
  const AffineGeometry& g = k.geometry;
  const int64_t plane = g.height * g.width, out_plane = g.out_height * g.out_width;
  std::vector<Sampling<A>> samplings(g.out_width);
  for (int64_t t = image * k.transforms; t < (image + 1) * k.transforms; ++t)
    for (int64_t row = 0; row < g.out_height; ++row) {
      sample_row(static_cast<const A*>(k.theta) + t * 6, g, row, samplings);
      for (int64_t channel = 0; channel < k.channels; ++channel) {
        const T* in = static_cast<const T*>(k.image) + (image * k.channels + channel) * plane;
        T* out = static_cast<T*>(k.out) + (t * k.channels + channel) * out_plane + row * g.out_width;
        for (int64_t column = 0; column < g.out_width; ++column) {
          const Sampling<A>& s = samplings[column];
          A value = s.finite() ? A(0) : not_a_number<A>();
          for_each_tap(s, [&](int64_t tap_row, int64_t tap_column, A weight_y, A weight_x, A, A) {
            value += weight_y * weight_x * widen(in[tap_row * g.width + tap_column]);
          });
          out[column] = static_cast<T>(value);
        }
      }
    }
}

// The gradient to a position, summed over channels.
template <class A>
struct PositionGradient {
  A x, y;
};

// Adds one row of one channel to the image gradient (if wanted) and to the gradients of the row's positions.
template <class T, class A>
void row_backward(const T* grad, const T* in, A* grad_in, int64_t width, const std::vector<Sampling<A>>& samplings,
                  std::vector<PositionGradient<A>>& positions) {
  for (size_t column = 0; column < samplings.size(); ++column) {
    const A go = widen(grad[column]);
    for_each_tap(samplings[column], [&](int64_t row, int64_t tap_column, A weight_y, A weight_x, A sign_y, A sign_x) {
      const int64_t at = row * width + tap_column;
      const A product = go * widen(in[at]);
      if (grad_in) grad_in[at] += weight_y * weight_x * go;
      positions[column].x += sign_x * weight_y * product;
      positions[column].y += sign_y * weight_x * product;
    });
  }
}

template <class T>
void sample_image_backward(const AffineSampleBackward& k, int64_t image) {
  using A = arithmetic_t<T>;
  const AffineGeometry& g = k.geometry;
  const int64_t plane = g.height * g.width, out_plane = g.out_height * g.out_width;
  std::vector<Sampling<A>> samplings(g.out_width);
  std::vector<PositionGradient<A>> positions(g.out_width);
  for (int64_t t = image * k.transforms; t < (image + 1) * k.transforms; ++t) {
    A sums[6] = {};
    for (int64_t row = 0; row < g.out_height; ++row) {
      sample_row(static_cast<const A*>(k.theta) + t * 6, g, row, samplings);
      positions.assign(g.out_width, {});
      for (int64_t channel = 0; channel < k.channels; ++channel) {
        const int64_t in_plane = (image * k.channels + channel) * plane;
        row_backward(static_cast<const T*>(k.grad) + (t * k.channels + channel) * out_plane + row * g.out_width,
                     static_cast<const T*>(k.image) + in_plane,
                     k.grad_image ? static_cast<A*>(k.grad_image) + in_plane : nullptr, g.width, samplings, positions);
      }
      for (int64_t column = 0; column < g.out_width; ++column) {
        const Sampling<A>& s = samplings[column];
        const A unknown = s.finite() ? A(0) : not_a_number<A>();
        const A grad_x = (positions[column].x + unknown) * s.x.slope,
                grad_y = (positions[column].y + unknown) * s.y.slope;
        const A terms[6] = {grad_x * s.grid_x, grad_x * s.grid_y, grad_x, grad_y * s.grid_x, grad_y * s.grid_y, grad_y};
        for (int i = 0; i < 6; ++i) sums[i] += terms[i];
      }
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
