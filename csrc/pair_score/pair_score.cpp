// pair_score (Eq. 13 over given logits) for tensors: checks, allocation, registration.
#include "pair_score.h"

#include "../common/tensor.h"
#include "../scores/score_name.h"

namespace lada {
namespace {

constexpr const char* kOp = "pair_score";

void check_inputs(const at::Tensor& a, const at::Tensor& b, const at::Tensor& mixed) {
  check_floating(a, kOp, "logits_a");
  TORCH_CHECK_VALUE(a.dim() == 2 && a.size(1) >= 1, kOp,
                    ": logits_a must have shape (P, C) with at least one class, got ", a.sizes());
  check_same(b, kOp, "logits_b", a, "logits_a");
  check_shape(b, kOp, "logits_b", a.sizes());
  check_same(mixed, kOp, "mixed", a, "logits_a");
  TORCH_CHECK_VALUE(mixed.dim() == 3 && mixed.size(0) == a.size(0) && mixed.size(1) >= 1 && mixed.size(2) == a.size(1),
                    kOp, ": mixed must have shape (P, N, C) with P = ", a.size(0), ", N >= 1 and C = ", a.size(1),
                    ", got ", mixed.sizes());
}

at::Tensor pair_score(const at::Tensor& logits_a, const at::Tensor& logits_b, const at::Tensor& mixed, double gamma,
                      std::string_view score_name) {
  check_inputs(logits_a, logits_b, mixed);
  const Score score = score_named(std::string(score_name), kOp);
  const at::Tensor a = logits_a.contiguous(), b = logits_b.contiguous(), mixtures = mixed.contiguous();
  at::Tensor out = at::empty({a.size(0)}, a.options().dtype(arithmetic_type(a)));
  run(a, LADA_BACKENDS(pair_scores),
      PairScores{a.const_data_ptr(), b.const_data_ptr(), nullptr, nullptr, 0, mixtures.const_data_ptr(), out.mutable_data_ptr(), a.size(0),
                 mixtures.size(1), a.size(1), dtype_of(a), score, unit_of(score), gamma});
  return out;
}

// The gradient of one of the three tensors, whose rows come in groups of `group` for each pair.
at::Tensor row_gradient(const at::Tensor& pair_grads, const at::Tensor& logits, int64_t group, Score score,
                        double scale) {
  const at::Tensor rows = logits.contiguous();
  at::Tensor out = at::empty(rows.sizes(), rows.options());
  run(rows, LADA_BACKENDS(row_scores_backward),
      RowScoresBackward{pair_grads.const_data_ptr(), rows.const_data_ptr(), out.mutable_data_ptr(),
                        pair_grads.numel() * group, rows.size(-1), group, dtype_of(rows), score, scale});
  return out;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> pair_score_backward(const at::Tensor& grad, const at::Tensor& logits_a,
                                                                   const at::Tensor& logits_b, const at::Tensor& mixed,
                                                                   double gamma, std::string_view score_name,
                                                                   std::array<bool, 3> needed) {
  check_inputs(logits_a, logits_b, mixed);
  check_shape(grad, "pair_score_backward", "grad", {logits_a.size(0)});
  const Score score = score_named(std::string(score_name), kOp);
  const double unit = unit_of(score);
  const int64_t samples = mixed.size(1);
  const at::Tensor g = arithmetic(grad, arithmetic_type(logits_a));
  const auto gradient = [&](int which, const at::Tensor& logits, int64_t group, double scale) {
    return needed[which] ? row_gradient(g, logits, group, score, scale) : no_gradient(logits);
  };
  return {gradient(0, logits_a, 1, unit), gradient(1, logits_b, 1, unit),
          gradient(2, mixed, samples, unit * gamma / static_cast<double>(samples))};
}

void implement(torch::Library& m) {
  m.impl("pair_score", &pair_score);
  m.impl("pair_score_backward", &pair_score_backward);
}

}  // namespace

TORCH_LIBRARY_IMPL(lada_ext, CPU, m) { implement(m); }
TORCH_LIBRARY_IMPL(lada_ext, CUDA, m) { implement(m); }

}  // namespace lada
