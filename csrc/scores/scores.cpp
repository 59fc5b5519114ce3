// Row scores, BALD and top_k for tensors: checks, allocation, registration.
#include "scores.h"

#include <ATen/ops/index_select.h>
#include <ATen/ops/isnan.h>
#include <ATen/ops/sort.h>

#include <cmath>
#include <limits>

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
  check_gradient(grad, op, "grad", logits.sizes().slice(0, logits.dim() - 1), logits, "logits");
  const at::Tensor rows = logits.contiguous(), row_grads = arithmetic(grad, arithmetic_type(rows));
  at::Tensor out = fresh(rows.sizes(), rows.options());
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

at::Tensor margin(const at::Tensor& logits) { return forward(logits, Score::kMargin, 1, "margin"); }

at::Tensor margin_backward(const at::Tensor& grad, const at::Tensor& logits) {
  return backward(grad, logits, Score::kMargin, 1, "margin_backward");
}

// (T, ..., C) as (T, rows, C) with consecutive classes; strides of T and rows are kept where they can be.
at::Tensor passes_of(const at::Tensor& logits, const char* op) {
  check_floating(logits, op, "logits");
  TORCH_CHECK_VALUE(logits.dim() >= 2 && logits.size(0) >= 1 && logits.size(-1) >= 1, op,
                    ": logits must have shape (T, ..., C) with at least one pass and one class, got ", logits.sizes());
  const int64_t passes = logits.size(0), classes = logits.size(-1);
  const int64_t rows = c10::multiply_integers(logits.sizes().slice(1, logits.dim() - 2));
  const at::Tensor flat = logits.reshape({passes, rows, classes});
  return flat.stride(2) == 1 || classes == 1 ? flat : flat.contiguous();
}

Bald bald_of(const at::Tensor& passes, double scale) {
  return {passes.const_data_ptr(), nullptr,          nullptr,          passes.size(0),   passes.size(1),
          passes.size(2),          passes.stride(0), passes.stride(1), dtype_of(passes), scale};
}

// Scratch that CUDA kernels need for long rows; it lives as long as the returned tensor.
at::Tensor bald_scratch(const at::Tensor& passes) {
  const bool needed = passes.size(2) > kMostClassesInRegisters;
  return at::empty({needed ? passes.size(1) : 0, passes.size(2)}, passes.options().dtype(arithmetic_type(passes)));
}

at::Tensor bald(const at::Tensor& logits, double base) {
  constexpr const char* op = "bald";
  const at::Tensor passes = passes_of(logits, op), scratch = bald_scratch(passes);
  Bald arguments = bald_of(passes, scale_of_base(base, op));
  at::Tensor out = at::empty(logits.sizes().slice(1, logits.dim() - 2), scratch.options());
  arguments.out = out.mutable_data_ptr();
  arguments.mean = scratch.mutable_data_ptr();
  run(passes, LADA_BACKENDS(bald), arguments);
  return out;
}

at::Tensor bald_backward(const at::Tensor& grad, const at::Tensor& logits, double base) {
  constexpr const char* op = "bald_backward";
  const at::Tensor passes = passes_of(logits, op), scratch = bald_scratch(passes);
  check_gradient(grad, op, "grad", logits.sizes().slice(1, logits.dim() - 2), logits, "logits");
  const at::Tensor row_grads = arithmetic(grad, arithmetic_type(passes));
  at::Tensor out = fresh(logits.sizes(), passes.options());
  Bald arguments = bald_of(passes, scale_of_base(base, op));
  arguments.mean = scratch.mutable_data_ptr();
  run(passes, LADA_BACKENDS(bald_backward),
      BaldBackward{arguments, row_grads.const_data_ptr(), out.mutable_data_ptr()});
  return out;
}

void check_top_k(const at::Tensor& scores, int64_t k) {
  constexpr const char* op = "top_k";
  check_floating(scores, op, "scores");
  TORCH_CHECK_VALUE(scores.dim() == 1, op, ": scores must have shape (M,), got ", scores.sizes());
  TORCH_CHECK_VALUE(k >= 0 && k <= scores.size(0), op, ": k must lie between 0 and M = ", scores.size(0), ", got ", k);
}

std::tuple<at::Tensor, at::Tensor> top_k(const at::Tensor& scores, int64_t k) {
  check_top_k(scores, k);
  const at::Tensor values = arithmetic(scores, arithmetic_type(scores));
  at::Tensor best = at::empty({k}, values.options()), indices = at::empty({k}, values.options().dtype(at::kLong));
  cpu::top_k({values.const_data_ptr(), values.numel(), k, best.mutable_data_ptr(), indices.mutable_data_ptr<int64_t>(),
              dtype_of(values)},
             at::get_num_threads());
  return {best, indices};
}

// torch's own sort, which is stable: equal scores stay in the order of their indices.
std::tuple<at::Tensor, at::Tensor> top_k_cuda(const at::Tensor& scores, int64_t k) {
  check_top_k(scores, k);
  const at::Tensor values = arithmetic(scores, arithmetic_type(scores));
  const at::Tensor keys = values.masked_fill(values.isnan(), -std::numeric_limits<double>::infinity());
  const at::Tensor order = std::get<1>(at::sort(keys, /*stable=*/true, /*dim=*/0, /*descending=*/true));
  const at::Tensor indices = order.slice(0, 0, k).clone();
  return {values.index_select(0, indices), indices};
}

void implement(torch::Library& m) {
  m.impl("entropy", &entropy);
  m.impl("entropy_backward", &entropy_backward);
  m.impl("variation_ratio", &variation_ratio);
  m.impl("variation_ratio_backward", &variation_ratio_backward);
  m.impl("margin", &margin);
  m.impl("margin_backward", &margin_backward);
  m.impl("bald", &bald);
  m.impl("bald_backward", &bald_backward);
}

}  // namespace

TORCH_LIBRARY_IMPL(lada_ext, CPU, m) {
  implement(m);
  m.impl("top_k", &top_k);
}

TORCH_LIBRARY_IMPL(lada_ext, CUDA, m) {
  implement(m);
  m.impl("top_k", &top_k_cuda);
}

}  // namespace lada
