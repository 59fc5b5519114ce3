// Eq. 13 for tensors: checks, allocation, registration. top_pairs is top_pairs.h.
#include "pair_score.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/searchsorted.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/where.h>

#include "../common/tensor.h"
#include "../scores/score_name.h"
#include "top_pairs.h"

namespace lada {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

void check_mixed(const at::Tensor& mixed, const char* op, int64_t pairs) {
  TORCH_CHECK_VALUE(mixed.dim() == 3 && mixed.size(0) == pairs && mixed.size(1) >= 1 && mixed.size(2) >= 1, op,
                    ": mixed must have shape (P, N, C) with P = ", pairs, ", N >= 1 and C >= 1, got ", mixed.sizes());
}

void check_inputs(const at::Tensor& a, const at::Tensor& b, const at::Tensor& mixed) {
  constexpr const char* op = "pair_score";
  check_floating(a, op, "logits_a");
  TORCH_CHECK_VALUE(a.dim() == 2 && a.size(1) >= 1, op,
                    ": logits_a must have shape (P, C) with at least one class, got ", a.sizes());
  check_same(b, op, "logits_b", a, "logits_a");
  check_shape(b, op, "logits_b", a.sizes());
  check_same(mixed, op, "mixed", a, "logits_a");
  TORCH_CHECK_VALUE(mixed.dim() == 3 && mixed.size(0) == a.size(0) && mixed.size(1) >= 1 && mixed.size(2) == a.size(1),
                    op, ": mixed must have shape (P, N, C) with P = ", a.size(0), ", N >= 1 and C = ", a.size(1),
                    ", got ", mixed.sizes());
}

at::Tensor pair_score(const at::Tensor& logits_a, const at::Tensor& logits_b, const at::Tensor& mixed, double gamma,
                      std::string_view score_name) {
  check_inputs(logits_a, logits_b, mixed);
  const Score score = score_named(std::string(score_name), "pair_score");
  const at::Tensor a = logits_a.contiguous(), b = logits_b.contiguous(), mixtures = mixed.contiguous();
  at::Tensor out = at::empty({a.size(0)}, a.options().dtype(arithmetic_type(a)));
  run(a, LADA_BACKENDS(pair_scores),
      PairScores{a.const_data_ptr(), b.const_data_ptr(), nullptr, nullptr, 0, mixtures.const_data_ptr(),
                 out.mutable_data_ptr(), a.size(0), mixtures.size(1), a.size(1), dtype_of(a), score, unit_of(score),
                 gamma});
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
  check_gradient(grad, "pair_score_backward", "grad", {logits_a.size(0)}, logits_a, "logits_a");
  const Score score = score_named(std::string(score_name), "pair_score");
  const double unit = unit_of(score);
  const int64_t samples = mixed.size(1);
  const at::Tensor g = arithmetic(grad, arithmetic_type(logits_a));
  const auto gradient = [&](int which, const at::Tensor& logits, int64_t group, double scale) {
    return needed[which] ? row_gradient(g, logits, group, score, scale) : no_gradient(logits);
  };
  return {gradient(0, logits_a, 1, unit), gradient(1, logits_b, 1, unit),
          gradient(2, mixed, samples, unit * gamma / static_cast<double>(samples))};
}

void check_indexed(const at::Tensor& own, const at::Tensor& pairs, const at::Tensor& mixed, const char* op) {
  check_floating(mixed, op, "mixed");
  check_floating(own, op, "own");
  TORCH_CHECK_VALUE(own.dim() == 1, op, ": own must have shape (M,), got ", own.sizes());
  check_pairs(pairs, op, own, "own");
  check_mixed(mixed, op, pairs.size(0));
  check_on_device_of(mixed, op, "mixed", own, "own");
  TORCH_CHECK_TYPE(own.scalar_type() == arithmetic_type(mixed), op, ": own must have dtype ", arithmetic_type(mixed),
                   ", that of the scores of mixed, got ", own.scalar_type());
}

at::Tensor indexed_pair_score(const at::Tensor& own, const at::Tensor& pairs, const at::Tensor& mixed, double gamma,
                              std::string_view score_name) {
  constexpr const char* op = "indexed_pair_score";
  check_indexed(own, pairs, mixed, op);
  const Score score = score_named(std::string(score_name), op);
  const at::Tensor scores = own.contiguous(), ends = pairs.contiguous(), mixtures = mixed.contiguous();
  at::Tensor out = at::empty({pairs.size(0)}, scores.options());
  run(mixtures, LADA_BACKENDS(pair_scores),
      PairScores{nullptr, nullptr, scores.const_data_ptr(), ends.const_data_ptr<int64_t>(), scores.size(0),
                 mixtures.const_data_ptr(), out.mutable_data_ptr(), pairs.size(0), mixtures.size(1), mixtures.size(2),
                 dtype_of(mixtures), score, unit_of(score), gamma});
  return out;
}

// The pairs' slots sorted by the row they name: those of row r are slots[begin[r]] .. slots[begin[r + 1] - 1]. Pairs
// that name a row that does not exist are in no row's slots.
struct SlotsOfRows {
  at::Tensor begin, slots;
};

SlotsOfRows sorted_slots(const at::Tensor& ends, int64_t rows) {
  const at::Tensor known = ends.ge(0).logical_and(ends.lt(rows)).all(1, /*keepdim=*/true);
  const at::Tensor keys = ends.masked_fill(known.logical_not(), rows).flatten();
  const auto [sorted, order] = at::sort(keys, /*stable=*/true, /*dim=*/0, /*descending=*/false);
  return {at::searchsorted(sorted, at::arange(rows + 1, keys.options())), order};
}

// What forward and backward of mixed_pair_score share: the checked inputs, kept alive as long as they are used.
struct MixedPairs {
  at::Tensor logits, ends, tau, key, index;
  int64_t samples;
  Score score;
  double gamma;

