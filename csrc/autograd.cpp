// Autograd and autocast of all ops, in C++: a few microseconds a call, where Python's autograd costs a hundred, which
// is most of the time of an op on small tensors. Each backward pass is an op of its own, which computes what is needed
// only; it has no derivative. One file, because torch's autograd headers take as long to compile as three families.
#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/library.h>

namespace lada {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using OptionalTensor = std::optional<Tensor>;

// An op of the library with this C++ signature, to be called through the dispatcher.
template <class Signature>
c10::TypedOperatorHandle<Signature> find_op(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

OptionalTensor if_defined(const Tensor& tensor) { return tensor.defined() ? OptionalTensor(tensor) : std::nullopt; }

Tensor or_undefined(const OptionalTensor& tensor) { return tensor ? *tensor : Tensor(); }

// Whether a gradient of the results will be asked for. A tangent would be lost without a word. An argument that is no
// tensor is for the op to name.
template <class... Tensors>
bool needs_gradient(const Tensors&... inputs) {
  if (!(inputs.defined() && ...)) return false;
  const auto has_tangent = [](const Tensor& tensor) { return tensor._fw_grad(0).defined(); };
  TORCH_CHECK_NOT_IMPLEMENTED((!has_tangent(inputs) && ...),
                              "lada_ext: forward-mode differentiation (jvp) is not implemented; use reverse mode");
  return torch::autograd::compute_requires_grad(inputs...);
}

// The type that holds the values of all of them, which autocast may have left in different ones.
template <class... Tensors>
at::ScalarType widest(const Tensor& first, const Tensors&... others) {
  at::ScalarType type = first.scalar_type();
  ((type = c10::promoteTypes(type, others.scalar_type())), ...);
  return type;
}

// The tensors in the widest of their types. Where one is none, or is not floating, they stay as they are, for the op to
// name what is wrong.
template <class... Tensors>
std::array<Tensor, sizeof...(Tensors)> in_widest(const Tensors&... tensors) {
  if (!((tensors.defined() && tensors.is_floating_point()) && ...)) return {tensors...};
  const at::ScalarType type = widest(tensors...);
  return {tensors.to(type)...};
}

using Mixed = std::tuple<Tensor, Tensor>;
using std::string_view;

auto& sample_op() {
  static const auto op =
      find_op<Tensor(const Tensor&, c10::SymInt, const Tensor&, const OptionalTensor&, string_view, bool)>(
          "lada_ext::beta_sample");
  return op;
}

auto& sample_backward_op() {
  static const auto op =
      find_op<Tensor(const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&, string_view, bool)>(
          "lada_ext::beta_sample_backward");
  return op;
}

auto& mix_op() {
  static const auto op = find_op<Mixed(const Tensor&, const Tensor&, const Tensor&, c10::SymInt, const Tensor&,
                                       const OptionalTensor&, string_view, bool)>("lada_ext::beta_mix");
  return op;
}

auto& mix_backward_op() {
  static const auto op = find_op<std::tuple<Tensor, Tensor, Tensor>(
      const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, const Tensor&,
      const Tensor&, const OptionalTensor&, string_view, bool, std::array<bool, 3>, bool)>(
      "lada_ext::beta_mix_backward");
  return op;
}

auto& mix_pairs_op() {
  static const auto op = find_op<Mixed(const Tensor&, const Tensor&, const Tensor&, c10::SymInt, const Tensor&,
                                       const OptionalTensor&, string_view, bool)>("lada_ext::beta_mix_pairs");
  return op;
}

auto& mix_pairs_backward_op() {
  static const auto op =
      find_op<Mixed(const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, const Tensor&, const Tensor&,
                    const Tensor&, const OptionalTensor&, string_view, bool, std::array<bool, 2>, c10::SymInt, bool)>(
          "lada_ext::beta_mix_pairs_backward");
  return op;
}

// The options that forward and backward share.
void save_options(AutogradContext* ctx, string_view grad, bool log_tau) {
  ctx->saved_data["grad"] = std::string(grad);
  ctx->saved_data["log_tau"] = log_tau;
  ctx->set_materialize_grads(false);
}

struct SampleFunction : torch::autograd::Function<SampleFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& tau, c10::SymInt n, const Tensor& key,
                        const OptionalTensor& index, string_view grad, bool log_tau) {
    ctx->save_for_backward({tau, key, or_undefined(index)});
    save_options(ctx, grad, log_tau);
    const at::AutoDispatchBelowADInplaceOrView guard;
    return sample_op().call(tau, std::move(n), key, index, grad, log_tau);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    variable_list result(6);
    if (!grads[0].defined()) return result;
    const variable_list saved = ctx->get_saved_variables();
    result[0] = sample_backward_op().call(grads[0], saved[0], saved[1], if_defined(saved[2]),
                                          ctx->saved_data["grad"].toStringRef(), ctx->saved_data["log_tau"].toBool());
    return result;
  }
};

