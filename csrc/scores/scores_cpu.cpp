// CPU loops of the row scores: one pass over a row for the score, a second one, from cache, for its gradient.
#include "../common/cpu.h"
#include "scores.h"

namespace lada::cpu {
namespace {

template <class T>
LADA_CLONES void score_rows(const RowScores& k, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  const T* logits = static_cast<const T*>(k.logits);
  A* out = static_cast<A*>(k.out);
  for (int64_t row = begin; row < end; ++row) {
    RowStats<A> stats;
    for (int64_t j = 0; j < k.classes; ++j) push(stats, widen(logits[row * k.classes + j]), j);
    out[row] = k.scale.as<A>() * score_of(stats, k.score);
  }
}

template <class T>
LADA_CLONES void score_rows_backward(const RowScoresBackward& k, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  const A* grad = static_cast<const A*>(k.grad);
  for (int64_t row = begin; row < end; ++row) {
    const T* z = static_cast<const T*>(k.logits) + row * k.classes;
    T* grad_z = static_cast<T*>(k.grad_logits) + row * k.classes;
    RowStats<A> stats;
    for (int64_t j = 0; j < k.classes; ++j) push(stats, widen(z[j]), j);
    const A g = k.scale.as<A>() * grad[row / k.group];
    for (int64_t j = 0; j < k.classes; ++j)
      grad_z[j] = static_cast<T>(g * score_gradient(stats, k.score, widen(z[j]), j));
  }
}

}  // namespace

void row_scores(const RowScores& k, int threads) {
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    parallel_for(k.rows, k.classes, threads, [&](int64_t begin, int64_t end) { score_rows<T>(k, begin, end); });
  });
}

void row_scores_backward(const RowScoresBackward& k, int threads) {
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    parallel_for(k.rows, k.classes, threads,
                 [&](int64_t begin, int64_t end) { score_rows_backward<T>(k, begin, end); });
  });
}

}  // namespace lada::cpu
