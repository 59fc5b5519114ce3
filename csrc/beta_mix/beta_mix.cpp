// beta_sample, beta_mix and beta_logit_grad for tensors: checks, allocation, registration.
#include "beta_mix.h"

#include "../common/tensor.h"

namespace lada {
namespace {

// The tensors behind a BetaSource, kept alive as long as it is used.
struct Source {
  at::Tensor tau, key, index;
  int64_t samples;

  BetaSource pointers() const {
    return {tau.const_data_ptr(), key.const_data_ptr<int64_t>(),
            index.defined() ? index.const_data_ptr<int64_t>() : nullptr, tau.size(0), samples};
  }
};

void check_values(const at::Tensor& tau, const char* op) {
  if (!should_check_values(tau)) return;
  const at::Tensor values = tau.to(at::kCPU, at::kDouble).contiguous();
  const double* value = values.const_data_ptr<double>();
  for (int64_t i = 0; i < values.numel(); ++i)
    TORCH_CHECK_VALUE(value[i] > 0, op, ": tau must be positive, got tau[", i, "] = ", value[i]);
}

void check_int64(const at::Tensor& tensor, const char* op, const char* name, int64_t size, const at::Tensor& tau) {
  TORCH_CHECK_TYPE(tensor.scalar_type() == at::kLong, op, ": ", name, " must have dtype int64, got ",
                   tensor.scalar_type());
  check_shape(tensor, op, name, {size});
  TORCH_CHECK(tensor.device() == tau.device(), op, ": ", name, " must be on the device of tau (", tau.device(),
              "), got ", tensor.device());
}

Source source_of(const at::Tensor& tau, int64_t samples, const at::Tensor& key, const std::optional<at::Tensor>& index,
                 at::ScalarType type, const char* op) {
  check_floating(tau, op, "tau");
  TORCH_CHECK_VALUE(tau.dim() == 1, op, ": tau must have shape (P,), got ", tau.sizes());
  TORCH_CHECK_VALUE(samples >= 0, op, ": n must be at least 0, got ", samples);
  check_int64(key, op, "key", 2, tau);
  if (index) check_int64(*index, op, "index", tau.size(0), tau);
  check_values(tau, op);
  return {arithmetic(tau, type), key.contiguous(), index ? index->contiguous() : at::Tensor(), samples};
}

at::Tensor beta_logit_grad(const at::Tensor& x, const at::Tensor& tau) {
  constexpr const char* op = "beta_logit_grad";
  check_floating(x, op, "x");
  check_same(tau, op, "tau", x, "x");
  check_shape(tau, op, "tau", x.sizes());
  check_values(tau, op);
  const at::ScalarType type = arithmetic_type(x);
  const at::Tensor logits = arithmetic(x, type), taus = arithmetic(tau, type);
  at::Tensor out = at::empty(x.sizes(), logits.options());
  run(x, LADA_BACKENDS(beta_logit_gradient),
      BetaLogitGradient{logits.const_data_ptr(), taus.const_data_ptr(), out.mutable_data_ptr(), out.numel(),
                        dtype_of(logits)});
  return out.to(x.scalar_type());
}

at::Tensor beta_sample(const at::Tensor& tau, int64_t n, const at::Tensor& key,
                       const std::optional<at::Tensor>& index) {
  const Source source = source_of(tau, n, key, index, arithmetic_type(tau), "beta_sample");
  at::Tensor lam = at::empty({tau.size(0), n}, source.tau.options());
  run(tau, LADA_BACKENDS(beta_sample), BetaSample{source.pointers(), lam.mutable_data_ptr(), dtype_of(source.tau)});
  return lam;
}

at::Tensor beta_sample_backward(const at::Tensor& grad, const at::Tensor& tau, const at::Tensor& key,
                                const std::optional<at::Tensor>& index) {
  constexpr const char* op = "beta_sample_backward";
  TORCH_CHECK_VALUE(grad.dim() == 2 && grad.size(0) == tau.size(0), op,
                    ": grad must have shape (P, n) with P = ", tau.size(0), ", got ", grad.sizes());
  const Source source = source_of(tau, grad.size(1), key, index, arithmetic_type(tau), op);
  const at::Tensor grad_lam = arithmetic(grad, arithmetic_type(tau));
  at::Tensor grad_tau = at::empty(tau.sizes(), source.tau.options());
  run(tau, LADA_BACKENDS(beta_sample_backward),
      BetaSampleBackward{source.pointers(), grad_lam.const_data_ptr(), grad_tau.mutable_data_ptr(),
                         dtype_of(source.tau)});
  return grad_tau.to(tau.scalar_type());
}

void check_features(const at::Tensor& a, const at::Tensor& b, const at::Tensor& tau, const char* op) {
  check_floating(a, op, "a");
  TORCH_CHECK_VALUE(a.dim() >= 1, op, ": a must have shape (P, ...), got a scalar");
  check_same(b, op, "b", a, "a");
  check_shape(b, op, "b", a.sizes());
  check_shape(tau, op, "tau", {a.size(0)});
  TORCH_CHECK(tau.device() == a.device(), op, ": tau must be on the device of a (", a.device(), "), got ",
              tau.device());
}

std::vector<int64_t> mixed_shape(const at::Tensor& a, int64_t n) {
  std::vector<int64_t> shape = a.sizes().vec();
  shape.insert(shape.begin() + 1, n);
  return shape;
}

int64_t features_of(const at::Tensor& a) { return c10::multiply_integers(a.sizes().slice(1)); }

std::tuple<at::Tensor, at::Tensor> beta_mix(const at::Tensor& a, const at::Tensor& b, const at::Tensor& tau, int64_t n,
                                            const at::Tensor& key, const std::optional<at::Tensor>& index) {
  constexpr const char* op = "beta_mix";
  check_features(a, b, tau, op);
  const Source source = source_of(tau, n, key, index, arithmetic_type(a), op);
  const at::Tensor rows_a = a.contiguous(), rows_b = b.contiguous();
  at::Tensor mixed = at::empty(mixed_shape(a, n), a.options());
  at::Tensor lam = at::empty({a.size(0), n}, source.tau.options());
  run(a, LADA_BACKENDS(beta_mix),
      BetaMix{source.pointers(), rows_a.const_data_ptr(), rows_b.const_data_ptr(), mixed.mutable_data_ptr(),
              lam.mutable_data_ptr(), features_of(a), dtype_of(a)});
  return {mixed, lam};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> beta_mix_backward(
    const at::Tensor& grad_mixed, const at::Tensor& grad_lam, const at::Tensor& a, const at::Tensor& b,
    const at::Tensor& tau, const at::Tensor& key, const std::optional<at::Tensor>& index, std::array<bool, 3> needed) {
  constexpr const char* op = "beta_mix_backward";
  check_features(a, b, tau, op);
  TORCH_CHECK_VALUE(grad_lam.dim() == 2, op, ": grad_lam must have shape (P, n), got ", grad_lam.sizes());
  const int64_t n = grad_lam.size(1);
  check_shape(grad_lam, op, "grad_lam", {a.size(0), n});
  check_shape(grad_mixed, op, "grad_mixed", mixed_shape(a, n));
  const Source source = source_of(tau, n, key, index, arithmetic_type(a), op);
  const at::Tensor rows_a = a.contiguous(), rows_b = b.contiguous();
  const at::Tensor g = grad_mixed.to(a.scalar_type()).contiguous();
  const at::Tensor g_lam = arithmetic(grad_lam, arithmetic_type(a));
  at::Tensor grad_a = needed[0] ? at::empty(a.sizes(), a.options()) : no_gradient(a);
  at::Tensor grad_b = needed[1] ? at::empty(b.sizes(), b.options()) : no_gradient(b);
  at::Tensor grad_tau = needed[2] ? at::empty(tau.sizes(), source.tau.options()) : no_gradient(source.tau);
  const auto target = [](bool is_needed, const at::Tensor& out) {
    return is_needed ? out.mutable_data_ptr() : nullptr;
  };
  run(a, LADA_BACKENDS(beta_mix_backward),
      BetaMixBackward{source.pointers(), g.const_data_ptr(), g_lam.const_data_ptr(), rows_a.const_data_ptr(),
                      rows_b.const_data_ptr(), target(needed[0], grad_a), target(needed[1], grad_b),
                      target(needed[2], grad_tau), features_of(a), dtype_of(a)});
  return {grad_a, grad_b, grad_tau.to(tau.scalar_type())};
}

void implement(torch::Library& m) {
  m.impl("beta_logit_grad", &beta_logit_grad);
  m.impl("beta_sample", &beta_sample);
  m.impl("beta_sample_backward", &beta_sample_backward);
  m.impl("beta_mix", &beta_mix);
  m.impl("beta_mix_backward", &beta_mix_backward);
}

}  // namespace

TORCH_LIBRARY_IMPL(lada_ext, CPU, m) { implement(m); }
TORCH_LIBRARY_IMPL(lada_ext, CUDA, m) { implement(m); }

}  // namespace lada