// The features enter the gradient to tau alone, and are kept for nothing else.
Tensor if_learned(const Tensor& tau, const Tensor& features) { return tau.requires_grad() ? features : Tensor(); }

// Whether the rows of a result, which is dense in one order or the other, have their channels last.
bool has_channels_last(const Tensor& mixed) { return (mixed.dim() == 5 || mixed.dim() == 6) && !mixed.is_contiguous(); }

// Of an autograd function's two results: lam has no history if tau has none. (Compiled autograd has no
// mark_non_differentiable.)
Mixed with_plain_lam(const variable_list& out, const Tensor& tau) {
  return {out[0], tau.requires_grad() ? out[1] : out[1].detach()};
}

struct MixFunction : torch::autograd::Function<MixFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& a, const Tensor& b, const Tensor& tau, c10::SymInt n,
                               const Tensor& key, const OptionalTensor& index, string_view grad, bool log_tau) {
    ctx->save_for_backward({if_learned(tau, a), if_learned(tau, b), tau, key, or_undefined(index)});
    save_options(ctx, grad, log_tau);
    const at::AutoDispatchBelowADInplaceOrView guard;
    auto [mixed, lam] = mix_op().call(a, b, tau, std::move(n), key, index, grad, log_tau);
    ctx->saved_data["channels_last"] = has_channels_last(mixed);
    return {mixed, lam};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    variable_list result(8);
    if (!grads[0].defined() && !grads[1].defined()) return result;
    const variable_list saved = ctx->get_saved_variables();
    const std::array<bool, 3> needed = {ctx->needs_input_grad(0), ctx->needs_input_grad(1), ctx->needs_input_grad(2)};
    auto [grad_a, grad_b, grad_tau] =
        mix_backward_op().call(if_defined(grads[0]), if_defined(grads[1]), if_defined(saved[0]), if_defined(saved[1]),
                               saved[2], saved[3], if_defined(saved[4]), ctx->saved_data["grad"].toStringRef(),
                               ctx->saved_data["log_tau"].toBool(), needed, ctx->saved_data["channels_last"].toBool());
    if (needed[0]) result[0] = grad_a;
    if (needed[1]) result[1] = grad_b;
    if (needed[2]) result[2] = grad_tau;
    return result;
  }
};

struct MixPairsFunction : torch::autograd::Function<MixPairsFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& h, const Tensor& pairs, const Tensor& tau,
                               c10::SymInt n, const Tensor& key, const OptionalTensor& index, string_view grad,
                               bool log_tau) {
    ctx->save_for_backward({if_learned(tau, h), pairs, tau, key, or_undefined(index)});
    ctx->saved_data["rows"] = h.dim() > 0 ? h.sym_size(0) : c10::SymInt(0);
    save_options(ctx, grad, log_tau);
    const at::AutoDispatchBelowADInplaceOrView guard;
    auto [mixed, lam] = mix_pairs_op().call(h, pairs, tau, std::move(n), key, index, grad, log_tau);
    ctx->saved_data["channels_last"] = has_channels_last(mixed);
    return {mixed, lam};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    variable_list result(8);
    if (!grads[0].defined() && !grads[1].defined()) return result;
    const variable_list saved = ctx->get_saved_variables();
    const std::array<bool, 2> needed = {ctx->needs_input_grad(0), ctx->needs_input_grad(2)};
    auto [grad_h, grad_tau] = mix_pairs_backward_op().call(
        if_defined(grads[0]), if_defined(grads[1]), if_defined(saved[0]), saved[1], saved[2], saved[3],
        if_defined(saved[4]), ctx->saved_data["grad"].toStringRef(), ctx->saved_data["log_tau"].toBool(), needed,
        ctx->saved_data["rows"].toSymInt(), ctx->saved_data["channels_last"].toBool());
    if (needed[0]) result[0] = grad_h;
    if (needed[1]) result[2] = grad_tau;
    return result;
  }
};