  MixedPairScores pointers() const {
    const BetaSource source = {tau.const_data_ptr(),
                               key.const_data_ptr<int64_t>(),
                               index.defined() ? index.const_data_ptr<int64_t>() : nullptr,
                               tau.size(0),
                               samples,
                               /*log_tau=*/false,
                               /*pathwise=*/false};
    return {logits.const_data_ptr(),
            ends.const_data_ptr<int64_t>(),
            logits.size(0),
            logits.size(1),
            source,
            nullptr,
            dtype_of(logits),
            score,
            unit_of(score),
            gamma};
  }
};

// tau in the type it is used in.
at::Tensor checked_tau(const at::Tensor& tau, int64_t pairs, const at::Tensor& logits, const char* op) {
  check_floating(tau, op, "tau");
  check_shape(tau, op, "tau", {pairs});
  check_on_device_of(tau, op, "tau", logits, "logits");
  const at::Tensor result = arithmetic(tau, arithmetic_type(logits));
  check_each_tau(result, /*is_log=*/false, op);
  return result;
}

MixedPairs mixed_pairs(const at::Tensor& logits, const at::Tensor& pairs, const at::Tensor& tau, int64_t n,
                       const at::Tensor& key, double gamma, std::string_view score, const OptionalTensor& index) {
  constexpr const char* op = "mixed_pair_score";
  check_floating(logits, op, "logits");
  TORCH_CHECK_VALUE(logits.dim() == 2 && logits.size(1) >= 1 && logits.size(1) < int64_t{1} << 31, op,
                    ": logits must have shape (M, C) with 1 <= C < 2^31, got ", logits.sizes());
  check_pairs(pairs, op, logits, "logits");
  TORCH_CHECK_VALUE(n >= 1 && n < int64_t{1} << 31, op, ": n must lie in [1, 2^31), got ", n);
  const at::Tensor concentrations = checked_tau(tau, pairs.size(0), logits, op);
  check_int64_vector(key, op, "key", 2, logits, "logits");
  if (index) check_int64_vector(*index, op, "index", pairs.size(0), logits, "logits");
  return {logits.contiguous(),
          pairs.contiguous(),
          concentrations,
          key.contiguous(),
          index ? index->contiguous() : at::Tensor(),
          n,
          score_named(std::string(score), op),
          gamma};
}

at::Tensor mixed_pair_score(const at::Tensor& logits, const at::Tensor& pairs, const at::Tensor& tau, int64_t n,
                            const at::Tensor& key, double gamma, std::string_view score, const OptionalTensor& index) {
  const MixedPairs inputs = mixed_pairs(logits, pairs, tau, n, key, gamma, score, index);
  at::Tensor out = at::empty({pairs.size(0)}, inputs.tau.options());
  if (logits.size(0) == 0) return out.fill_(not_a_number<double>());  // every pair names rows that do not exist
  MixedPairScores arguments = inputs.pointers();
  arguments.out = out.mutable_data_ptr();
  run(inputs.logits, LADA_BACKENDS(mixed_pair_scores), arguments);
  return out;
}

at::Tensor gradient_of_pool(const MixedPairs& inputs, const at::Tensor& grad, const at::Tensor& contributions) {
  const MixedPairScores forward = inputs.pointers();
  GatherPairGradients arguments = {};
  arguments.logits = forward.logits;
  arguments.grad = grad.const_data_ptr();
  arguments.contributions = contributions.const_data_ptr();
  arguments.ends = forward.ends;
  SlotsOfRows of_rows;
  if (!runs_on_cpu(inputs.logits)) {
    of_rows = sorted_slots(inputs.ends, forward.rows);
    arguments.begin = of_rows.begin.const_data_ptr<int64_t>();
    arguments.slots = of_rows.slots.const_data_ptr<int64_t>();
  }
  at::Tensor grad_logits = at::empty(inputs.logits.sizes(), inputs.logits.options());
  arguments.grad_logits = grad_logits.mutable_data_ptr();
  arguments.rows = forward.rows;
  arguments.pairs = forward.source.pairs;
  arguments.classes = forward.classes;
  arguments.dtype = forward.dtype;
  arguments.score = forward.score;
  arguments.scale = forward.scale;
  run(inputs.logits, LADA_BACKENDS(gather_pair_gradients), arguments);
  return grad_logits;
}

std::tuple<at::Tensor, at::Tensor> mixed_pair_score_backward(const at::Tensor& grad, const at::Tensor& logits,
                                                             const at::Tensor& pairs, const at::Tensor& tau, int64_t n,
                                                             const at::Tensor& key, double gamma,
                                                             std::string_view score, const OptionalTensor& index,
                                                             std::array<bool, 2> needed) {
  const MixedPairs inputs = mixed_pairs(logits, pairs, tau, n, key, gamma, score, index);
  check_gradient(grad, "mixed_pair_score_backward", "grad", {pairs.size(0)}, logits, "logits");
  if (logits.size(0) == 0)
    return {needed[0] ? at::empty(logits.sizes(), logits.options()) : no_gradient(logits),
            needed[1] ? at::empty(tau.sizes(), tau.options()).fill_(not_a_number<double>()) : no_gradient(tau)};
  const at::Tensor g = arithmetic(grad, arithmetic_type(logits));
  const int64_t count = pairs.size(0);
  const MixedPairScores forward = inputs.pointers();
  const bool cpu = runs_on_cpu(logits);
  const auto result = [&](bool wanted, at::IntArrayRef sizes) {
    return wanted ? at::empty(sizes, inputs.tau.options()) : at::Tensor();
  };
  const auto pointer = [](const at::Tensor& tensor) { return tensor.defined() ? tensor.mutable_data_ptr() : nullptr; };
  at::Tensor grad_tau = result(needed[1], {count}), grad_lam = result(needed[1] && !cpu, {count, n});
  const at::Tensor contributions = result(needed[0], {2, count, logits.size(1)});
  run(inputs.logits, LADA_BACKENDS(mixed_pair_scores_backward),
      MixedPairScoresBackward{forward, g.const_data_ptr(), pointer(grad_lam), cpu ? pointer(grad_tau) : nullptr,
                              pointer(contributions)});
  if (grad_lam.defined())
    run(inputs.logits, LADA_BACKENDS(beta_sample_backward),
        BetaSampleBackward{forward.source, grad_lam.const_data_ptr(), grad_tau.mutable_data_ptr(),
                           dtype_of(inputs.tau)});
  return {needed[0] ? gradient_of_pool(inputs, g, contributions) : no_gradient(logits),
          needed[1] ? grad_tau.to(tau.scalar_type()) : no_gradient(tau)};
}

// d / d own is one for each end; the mixtures' gradient is that of their rows' scores.
std::tuple<at::Tensor, at::Tensor> indexed_pair_score_backward(const at::Tensor& grad, const at::Tensor& own,
                                                               const at::Tensor& pairs, const at::Tensor& mixed,
                                                               double gamma, std::string_view score_name,
                                                               std::array<bool, 2> needed) {
  constexpr const char* op = "indexed_pair_score_backward";
  check_indexed(own, pairs, mixed, op);
  check_gradient(grad, op, "grad", {pairs.size(0)}, own, "own");
  const Score score = score_named(std::string(score_name), op);
  const at::Tensor g = arithmetic(grad, arithmetic_type(mixed));
  at::Tensor grad_own = no_gradient(own), grad_mixed = no_gradient(mixed);
  if (needed[0]) grad_own = at::zeros(own.sizes(), own.options());
  if (needed[0] && own.size(0) > 0) {  // else every pair names rows that do not exist
    const at::Tensor known = pairs.ge(0).logical_and(pairs.lt(own.size(0))).all(1, /*keepdim=*/true);
    const at::Tensor each = at::where(known, g.unsqueeze(1), 0).expand_as(pairs).flatten();
    grad_own.index_add_(0, pairs.masked_fill(known.logical_not(), 0).flatten(), each);
  }
  if (needed[1]) {
    const int64_t samples = mixed.size(1);
    grad_mixed = row_gradient(g, mixed, samples, score, unit_of(score) * gamma / static_cast<double>(samples));
  }
  return {grad_own, grad_mixed};
}

void implement(torch::Library& m) {
  m.impl("pair_score", &pair_score);
  m.impl("pair_score_backward", &pair_score_backward);
  m.impl("indexed_pair_score", &indexed_pair_score);
  m.impl("indexed_pair_score_backward", &indexed_pair_score_backward);
  m.impl("mixed_pair_score", &mixed_pair_score);
  m.impl("mixed_pair_score_backward", &mixed_pair_score_backward);
  m.impl("top_pairs", &top_pairs);
}

}  // namespace

TORCH_LIBRARY_IMPL(lada_ext, CPU, m) { implement(m); }
TORCH_LIBRARY_IMPL(lada_ext, CUDA, m) { implement(m); }

}  // namespace lada
