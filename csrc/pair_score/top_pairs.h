// The best of all pairs of a pool by Eq. 13: which rows are scanned, and how often.
//
// The best rows are scanned against each other first: their k-th best pair is a threshold. Then every row that can
// still be part of a pair above it is scanned; with logits of a trained network these are few, and only they are copied
// and sorted. A scan that finds more than it may store is repeated above the k-th best of what it stored.
//
// A part of pair_score.cpp, which alone includes it: torch's headers take longer to compile than both.
#pragma once
#include <ATen/ops/allclose.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cummin.h>
#include <ATen/ops/full.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/topk.h>

#include <cmath>
#include <limits>
#include <set>
#include <vector>

#include "../scores/score_name.h"
#include "pair_score.h"

namespace lada {
namespace {

constexpr const char* kOp = "top_pairs";
constexpr double kNever = -std::numeric_limits<double>::infinity();

struct Pool {
  at::Tensor logits;           // (M, C)
  at::Tensor own;              // (M,), arithmetic type; -inf for rows that are out
  at::Tensor lam, mu, weight;  // (n,), arithmetic type
  Score score;
  double bound;  // of the mixtures' part of a score, to a few units in the last place
  bool prune;
};

using Pair = RankedPair<double>;
using Pairs = std::vector<Pair>;

void sort_unique(Pairs& pairs, int64_t k) {
  std::sort(pairs.begin(), pairs.end(), [](const Pair& a, const Pair& b) { return a.before(b); });
  pairs.erase(std::unique(pairs.begin(), pairs.end(),
                          [](const Pair& a, const Pair& b) { return a.first == b.first && a.second == b.second; }),
              pairs.end());
  if (static_cast<int64_t>(pairs.size()) > k) pairs.resize(static_cast<size_t>(k));
}

// Adds to `best` the k best pairs among `rows` (ascending indices), of those before its last if it already holds k.
void scan(const Pool& pool, const at::Tensor& rows, int64_t k, Pairs& best, int64_t& evaluated) {
  const at::Tensor own_of_rows = pool.own.index_select(0, rows);
  const auto [own, order] = at::sort(own_of_rows, /*stable=*/true, /*dim=*/0, /*descending=*/true);
  const at::Tensor index = rows.index_select(0, order);
  const at::Tensor least = std::get<0>(at::cummin(index.flip(0), 0)).flip(0).contiguous();
  const at::Tensor logits = pool.logits.index_select(0, index).to(own.scalar_type()).t().contiguous();
  const int64_t capacity = std::max<int64_t>(4 * k, 1 << 16);
  at::Tensor scores = at::empty({capacity}, own.options()), pairs = at::empty({capacity, 2}, index.options());
  while (true) {
    at::Tensor counts = at::zeros({2}, index.options());
    int64_t* count = counts.mutable_data_ptr<int64_t>();
    const bool full = static_cast<int64_t>(best.size()) == k;
    const Pair threshold = full ? best.back() : Pair{kNever, 0, 0};
    run(logits, LADA_BACKENDS(pair_scan),
        PairScan{logits.const_data_ptr(),
                 own.const_data_ptr(),
                 index.const_data_ptr<int64_t>(),
                 least.const_data_ptr<int64_t>(),
                 pool.lam.const_data_ptr(),
                 pool.mu.const_data_ptr(),
                 pool.weight.const_data_ptr(),
                 logits.size(1),
                 logits.size(0),
                 pool.lam.size(0),
                 k,
                 capacity,
                 pool.prune,
                 dtype_of(logits),
                 pool.score,
                 threshold,
                 scores.mutable_data_ptr(),
                 pairs.mutable_data_ptr<int64_t>(),
                 count,
                 count + 1});
    const at::Tensor totals = counts.cpu();
    const int64_t found = totals.const_data_ptr<int64_t>()[0], here = std::min(found, capacity);
    evaluated += totals.const_data_ptr<int64_t>()[1];
    const at::Tensor values = scores.slice(0, 0, here).to(at::kCPU, at::kDouble), ends = pairs.slice(0, 0, here).cpu();
    const int64_t* end = ends.const_data_ptr<int64_t>();
    for (int64_t i = 0; i < here; ++i) best.push_back({values.const_data_ptr<double>()[i], end[2 * i], end[2 * i + 1]});
    sort_unique(best, k);
    if (found <= capacity) return;
  }
}

// The k best pairs of the rows that are in, or all of them that have a score.
Pairs best_pairs(const Pool& pool, int64_t k, int64_t& evaluated) {
  const at::Tensor in = pool.own.gt(kNever).nonzero().flatten();
  Pairs best;
  if (in.size(0) < 2 || k == 0) return best;
  const auto enough = static_cast<int64_t>(2 * std::ceil(std::sqrt(2.0 * static_cast<double>(k))));
  const int64_t seeds = std::min(in.size(0), std::max<int64_t>(64, enough));
  if (seeds == in.size(0)) {
    scan(pool, in, k, best, evaluated);
    return best;
  }
  const auto [top, rows] = at::topk(pool.own, seeds);
  scan(pool, std::get<0>(rows.sort()), k, best, evaluated);
  if (!pool.prune || static_cast<int64_t>(best.size()) < k) {
    scan(pool, in, k, best, evaluated);
    return best;
  }
  const double worst = best.back().score, first = top.select(0, 0).item<double>();
  const double least = worst - pool.bound - first;
  // for the rounding of what it is made of; the scan's own bound is exact
  const double slack = 1e-5 * (1 + std::abs(worst) + std::abs(pool.bound) + std::abs(first));
  scan(pool, pool.own.ge(least - slack).nonzero().flatten(), k, best, evaluated);
  return best;
}

// Greedily the best pair of rows that are still free, again and again. The list of the k best pairs of the free rows is
// in that order until it ends, so one list mostly serves many picks.
Pairs best_disjoint_pairs(Pool pool, int64_t k, int64_t& evaluated) {
  Pairs chosen;
  std::vector<bool> taken(static_cast<size_t>(pool.own.size(0)));
  pool.own = pool.own.clone();
  while (static_cast<int64_t>(chosen.size()) < k) {
    const int64_t missing = k - static_cast<int64_t>(chosen.size());
    const Pairs list = best_pairs(pool, std::max<int64_t>(8 * missing, 1024), evaluated);
    if (list.empty()) break;
    std::vector<int64_t> used;
    for (const Pair& pair : list) {
      if (static_cast<int64_t>(chosen.size()) == k) break;
      const auto a = static_cast<size_t>(pair.first), b = static_cast<size_t>(pair.second);
      if (taken[a] || taken[b]) continue;
      taken[a] = taken[b] = true;
      chosen.push_back(pair);
      used.insert(used.end(), {pair.first, pair.second});
    }
    const at::Tensor rows = at::tensor(used, pool.own.options().dtype(at::kLong));
    pool.own.index_fill_(0, rows, kNever);
  }
  return chosen;
}

// Pairs without a score, in the order of their indices, until there are k: NaN comes after all others.
void fill_up(Pairs& pairs, int64_t rows, int64_t k, bool disjoint) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  if (disjoint) {
    std::vector<bool> taken(static_cast<size_t>(rows));
    for (const Pair& pair : pairs)
      taken[static_cast<size_t>(pair.first)] = taken[static_cast<size_t>(pair.second)] = true;
    int64_t waiting = -1;
    for (int64_t row = 0; row < rows && static_cast<int64_t>(pairs.size()) < k; ++row) {
      if (taken[static_cast<size_t>(row)]) continue;
      if (waiting >= 0) pairs.push_back({nan, waiting, row});
      waiting = waiting >= 0 ? -1 : row;
    }
    return;
  }
  std::set<std::pair<int64_t, int64_t>> scored;
  for (const Pair& pair : pairs) scored.emplace(pair.first, pair.second);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = i + 1; j < rows; ++j) {
      if (static_cast<int64_t>(pairs.size()) >= k) return;
      if (scored.count({i, j}) == 0) pairs.push_back({nan, i, j});
    }
}