Tensor sample(const Tensor& tau, c10::SymInt n, const Tensor& key, const OptionalTensor& index, string_view grad,
              bool log_tau) {
  if (needs_gradient(tau)) return SampleFunction::apply(tau, std::move(n), key, index, grad, log_tau);
  const at::AutoDispatchBelowADInplaceOrView guard;
  return sample_op().call(tau, std::move(n), key, index, grad, log_tau);
}

Mixed mix(const Tensor& a, const Tensor& b, const Tensor& tau, c10::SymInt n, const Tensor& key,
          const OptionalTensor& index, string_view grad, bool log_tau) {
  if (needs_gradient(a, b, tau))
    return with_plain_lam(MixFunction::apply(a, b, tau, std::move(n), key, index, grad, log_tau), tau);
  const at::AutoDispatchBelowADInplaceOrView guard;
  return mix_op().call(a, b, tau, std::move(n), key, index, grad, log_tau);
}

Mixed mix_pairs(const Tensor& h, const Tensor& pairs, const Tensor& tau, c10::SymInt n, const Tensor& key,
                const OptionalTensor& index, string_view grad, bool log_tau) {
  if (needs_gradient(h, tau))
    return with_plain_lam(MixPairsFunction::apply(h, pairs, tau, std::move(n), key, index, grad, log_tau), tau);
  const at::AutoDispatchBelowADInplaceOrView guard;
  return mix_pairs_op().call(h, pairs, tau, std::move(n), key, index, grad, log_tau);
}

// Under autocast the ends may come from layers of different precision: they are mixed in the wider one.
Mixed mix_under_autocast(const Tensor& a, const Tensor& b, const Tensor& tau, c10::SymInt n, const Tensor& key,
                         const OptionalTensor& index, string_view grad, bool log_tau) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  const auto [x, y] = in_widest(a, b);
  return mix_op().call(x, y, tau, std::move(n), key, index, grad, log_tau);
}

auto& relu_mix_op() {
  static const auto op =
      find_op<Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&)>(
          "lada_ext::relu_mix_logits");
  return op;
}

auto& relu_mix_backward_op() {
  static const auto op = find_op<Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&)>(
      "lada_ext::relu_mix_logits_backward");
  return op;
}

struct ReluMixFunction : torch::autograd::Function<ReluMixFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& a, const Tensor& b, const Tensor& lam, const Tensor& weight,
                        const OptionalTensor& bias) {
    ctx->save_for_backward({a, b, lam, weight});
    const at::AutoDispatchBelowADInplaceOrView guard;
    return relu_mix_op().call(a, b, lam, weight, bias);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    variable_list result(5);
    result[2] = relu_mix_backward_op().call(grads[0], saved[0], saved[1], saved[2], saved[3]);
    return result;
  }
};

void check_frozen(const Tensor& tensor, const char* name) {
  TORCH_CHECK_VALUE(!needs_gradient(tensor), "relu_mix_logits: ", name,
                    " must not require a gradient, as the classifier is frozen and only lam has one; detach it, or "
                    "compose beta_mix, relu and linear");
}

Tensor relu_mix_logits(const Tensor& a, const Tensor& b, const Tensor& lam, const Tensor& weight,
                       const OptionalTensor& bias) {
  check_frozen(a, "a");
  check_frozen(b, "b");
  check_frozen(weight, "weight");
  check_frozen(or_undefined(bias), "bias");
  if (needs_gradient(lam)) return ReluMixFunction::apply(a, b, lam, weight, bias);
  const at::AutoDispatchBelowADInplaceOrView guard;
  return relu_mix_op().call(a, b, lam, weight, bias);
}

