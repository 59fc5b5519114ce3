// conv_relu_pool for tensors: checks, allocation, registration. Loops of its own it has on the CPU; elsewhere it is a
// composition of ATen's ops.
#include "conv_relu_pool.h"

#include <ATen/ATen.h>

#include "../common/tensor.h"

namespace lada {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
constexpr auto kChannelsLast = at::MemoryFormat::ChannelsLast;

Tensor channels_last(const Tensor& tensor, at::ScalarType type) { return tensor.to(type).contiguous(kChannelsLast); }

// The tensors behind ConvReluPool, kept alive as long as they are used.
struct Convolution {
  Tensor image, weight, pairs;
  int64_t padding;
  bool mean;

  ConvReluPool pointers() const {
    return {image.const_data_ptr(),
            pairs.defined() ? pairs.const_data_ptr<int64_t>() : nullptr,
            weight.const_data_ptr(),
            pairs.defined() ? pairs.size(0) : image.size(0),
            weight.size(1),
            image.size(2),
            image.size(3),
            weight.size(0),
            weight.size(2),
            weight.size(3),
            padding,
            mean,
            dtype_of(image)};
  }

  std::array<int64_t, 4> pooled() const {
    const ConvReluPool of = pointers();
    return {of.batch, of.outputs, of.rows(), of.columns()};
  }
};

void check_convolution(const Tensor& image, const Tensor& weight, int64_t padding, const OptionalTensor& pairs,
                       const char* op) {
  check_floating(image, op, "image");
  TORCH_CHECK_VALUE(image.dim() == 4 && image.size(1) >= 1, op,
                    ": image must have shape (B, C, H, W) with at least one channel, got ", image.sizes());
  check_same(weight, op, "weight", image, "image");
  const int64_t channels = image.size(1) * (pairs ? 2 : 1);
  TORCH_CHECK_VALUE(weight.dim() == 4 && weight.size(1) == channels && weight.numel() > 0, op,
                    ": weight must have shape (O, C, KH, KW), none of them 0, with C = ", channels, " as ",
                    pairs ? "two of image" : "image", ", got ", weight.sizes());
  if (pairs) check_pairs(*pairs, op, image, "image");
  TORCH_CHECK_VALUE(padding >= 0, op, ": padding must be at least 0, got ", padding);
  for (const int axis : {2, 3})
    TORCH_CHECK_VALUE(image.size(axis) + 2 * padding > weight.size(axis), op, ": image must be at least ",
                      weight.size(axis) + 1 - 2 * padding, axis == 2 ? " high" : " wide",
                      ", so that a window of 2 x 2 results is whole, got ", image.size(axis));
}

void check_bias(const OptionalTensor& bias, const Tensor& image, const Tensor& weight, const char* op) {
  if (!bias) return;
  check_same(*bias, op, "bias", image, "image");
  check_shape(*bias, op, "bias", {weight.size(0)});
}

Convolution convolution_of(const Tensor& image, const Tensor& weight, int64_t padding, bool mean,
                           const OptionalTensor& pairs, const char* op) {
  check_convolution(image, weight, padding, pairs, op);
  const auto type = arithmetic_type(image);
  return {channels_last(image, type), arithmetic(weight, type), pairs ? pairs->contiguous() : Tensor(), padding, mean};
}

void check_gradients(std::array<bool, 3> needed, const OptionalTensor& pairs) {
  TORCH_CHECK_VALUE(!needed[0] || !pairs, "conv_relu_pool: image has no gradient where it is given as pairs");
}

// The bits of places 0 to 3 of a window.
Tensor bits_of(const Tensor& place) { return at::bitwise_left_shift(at::ones_like(place), place); }

// What is convolved: the images, or pairs of them.
Tensor convolved(const Tensor& image, const OptionalTensor& pairs) {
  if (!pairs) return image;
  return at::cat({image.index_select(0, pairs->select(1, 0)), image.index_select(0, pairs->select(1, 1))}, 1);
}

std::tuple<Tensor, Tensor> composed(const Tensor& images, const Tensor& weight, const OptionalTensor& bias,
                                    int64_t padding, bool mean, const OptionalTensor& pairs) {
  check_convolution(images, weight, padding, pairs, "conv_relu_pool");
  check_bias(bias, images, weight, "conv_relu_pool");
  const Tensor image = convolved(images, pairs);
  const Tensor sums = at::conv2d(image, weight, bias, {1, 1}, {padding, padding});
  Tensor pooled, where;
  if (mean) {
    const Tensor windows = sums.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4, 5);
    const Tensor bits = bits_of(at::arange(4, image.options().dtype(at::kLong)));
    pooled = at::avg_pool2d(sums.relu(), {2, 2});
    where = at::where(windows <= 0, 0, bits).sum(-1);
  } else {
    const auto [greatest, index] = at::max_pool2d_with_indices(sums, {2, 2});
    const Tensor row = index.floor_divide(sums.size(3)), column = index.remainder(sums.size(3));
    pooled = greatest.relu();
    where = at::where(greatest <= 0, 0, bits_of(row.remainder(2) * 2 + column.remainder(2)));
  }
  return {pooled.clone(kChannelsLast), where.to(at::kByte).clone(kChannelsLast)};
}

