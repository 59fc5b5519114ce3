// CPU loop of the pair score: the rows of a pair are scored one after another and summed in a register.
#include "../common/cpu.h"
#include "pair_score.h"

namespace lada::cpu {
namespace {

template <class T>
LADA_HD arithmetic_t<T> row_score(const void* rows, int64_t row, const PairScores& k) {
  using A = arithmetic_t<T>;
  const T* z = static_cast<const T*>(rows) + row * k.classes;
  RowStats<A> stats;
  for (int64_t j = 0; j < k.classes; ++j) push(stats, widen(z[j]), j);
  return score_of(stats, k.score);
}

template <class T>
LADA_CLONES void score_pairs(const PairScores& k, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  for (int64_t pair = begin; pair < end; ++pair) {
    A mixtures = 0;
    for (int64_t n = 0; n < k.samples; ++n) mixtures += row_score<T>(k.mixed, pair * k.samples + n, k);
    const A ends = row_score<T>(k.logits_a, pair, k) + row_score<T>(k.logits_b, pair, k);
    static_cast<A*>(k.out)[pair] = k.scale.as<A>() * (ends + k.gamma.as<A>() * mixtures / static_cast<A>(k.samples));
  }
}

}  // namespace

void pair_scores(const PairScores& k, int threads) {
  const int64_t elements_per_pair = (k.samples + 2) * k.classes;
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    parallel_for(k.pairs, elements_per_pair, threads,
                 [&](int64_t begin, int64_t end) { score_pairs<T>(k, begin, end); });
  });
}

}  // namespace lada::cpu
