// relu_mix_logits for tensors: checks, allocation, registration.
#include "relu_mix.h"

#include "../common/tensor.h"

namespace lada {
namespace {

// The tensors behind ReluMix, kept alive as long as they are used.
struct Mixtures {
  at::Tensor a, b, lam, weight;

  ReluMix pointers() const {
    return {
        a.const_data_ptr(), b.const_data_ptr(), lam.const_data_ptr(), weight.const_data_ptr(), lam.size(0), lam.size(1),
        a.size(1),          weight.size(0),     dtype_of(a)};
  }
};

void check_axes(const at::Tensor& tensor, const char* op, const char* name, const char* shape) {
  check_floating(tensor, op, name);
  TORCH_CHECK_VALUE(tensor.dim() == 2, op, ": ", name, " must have shape ", shape, ", got ", tensor.sizes());
}

// The CPU reads each row several times, so it converts them once.
at::Tensor readable(const at::Tensor& tensor) {
  return runs_on_cpu(tensor) ? arithmetic(tensor, arithmetic_type(tensor)) : tensor.contiguous();
}

Mixtures mixtures_of(const at::Tensor& a, const at::Tensor& b, const at::Tensor& lam, const at::Tensor& weight,
                     const char* op) {
  check_axes(a, op, "a", "(P, D)");
  check_same(b, op, "b", a, "a");
  check_shape(b, op, "b", a.sizes());
  check_axes(lam, op, "lam", "(P, N)");
  check_on_device_of(lam, op, "lam", a, "a");
  TORCH_CHECK_VALUE(lam.size(0) == a.size(0), op, ": lam must have shape (P, N) with P = ", a.size(0), " as a, got ",
                    lam.sizes());
  check_same(weight, op, "weight", a, "a");
  check_axes(weight, op, "weight", "(C, D)");
  TORCH_CHECK_VALUE(weight.size(0) >= 1 && weight.size(1) == a.size(1), op,
                    ": weight must have shape (C, D) with at least one class and D = ", a.size(1), " as a, got ",
                    weight.sizes());
  return {readable(a), readable(b), arithmetic(lam, arithmetic_type(a)), readable(weight)};
}

at::Tensor relu_mix_logits(const at::Tensor& a, const at::Tensor& b, const at::Tensor& lam, const at::Tensor& weight,
                           const std::optional<at::Tensor>& bias) {
  constexpr const char* op = "relu_mix_logits";
  const Mixtures mixtures = mixtures_of(a, b, lam, weight, op);
  at::Tensor shift;
  if (bias) {
    check_same(*bias, op, "bias", a, "a");
    check_shape(*bias, op, "bias", {weight.size(0)});
    shift = arithmetic(*bias, arithmetic_type(a));
  }
  at::Tensor logits = fresh({lam.size(0), lam.size(1), weight.size(0)}, mixtures.lam.options());
  run(a, LADA_BACKENDS(relu_mix_logits),
      ReluMixLogits{mixtures.pointers(), bias ? shift.const_data_ptr() : nullptr, logits.mutable_data_ptr()});
  return logits;
}

at::Tensor relu_mix_logits_backward(const at::Tensor& grad, const at::Tensor& a, const at::Tensor& b,
                                    const at::Tensor& lam, const at::Tensor& weight) {
  constexpr const char* op = "relu_mix_logits_backward";
  const Mixtures mixtures = mixtures_of(a, b, lam, weight, op);
  check_gradient(grad, op, "grad", {lam.size(0), lam.size(1), weight.size(0)}, a, "a");
  const at::Tensor g = arithmetic(grad, arithmetic_type(a));
  at::Tensor grad_lam = at::empty(lam.sizes(), mixtures.lam.options());
  run(a, LADA_BACKENDS(relu_mix_logits_backward),
      ReluMixLogitsBackward{mixtures.pointers(), g.const_data_ptr(), grad_lam.mutable_data_ptr()});
  return grad_lam.to(lam.scalar_type());
}

void implement(torch::Library& m) {
  m.impl("relu_mix_logits", &relu_mix_logits);
  m.impl("relu_mix_logits_backward", &relu_mix_logits_backward);
}

}  // namespace

TORCH_LIBRARY_IMPL(lada_ext, CPU, m) { implement(m); }
TORCH_LIBRARY_IMPL(lada_ext, CUDA, m) { implement(m); }

}  // namespace lada