void check_inputs(const at::Tensor& logits, int64_t k, const at::Tensor& nodes, const at::Tensor& weights, double gamma,
                  bool disjoint) {
  check_floating(logits, kOp, "logits");
  TORCH_CHECK_VALUE(logits.dim() == 2 && logits.size(1) >= 1, kOp,
                    ": logits must have shape (M, C) with at least one class, got ", logits.sizes());
  const int64_t rows = logits.size(0), half = rows / 2, most = disjoint ? half : (rows - 1 + rows % 2) * half;
  TORCH_CHECK_VALUE(k >= 0 && k <= most, kOp, ": k must lie between 0 and the number of ", disjoint ? "disjoint " : "",
                    "pairs of M = ", rows, " rows, ", most, ", got ", k);
  TORCH_CHECK_VALUE(nodes.dim() == 1 && nodes.size(0) >= 1, kOp, ": nodes must have shape (n,) with n >= 1, got ",
                    nodes.sizes());
  check_shape(weights, kOp, "weights", nodes.sizes());
  for (const auto& [tensor, name] : {std::pair{nodes, "nodes"}, std::pair{weights, "weights"}})
    TORCH_CHECK(tensor.is_cpu() && tensor.scalar_type() == at::kDouble, kOp, ": ", name,
                " must be a float64 tensor on the CPU, got ", tensor.scalar_type(), " on ", tensor.device());
  TORCH_CHECK_VALUE(nodes.ge(0).logical_and(nodes.le(1)).all().item<bool>(), kOp, ": nodes must lie in [0, 1]");
  TORCH_CHECK_VALUE(weights.isfinite().all().item<bool>(), kOp, ": weights of nodes must be finite");
  TORCH_CHECK_VALUE(weights.ge(0).all().item<bool>(), kOp, ": weights must not be negative");
  TORCH_CHECK_VALUE(std::isfinite(gamma), kOp, ": gamma must be finite, got ", gamma);
}

