// k_center_greedy, badge_select and consistency_variance for tensors: checks, allocation, registration.
#include "select.h"

#include <cmath>
#include <limits>

#include "../common/tensor.h"
#include "consistency.h"

namespace lada {
namespace {

void check_matrix(const at::Tensor& tensor, const char* op, const char* name, const char* shape) {
  check_floating(tensor, op, name);
  TORCH_CHECK_VALUE(tensor.dim() == 2, op, ": ", name, " must have shape ", shape, ", got ", tensor.sizes());
}

void check_count(int64_t k, int64_t rows, int64_t centers, const char* op) {
  TORCH_CHECK_VALUE(k >= 0 && k <= rows, op, ": k must lie in 0 .. ", rows, " (the rows of features), got ", k);
  TORCH_CHECK_VALUE(k + centers <= std::numeric_limits<int32_t>::max(), op, ": at most 2^31 - 1 centers, got ",
                    k + centers);
}

// Squared norms tell at no further cost whether a row holds NaN, infinity, or numbers whose squares overflow.
void check_values(const at::Tensor& lengths, const char* op, const char* name) {
  if (!should_check_values(lengths)) return;
  const at::Tensor values = lengths.to(at::kCPU, at::kDouble).contiguous();
  const double* value = values.const_data_ptr<double>();
  for (int64_t i = 0; i < values.numel(); ++i)
    TORCH_CHECK_VALUE(std::isfinite(value[i]), op, ": ", name, "[", i, "] must have a finite squared norm, got ",
                      value[i]);
}

at::Tensor row_lengths(const at::Tensor& rows, const at::Tensor& factors) {
  at::Tensor out = at::empty({rows.size(0)}, rows.options().dtype(arithmetic_type(rows)));
  run(rows, LADA_BACKENDS(row_lengths),
      RowLengths{rows.const_data_ptr(), factors.defined() ? factors.const_data_ptr() : nullptr, out.mutable_data_ptr(),
                 rows.size(0), rows.size(1), dtype_of(rows)});
  return out;
}

at::Tensor select_rows(const at::Tensor& features, const at::Tensor& centers, const at::Tensor& residuals,
                       const at::Tensor& lengths, const at::Tensor& key, int64_t k) {
  const auto options = lengths.options();
  at::Tensor champions = at::empty({2 * kMaxChampions * int64_t{sizeof(Candidate<double>)}}, options.dtype(at::kByte));
  at::Tensor weights = at::empty(lengths.sizes(), options), seen = at::empty(lengths.sizes(), options.dtype(at::kInt));
  at::Tensor picked = at::empty({k}, options.dtype(at::kLong));
  run(features, LADA_BACKENDS(select_rows),
      Selection{features.const_data_ptr(), centers.defined() ? centers.const_data_ptr() : nullptr,
                residuals.defined() ? residuals.const_data_ptr() : nullptr, lengths.const_data_ptr(),
                key.defined() ? key.const_data_ptr<int64_t>() : nullptr, features.size(0), features.size(1),
                centers.defined() ? centers.size(0) : 0, residuals.defined() ? residuals.size(1) : 0, k,
                weights.mutable_data_ptr(), seen.mutable_data_ptr<int32_t>(), champions.mutable_data_ptr(),
                picked.mutable_data_ptr<int64_t>(), dtype_of(features)});
  return picked;
}

at::Tensor k_center_greedy(const at::Tensor& features, const at::Tensor& centers, int64_t k) {
  constexpr const char* op = "k_center_greedy";
  check_matrix(features, op, "features", "(M, D)");
  check_matrix(centers, op, "centers", "(L, D)");
  check_same(centers, op, "centers", features, "features");
  TORCH_CHECK_VALUE(centers.size(1) == features.size(1), op, ": centers must have the D = ", features.size(1),
                    " of features, got ", centers.sizes());
  check_count(k, features.size(0), centers.size(0), op);
  const at::Tensor rows = features.contiguous(), fixed = centers.contiguous();
  const at::Tensor lengths = row_lengths(rows, {});
  check_values(lengths, op, "features");
  check_values(row_lengths(fixed, {}), op, "centers");
  return select_rows(rows, fixed, {}, lengths, {}, k);
}

at::Tensor badge_select(const at::Tensor& features, const at::Tensor& logits, int64_t k, const at::Tensor& key) {
  constexpr const char* op = "badge_select";
  check_matrix(features, op, "features", "(M, D)");
  check_matrix(logits, op, "logits", "(M, C)");
  check_same(logits, op, "logits", features, "features");
  TORCH_CHECK_VALUE(logits.size(0) == features.size(0) && logits.size(1) >= 1, op,
                    ": logits must have shape (M, C) with M = ", features.size(0), " and at least one class, got ",
                    logits.sizes());
  check_count(k, features.size(0), 0, op);
  check_int64_vector(key, op, "key", 2, features, "features");
  const at::Tensor rows = features.contiguous(), scores = logits.contiguous(), seed = key.contiguous();
  const auto options = rows.options().dtype(arithmetic_type(rows));
  at::Tensor residuals = at::empty(scores.sizes(), options), residual_lengths = at::empty({scores.size(0)}, options);
  run(scores, LADA_BACKENDS(badge_residuals),
      BadgeResiduals{scores.const_data_ptr(), residuals.mutable_data_ptr(), residual_lengths.mutable_data_ptr(),
                     scores.size(0), scores.size(1), dtype_of(scores)});
  check_values(residual_lengths, op, "the softmax residual of logits");
  const at::Tensor lengths = row_lengths(rows, residual_lengths);
  check_values(lengths, op, "the gradient embedding of features");
  return select_rows(rows, {}, residuals, lengths, seed, k);
}

void check_views(const at::Tensor& logits, const char* op) {
  check_floating(logits, op, "logits");
  TORCH_CHECK_VALUE(logits.dim() == 3 && logits.size(0) >= 1 && logits.size(2) >= 1, op,
                    ": logits must have shape (V, M, C) with at least one view and one class, got ", logits.sizes());
}

at::Tensor consistency_variance(const at::Tensor& logits) {
  check_views(logits, "consistency_variance");
  const at::Tensor views = logits.contiguous();
  at::Tensor out = at::empty({views.size(1)}, views.options().dtype(arithmetic_type(views)));
  run(views, LADA_BACKENDS(consistency),
      Consistency{views.const_data_ptr(), out.mutable_data_ptr(), views.size(0), views.size(1), views.size(2),
                  dtype_of(views)});
  return out;
}

at::Tensor consistency_variance_backward(const at::Tensor& grad, const at::Tensor& logits) {
  constexpr const char* op = "consistency_variance_backward";
  check_views(logits, op);
  check_gradient(grad, op, "grad", {logits.size(1)}, logits, "logits");
  const at::Tensor views = logits.contiguous(), row_grads = arithmetic(grad, arithmetic_type(views));
  at::Tensor out = at::empty(views.sizes(), views.options());
  at::Tensor means = at::empty({views.size(1), views.size(2)}, row_grads.options());
  run(views, LADA_BACKENDS(consistency_backward),
      ConsistencyBackward{row_grads.const_data_ptr(), views.const_data_ptr(), means.mutable_data_ptr(),
                          out.mutable_data_ptr(), views.size(0), views.size(1), views.size(2), dtype_of(views)});
  return out;
}

void implement(torch::Library& m) {
  m.impl("k_center_greedy", &k_center_greedy);
  m.impl("badge_select", &badge_select);
  m.impl("consistency_variance", &consistency_variance);
  m.impl("consistency_variance_backward", &consistency_variance_backward);
}

}  // namespace

TORCH_LIBRARY_IMPL(lada_ext, CPU, m) { implement(m); }
TORCH_LIBRARY_IMPL(lada_ext, CUDA, m) { implement(m); }

}  // namespace lada
