// CPU loops of Eq. 13. Mixtures are scored in the lanes of scores/lanes.h: for given mixtures a lane is a row, for
// mixtures of logits a lane is a pair, whose two rows are gathered once for all its samples.
#include <vector>

#include "../beta_mix/formula.h"
#include "../scores/lanes.h"
#include "pair_score.h"

namespace lada::cpu {
namespace {

constexpr int64_t kCostOfExp = 4, kCostOfDraw = 64;

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
  for (int64_t row = 0; row < count; row += kRowLanes<A>) {
    const int64_t here = std::min<int64_t>(kRowLanes<A>, count - row);
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
      A ends = 0;
      if (own) {
        const int64_t *at = k.ends + 2 * (first + p), i = at[0], j = at[1];
        const bool known = is_row(i, k.rows) && is_row(j, k.rows);
        ends = known ? own[i] + own[j] : not_a_number<A>();
      } else {
        ends = scale * (a[p] + b[p]);
      }
      static_cast<A*>(k.out)[first + p] = ends + scale * gamma * sum / static_cast<A>(k.samples);
    }
  }
}

// Tiles of any number of classes for one thread.
template <class A>
struct Workspace {
  std::vector<A> tiles;
  int64_t size;

  Workspace(int count, int64_t classes)
      : tiles(static_cast<size_t>(count * classes * kRowLanes<A>)), size(classes * kRowLanes<A>) {}
  A* tile(int i) { return tiles.data() + i * size; }
};

// Both rows of a block of pairs; `known` is 0 where a pair names no row of the pool, and row 0 then stands in for it.
template <class T, class A>
LADA_CLONES void gather_ends(const MixedPairScores& k, int64_t first, int64_t count, A* a, A* b, Lane<A>& known) {
  const T* logits = static_cast<const T*>(k.logits);
  TileRows<T> rows_a, rows_b;
  for (int l = 0; l < kRowLanes<A>; ++l) {
    const int64_t* ends = k.ends + 2 * (first + std::min<int64_t>(l, count - 1));
    const bool both = is_row(ends[0], k.rows) && is_row(ends[1], k.rows);
    known[l] = both ? A(1) : A(0);
    rows_a.row[l] = logits + (both ? ends[0] : 0) * k.classes;
    rows_b.row[l] = logits + (both ? ends[1] : 0) * k.classes;
  }
  load_tile(rows_a, k.classes, a);
  load_tile(rows_b, k.classes, b);
}

// One sample of a block of pairs.
template <class A>
struct Draws {
  Lane<A> lam, mu, slope;  // slope = dlam / dlog tau

  void draw(const BetaSource& source, int64_t first, int64_t count, int64_t n, bool with_slope) {
    for (int l = 0; l < kRowLanes<A>; ++l) {
      const int64_t pair = first + std::min<int64_t>(l, count - 1);
      const A tau = static_cast<const A*>(source.tau)[pair];
      const BetaDraw<A> drawn = beta_draw(source.key, source.index_of(pair), n, tau);
      lam[l] = positive_weight(drawn.lam);
      mu[l] = positive_weight(drawn.mu);
      slope[l] = with_slope ? beta_lam_gradient_log_tau(drawn, tau) : A(0);
    }
  }
};

template <class A>
LADA_HD void mix_tiles(const A* a, const A* b, const Draws<A>& draws, int64_t classes, A* mixed) {
  for (int64_t j = 0; j < classes; ++j) {
    LADA_SIMD for (int l = 0; l < kRowLanes<A>; ++l) {
      const int64_t i = j * kRowLanes<A> + l;
      mixed[i] = draws.lam[l] * a[i] + draws.mu[l] * b[i];
    }
  }
}

// sum += the scores of a tile.
template <Score kScore, class A>
LADA_CLONES void add_scores(const A* tile, int64_t classes, Lane<A>& sum) {
  const Lane<A> scores = scores_of_tile<kScore>(stats_of_tile<kScore>(tile, classes));
  for (int l = 0; l < kRowLanes<A>; ++l) sum[l] += scores[l];
}

template <Score kScore, class A>
LADA_CLONES void add_mixture_scores(const A* a, const A* b, const Draws<A>& draws, int64_t classes, A* mixed,
                                    Lane<A>& sum) {
  mix_tiles(a, b, draws, classes, mixed);
  const Lane<A> scores = scores_of_tile<kScore>(stats_of_tile<kScore>(mixed, classes));
  for (int l = 0; l < kRowLanes<A>; ++l) sum[l] += scores[l];
}

