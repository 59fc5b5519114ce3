// The bridge between affine_sample.cpp (tensors) and its backends (pointers): plain structs, no torch header.
#pragma once
#include <cstdint>

#include "../common/dtype.h"
#include "formula.h"

namespace lada {

struct AffineSample {
  const void* image;  // (images, channels, height, width), storage type
  const void* theta;  // (images, transforms, 2, 3), arithmetic type
  void* out;          // (images, transforms, channels, out_height, out_width), storage type
  int64_t images, transforms, channels;
  AffineGeometry geometry;
  DType dtype;
};

struct AffineSampleBackward {
  const void* grad;  // like out
  const void* image;
  const void* theta;
  void* grad_image;  // like image but arithmetic type, zeroed; or null
  void* grad_theta;  // like theta; or null
  int64_t images, transforms, channels;
  AffineGeometry geometry;
  DType dtype;
  bool deterministic;
};

namespace cpu {
void affine_sample(const AffineSample&, int threads);
void affine_sample_backward(const AffineSampleBackward&, int threads);
}  // namespace cpu

namespace cuda {
void affine_sample(const AffineSample&, void* stream);
void affine_sample_backward(const AffineSampleBackward&, void* stream);
}  // namespace cuda

}  // namespace lada