// Under autocast the features come in half precision and the weights do not: the wider one is taken.
Tensor relu_mix_logits_under_autocast(const Tensor& a, const Tensor& b, const Tensor& lam, const Tensor& weight,
                                      const OptionalTensor& bias) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  const auto [x, y, w, shift] = in_widest(a, b, weight, bias ? *bias : weight);
  return relu_mix_op().call(x, y, lam, w, bias ? OptionalTensor(shift) : std::nullopt);
}

auto& conv_relu_pool_op() {
  static const auto op =
      find_op<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const OptionalTensor&, c10::SymInt, bool,
                                         const OptionalTensor&)>("lada_ext::conv_relu_pool");
  return op;
}

auto& conv_relu_pool_backward_op() {
  static const auto op =
      find_op<std::tuple<Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                                 c10::SymInt, bool, std::array<bool, 3>, const OptionalTensor&)>(
          "lada_ext::conv_relu_pool_backward");
  return op;
}

struct ConvReluPoolFunction : torch::autograd::Function<ConvReluPoolFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& image, const Tensor& weight,
                               const OptionalTensor& bias, c10::SymInt padding, bool mean,
                               const OptionalTensor& pairs) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    auto [result, where] = conv_relu_pool_op().call(image, weight, bias, padding, mean, pairs);
    ctx->save_for_backward({image, weight, where, or_undefined(pairs)});
    ctx->saved_data["padding"] = std::move(padding);
    ctx->saved_data["mean"] = mean;
    ctx->saved_data["has_bias"] = bias.has_value();
    ctx->set_materialize_grads(false);
    return {result, where};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    variable_list result(6);
    if (!grads[0].defined()) return result;
    const variable_list saved = ctx->get_saved_variables();
    const bool needs_bias = ctx->saved_data["has_bias"].toBool() && ctx->needs_input_grad(2);
    const std::array<bool, 3> needed = {ctx->needs_input_grad(0), ctx->needs_input_grad(1), needs_bias};
    auto [grad_image, grad_weight, grad_bias] =
        conv_relu_pool_backward_op().call(grads[0], saved[0], saved[1], saved[2], ctx->saved_data["padding"].toSymInt(),
                                          ctx->saved_data["mean"].toBool(), needed, if_defined(saved[3]));
    if (needed[0]) result[0] = grad_image;
    if (needed[1]) result[1] = grad_weight;
    if (needed[2]) result[2] = grad_bias;
    return result;
  }
};

std::tuple<Tensor, Tensor> conv_relu_pool(const Tensor& image, const Tensor& weight, const OptionalTensor& bias,
                                          c10::SymInt padding, bool mean, const OptionalTensor& pairs) {
  TORCH_CHECK_VALUE(!pairs || !needs_gradient(image),
                    "conv_relu_pool: image must not require a gradient where it is given as pairs");
  if (needs_gradient(image, weight) || (bias && needs_gradient(*bias))) {
    const variable_list out = ConvReluPoolFunction::apply(image, weight, bias, std::move(padding), mean, pairs);
    return {out[0], out[1]};
  }
  const at::AutoDispatchBelowADInplaceOrView guard;
  return conv_relu_pool_op().call(image, weight, bias, std::move(padding), mean, pairs);
}

// Under autocast features may come in half precision and the weights do not: the wider one is taken.
std::tuple<Tensor, Tensor> conv_relu_pool_under_autocast(const Tensor& image, const Tensor& weight,
                                                         const OptionalTensor& bias, c10::SymInt padding, bool mean,
                                                         const OptionalTensor& pairs) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  const auto [x, w, shift] = in_widest(image, weight, bias ? *bias : weight);
  return conv_relu_pool_op().call(x, w, bias ? OptionalTensor(shift) : std::nullopt, std::move(padding), mean, pairs);
}

auto& labels_op() {
  static const auto op =
      find_op<Tensor(const Tensor&, const Tensor&, const Tensor&, c10::SymInt)>("lada_ext::mix_labels");
  return op;
}

