// CPU loops of Eq. 13. A lane (scores/lanes.h) is a pair, whose mixtures come one after the other; for mixtures of
// logits its two rows are gathered once for all its samples.
#include <vector>

#include "../beta_mix/draws.h"
#include "mixtures.h"
#include "pair_score.h"
#include "tiles.h"

namespace lada::cpu {
namespace {

// The scores of both ends of a pair; NaN if it names no row.
template <class A>
A own_scores(const void* own, const int64_t* ends, int64_t rows) {
  if (!is_row(ends[0], rows) || !is_row(ends[1], rows)) return not_a_number<A>();
  return static_cast<const A*>(own)[ends[0]] + static_cast<const A*>(own)[ends[1]];
}

// total += the scores of a tile. `next` is asked of memory on the way.
template <Score kScore, class A>
LADA_CLONES void add_scores(const A* tile, int64_t classes, const void* next, Lane<A>& total) {
  const Lane<A> scores =
      scores_of_tile<kScore>(stats_of_tile<kScore, A>(tile, classes, nullptr, static_cast<const char*>(next)));
  for (int l = 0; l < kRowLanes<A>; ++l) total[l] += scores[l];
}

// The same by way of a sum of scores, which `last` ends.
template <Score kScore, class A>
LADA_CLONES void add_scores(const A* tile, int64_t classes, const void* next, bool last, ScoreSum<kScore, A>& sum,
                            Lane<A>& total) {
  sum.add(stats_of_tile<kScore, A>(tile, classes, nullptr, static_cast<const char*>(next)));
  if (!last) return;
  sum.add_to(total, A(1));
  sum.clear();
}

// A lane is a pair: its mixtures come one after the other.
template <class T, Score kScore>
void score_pairs(const PairScores& k, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  const T *a = static_cast<const T*>(k.logits_a), *b = static_cast<const T*>(k.logits_b);
  const int64_t group = factors_without_overflow<A>(k.classes), stride = k.samples * k.classes;
  const A scale = static_cast<A>(k.scale), share = scale * static_cast<A>(k.gamma) / static_cast<A>(k.samples);
  Workspace<A> work(1, k.classes);
  ScoreSum<kScore, A> sum;
  sum.clear();
  for (int64_t first = begin; first < end; first += kRowLanes<A>) {
    const int64_t count = std::min<int64_t>(kRowLanes<A>, end - first);
    Lane<A> mixtures{}, ends{};
    const T *rows = static_cast<const T*>(k.mixed) + first * stride, *next = rows + count * stride;
    for (int64_t n = 0; n < k.samples; ++n) {
      load_rows(rows + n * k.classes, count, stride, k.classes, work.tile(0));
      const bool last = (n + 1) % group == 0 || n + 1 == k.samples;
      add_scores(work.tile(0), k.classes, next + n * count * k.classes, last, sum, mixtures);
    }
    for (const T* of_end : {a, b}) {
      if (k.own) break;
      load_rows(of_end + first * k.classes, count, k.classes, k.classes, work.tile(0));
      add_scores<kScore>(work.tile(0), k.classes, of_end + (first + count) * k.classes, ends);
    }
    for (int l = 0; l < count; ++l) {
      const A of_ends = k.own ? own_scores<A>(k.own, k.ends + 2 * (first + l), k.rows) : scale * ends[l];
      static_cast<A*>(k.out)[first + l] = of_ends + share * mixtures[l];
    }
  }
}

// The scores of all rows of the pool, unless the ends of every pair are scored with it.
template <class T, Score kScore>
std::vector<arithmetic_t<T>> score_pool(const MixedPairScores& k, int threads) {
  using A = arithmetic_t<T>;
  std::vector<A> scores(ends_by_pair(k.rows, k.source.pairs) ? 0 : static_cast<size_t>(k.rows));
  parallel_tiles(static_cast<int64_t>(scores.size()), kRowLanes<A>, k.classes * kCostOfExp, threads,
                 [&](int64_t begin, int64_t end) {
                   Workspace<A> work(1, k.classes);
                   for (int64_t first = begin; first < end; first += kRowLanes<A>) {
                     const int64_t count = std::min<int64_t>(kRowLanes<A>, end - first);
                     const T* rows = static_cast<const T*>(k.logits) + first * k.classes;
                     load_rows(rows, count, k.classes, k.classes, work.tile(0));
                     Lane<A> sum{};
                     add_scores<kScore>(work.tile(0), k.classes, nullptr, sum);
                     std::copy_n(sum.value, count, scores.begin() + first);
                   }
                 });
  return scores;
}

// The draws of a block of kLanes pairs for one thread.
template <class A>
class BlockOfDraws {
 public:
  BlockOfDraws(const BetaSource& source, Want want)
      : source_(source), want_(want), lam_(size()), mu_(size()), slope_(want == Want::kSlope ? size() : 0) {}