template <class T, Score kScore>
void score_mixed_pairs(const MixedPairScores& k, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  Workspace<A> work(3, k.classes);
  A *a = work.tile(0), *b = work.tile(1), *mixed = work.tile(2);
  const A scale = static_cast<A>(k.scale), *own = static_cast<const A*>(k.own);
  const A share = scale * static_cast<A>(k.gamma) / static_cast<A>(k.source.samples);
  Lane<A> known;
  Draws<A> draws;
  for (int64_t first = begin; first < end; first += kRowLanes<A>) {
    const int64_t count = std::min<int64_t>(kRowLanes<A>, end - first);
    gather_ends<T>(k, first, count, a, b, known);
    Lane<A> mixtures{}, ends{};
    for (int64_t n = 0; n < k.source.samples; ++n) {
      draws.draw(k.source, first, count, n, false);
      add_mixture_scores<kScore>(a, b, draws, k.classes, mixed, mixtures);
    }
    if (own == nullptr) {
      add_scores<kScore>(a, k.classes, ends);
      add_scores<kScore>(b, k.classes, ends);
    }
    for (int l = 0; l < count; ++l) {
      const int64_t* at = k.ends + 2 * (first + l);
      const A of_ends = own && known[l] != 0 ? own[at[0]] + own[at[1]] : scale * ends[l];
      static_cast<A*>(k.out)[first + l] = known[l] != 0 ? of_ends + share * mixtures[l] : not_a_number<A>();
    }
  }
}

// For one sample: sum_a += lam s, sum_b += mu s, to_log_tau += dlam / dlog tau sum_c s_c (a_c - b_c), where s is the
// weighted gradient to the mixed logits.
template <Score kScore, class A>
LADA_CLONES void add_mixture_gradients(const A* a, const A* b, const Draws<A>& draws, const Lane<A>& factor,
                                       int64_t classes, A* mixed, A* exps, A* sum_a, A* sum_b, Lane<A>& to_log_tau) {
  constexpr int kWidth = kRowLanes<A>;
  mix_tiles(a, b, draws, classes, mixed);
  const LaneStats<A> s = stats_of_tile<kScore>(mixed, classes, exps);
  gradient_of_tile<kScore>(mixed, exps, classes, s, factor);
  Lane<A> to_lam{};
  for (int64_t j = 0; j < classes; ++j) {
    LADA_SIMD for (int l = 0; l < kWidth; ++l) {
      const int64_t i = j * kWidth + l;
      sum_a[i] += draws.lam[l] * mixed[i];
      sum_b[i] += draws.mu[l] * mixed[i];
      to_lam[l] += slope_to_lam(mixed[i], a[i], b[i]);
    }
  }
  for (int l = 0; l < kWidth; ++l) to_log_tau[l] += draws.slope[l] * to_lam[l];
}

template <class A>
LADA_CLONES void store_contributions(const A* tile, int64_t classes, A* to, int64_t count) {
  store_tile(tile, classes, to, count);
}

template <class T, Score kScore>
void score_mixed_pairs_backward(const MixedPairScoresBackward& k, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  const MixedPairScores& f = k.forward;
  Workspace<A> work(6, f.classes);
  A *a = work.tile(0), *b = work.tile(1), *mixed = work.tile(2), *exps = work.tile(3);
  A *sum_a = work.tile(4), *sum_b = work.tile(5);
  const A* tau = static_cast<const A*>(f.source.tau);
  const A share = static_cast<A>(f.scale * f.gamma) / static_cast<A>(f.source.samples);
  Lane<A> known, factor;
  Draws<A> draws;
  for (int64_t first = begin; first < end; first += kRowLanes<A>) {
    const int64_t count = std::min<int64_t>(kRowLanes<A>, end - first);
    gather_ends<T>(f, first, count, a, b, known);
    std::fill_n(sum_a, work.size, A(0));
    std::fill_n(sum_b, work.size, A(0));
    for (int l = 0; l < kRowLanes<A>; ++l)
      factor[l] = l < count ? share * static_cast<const A*>(k.grad)[first + l] : A(0);
    Lane<A> to_log_tau{};
    for (int64_t n = 0; n < f.source.samples; ++n) {
      draws.draw(f.source, first, count, n, k.grad_tau != nullptr);
      add_mixture_gradients<kScore>(a, b, draws, factor, f.classes, mixed, exps, sum_a, sum_b, to_log_tau);
    }
    if (k.grad_tau)
      for (int l = 0; l < count; ++l)
        static_cast<A*>(k.grad_tau)[first + l] =
            known[l] != 0 ? to_log_tau[l] / clamp_tau(tau[first + l]) : not_a_number<A>();
    if (k.contributions) {
      A* to = static_cast<A*>(k.contributions) + first * f.classes;
      store_contributions(sum_a, f.classes, to, count);
      store_contributions(sum_b, f.classes, to + f.source.pairs * f.classes, count);
    }
  }
}

