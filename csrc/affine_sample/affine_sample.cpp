// affine_sample and take_images for tensors: checks, allocation, registration.
#include "affine_sample.h"

#include <ATen/ops/ones.h>

#include <limits>

#include "../common/tensor.h"
#include "take_images.h"

namespace lada {
namespace {

Interpolation interpolation_named(std::string_view mode, const char* op) {
  if (mode == "bilinear") return Interpolation::kBilinear;
  if (mode == "nearest") return Interpolation::kNearest;
  TORCH_CHECK_VALUE(mode == "bicubic", op, ": mode must be 'bilinear', 'nearest' or 'bicubic', got '", mode, "'");
  return Interpolation::kBicubic;
}

Padding padding_named(std::string_view padding_mode, const char* op) {
  if (padding_mode == "zeros") return Padding::kZeros;
  if (padding_mode == "border") return Padding::kBorder;
  TORCH_CHECK_VALUE(padding_mode == "reflection", op, ": padding_mode must be 'zeros', 'border' or 'reflection', got '",
                    padding_mode, "'");
  return Padding::kReflection;
}

// The tensors and options that both directions take.
struct Call {
  const at::Tensor &image, &theta;
  int64_t height, width;  // of the output
  std::string_view mode, padding_mode;
  bool align_corners;
  const std::optional<at::Tensor>&mean, &deviation;
};

void check_constant(const at::Tensor& tensor, const at::Tensor& image, const char* op, const char* name) {
  check_floating(tensor, op, name);
  check_shape(tensor, op, name, {image.size(1)});
  check_on_device_of(tensor, op, name, image, "image");
}

void check_normalization(const std::optional<at::Tensor>& mean, const std::optional<at::Tensor>& deviation,
                         const at::Tensor& image, const char* op) {
  TORCH_CHECK_VALUE(mean.has_value() == deviation.has_value(), op, ": give both of mean and std, or neither");
  if (!mean) return;
  check_constant(*mean, image, op, "mean");
  check_constant(*deviation, image, op, "std");
  if (should_check_values(*deviation))
    check_each_above<double>(deviation->to(at::kDouble), 0, op, "std", "std must be positive");
}

void check(const Call& call, const char* op) {
  const at::Tensor &image = call.image, &theta = call.theta;
  check_defined(image, op, "image");
  if (image.scalar_type() != at::kByte) {
    const auto type = image.scalar_type();
    TORCH_CHECK_TYPE(type == at::kDouble || type == at::kFloat || type == at::kHalf || type == at::kBFloat16, op,
                     ": image must have dtype float64, float32, float16, bfloat16 or uint8, got ", type);
  }
  TORCH_CHECK_VALUE(image.dim() == 4 && image.size(2) >= 1 && image.size(3) >= 1, op,
                    ": image must have shape (B, channels, H, W) with at least one pixel, got ", image.sizes());
  TORCH_CHECK_VALUE(call.height >= 1 && call.width >= 1, op, ": size must be (height, width) of at least 1, got [",
                    call.height, ", ", call.width, "]");
  check_floating(theta, op, "theta");
  const bool one = theta.dim() == 3, fits = one || theta.dim() == 4;
  TORCH_CHECK_VALUE(fits && theta.size(0) == image.size(0) && theta.size(-2) == 2 && theta.size(-1) == 3, op,
                    ": theta must have shape (B, 2, 3) or (B, K, 2, 3) with B = ", image.size(0), ", got ",
                    theta.sizes());
  check_on_device_of(theta, op, "theta", image, "image");
  constexpr int64_t kLongest = std::numeric_limits<int32_t>::max();
  TORCH_CHECK_VALUE(std::max({image.size(2), image.size(3), call.height, call.width}) < kLongest, op,
                    ": images must have fewer than 2^31 - 1 rows and columns, got ", image.sizes(), " sampled to ",
                    call.height, " x ", call.width);
  check_normalization(call.mean, call.deviation, image, op);
}

int64_t transforms_of(const at::Tensor& theta) { return theta.dim() == 4 ? theta.size(1) : 1; }

std::vector<int64_t> out_shape(const Call& call) {
  const at::Tensor &image = call.image, &theta = call.theta;
  if (theta.dim() == 4) return {image.size(0), theta.size(1), image.size(1), call.height, call.width};
  return {image.size(0), image.size(1), call.height, call.width};
}

// float32 for bytes, else the image's.
at::ScalarType result_type(const at::Tensor& image) {
  return image.scalar_type() == at::kByte ? at::kFloat : image.scalar_type();
}

// Of (..., channels, height, width), where images are the leading axes.
Strides strides_of(const at::Tensor& tensor) {
  const int64_t axes = tensor.dim();
  return {tensor.stride(axes - 4), tensor.stride(axes - 3), tensor.stride(axes - 2), tensor.stride(axes - 1)};
}

at::Tensor without_transforms(const at::Tensor& sampled) {
  return sampled.dim() == 5 ? sampled.flatten(0, 1) : sampled;
}

// The arguments of a backend, and the tensors that they point to.
struct Prepared {
  at::Tensor theta, mean, deviation;
  AffineInputs in;