auto& labels_backward_op() {
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
    return labels_op().call(y_a, y_b, lam, std::move(num_classes));
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    return {Tensor(), Tensor(), labels_backward_op().call(grads[0], saved[0], saved[1], saved[2]), Tensor()};
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

Tensor mix_labels(const Tensor& y_a, const Tensor& y_b, const Tensor& lam, c10::SymInt num_classes) {
  if (needs_gradient(lam)) return MixLabelsFunction::apply(y_a, y_b, lam, std::move(num_classes));
  const at::AutoDispatchBelowADInplaceOrView guard;
  return labels_op().call(y_a, y_b, lam, std::move(num_classes));
}

Tensor soft_cross_entropy(const Tensor& logits, const Tensor& y_a, const Tensor& y_b, const Tensor& lam) {
  if (needs_gradient(logits, lam)) return LossFunction::apply(logits, y_a, y_b, lam);
  const at::AutoDispatchBelowADInplaceOrView guard;
  return loss_op().call(logits, y_a, y_b, lam);
}

auto& affine_op() {
  static const auto op = find_op<Tensor(const Tensor&, const Tensor&, c10::SymIntArrayRef, string_view, string_view,
                                        bool, const OptionalTensor&, const OptionalTensor&)>("lada_ext::affine_sample");
  return op;
}

auto& affine_backward_op() {
  static const auto op =
      find_op<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, string_view, string_view, bool,
                                         const OptionalTensor&, const OptionalTensor&, std::array<bool, 2>)>(
          "lada_ext::affine_sample_backward");
  return op;
}

struct AffineSampleFunction : torch::autograd::Function<AffineSampleFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& image, const Tensor& theta, c10::SymIntArrayRef size,
                        string_view mode, string_view padding_mode, bool align_corners, const OptionalTensor& mean,
                        const OptionalTensor& deviation) {
    ctx->save_for_backward({image, theta, or_undefined(mean), or_undefined(deviation)});
    ctx->saved_data["mode"] = std::string(mode);
    ctx->saved_data["padding_mode"] = std::string(padding_mode);
    ctx->saved_data["align_corners"] = align_corners;
    ctx->set_materialize_grads(false);
    const at::AutoDispatchBelowADInplaceOrView guard;
    return affine_op().call(image, theta, size, mode, padding_mode, align_corners, mean, deviation);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    variable_list result(8);
    if (!grads[0].defined()) return result;
    const variable_list saved = ctx->get_saved_variables();
    const std::array<bool, 2> needed = {ctx->needs_input_grad(0), ctx->needs_input_grad(1)};
    auto [grad_image, grad_theta] = affine_backward_op().call(
        grads[0], saved[0], saved[1], ctx->saved_data["mode"].toStringRef(),
        ctx->saved_data["padding_mode"].toStringRef(), ctx->saved_data["align_corners"].toBool(), if_defined(saved[2]),
        if_defined(saved[3]), needed);
    if (needed[0]) result[0] = grad_image;
    if (needed[1]) result[1] = grad_theta;
    return result;
  }
};

Tensor affine_sample(const Tensor& image, const Tensor& theta, c10::SymIntArrayRef size, string_view mode,
                     string_view padding_mode, bool align_corners, const OptionalTensor& mean,
                     const OptionalTensor& deviation) {
  if (needs_gradient(image, theta))
    return AffineSampleFunction::apply(image, theta, size, mode, padding_mode, align_corners, mean, deviation);
  const at::AutoDispatchBelowADInplaceOrView guard;
  return affine_op().call(image, theta, size, mode, padding_mode, align_corners, mean, deviation);
}

auto& pair_score_op() {
  static const auto op =
      find_op<Tensor(const Tensor&, const Tensor&, const Tensor&, double, string_view)>("lada_ext::pair_score");
  return op;
}

auto& pair_score_backward_op() {
  static const auto op =
      find_op<std::tuple<Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&, double,
                                                 string_view, std::array<bool, 3>)>("lada_ext::pair_score_backward");
  return op;
}

auto& indexed_pair_score_op() {
  static const auto op =
      find_op<Tensor(const Tensor&, const Tensor&, const Tensor&, double, string_view)>("lada_ext::indexed_pair_score");
  return op;
}

