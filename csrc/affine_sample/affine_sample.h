// The bridge between affine_sample.cpp (tensors) and its backends (pointers): plain structs, no torch header.
#pragma once
#include <cstdint>

#include "../common/dtype.h"
#include "formula.h"

namespace lada {

// Distances in elements between images (or sampled images), channels, rows and columns.
struct Strides {
  int64_t image, channel, row, column;
};

// (value * unit - mean) / deviation of each channel as value * scale + shift. Null means 0 and 1.
struct Normalization {
  const void* mean;  // (channels), arithmetic type
  const void* deviation;
  float unit;  // 1 / 255 for bytes, else 1
};

template <class A>
struct Tone {
  A scale, shift;
};

template <class A>
LADA_HD Tone<A> tone_of(const Normalization& n, int64_t channel) {
  if (n.mean == nullptr) return {static_cast<A>(n.unit), 0};
  const A deviation = static_cast<const A*>(n.deviation)[channel];
  return {static_cast<A>(n.unit) / deviation, -static_cast<const A*>(n.mean)[channel] / deviation};
}

// What both directions share. Transform t of image i is number i * transforms + t among the sampled images.
struct AffineInputs {
  const void* image;  // (images, channels, height, width): bytes, or storage type
  const void* theta;  // (images, transforms, 2, 3), arithmetic type
  Strides image_strides;
  Normalization normalization;
  int64_t images, transforms, channels;
  AffineGeometry geometry;
  DType dtype;    // of the result and of gradients
  bool of_bytes;  // the image's type is uint8
};

struct AffineSample {
  AffineInputs in;
  void* out;  // (images * transforms, channels, out_height, out_width), storage type
  Strides out_strides;
};

// What memory a backend wants for the backward pass.
struct AffineSamplePlan {
  int64_t parts = 1;     // sums that the gradient of one theta is made of
  bool scatter = false;  // the image gradient is added to from many places: zeroed, and in the arithmetic type
};

struct AffineSamplePlanning {
  AffineInputs in;
  bool deterministic;
  AffineSamplePlan* plan;
};

struct AffineSampleBackward {
  AffineInputs in;
  AffineSamplePlan plan;
  const void* grad;  // like out
  Strides grad_strides;
  void* grad_image;  // like image, in storage type unless plan.scatter; or null
  Strides grad_image_strides;
  void* grad_theta;  // like theta; or null
  void* partial;     // (images * transforms, plan.parts, 6), arithmetic type; grad_theta itself for one part
};

namespace cpu {
void plan_affine_sample_backward(const AffineSamplePlanning&, int threads);
void affine_sample(const AffineSample&, int threads);
void affine_sample_backward(const AffineSampleBackward&, int threads);
}  // namespace cpu

namespace cuda {
void plan_affine_sample_backward(const AffineSamplePlanning&, void* stream);
void affine_sample(const AffineSample&, void* stream);
void affine_sample_backward(const AffineSampleBackward&, void* stream);
}  // namespace cuda

}  // namespace lada