  Prepared(const Call& call, const char* op) {
    const at::ScalarType type = result_type(call.image) == at::kDouble ? at::kDouble : at::kFloat;
    const bool of_bytes = call.image.scalar_type() == at::kByte;
    theta = arithmetic(call.theta, type);
    if (call.mean) mean = arithmetic(*call.mean, type), deviation = arithmetic(*call.deviation, type);
    const Normalization normalization = {mean.defined() ? mean.const_data_ptr() : nullptr,
                                         mean.defined() ? deviation.const_data_ptr() : nullptr,
                                         of_bytes ? 1 / 255.0f : 1};
    const AffineGeometry geometry = {call.image.size(2),
                                     call.image.size(3),
                                     call.height,
                                     call.width,
                                     interpolation_named(call.mode, op),
                                     padding_named(call.padding_mode, op),
                                     call.align_corners};
    in = {call.image.const_data_ptr(), theta.const_data_ptr(),
          strides_of(call.image),      normalization,
          call.image.size(0),          transforms_of(call.theta),
          call.image.size(1),          geometry,
          dtype_of(call.image),        of_bytes};
  }
};

// With channels last where the image has them last.
at::Tensor fresh_images(at::IntArrayRef shape, const at::Tensor& image, at::ScalarType type) {
  return fresh(shape, image.options().dtype(type), image.suggest_memory_format());
}

at::Tensor affine_sample(const at::Tensor& image, const at::Tensor& theta, at::IntArrayRef size, std::string_view mode,
                         std::string_view padding_mode, bool align_corners, const std::optional<at::Tensor>& mean,
                         const std::optional<at::Tensor>& deviation) {
  constexpr const char* op = "affine_sample";
  TORCH_CHECK_VALUE(size.size() == 2, op, ": size must be (height, width), got ", size);
  const Call call = {image, theta, size[0], size[1], mode, padding_mode, align_corners, mean, deviation};
  check(call, op);
  const Prepared prepared(call, op);
  const AffineInputs& in = prepared.in;
  at::Tensor out = fresh_images({in.images * in.transforms, in.channels, size[0], size[1]}, image, result_type(image));
  if (out.numel() > 0)
    run(image, LADA_BACKENDS(affine_sample), AffineSample{in, out.mutable_data_ptr(), strides_of(out)});
  return theta.dim() == 4 ? out.view(out_shape(call)) : out;
}

std::tuple<at::Tensor, at::Tensor> affine_sample_backward(const at::Tensor& grad, const at::Tensor& image,
                                                          const at::Tensor& theta, std::string_view mode,
                                                          std::string_view padding_mode, bool align_corners,
                                                          const std::optional<at::Tensor>& mean,
                                                          const std::optional<at::Tensor>& deviation,
                                                          std::array<bool, 2> needed) {
  constexpr const char* op = "affine_sample_backward";
  TORCH_CHECK_VALUE(grad.dim() >= 2, op, ": grad must have the shape of the output, got ", grad.sizes());
  const Call call = {image, theta, grad.size(-2), grad.size(-1), mode, padding_mode, align_corners, mean, deviation};
  check(call, op);
  check_gradient(grad, op, "grad", out_shape(call), image, "image");
  TORCH_CHECK_TYPE(!needed[0] || image.scalar_type() != at::kByte, op, ": an image of uint8 has no gradient");
  const Prepared prepared(call, op);
  const AffineInputs& in = prepared.in;
  const at::Tensor g = without_transforms(grad.to(result_type(image)));
  AffineSamplePlan plan;
  run(image, LADA_BACKENDS(plan_affine_sample_backward),
      AffineSamplePlanning{in, at::globalContext().deterministicAlgorithms(), &plan});

  const at::ScalarType type = prepared.theta.scalar_type();
  at::Tensor grad_image = no_gradient(image), grad_theta = no_gradient(theta), partial;
  if (needed[0]) grad_image = fresh_images(image.sizes(), image, plan.scatter ? type : image.scalar_type());
  if (needed[0] && plan.scatter) grad_image.zero_();
  if (needed[1]) {
    grad_theta = at::empty(theta.sizes(), prepared.theta.options());
    partial =
        plan.parts == 1 ? grad_theta : at::empty({in.images * in.transforms, plan.parts, 6}, prepared.theta.options());
  }
  run(image, LADA_BACKENDS(affine_sample_backward),
      AffineSampleBackward{
          in, plan, g.const_data_ptr(), strides_of(g), needed[0] ? grad_image.mutable_data_ptr() : nullptr,
          needed[0] ? strides_of(grad_image) : Strides{}, needed[1] ? grad_theta.mutable_data_ptr() : nullptr,
          needed[1] ? partial.mutable_data_ptr() : nullptr});
  return {grad_image.to(image.scalar_type()), grad_theta.to(theta.scalar_type())};
}

at::Tensor take_images(const at::Tensor& images, const at::Tensor& index, const std::optional<at::Tensor>& key,
                       int64_t padding, bool mirror, const std::optional<at::Tensor>& mean,
                       const std::optional<at::Tensor>& deviation) {
  constexpr const char* op = "take_images";
  check_defined(images, op, "images");
  TORCH_CHECK_TYPE(images.scalar_type() == at::kByte, op, ": images must have dtype uint8, got ", images.scalar_type());
  TORCH_CHECK_VALUE(images.dim() == 4, op, ": images must have shape (M, channels, H, W), got ", images.sizes());
  TORCH_CHECK_VALUE(images.numel() / std::max<int64_t>(1, images.size(0)) < std::numeric_limits<int32_t>::max(), op,
                    ": an image must have fewer than 2^31 - 1 values, got ", images.sizes());
  check_is_int64(index, op, "index");
  check_on_device_of(index, op, "index", images, "images");
  TORCH_CHECK_VALUE(index.dim() == 1, op, ": index must have shape (B,), got ", index.sizes());
  constexpr int64_t kWidest = int64_t{1} << 30;
  TORCH_CHECK_VALUE(padding >= 0 && padding < kWidest, op, ": padding must lie in [0, 2^30), got ", padding);
  TORCH_CHECK_VALUE(key.has_value() || (padding == 0 && !mirror), op, ": padding and mirror are drawn from a key");
  if (key) check_int64_vector(*key, op, "key", 2, images, "images");
  check_normalization(mean, deviation, images, op);

  const at::Tensor rows = index.contiguous(), seed = key ? key->contiguous() : at::Tensor();
  const auto options = images.options().dtype(at::kFloat);
  const at::Tensor center = mean ? arithmetic(*mean, at::kFloat) : at::zeros({images.size(1)}, options);
  const at::Tensor scale = mean ? arithmetic(*deviation, at::kFloat) : at::ones({images.size(1)}, options);
  at::Tensor out = fresh_images({rows.size(0), images.size(1), images.size(2), images.size(3)}, images, at::kFloat);
  if (out.numel() == 0) return out;
  check_each_below(rows, images.size(0), op, "index");
  run(images, LADA_BACKENDS(take_images),
      TakeImages{images.const_data_ptr<uint8_t>(), strides_of(images), images.size(0), images.size(1), images.size(2),
                 images.size(3), rows.const_data_ptr<int64_t>(), rows.size(0),
                 key ? seed.const_data_ptr<int64_t>() : nullptr, padding, mirror, center.const_data_ptr<float>(),
                 scale.const_data_ptr<float>(), out.mutable_data_ptr<float>(), !out.is_contiguous()});
  return out;
}

void implement(torch::Library& m) {
  m.impl("affine_sample", &affine_sample);
  m.impl("affine_sample_backward", &affine_sample_backward);
  m.impl("take_images", &take_images);
}

}  // namespace

TORCH_LIBRARY_IMPL(lada_ext, CPU, m) { implement(m); }
TORCH_LIBRARY_IMPL(lada_ext, CUDA, m) { implement(m); }

}  // namespace lada