auto& indexed_pair_score_backward_op() {
  static const auto op =
      find_op<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&, double,
                                         string_view, std::array<bool, 2>)>("lada_ext::indexed_pair_score_backward");
  return op;
}

auto& mixed_pair_score_op() {
  static const auto op = find_op<Tensor(const Tensor&, const Tensor&, const Tensor&, c10::SymInt, const Tensor&, double,
                                        string_view, const OptionalTensor&)>("lada_ext::mixed_pair_score");
  return op;
}

auto& mixed_pair_score_backward_op() {
  static const auto op = find_op<std::tuple<Tensor, Tensor>(
      const Tensor&, const Tensor&, const Tensor&, const Tensor&, c10::SymInt, const Tensor&, double, string_view,
      const OptionalTensor&, std::array<bool, 2>)>("lada_ext::mixed_pair_score_backward");
  return op;
}

struct PairScoreFunction : torch::autograd::Function<PairScoreFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& logits_a, const Tensor& logits_b, const Tensor& mixed,
                        double gamma, string_view score) {
    ctx->save_for_backward({logits_a, logits_b, mixed});
    ctx->saved_data["gamma"] = gamma;
    ctx->saved_data["score"] = std::string(score);
    ctx->set_materialize_grads(false);
    const at::AutoDispatchBelowADInplaceOrView guard;
    return pair_score_op().call(logits_a, logits_b, mixed, gamma, score);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    variable_list result(5);
    if (!grads[0].defined()) return result;
    const variable_list saved = ctx->get_saved_variables();
    const std::array<bool, 3> needed = {ctx->needs_input_grad(0), ctx->needs_input_grad(1), ctx->needs_input_grad(2)};
    auto [to_a, to_b, to_mixed] =
        pair_score_backward_op().call(grads[0], saved[0], saved[1], saved[2], ctx->saved_data["gamma"].toDouble(),
                                      ctx->saved_data["score"].toStringRef(), needed);
    if (needed[0]) result[0] = to_a;
    if (needed[1]) result[1] = to_b;
    if (needed[2]) result[2] = to_mixed;
    return result;
  }
};

struct IndexedPairScoreFunction : torch::autograd::Function<IndexedPairScoreFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& own, const Tensor& pairs, const Tensor& mixed, double gamma,
                        string_view score) {
    ctx->save_for_backward({own, pairs, mixed});
    ctx->saved_data["gamma"] = gamma;
    ctx->saved_data["score"] = std::string(score);
    const at::AutoDispatchBelowADInplaceOrView guard;
    return indexed_pair_score_op().call(own, pairs, mixed, gamma, score);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const std::array<bool, 2> needed = {ctx->needs_input_grad(0), ctx->needs_input_grad(2)};
    auto [to_own, to_mixed] = indexed_pair_score_backward_op().call(grads[0], saved[0], saved[1], saved[2],
                                                                    ctx->saved_data["gamma"].toDouble(),
                                                                    ctx->saved_data["score"].toStringRef(), needed);
    return {needed[0] ? to_own : Tensor(), Tensor(), needed[1] ? to_mixed : Tensor(), Tensor(), Tensor()};
  }
};

struct MixedPairScoreFunction : torch::autograd::Function<MixedPairScoreFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& logits, const Tensor& pairs, const Tensor& tau,
                        c10::SymInt n, const Tensor& key, double gamma, string_view score,
                        const OptionalTensor& index) {
    ctx->save_for_backward({logits, pairs, tau, key, or_undefined(index)});
    ctx->saved_data["n"] = n;
    ctx->saved_data["gamma"] = gamma;
    ctx->saved_data["score"] = std::string(score);
    ctx->set_materialize_grads(false);
    const at::AutoDispatchBelowADInplaceOrView guard;
    return mixed_pair_score_op().call(logits, pairs, tau, std::move(n), key, gamma, score, index);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    variable_list result(8);
    if (!grads[0].defined()) return result;
    const variable_list saved = ctx->get_saved_variables();
    const std::array<bool, 2> needed = {ctx->needs_input_grad(0), ctx->needs_input_grad(2)};
    auto [to_logits, to_tau] = mixed_pair_score_backward_op().call(
        grads[0], saved[0], saved[1], saved[2], ctx->saved_data["n"].toSymInt(), saved[3],
        ctx->saved_data["gamma"].toDouble(), ctx->saved_data["score"].toStringRef(), if_defined(saved[4]), needed);
    if (needed[0]) result[0] = to_logits;
    if (needed[1]) result[2] = to_tau;
    return result;
  }
};