// The gradients of the rows' own scores, each times the sum of the gradients of the pairs it belongs to.
template <class T, Score kScore, class A>
LADA_CLONES void own_gradients(const GatherPairGradients& k, int64_t first, int64_t count, A* tile, A* exps, A* out) {
  Lane<A> factor{};
  for (int64_t l = 0; l < count; ++l)
    for (int64_t s = k.begin[first + l]; s < k.begin[first + l + 1]; ++s)
      factor[static_cast<int>(l)] += static_cast<A>(k.scale) * static_cast<const A*>(k.grad)[k.slots[s] / 2];
  const T* rows = static_cast<const T*>(k.logits) + first * k.classes;
  load_tile(consecutive_rows(rows, count, k.classes), k.classes, tile);
  const LaneStats<A> s = stats_of_tile<kScore>(tile, k.classes, exps);
  gradient_of_tile<kScore>(tile, exps, k.classes, s, factor);
  store_tile(tile, k.classes, out, count);
}

template <class T, class A>
LADA_CLONES void add_contributions(const GatherPairGradients& k, int64_t row, A* sum, T* out) {
  for (int64_t s = k.begin[row]; s < k.begin[row + 1]; ++s) {
    const int64_t slot = k.slots[s];
    const A* part = static_cast<const A*>(k.contributions) + (slot % 2 * k.pairs + slot / 2) * k.classes;
    LADA_SIMD for (int64_t j = 0; j < k.classes; ++j) sum[j] += part[j];
  }
  const bool used = k.begin[row] < k.begin[row + 1];  // a row of no pair has gradient zero, even if it holds NaN
  for (int64_t j = 0; j < k.classes; ++j) out[j] = static_cast<T>(used ? sum[j] : A(0));
}

template <class T, Score kScore>
void gather_rows(const GatherPairGradients& k, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  Workspace<A> work(3, k.classes);
  for (int64_t first = begin; first < end; first += kRowLanes<A>) {
    const int64_t count = std::min<int64_t>(kRowLanes<A>, end - first);
    own_gradients<T, kScore>(k, first, count, work.tile(0), work.tile(1), work.tile(2));
    for (int64_t l = 0; l < count; ++l)
      add_contributions(k, first + l, work.tile(2) + l * k.classes,
                        static_cast<T*>(k.grad_logits) + (first + l) * k.classes);
  }
}

}  // namespace

void pair_scores(const PairScores& k, int threads) {
  const int64_t cost = (k.samples + 2) * k.classes * kCostOfExp;
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    dispatch_score(k.score, [&](auto score) {
      parallel_for(k.pairs, cost, threads,
                   [&](int64_t begin, int64_t end) { score_pairs<T, decltype(score)::value>(k, begin, end); });
    });
  });
}

void mixed_pair_scores(const MixedPairScores& k, int threads) {
  const int64_t cost = (k.source.samples + 2) * (k.classes * kCostOfExp + kCostOfDraw);
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    dispatch_score(k.score, [&](auto score) {
      parallel_tiles(k.source.pairs, kRowLanes<arithmetic_t<T>>, cost, threads, [&](int64_t begin, int64_t end) {
        score_mixed_pairs<T, decltype(score)::value>(k, begin, end);
      });
    });
  });
}

void mixed_pair_scores_backward(const MixedPairScoresBackward& k, int threads) {
  const int64_t cost = (k.forward.source.samples + 2) * (k.forward.classes * kCostOfExp + kCostOfDraw);
  dispatch(k.forward.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    dispatch_score(k.forward.score, [&](auto score) {
      parallel_tiles(k.forward.source.pairs, kRowLanes<arithmetic_t<T>>, cost, threads,
                     [&](int64_t begin, int64_t end) {
                       score_mixed_pairs_backward<T, decltype(score)::value>(k, begin, end);
                     });
    });
  });
}

void gather_pair_gradients(const GatherPairGradients& k, int threads) {
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    dispatch_score(k.score, [&](auto score) {
      parallel_tiles(k.rows, kRowLanes<arithmetic_t<T>>, k.classes * kCostOfExp, threads,
                     [&](int64_t begin, int64_t end) { gather_rows<T, decltype(score)::value>(k, begin, end); });
    });
  });
}

}  // namespace lada::cpu