std::tuple<Tensor, Tensor, Tensor> composed_backward(const Tensor& grad, const Tensor& images, const Tensor& weight,
                                                     const Tensor& where, int64_t padding, bool mean,
                                                     std::array<bool, 3> needed, const OptionalTensor& pairs) {
  check_gradients(needed, pairs);
  const Tensor image = convolved(images, pairs);
  std::vector<Tensor> places;
  for (int place = 0; place < 4; ++place)
    places.push_back(at::where(where.bitwise_and(1 << place) != 0, mean ? grad / 4 : grad, 0));
  const Tensor windows = at::stack(places, -1).unflatten(-1, {2, 2}).transpose(3, 4);
  const int64_t rows = image.size(2) + 2 * padding - weight.size(2) + 1;
  const int64_t columns = image.size(3) + 2 * padding - weight.size(3) + 1;
  const Tensor sums = at::constant_pad_nd(windows.flatten(4, 5).flatten(2, 3), {0, columns % 2, 0, rows % 2}, 0);
  auto [grad_image, grad_weight, grad_bias] =
      at::convolution_backward(sums, image, weight, at::IntArrayRef{weight.size(0)}, {1, 1}, {padding, padding}, {1, 1},
                               false, {0, 0}, 1, needed);
  return {needed[0] ? grad_image.clone(kChannelsLast) : no_gradient(image),
          needed[1] ? grad_weight.contiguous() : no_gradient(weight), needed[2] ? grad_bias : no_gradient(weight)};
}

std::tuple<Tensor, Tensor> conv_relu_pool(const Tensor& image, const Tensor& weight, const OptionalTensor& bias,
                                          int64_t padding, bool mean, const OptionalTensor& pairs) {
  constexpr const char* op = "conv_relu_pool";
  const Convolution convolution = convolution_of(image, weight, padding, mean, pairs, op);
  check_bias(bias, image, weight, op);
  const Tensor shift = bias ? arithmetic(*bias, arithmetic_type(image)) : Tensor();
  Tensor result = fresh(convolution.pooled(), convolution.image.options(), kChannelsLast);
  Tensor where = fresh(convolution.pooled(), image.options().dtype(at::kByte), kChannelsLast);
  cpu::conv_relu_pool({convolution.pointers(), bias ? shift.const_data_ptr() : nullptr, result.mutable_data_ptr(),
                       where.mutable_data_ptr<uint8_t>()},
                      threads());
  return {result.to(image.scalar_type()), where};
}

std::tuple<Tensor, Tensor, Tensor> conv_relu_pool_backward(const Tensor& grad, const Tensor& image,
                                                           const Tensor& weight, const Tensor& where, int64_t padding,
                                                           bool mean, std::array<bool, 3> needed,
                                                           const OptionalTensor& pairs) {
  constexpr const char* op = "conv_relu_pool_backward";
  check_gradients(needed, pairs);
  const Convolution convolution = convolution_of(image, weight, padding, mean, pairs, op);
  check_gradient(grad, op, "grad", convolution.pooled(), image, "image");
  check_shape(where, op, "where", convolution.pooled());
  check_on_device_of(where, op, "where", image, "image");
  TORCH_CHECK_TYPE(where.scalar_type() == at::kByte, op, ": where must have dtype uint8, got ", where.scalar_type());
  const auto options = convolution.image.options();
  const Tensor g = channels_last(grad, arithmetic_type(image)), w = where.contiguous(kChannelsLast);
  Tensor grad_image = needed[0] ? fresh(image.sizes(), options, kChannelsLast) : no_gradient(image);
  Tensor grad_weight = needed[1] ? at::empty(weight.sizes(), options) : no_gradient(weight);
  Tensor grad_bias = needed[2] ? at::empty({weight.size(0)}, options) : no_gradient(weight);
  const auto out = [&](int i, const Tensor& tensor) { return needed[i] ? tensor.mutable_data_ptr() : nullptr; };
  cpu::conv_relu_pool_backward({convolution.pointers(), g.const_data_ptr(), w.const_data_ptr<uint8_t>(),
                                out(0, grad_image), out(1, grad_weight), out(2, grad_bias)},
                               threads());
  const auto type = image.scalar_type();
  return {grad_image.to(type), grad_weight.to(type), grad_bias.to(type)};
}

}  // namespace

TORCH_LIBRARY_IMPL(lada_ext, CPU, m) {
  m.impl("conv_relu_pool", &conv_relu_pool);
  m.impl("conv_relu_pool_backward", &conv_relu_pool_backward);
}

TORCH_LIBRARY_IMPL(lada_ext, CUDA, m) {
  m.impl("conv_relu_pool", &composed);
  m.impl("conv_relu_pool_backward", &composed_backward);
}

}  // namespace lada