Tensor pair_score(const Tensor& logits_a, const Tensor& logits_b, const Tensor& mixed, double gamma,
                  string_view score) {
  if (needs_gradient(logits_a, logits_b, mixed))
    return PairScoreFunction::apply(logits_a, logits_b, mixed, gamma, score);
  const at::AutoDispatchBelowADInplaceOrView guard;
  return pair_score_op().call(logits_a, logits_b, mixed, gamma, score);
}

Tensor indexed_pair_score(const Tensor& own, const Tensor& pairs, const Tensor& mixed, double gamma,
                          string_view score) {
  if (needs_gradient(own, mixed)) return IndexedPairScoreFunction::apply(own, pairs, mixed, gamma, score);
  const at::AutoDispatchBelowADInplaceOrView guard;
  return indexed_pair_score_op().call(own, pairs, mixed, gamma, score);
}

Tensor mixed_pair_score(const Tensor& logits, const Tensor& pairs, const Tensor& tau, c10::SymInt n, const Tensor& key,
                        double gamma, string_view score, const OptionalTensor& index) {
  if (needs_gradient(logits, tau))
    return MixedPairScoreFunction::apply(logits, pairs, tau, std::move(n), key, gamma, score, index);
  const at::AutoDispatchBelowADInplaceOrView guard;
  return mixed_pair_score_op().call(logits, pairs, tau, std::move(n), key, gamma, score, index);
}

// A score of logits, with its options: a base, or none.
template <class... Options>
struct ScoreOps {
  c10::TypedOperatorHandle<Tensor(const Tensor&, Options...)> forward;
  c10::TypedOperatorHandle<Tensor(const Tensor&, const Tensor&, Options...)> backward;

  explicit ScoreOps(const std::string& name)
      : forward(find_op<Tensor(const Tensor&, Options...)>(name.c_str())),
        backward(find_op<Tensor(const Tensor&, const Tensor&, Options...)>((name + "_backward").c_str())) {}
};

auto& entropy_ops() {
  static const ScoreOps<double> ops("lada_ext::entropy");
  return ops;
}

auto& bald_ops() {
  static const ScoreOps<double> ops("lada_ext::bald");
  return ops;
}

auto& variation_ratio_ops() {
  static const ScoreOps<> ops("lada_ext::variation_ratio");
  return ops;
}

auto& margin_ops() {
  static const ScoreOps<> ops("lada_ext::margin");
  return ops;
}

auto& consistency_ops() {
  static const ScoreOps<> ops("lada_ext::consistency_variance");
  return ops;
}

template <auto ops, class... Options>
struct ScoreFunction : torch::autograd::Function<ScoreFunction<ops, Options...>> {
  static Tensor forward(AutogradContext* ctx, const Tensor& logits, Options... options) {
    ctx->save_for_backward({logits});
    ((ctx->saved_data["base"] = options), ...);
    const at::AutoDispatchBelowADInplaceOrView guard;
    return ops().forward.call(logits, options...);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    variable_list result(1 + sizeof...(Options));
    const variable_list saved = ctx->get_saved_variables();
    if constexpr (sizeof...(Options) > 0)
      result[0] = ops().backward.call(grads[0], saved[0], ctx->saved_data["base"].toDouble());
    else
      result[0] = ops().backward.call(grads[0], saved[0]);
    return result;
  }
};

template <auto ops, class... Options>
Tensor score(const Tensor& logits, Options... options) {
  if (needs_gradient(logits)) return ScoreFunction<ops, Options...>::apply(logits, options...);
  const at::AutoDispatchBelowADInplaceOrView guard;
  return ops().forward.call(logits, options...);
}

