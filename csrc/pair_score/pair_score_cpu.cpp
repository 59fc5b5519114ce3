// CPU loops of Eq. 13. Mixtures are scored in the lanes of scores/lanes.h: for given mixtures a lane is a row, for
// mixtures of logits a lane is a pair, whose two rows are gathered once for all its samples.
#include <numeric>
#include <vector>

#include "../scores/lanes.h"
#include "pair_score.h"

namespace lada::cpu {
namespace {

// Pairs have no margins.
template <class F>
void dispatch_pair_score(Score score, F&& f) {
  score == Score::kEntropy ? f(ScoreTag<Score::kEntropy>{}) : f(ScoreTag<Score::kVariationRatio>{});
}

constexpr int64_t kCostOfExp = 4;

// The scores of both ends of a pair; NaN if it names no row.
template <class A>
A own_scores(const void* own, const int64_t* ends, int64_t rows) {
  if (!is_row(ends[0], rows) || !is_row(ends[1], rows)) return not_a_number<A>();
  return static_cast<const A*>(own)[ends[0]] + static_cast<const A*>(own)[ends[1]];
}

// Pairs in blocks, so that their mixtures fill the lanes of row_scores.
template <class T>
void score_pairs(const PairScores& k, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  constexpr int64_t kBlock = 64;
  std::vector<A> mixed(static_cast<size_t>(kBlock * k.samples));
  A a[kBlock], b[kBlock];
  const auto score_rows = [&](const void* logits, int64_t first, int64_t count, double scale, A* out) {
    const T* rows = static_cast<const T*>(logits) + first * k.classes;
    row_scores({rows, out, count, k.classes, k.dtype, k.score, scale}, 1);
  };
  for (int64_t first = begin; first < end; first += kBlock) {
    const int64_t count = std::min(kBlock, end - first);
    score_rows(k.mixed, first * k.samples, count * k.samples, k.scale * k.gamma, mixed.data());
    if (k.own == nullptr) {
      score_rows(k.logits_a, first, count, k.scale, a);
      score_rows(k.logits_b, first, count, k.scale, b);
    }
    for (int64_t p = 0; p < count; ++p) {
      const A* of_pair = mixed.data() + p * k.samples;
      const A sum = std::accumulate(of_pair, of_pair + k.samples, A(0));
      const A ends = k.own ? own_scores<A>(k.own, k.ends + 2 * (first + p), k.rows) : a[p] + b[p];
      static_cast<A*>(k.out)[first + p] = ends + sum / static_cast<A>(k.samples);
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
  load_tile<T>(rows_a, k.classes, a);
  load_tile<T>(rows_b, k.classes, b);
}

// lam of all pairs and samples. They are drawn before the pairs are scored, since draws have lanes of their own.
template <class A>
std::vector<A> draw_all(const BetaSource& source, int threads) {
  std::vector<A> lam(static_cast<size_t>(source.pairs * source.samples));
  beta_sample({source, lam.data(), sizeof(A) == 4 ? DType::kFloat32 : DType::kFloat64}, threads);
  return lam;
}

// lam and 1 - lam of one sample of a block of pairs, from a tile whose columns are the samples.
template <class A>
struct Draws {
  Lane<A> lam, mu;

  void take(const A* tile, int64_t n) {
    for (int l = 0; l < kRowLanes<A>; ++l) {
      const A value = tile[n * kRowLanes<A> + l];
      lam[l] = positive_weight(value);
      mu[l] = positive_weight(1 - value);
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

template <class T, Score kScore, class A>
void score_mixed_pairs(const MixedPairScores& k, const std::vector<A>& lam, int64_t begin, int64_t end) {
  const int64_t samples = k.source.samples;
  Workspace<A> work(3, k.classes);
  std::vector<A> lams(static_cast<size_t>(samples * kRowLanes<A>));
  A *a = work.tile(0), *b = work.tile(1), *mixed = work.tile(2);
  const A scale = static_cast<A>(k.scale), share = scale * static_cast<A>(k.gamma) / static_cast<A>(samples);
  Lane<A> known;
  Draws<A> draws;
  for (int64_t first = begin; first < end; first += kRowLanes<A>) {
    const int64_t count = std::min<int64_t>(kRowLanes<A>, end - first);
    gather_ends<T>(k, first, count, a, b, known);
    Lane<A> mixtures{}, ends{};
    load_rows(lam.data() + first * samples, count, samples, samples, lams.data());
    for (int64_t n = 0; n < samples; ++n) {
      draws.take(lams.data(), n);
      add_mixture_scores<kScore>(a, b, draws, k.classes, mixed, mixtures);
    }
    if (k.own == nullptr) {
      add_scores<kScore>(a, k.classes, ends);
      add_scores<kScore>(b, k.classes, ends);
    }
    for (int l = 0; l < count; ++l) {
      const A of_ends = k.own ? own_scores<A>(k.own, k.ends + 2 * (first + l), k.rows) : scale * ends[l];
      static_cast<A*>(k.out)[first + l] = known[l] != 0 ? of_ends + share * mixtures[l] : not_a_number<A>();
    }
  }
}

// For one sample: sum_a += lam s, sum_b += mu s, to_lam = sum_c s_c (a_c - b_c), where s is the weighted gradient to
// the mixed logits.
template <Score kScore, class A>
LADA_CLONES void add_mixture_gradients(const A* a, const A* b, const Draws<A>& draws, const Lane<A>& factor,
                                       int64_t classes, A* mixed, A* exps, A* sum_a, A* sum_b, Lane<A>& to_lam) {
  constexpr int kWidth = kRowLanes<A>;
  mix_tiles(a, b, draws, classes, mixed);
  const LaneStats<A> s = stats_of_tile<kScore>(mixed, classes, exps);
  gradient_of_tile<kScore>(mixed, exps, classes, s, factor);
  to_lam = {};
  for (int64_t j = 0; j < classes; ++j) {
    LADA_SIMD for (int l = 0; l < kWidth; ++l) {
      const int64_t i = j * kWidth + l;
      sum_a[i] += draws.lam[l] * mixed[i];
      sum_b[i] += draws.mu[l] * mixed[i];
      to_lam[l] += slope_to_lam(mixed[i], a[i], b[i]);
    }
  }
}

template <class T, Score kScore, class A>
void score_mixed_pairs_backward(const MixedPairScoresBackward& k, const std::vector<A>& lam, int64_t begin,
                                int64_t end) {
  const MixedPairScores& f = k.forward;
  const int64_t samples = f.source.samples;
  Workspace<A> work(6, f.classes);
  std::vector<A> lams(static_cast<size_t>(samples * kRowLanes<A>));
  A *a = work.tile(0), *b = work.tile(1), *mixed = work.tile(2), *exps = work.tile(3);
  A *sum_a = work.tile(4), *sum_b = work.tile(5);
  const A share = static_cast<A>(f.scale * f.gamma) / static_cast<A>(samples);
  Lane<A> known, factor, to_lam;
  Draws<A> draws;
  for (int64_t first = begin; first < end; first += kRowLanes<A>) {
    const int64_t count = std::min<int64_t>(kRowLanes<A>, end - first);
    gather_ends<T>(f, first, count, a, b, known);
    std::fill_n(sum_a, work.size, A(0));
    std::fill_n(sum_b, work.size, A(0));
    for (int l = 0; l < kRowLanes<A>; ++l)
      factor[l] = l < count ? share * static_cast<const A*>(k.grad)[first + l] : A(0);
    load_rows(lam.data() + first * samples, count, samples, samples, lams.data());
    for (int64_t n = 0; n < samples; ++n) {
      draws.take(lams.data(), n);
      add_mixture_gradients<kScore>(a, b, draws, factor, f.classes, mixed, exps, sum_a, sum_b, to_lam);
      if (k.grad_lam)
        for (int l = 0; l < count; ++l)
          static_cast<A*>(k.grad_lam)[(first + l) * samples + n] = known[l] != 0 ? to_lam[l] : not_a_number<A>();
    }
    if (k.contributions) {
      A* to = static_cast<A*>(k.contributions) + first * f.classes;
      store_rows(sum_a, f.classes, to, count);
      store_rows(sum_b, f.classes, to + f.source.pairs * f.classes, count);
    }
  }
}

// The gradients of the rows' own scores, each times the sum of the gradients of the pairs it belongs to.
template <Score kScore, class A>
LADA_CLONES void own_gradients(A* tile, A* exps, int64_t classes, const Lane<A>& factor) {
  const LaneStats<A> s = stats_of_tile<kScore>(tile, classes, exps);
  gradient_of_tile<kScore>(tile, exps, classes, s, factor);
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
    Lane<A> factor{};
    for (int l = 0; l < count; ++l)
      for (int64_t s = k.begin[first + l]; s < k.begin[first + l + 1]; ++s)
        factor[l] += static_cast<A>(k.scale) * static_cast<const A*>(k.grad)[k.slots[s] / 2];
    load_rows(static_cast<const T*>(k.logits) + first * k.classes, count, k.classes, k.classes, work.tile(0));
    own_gradients<kScore>(work.tile(0), work.tile(1), k.classes, factor);
    store_rows(work.tile(0), k.classes, work.tile(2), count);
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
    parallel_for(k.pairs, cost, threads, [&](int64_t begin, int64_t end) { score_pairs<T>(k, begin, end); });
  });
}

void mixed_pair_scores(const MixedPairScores& k, int threads) {
  const int64_t cost = (k.source.samples + 2) * k.classes * kCostOfExp;
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const auto lam = draw_all<arithmetic_t<T>>(k.source, threads);
    dispatch_pair_score(k.score, [&](auto score) {
      parallel_tiles(k.source.pairs, kRowLanes<arithmetic_t<T>>, cost, threads, [&](int64_t begin, int64_t end) {
        score_mixed_pairs<T, decltype(score)::value>(k, lam, begin, end);
      });
    });
  });
}

void mixed_pair_scores_backward(const MixedPairScoresBackward& k, int threads) {
  const int64_t cost = (k.forward.source.samples + 2) * k.forward.classes * kCostOfExp;
  dispatch(k.forward.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const auto lam = draw_all<arithmetic_t<T>>(k.forward.source, threads);
    dispatch_pair_score(k.forward.score, [&](auto score) {
      parallel_tiles(k.forward.source.pairs, kRowLanes<arithmetic_t<T>>, cost, threads,
                     [&](int64_t begin, int64_t end) {
                       score_mixed_pairs_backward<T, decltype(score)::value>(k, lam, begin, end);
                     });
    });
  });
}

void gather_pair_gradients(const GatherPairGradients& k, int threads) {
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    dispatch_pair_score(k.score, [&](auto score) {
      parallel_tiles(k.rows, kRowLanes<arithmetic_t<T>>, k.classes * kCostOfExp, threads,
                     [&](int64_t begin, int64_t end) { gather_rows<T, decltype(score)::value>(k, begin, end); });
    });
  });
}

}  // namespace lada::cpu
