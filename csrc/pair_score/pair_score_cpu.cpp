// CPU loops of Eq. 13. Mixtures are scored in the lanes of scores/lanes.h: for given mixtures a lane is a row, for
// mixtures of logits a lane is a pair, whose two rows are gathered once for all its samples.
#include <vector>

#include "../beta_mix/formula.h"
#include "../scores/lanes.h"
#include "pair_score.h"

namespace lada::cpu {
namespace {

constexpr int64_t kCostOfExp = 4, kCostOfDraw = 64;

bool is_row(int64_t index, int64_t rows) { return index >= 0 && index < rows; }

// The scores of `count` consecutive rows, in nats for entropy.
template <Score kScore, class T>
LADA_HD void score_rows(const T* rows, int64_t count, int64_t classes, arithmetic_t<T>* out) {
  using A = arithmetic_t<T>;
  if (classes > kTileClasses) {
    for (int64_t row = 0; row < count; ++row)
      out[row] = score_of(stats_of_row<kScore>(rows + row * classes, classes), kScore);
    return;
  }
  Tile<A> tile;
  for (int64_t row = 0; row < count; row += kLanes<A>) {
    const int64_t here = std::min<int64_t>(kLanes<A>, count - row);
    load_tile(consecutive_rows(rows + row * classes, here, classes), classes, tile.value);
    const Lane<A> scores = scores_of_tile<kScore>(stats_of_tile<kScore>(tile.value, classes));
    std::copy_n(scores.value, here, out + row);
  }
}

// Pairs in blocks, so that their mixtures fill the lanes.
template <class T, Score kScore>
LADA_CLONES void score_pairs(const PairScores& k, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  constexpr int64_t kBlock = 64;
  std::vector<A> mixed(static_cast<size_t>(kBlock * k.samples));
  A a[kBlock], b[kBlock];
  const A scale = static_cast<A>(k.scale), gamma = static_cast<A>(k.gamma), *own = static_cast<const A*>(k.own);
  for (int64_t first = begin; first < end; first += kBlock) {
    const int64_t count = std::min(kBlock, end - first), row = first * k.classes;
    score_rows<kScore>(static_cast<const T*>(k.mixed) + row * k.samples, count * k.samples, k.classes, mixed.data());
    if (own == nullptr) {
      score_rows<kScore>(static_cast<const T*>(k.logits_a) + row, count, k.classes, a);
      score_rows<kScore>(static_cast<const T*>(k.logits_b) + row, count, k.classes, b);
    }
    for (int64_t p = 0; p < count; ++p) {
      A sum = 0;
      for (int64_t n = 0; n < k.samples; ++n) sum += mixed[static_cast<size_t>(p * k.samples + n)];
      const int64_t* at = k.ends + 2 * (first + p);
      const A ends = own ? own[at[0]] + own[at[1]] : scale * (a[p] + b[p]);
      static_cast<A*>(k.out)[first + p] = ends + scale * gamma * sum / static_cast<A>(k.samples);
    }
  }
}

}  // namespace

void pair_scores(const PairScores& k, int threads) {
  const int64_t elements_per_pair = (k.samples + 2) * k.classes * kCostOfExp;
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    dispatch_score(k.score, [&](auto score) {
      parallel_for(k.pairs, elements_per_pair, threads,
                   [&](int64_t begin, int64_t end) { score_pairs<T, decltype(score)::value>(k, begin, end); });
    });
  });
}

}  // namespace lada::cpu