// Under autocast features and logits come from layers of different precision: the wider one is taken.
Tensor pair_score_under_autocast(const Tensor& logits_a, const Tensor& logits_b, const Tensor& mixed, double gamma,
                                 string_view score) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  const auto [a, b, of_mixed] = in_widest(logits_a, logits_b, mixed);
  return pair_score_op().call(a, b, of_mixed, gamma, score);
}

Tensor k_center_greedy_under_autocast(const Tensor& features, const Tensor& centers, c10::SymInt k) {
  static const auto op = find_op<Tensor(const Tensor&, const Tensor&, c10::SymInt)>("lada_ext::k_center_greedy");
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  const auto [rows, fixed] = in_widest(features, centers);
  return op.call(rows, fixed, std::move(k));
}

Tensor badge_select_under_autocast(const Tensor& features, const Tensor& logits, c10::SymInt k, const Tensor& key) {
  static const auto op =
      find_op<Tensor(const Tensor&, const Tensor&, c10::SymInt, const Tensor&)>("lada_ext::badge_select");
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  const auto [rows, scores] = in_widest(features, logits);
  return op.call(rows, scores, std::move(k), key);
}

void implement_under_autocast(torch::Library& m) {
  m.impl("beta_mix", &mix_under_autocast);
  m.impl("relu_mix_logits", &relu_mix_logits_under_autocast);
  m.impl("conv_relu_pool", &conv_relu_pool_under_autocast);
  m.impl("pair_score", &pair_score_under_autocast);
  m.impl("k_center_greedy", &k_center_greedy_under_autocast);
  m.impl("badge_select", &badge_select_under_autocast);
}

// What is written into the caller's tensors has no gradient, so a gradient these have would be that of lost values.
void write_without_gradient(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  const auto& arguments = op.schema().arguments();
  for (size_t i = 0; at::GradMode::is_enabled() && i < arguments.size(); ++i) {
    const c10::IValue& value = torch::jit::peek(*stack, i, arguments.size());
    TORCH_CHECK(!arguments[i].is_out() || !value.toTensor().requires_grad(), op.schema().name(),
                ": out must not require grad, got ", arguments[i].name(), " that does");
  }
  const at::AutoDispatchBelowADInplaceOrView guard;
  op.callBoxed(stack);
}

}  // namespace

TORCH_LIBRARY_IMPL(lada_ext, Autograd, m) {
  m.impl("entropy", &score<entropy_ops, double>);
  m.impl("bald", &score<bald_ops, double>);
  m.impl("variation_ratio", &score<variation_ratio_ops>);
  m.impl("margin", &score<margin_ops>);
  m.impl("consistency_variance", &score<consistency_ops>);
  m.impl("beta_sample", &sample);
  m.impl("beta_mix", &mix);
  m.impl("beta_mix_pairs", &mix_pairs);
  m.impl("relu_mix_logits", &relu_mix_logits);
  m.impl("conv_relu_pool", &conv_relu_pool);
  m.impl("mix_labels", &mix_labels);
  m.impl("soft_cross_entropy", &soft_cross_entropy);
  m.impl("affine_sample", &affine_sample);
  m.impl("pair_score", &pair_score);
  m.impl("indexed_pair_score", &indexed_pair_score);
  m.impl("mixed_pair_score", &mixed_pair_score);
  for (const char* op :
       {"entropy_backward", "bald_backward", "variation_ratio_backward", "margin_backward",
        "consistency_variance_backward", "indexed_pair_score_backward", "beta_logit_grad", "beta_sample_backward",
        "beta_mix_backward", "beta_mix_pairs_backward", "relu_mix_logits_backward", "conv_relu_pool_backward",
        "mix_labels_backward", "soft_cross_entropy_backward", "affine_sample_backward", "pair_score_backward",
        "mixed_pair_score_backward"})
    m.impl(op, torch::autograd::autogradNotImplementedFallback());
  for (const char* op : {"beta_mix.out", "beta_mix_pairs.out"})
    m.impl(op, torch::CppFunction::makeFromBoxedFunction<&write_without_gradient>());
}

TORCH_LIBRARY_IMPL(lada_ext, Autocast, m) { implement_under_autocast(m); }
TORCH_LIBRARY_IMPL(lada_ext, AutocastCPU, m) { implement_under_autocast(m); }

}  // namespace lada
