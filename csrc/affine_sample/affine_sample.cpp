// affine_sample for tensors: checks, allocation, registration.
#include "affine_sample.h"

#include "../common/tensor.h"

namespace lada {
namespace {

Interpolation interpolation_named(std::string_view mode, const char* op) {
  if (mode == "bilinear") return Interpolation::kBilinear;
  TORCH_CHECK_VALUE(mode == "nearest", op, ": mode must be 'bilinear' or 'nearest', got '", mode, "'");
  return Interpolation::kNearest;
}

Padding padding_named(std::string_view padding_mode, const char* op) {
  if (padding_mode == "zeros") return Padding::kZeros;
  if (padding_mode == "border") return Padding::kBorder;
  TORCH_CHECK_VALUE(padding_mode == "reflection", op, ": padding_mode must be 'zeros', 'border' or 'reflection', got '",
                    padding_mode, "'");
  return Padding::kReflection;
}

void check_inputs(const at::Tensor& image, const at::Tensor& theta, const char* op) {
  check_floating(image, op, "image");
  TORCH_CHECK_VALUE(image.dim() == 4 && image.size(2) >= 1 && image.size(3) >= 1, op,
                    ": image must have shape (B, channels, H, W) with at least one pixel, got ", image.sizes());
  check_floating(theta, op, "theta");
  const bool one = theta.dim() == 3, fits = one || theta.dim() == 4;
  TORCH_CHECK_VALUE(fits && theta.size(0) == image.size(0) && theta.size(-2) == 2 && theta.size(-1) == 3, op,
                    ": theta must have shape (B, 2, 3) or (B, K, 2, 3) with B = ", image.size(0), ", got ",
                    theta.sizes());
  TORCH_CHECK(theta.device() == image.device(), op, ": theta must be on the device of image (", image.device(),
              "), got ", theta.device());
}

int64_t transforms_of(const at::Tensor& theta) { return theta.dim() == 4 ? theta.size(1) : 1; }

std::vector<int64_t> out_shape(const at::Tensor& image, const at::Tensor& theta, int64_t height, int64_t width) {
  if (theta.dim() == 4) return {image.size(0), theta.size(1), image.size(1), height, width};
  return {image.size(0), image.size(1), height, width};
}

at::Tensor affine_sample(const at::Tensor& image, const at::Tensor& theta, at::IntArrayRef size, std::string_view mode,
                         std::string_view padding_mode, bool align_corners) {
  constexpr const char* op = "affine_sample";
  check_inputs(image, theta, op);
  TORCH_CHECK_VALUE(size.size() == 2 && size[0] >= 0 && size[1] >= 0, op, ": size must be (height, width), got ", size);
  const AffineGeometry geometry = {
      image.size(2), image.size(3), size[0], size[1], interpolation_named(mode, op), padding_named(padding_mode, op),
      align_corners};
  const at::Tensor in = image.contiguous(), transforms = arithmetic(theta, arithmetic_type(image));
  at::Tensor out = at::empty(out_shape(image, theta, size[0], size[1]), image.options());
  run(image, LADA_BACKENDS(affine_sample),
      AffineSample{in.const_data_ptr(), transforms.const_data_ptr(), out.mutable_data_ptr(), image.size(0),
                   transforms_of(theta), image.size(1), geometry, dtype_of(image)});
  return out;
}

std::tuple<at::Tensor, at::Tensor> affine_sample_backward(const at::Tensor& grad, const at::Tensor& image,
                                                          const at::Tensor& theta, std::string_view mode,
                                                          std::string_view padding_mode, bool align_corners,
                                                          std::array<bool, 2> needed) {
  constexpr const char* op = "affine_sample_backward";
  check_inputs(image, theta, op);
  TORCH_CHECK_VALUE(grad.dim() >= 2, op, ": grad must have the shape of the output, got ", grad.sizes());
  check_shape(grad, op, "grad", out_shape(image, theta, grad.size(-2), grad.size(-1)));
  const AffineGeometry geometry = {image.size(2),
                                   image.size(3),
                                   grad.size(-2),
                                   grad.size(-1),
                                   interpolation_named(mode, op),
                                   padding_named(padding_mode, op),
                                   align_corners};
  const at::ScalarType type = arithmetic_type(image);
  const at::Tensor in = image.contiguous(), transforms = arithmetic(theta, type);
  const at::Tensor g = grad.to(image.scalar_type()).contiguous();
  at::Tensor grad_image = needed[0] ? at::zeros(image.sizes(), transforms.options()) : no_gradient(image);
  at::Tensor grad_theta = needed[1] ? at::empty(theta.sizes(), transforms.options()) : no_gradient(theta);
  run(image, LADA_BACKENDS(affine_sample_backward),
      AffineSampleBackward{g.const_data_ptr(), in.const_data_ptr(), transforms.const_data_ptr(),
                           needed[0] ? grad_image.mutable_data_ptr() : nullptr,
                           needed[1] ? grad_theta.mutable_data_ptr() : nullptr, image.size(0), transforms_of(theta),
                           image.size(1), geometry, dtype_of(image), at::globalContext().deterministicAlgorithms()});
  return {grad_image.to(image.scalar_type()), grad_theta.to(theta.scalar_type())};
}

void implement(torch::Library& m) {
  m.impl("affine_sample", &affine_sample);
  m.impl("affine_sample_backward", &affine_sample_backward);
}

}  // namespace

TORCH_LIBRARY_IMPL(lada_ext, CPU, m) { implement(m); }
TORCH_LIBRARY_IMPL(lada_ext, CUDA, m) { implement(m); }

}  // namespace lada