struct Rule {
  at::Tensor nodes, weights;
};

// A rule that is not symmetric under lam -> 1 - lam is made so, as pairs have no order.
Rule symmetric(const at::Tensor& nodes, const at::Tensor& weights) {
  const at::Tensor order = nodes.argsort(), lam = nodes.index_select(0, order), weight = weights.index_select(0, order);
  const at::Tensor mirrored = lam.flip(0).neg().add(1), of_mirrored = weight.flip(0);
  if (at::allclose(lam, mirrored, /*rtol=*/0, /*atol=*/1e-15) && weight.equal(of_mirrored)) return {lam, weight};
  return {at::cat({lam, mirrored}), at::cat({weight, of_mirrored}).div(2)};
}

// The pool with its own scores; a row without one is out.
Pool pool_of(const at::Tensor& logits, const at::Tensor& nodes, const at::Tensor& weights, double gamma, Score score,
             bool prune) {
  const at::Tensor rows = logits.contiguous();
  const auto options = rows.options().dtype(arithmetic_type(rows));
  const double unit = unit_of(score), least = rows.scalar_type() == at::kDouble ? 2.3e-308 : 1.2e-38;
  at::Tensor own = at::empty({rows.size(0)}, options);
  run(rows, LADA_BACKENDS(row_scores),
      RowScores{rows.const_data_ptr(), own.mutable_data_ptr(), rows.size(0), rows.size(1), dtype_of(rows), score,
                unit});
  own.masked_fill_(own.isnan(), kNever);
  const auto classes = static_cast<double>(rows.size(1));
  const double most = score == Score::kEntropy ? std::log(classes) : 1 - 1 / classes;
  const auto to_device = [&](const at::Tensor& values) { return values.to(options).contiguous(); };
  return {rows,
          own,
          to_device(nodes.clamp_min(least)),
          to_device(nodes.neg().add(1).clamp_min(least)),
          to_device(weights.mul(gamma * unit)),
          score,
          std::max(0.0, gamma * unit * most * weights.sum().item<double>()),
          prune};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> top_pairs(const at::Tensor& logits, int64_t k, const at::Tensor& nodes,
                                                         const at::Tensor& weights, double gamma,
                                                         std::string_view score_name, bool disjoint, bool prune) {
  check_inputs(logits, k, nodes, weights, gamma, disjoint);
  const Rule rule = symmetric(nodes, weights);
  const Pool pool = pool_of(logits, rule.nodes, rule.weights, gamma, score_named(std::string(score_name), kOp), prune);
  int64_t evaluated = 0;
  Pairs pairs = disjoint ? best_disjoint_pairs(pool, k, evaluated) : best_pairs(pool, k, evaluated);
  fill_up(pairs, logits.size(0), k, disjoint);
  at::Tensor scores = at::empty({k}, at::kDouble), ends = at::empty({k, 2}, at::kLong);
  for (int64_t i = 0; i < k; ++i) {
    const Pair& pair = pairs[static_cast<size_t>(i)];
    scores.mutable_data_ptr<double>()[i] = pair.score;
    ends.mutable_data_ptr<int64_t>()[2 * i] = pair.first;
    ends.mutable_data_ptr<int64_t>()[2 * i + 1] = pair.second;
  }
  const auto rows = static_cast<double>(logits.size(0)), all = std::max(1.0, rows * (rows - 1) / 2);
  return {scores.to(pool.own.options()), ends.to(logits.device()),
          at::full({}, static_cast<double>(evaluated) / all, scores.options()).to(logits.device())};
}

}  // namespace
}  // namespace lada
