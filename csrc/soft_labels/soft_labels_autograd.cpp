// Autograd of mix_labels and soft_cross_entropy.
#include "../common/autograd.h"

namespace lada {
namespace {

auto& mix_op() {
  static const auto op =
      find_op<Tensor(const Tensor&, const Tensor&, const Tensor&, c10::SymInt)>("lada_ext::mix_labels");
  return op;
}

auto& mix_backward_op() {
  static const auto op =
      find_op<Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&)>("lada_ext::mix_labels_backward");
  return op;
}

auto& loss_op() {
  static const auto op =
      find_op<Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&)>("lada_ext::soft_cross_entropy");
  return op;
}

auto& loss_backward_op() {
  static const auto op =
      find_op<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                         std::array<bool, 2>)>("lada_ext::soft_cross_entropy_backward");
  return op;
}

struct MixLabelsFunction : torch::autograd::Function<MixLabelsFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& y_a, const Tensor& y_b, const Tensor& lam,
                        c10::SymInt num_classes) {
    ctx->save_for_backward({y_a, y_b, lam});
    const at::AutoDispatchBelowADInplaceOrView guard;
    return mix_op().call(y_a, y_b, lam, std::move(num_classes));
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    return {Tensor(), Tensor(), mix_backward_op().call(grads[0], saved[0], saved[1], saved[2]), Tensor()};
  }
};

struct LossFunction : torch::autograd::Function<LossFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& logits, const Tensor& y_a, const Tensor& y_b,
                        const Tensor& lam) {
    ctx->save_for_backward({logits, y_a, y_b, lam});
    const at::AutoDispatchBelowADInplaceOrView guard;
    return loss_op().call(logits, y_a, y_b, lam);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const std::array<bool, 2> needed = {ctx->needs_input_grad(0), ctx->needs_input_grad(3)};
    auto [grad_logits, grad_lam] = loss_backward_op().call(grads[0], saved[0], saved[1], saved[2], saved[3], needed);
    return {needed[0] ? grad_logits : Tensor(), Tensor(), Tensor(), needed[1] ? grad_lam : Tensor()};
  }
};

using torch::autograd::compute_requires_grad;

Tensor mix_labels(const Tensor& y_a, const Tensor& y_b, const Tensor& lam, c10::SymInt num_classes) {
  if (compute_requires_grad(lam)) return MixLabelsFunction::apply(y_a, y_b, lam, std::move(num_classes));
  const at::AutoDispatchBelowADInplaceOrView guard;
  return mix_op().call(y_a, y_b, lam, std::move(num_classes));
}

Tensor soft_cross_entropy(const Tensor& logits, const Tensor& y_a, const Tensor& y_b, const Tensor& lam) {
  if (compute_requires_grad(logits, lam)) return LossFunction::apply(logits, y_a, y_b, lam);
  const at::AutoDispatchBelowADInplaceOrView guard;
  return loss_op().call(logits, y_a, y_b, lam);
}

}  // namespace

TORCH_LIBRARY_IMPL(lada_ext, Autograd, m) {
  m.impl("mix_labels", &mix_labels);
  m.impl("soft_cross_entropy", &soft_cross_entropy);
  for (const char* op : {"mix_labels_backward", "soft_cross_entropy_backward"})
    m.impl(op, torch::autograd::autogradNotImplementedFallback());
}

}  // namespace lada
