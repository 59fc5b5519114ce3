// entropy and variation_ratio for tensors: checks, allocation, registration.
#include "scores.h"

#include <cmath>

#include "../common/tensor.h"

namespace lada {
namespace {

void check_logits(const at::Tensor& logits, const char* op) {
  check_floating(logits, op, "logits");
  TORCH_CHECK_VALUE(logits.dim() >= 1 && logits.size(-1) >= 1, op,
                    ": logits must have shape (..., C) with at least one class, got ", logits.sizes());
}

double scale_of_base(double base, const char* op) {
  TORCH_CHECK_VALUE(base > 0 && base != 1 && std::isfinite(base), op, ": base must be positive, finite and not 1, got ",
                    base);
  return 1 / std::log(base);
}

at::Tensor forward(const at::Tensor& logits, Score score, double scale, const char* op) {
  check_logits(logits, op);
  const at::Tensor rows = logits.contiguous();
  at::Tensor out = at::empty(logits.sizes().slice(0, logits.dim() - 1), rows.options().dtype(arithmetic_type(rows)));
  run(rows, LADA_BACKENDS(row_scores),
      RowScores{rows.const_data_ptr(), out.mutable_data_ptr(), out.numel(), rows.size(-1), dtype_of(rows), score,
                scale});
  return out;
}

at::Tensor backward(const at::Tensor& grad, const at::Tensor& logits, Score score, double scale, const char* op) {
  check_logits(logits, op);
  check_shape(grad, op, "grad", logits.sizes().slice(0, logits.dim() - 1));
  const at::Tensor rows = logits.contiguous(), row_grads = arithmetic(grad, arithmetic_type(rows));
  at::Tensor out = at::empty(rows.sizes(), rows.options());
  run(rows, LADA_BACKENDS(row_scores_backward),
      RowScoresBackward{row_grads.const_data_ptr(), rows.const_data_ptr(), out.mutable_data_ptr(), row_grads.numel(),
                        rows.size(-1), 1, dtype_of(rows), score, scale});
  return out;
}

at::Tensor entropy(const at::Tensor& logits, double base) {
  return forward(logits, Score::kEntropy, scale_of_base(base, "entropy"), "entropy");
}

at::Tensor entropy_backward(const at::Tensor& grad, const at::Tensor& logits, double base) {
  return backward(grad, logits, Score::kEntropy, scale_of_base(base, "entropy"), "entropy_backward");
}

at::Tensor variation_ratio(const at::Tensor& logits) {
  return forward(logits, Score::kVariationRatio, 1, "variation_ratio");
}

at::Tensor variation_ratio_backward(const at::Tensor& grad, const at::Tensor& logits) {
  return backward(grad, logits, Score::kVariationRatio, 1, "variation_ratio_backward");
}

void implement(torch::Library& m) {
  m.impl("entropy", &entropy);
  m.impl("entropy_backward", &entropy_backward);
  m.impl("variation_ratio", &variation_ratio);
  m.impl("variation_ratio_backward", &variation_ratio_backward);
}

}  // namespace

TORCH_LIBRARY_IMPL(lada_ext, CPU, m) { implement(m); }
TORCH_LIBRARY_IMPL(lada_ext, CUDA, m) { implement(m); }

}  // namespace lada