  void draw(int64_t first, int64_t count) {
    draws_.take(source_, first, count, want_);
    for (int64_t n = 0; n < source_.samples; ++n) {
      draws_.draw(n);
      std::copy_n(draws_.lanes.lam, kLanes, lam_.begin() + n * kLanes);
      std::copy_n(draws_.lanes.mu, kLanes, mu_.begin() + n * kLanes);
      if (want_ == Want::kSlope) std::copy_n(draws_.lanes.slope, kLanes, slope_.begin() + n * kLanes);
    }
  }

  TileDraws<A> tile(int64_t lane) const {
    return {lam_.data() + lane, mu_.data() + lane, want_ == Want::kSlope ? slope_.data() + lane : nullptr};
  }

 private:
  size_t size() const { return static_cast<size_t>(source_.samples * kLanes); }

  const BetaSource& source_;
  Want want_;
  DrawsOfPairs<A> draws_;
  std::vector<A> lam_, mu_, slope_;
};

// body(first, count, draws) for the pairs [begin, end), a tile of them at a time.
template <class A, class Body>
void for_each_tile(const BetaSource& source, int64_t begin, int64_t end, Want want, const Body& body) {
  BlockOfDraws<A> block(source, want);
  for (int64_t first = begin; first < end; first += kLanes) {
    const int64_t count = std::min<int64_t>(kLanes, end - first);
    block.draw(first, count);
    for (int64_t lane = 0; lane < count; lane += kRowLanes<A>)
      body(first + lane, std::min<int64_t>(kRowLanes<A>, count - lane), block.tile(lane));
  }
}

template <class T, Score kScore, class A>
void score_mixed_pairs(const MixedPairScores& k, const std::vector<A>& pool, int64_t begin, int64_t end) {
  const T* logits = static_cast<const T*>(k.logits);
  Workspace<A> work(3, k.classes);
  A *a = work.tile(0), *b = work.tile(1), *mixed = work.tile(2), *out = static_cast<A*>(k.out);
  const A scale = static_cast<A>(k.scale), share = scale * static_cast<A>(k.gamma) / static_cast<A>(k.source.samples);
  const int64_t group = factors_without_overflow<A>(k.classes);
  for_each_tile<A>(k.source, begin, end, Want::kLam, [&](int64_t first, int64_t count, const TileDraws<A>& draws) {
    gather_tile(logits, k.ends + 2 * first, 2, count, k.classes, a);
    gather_tile(logits, k.ends + 2 * first + 1, 2, count, k.classes, b);
    Lane<A> mixtures{}, ends{};
    add_mixture_scores<kScore>(a, b, draws, k.source.samples, group, k.classes, mixed, mixtures);
    if (pool.empty()) {
      add_scores<kScore>(a, k.classes, nullptr, ends);
      add_scores<kScore>(b, k.classes, nullptr, ends);
    } else {
      for (int l = 0; l < count; ++l) {
        const int64_t* pair = k.ends + 2 * (first + l);
        ends[l] = pool[static_cast<size_t>(pair[0])] + pool[static_cast<size_t>(pair[1])];
      }
    }
    for (int l = 0; l < count; ++l) out[first + l] = scale * ends[l] + share * mixtures[l];
  });
}

template <class A>
LADA_CLONES void add_tile(const A* tile, int64_t size, A* sum) {
  LADA_SIMD for (int64_t i = 0; i < size; ++i) sum[i] += tile[i];
}

// sum += factor times the gradient of the scores of a tile; `own` and `exps` are tiles to work in.
template <Score kScore, class A>
void add_own_gradients(const A* tile, int64_t classes, const Lane<A>& factor, A* own, A* exps, A* sum) {
  std::copy_n(tile, classes * kRowLanes<A>, own);
  own_gradients<kScore>(own, exps, classes, factor);
  add_tile(own, classes * kRowLanes<A>, sum);
}

template <class T, Score kScore, class A>
void score_mixed_pairs_backward(const MixedPairScoresBackward& k, int64_t begin, int64_t end) {
  const MixedPairScores& f = k.forward;
  const T* logits = static_cast<const T*>(f.logits);
  Workspace<A> work(7, f.classes);
  A *a = work.tile(0), *b = work.tile(1), *mixed = work.tile(2), *exps = work.tile(3), *difference = work.tile(4);
  MixtureGradients<A> sums = {work.tile(5), work.tile(6), {}};
  const A share = static_cast<A>(f.scale * f.gamma) / static_cast<A>(f.source.samples);
  const Want want = k.grad_tau ? Want::kSlope : Want::kLam;
  for_each_tile<A>(f.source, begin, end, want, [&](int64_t first, int64_t count, const TileDraws<A>& draws) {
    gather_tile(logits, f.ends + 2 * first, 2, count, f.classes, a);
    gather_tile(logits, f.ends + 2 * first + 1, 2, count, f.classes, b);
    difference_of_tiles(a, b, work.size, difference);
    std::fill_n(sums.to_a, work.size, A(0));
    std::fill_n(sums.to_b, work.size, A(0));
    sums.to_log_tau = {};
    Lane<A> factor{};
    for (int l = 0; l < count; ++l) factor[l] = share * static_cast<const A*>(k.grad)[first + l];
    add_mixture_gradients<kScore>(a, b, difference, draws, f.source.samples, f.classes, factor, mixed, exps, sums);
    if (k.grad_tau)
      for (int l = 0; l < count; ++l)
        static_cast<A*>(k.grad_tau)[first + l] = gradient_of_pair<A>(f.source, first + l, sums.to_log_tau[l]);
    if (k.contributions) {
      if (ends_by_pair(f.rows, f.source.pairs)) {
        for (int l = 0; l < count; ++l) factor[l] = static_cast<A>(f.scale) * static_cast<const A*>(k.grad)[first + l];
        add_own_gradients<kScore>(a, f.classes, factor, mixed, exps, sums.to_a);
        add_own_gradients<kScore>(b, f.classes, factor, mixed, exps, sums.to_b);
      }
      A* to = static_cast<A*>(k.contributions) + first * f.classes;
      store_rows(sums.to_a, f.classes, to, count);
      store_rows(sums.to_b, f.classes, to + f.source.pairs * f.classes, count);
    }
  });
}

}  // namespace

void pair_scores(const PairScores& k, int threads) {
  const int64_t cost = (k.samples + 2) * k.classes * kCostOfExp;
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    dispatch_pair_score(k.score, [&](auto score) {
      parallel_tiles(k.pairs, kRowLanes<arithmetic_t<T>>, cost, threads,
                     [&](int64_t begin, int64_t end) { score_pairs<T, decltype(score)::value>(k, begin, end); });
    });
  });
}

void mixed_pair_scores(const MixedPairScores& k, int threads) {
  const int64_t cost = k.source.samples * (k.classes * kCostOfExp + kCostOfDraw);
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    dispatch_pair_score(k.score, [&](auto score) {
      const auto pool = score_pool<T, decltype(score)::value>(k, threads);
      parallel_tiles(k.source.pairs, kLanes, cost, threads, [&](int64_t begin, int64_t end) {
        score_mixed_pairs<T, decltype(score)::value>(k, pool, begin, end);
      });
    });
  });
}

void mixed_pair_scores_backward(const MixedPairScoresBackward& k, int threads) {
  const BetaSource& source = k.forward.source;
  const int64_t cost = source.samples * (k.forward.classes * kCostOfExp + kCostOfDraw);
  dispatch(k.forward.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    dispatch_pair_score(k.forward.score, [&](auto score) {
      parallel_tiles(source.pairs, kLanes, cost, threads, [&](int64_t begin, int64_t end) {
        score_mixed_pairs_backward<T, decltype(score)::value, arithmetic_t<T>>(k, begin, end);
      });
    });
  });
}

}  // namespace lada::cpu
