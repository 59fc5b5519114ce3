// mix_labels and soft_cross_entropy for tensors: checks, allocation, registration.
#include "soft_labels.h"

#include "../common/tensor.h"

namespace lada {
namespace {

// The tensors behind SoftLabels, kept alive as long as they are used.
struct Labels {
  at::Tensor y_a, y_b, lam;
  int64_t classes;

  SoftLabels pointers() const {
    const int64_t rows = lam.numel();
    return {y_a.const_data_ptr<int64_t>(),
            y_b.const_data_ptr<int64_t>(),
            lam.const_data_ptr(),
            rows,
            std::max<int64_t>(1, rows / std::max<int64_t>(1, y_a.numel())),
            classes};
  }
};

at::Tensor checked(const at::Tensor& y, const at::Tensor& lam, int64_t classes, const char* op, const char* name) {
  check_is_int64(y, op, name);
  check_shape(y, op, name, lam.sizes().slice(0, 1));
  check_on_device_of(y, op, name, lam, "lam");
  const at::Tensor labels = y.contiguous();
  check_each_below(labels, classes, op, name);
  return labels;
}

Labels labels_of(const at::Tensor& y_a, const at::Tensor& y_b, const at::Tensor& lam, int64_t classes,
                 at::ScalarType type, const char* op) {
  check_floating(lam, op, "lam");
  TORCH_CHECK_VALUE(lam.dim() >= 1, op, ": lam must have shape (P, ...), got a scalar");
  return {checked(y_a, lam, classes, op, "y_a"), checked(y_b, lam, classes, op, "y_b"), arithmetic(lam, type), classes};
}

at::Tensor mix_labels(const at::Tensor& y_a, const at::Tensor& y_b, const at::Tensor& lam, int64_t num_classes) {
  constexpr const char* op = "mix_labels";
  TORCH_CHECK_VALUE(num_classes >= 1, op, ": num_classes must be at least 1, got ", num_classes);
  const Labels labels = labels_of(y_a, y_b, lam, num_classes, arithmetic_type(lam), op);
  std::vector<int64_t> shape = lam.sizes().vec();
  shape.push_back(num_classes);
  at::Tensor out = fresh(shape, labels.lam.options());
  run(lam, LADA_BACKENDS(mix_labels), MixLabels{labels.pointers(), out.mutable_data_ptr(), dtype_of(out)});
  return out;
}

at::Tensor mix_labels_backward(const at::Tensor& grad, const at::Tensor& y_a, const at::Tensor& y_b,
                               const at::Tensor& lam) {
  constexpr const char* op = "mix_labels_backward";
  TORCH_CHECK_VALUE(grad.dim() == lam.dim() + 1 && grad.sizes().slice(0, lam.dim()) == lam.sizes(), op,
                    ": grad must have shape (*lam.shape, classes), got ", grad.sizes());
  check_on_device_of(grad, op, "grad", lam, "lam");
  const Labels labels = labels_of(y_a, y_b, lam, grad.size(-1), arithmetic_type(lam), op);
  const at::Tensor g = arithmetic(grad, arithmetic_type(lam));
  at::Tensor grad_lam = at::empty(lam.sizes(), labels.lam.options());
  run(lam, LADA_BACKENDS(mix_labels_backward),
      MixLabelsBackward{labels.pointers(), g.const_data_ptr(), grad_lam.mutable_data_ptr(), dtype_of(g)});
  return grad_lam.to(lam.scalar_type());
}

void check_logits(const at::Tensor& logits, const at::Tensor& lam, const char* op) {
  check_floating(logits, op, "logits");
  TORCH_CHECK_VALUE(logits.dim() >= 2 && logits.size(-1) >= 1, op,
                    ": logits must have shape (P, ..., C) with at least one class, got ", logits.sizes());
  check_defined(lam, op, "lam");
  check_shape(lam, op, "lam", logits.sizes().slice(0, logits.dim() - 1));
  check_on_device_of(lam, op, "lam", logits, "logits");
}

at::Tensor soft_cross_entropy(const at::Tensor& logits, const at::Tensor& y_a, const at::Tensor& y_b,
                              const at::Tensor& lam) {
  constexpr const char* op = "soft_cross_entropy";
  check_logits(logits, lam, op);
  const Labels labels = labels_of(y_a, y_b, lam, logits.size(-1), arithmetic_type(logits), op);
  const at::Tensor z = logits.contiguous();
  at::Tensor loss = at::empty(lam.sizes(), labels.lam.options());
  run(logits, LADA_BACKENDS(soft_cross_entropy),
      SoftCrossEntropy{labels.pointers(), z.const_data_ptr(), loss.mutable_data_ptr(), dtype_of(z)});
  return loss;
}

std::tuple<at::Tensor, at::Tensor> soft_cross_entropy_backward(const at::Tensor& grad, const at::Tensor& logits,
                                                               const at::Tensor& y_a, const at::Tensor& y_b,
                                                               const at::Tensor& lam, std::array<bool, 2> needed) {
  constexpr const char* op = "soft_cross_entropy_backward";
  check_logits(logits, lam, op);
  check_gradient(grad, op, "grad", lam.sizes(), lam, "lam");
  const Labels labels = labels_of(y_a, y_b, lam, logits.size(-1), arithmetic_type(logits), op);
  const at::Tensor z = logits.contiguous(), g = arithmetic(grad, arithmetic_type(logits));
  at::Tensor grad_logits = needed[0] ? fresh(logits.sizes(), z.options()) : no_gradient(z);
  at::Tensor grad_lam = needed[1] ? at::empty(lam.sizes(), labels.lam.options()) : no_gradient(labels.lam);
  run(logits, LADA_BACKENDS(soft_cross_entropy_backward),
      SoftCrossEntropyBackward{labels.pointers(), g.const_data_ptr(), z.const_data_ptr(),
                               needed[0] ? grad_logits.mutable_data_ptr() : nullptr,
                               needed[1] ? grad_lam.mutable_data_ptr() : nullptr, dtype_of(z)});
  return {grad_logits, grad_lam.to(lam.scalar_type())};
}

void implement(torch::Library& m) {
  m.impl("mix_labels", &mix_labels);
  m.impl("mix_labels_backward", &mix_labels_backward);
  m.impl("soft_cross_entropy", &soft_cross_entropy);
  m.impl("soft_cross_entropy_backward", &soft_cross_entropy_backward);
}

}  // namespace

TORCH_LIBRARY_IMPL(lada_ext, CPU, m) { implement(m); }
TORCH_LIBRARY_IMPL(lada_ext, CUDA, m) { implement(m); }

}  // namespace lada
