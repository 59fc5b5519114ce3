// CPU loops of Eq. 13. Mixtures are scored in the lanes of scores/lanes.h: for given mixtures a lane is a row, for
// mixtures of logits a lane is a pair, whose two rows are gathered once for all its samples.
#include <memory>
#include <numeric>
#include <vector>

#include "../beta_mix/draws.h"
#include "../scores/lanes.h"
#include "mixtures.h"
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
class Workspace {
 public:
  Workspace(int count, int64_t classes)
      : size(classes * kRowLanes<A>), tiles_(static_cast<size_t>(count * size) + kLine) {
    void* first = tiles_.data();
    size_t space = tiles_.size() * sizeof(A);
    first_ =
        static_cast<A*>(std::align(kLine * sizeof(A), static_cast<size_t>(count * size) * sizeof(A), first, space));
  }
  A* tile(int i) { return first_ + i * size; }

  const int64_t size;

 private:
  static constexpr int kLine = 64 / sizeof(A);  // a tile's vectors are whole lines of the cache
  std::vector<A> tiles_;
  A* first_;
};

// Rows of the pool by number, `step` numbers apart, as a tile: `count` of them, the last repeated.
template <class T>
LADA_CLONES void gather_tile(const T* logits, const int64_t* numbers, int64_t step, int64_t count, int64_t classes,
                             arithmetic_t<T>* tile) {
  TileRows<T> rows;
  for (int l = 0; l < kRowLanes<arithmetic_t<T>>; ++l)
    rows.row[l] = logits + numbers[std::min<int64_t>(l, count - 1) * step] * classes;
  load_tile<T>(rows, classes, tile);
}

// sum += the scores of a tile.
template <Score kScore, class A>
LADA_CLONES void add_scores(const A* tile, int64_t classes, Lane<A>& sum) {
  const Lane<A> scores = scores_of_tile<kScore>(stats_of_tile<kScore>(tile, classes));
  for (int l = 0; l < kRowLanes<A>; ++l) sum[l] += scores[l];
}

// The scores of all rows of the pool, where that is less work than to score both ends of every pair.
template <class T, Score kScore>
std::vector<arithmetic_t<T>> score_pool(const MixedPairScores& k, int threads) {
  using A = arithmetic_t<T>;
  std::vector<A> scores(k.rows <= k.source.pairs ? static_cast<size_t>(k.rows) : 0);
  parallel_tiles(static_cast<int64_t>(scores.size()), kRowLanes<A>, k.classes * kCostOfExp, threads,
                 [&](int64_t begin, int64_t end) {
                   Workspace<A> work(1, k.classes);
                   for (int64_t first = begin; first < end; first += kRowLanes<A>) {
                     const int64_t count = std::min<int64_t>(kRowLanes<A>, end - first);
                     const T* rows = static_cast<const T*>(k.logits) + first * k.classes;
                     load_rows(rows, count, k.classes, k.classes, work.tile(0));
                     Lane<A> sum{};
                     add_scores<kScore>(work.tile(0), k.classes, sum);
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
  for_each_tile<A>(k.source, begin, end, Want::kLam, [&](int64_t first, int64_t count, const TileDraws<A>& draws) {
    gather_tile(logits, k.ends + 2 * first, 2, count, k.classes, a);
    gather_tile(logits, k.ends + 2 * first + 1, 2, count, k.classes, b);
    Lane<A> mixtures{}, ends{};
    add_mixture_scores<kScore>(a, b, draws, k.source.samples, k.classes, mixed, mixtures);
    if (pool.empty()) {
      add_scores<kScore>(a, k.classes, ends);
      add_scores<kScore>(b, k.classes, ends);
    } else {
      for (int l = 0; l < count; ++l) {
        const int64_t* pair = k.ends + 2 * (first + l);
        ends[l] = pool[static_cast<size_t>(pair[0])] + pool[static_cast<size_t>(pair[1])];
      }
    }
    for (int l = 0; l < count; ++l) out[first + l] = scale * ends[l] + share * mixtures[l];
  });
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
      A* to = static_cast<A*>(k.contributions) + first * f.classes;
      store_rows(sums.to_a, f.classes, to, count);
      store_rows(sums.to_b, f.classes, to + f.source.pairs * f.classes, count);
    }
  });
}

// The gradients of the rows' own scores, each times the sum of the gradients of the pairs it belongs to.
template <Score kScore, class A>
LADA_CLONES void own_gradients(A* tile, A* exps, int64_t classes, const Lane<A>& factor) {
  const LaneStats<A> s = stats_of_tile<kScore>(tile, classes, exps);
  gradient_of_tile<kScore>(tile, exps, classes, s, factor);
}

// The ends [0, slots) that are rows [begin, end), ascending. Without a branch, since which rows are met is random.
struct SlotsOfRows {
  std::unique_ptr<int64_t[]> slots;
  int64_t count = 0;

  SlotsOfRows(const int64_t* ends, int64_t all, int64_t begin, int64_t end)
      : slots(std::make_unique_for_overwrite<int64_t[]>(static_cast<size_t>(all) + 1)) {
    const auto rows = static_cast<uint64_t>(end - begin);
    for (int64_t s = 0; s < all; ++s) {
      slots[static_cast<size_t>(count)] = s;
      count += static_cast<uint64_t>(ends[s] - begin) < rows ? 1 : 0;
    }
  }
};

// What the pairs of a range of rows add up to, row by row.
template <class A>
struct RowSums {
  A* gradients;
  std::vector<A> factor;      // of the gradient of the row's own score
  std::vector<uint8_t> used;  // whether the row is in a pair

  RowSums(A* gradients, int64_t rows)
      : gradients(gradients), factor(static_cast<size_t>(rows)), used(static_cast<size_t>(rows)) {}
};

template <class A>
LADA_CLONES void add_slots(const GatherPairGradients& k, const int64_t* slots, int64_t count, int64_t begin,
                           RowSums<A>& sums) {
  const A *grad = static_cast<const A*>(k.grad), *contributions = static_cast<const A*>(k.contributions);
  A *factor = sums.factor.data(), scale = static_cast<A>(k.scale);
  uint8_t* used = sums.used.data();
  for (int64_t i = 0; i < count; ++i) {
    const int64_t s = slots[i], row = k.ends[s] - begin;
    factor[row] += scale * grad[s / 2];
    used[row] = 1;
    const A* part = contributions + ((s % 2 ? k.pairs : 0) + s / 2) * k.classes;
    A* sum = sums.gradients + row * k.classes;
    LADA_SIMD for (int64_t j = 0; j < k.classes; ++j) sum[j] += part[j];
  }
}

template <class A>
LADA_CLONES void add_rows(const A* parts, const int64_t* rows, int64_t count, int64_t classes, A* sums) {
  for (int64_t l = 0; l < count; ++l) {
    A* sum = sums + rows[l] * classes;
    LADA_SIMD for (int64_t j = 0; j < classes; ++j) sum[j] += parts[l * classes + j];
  }
}

// Adds the gradients of the own scores of the rows that are in a pair; others keep zero, even if they hold NaN.
template <Score kScore, class T, class A>
void add_own_gradients(const GatherPairGradients& k, int64_t begin, int64_t end, RowSums<A>& sums) {
  const T* logits = static_cast<const T*>(k.logits) + begin * k.classes;
  Workspace<A> work(3, k.classes);
  int64_t rows[kRowLanes<A> + 1], count = 0;
  const auto add_tile = [&] {
    Lane<A> factor;
    for (int l = 0; l < kRowLanes<A>; ++l)
      factor[l] = sums.factor[static_cast<size_t>(rows[std::min<int64_t>(l, count - 1)])];
    gather_tile(logits, rows, 1, count, k.classes, work.tile(0));
    own_gradients<kScore>(work.tile(0), work.tile(1), k.classes, factor);
    store_rows(work.tile(0), k.classes, work.tile(2), count);
    add_rows(work.tile(2), rows, count, k.classes, sums.gradients);
    count = 0;
  };
  for (int64_t row = 0; row < end - begin; ++row) {
    rows[count] = row;
    count += sums.used[static_cast<size_t>(row)];
    if (count == kRowLanes<A>) add_tile();
  }
  if (count > 0) add_tile();
}

template <class T, Score kScore>
void gather_rows(const GatherPairGradients& k, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  const int64_t size = (end - begin) * k.classes;
  T* out = static_cast<T*>(k.grad_logits) + begin * k.classes;
  std::vector<A> wide(std::is_same_v<T, A> ? 0 : static_cast<size_t>(size));
  A* gradients = wide.data();
  if constexpr (std::is_same_v<T, A>) std::fill_n(gradients = out, size, A(0));
  RowSums<A> sums(gradients, end - begin);
  const SlotsOfRows slots(k.ends, 2 * k.pairs, begin, end);
  add_slots(k, slots.slots.get(), slots.count, begin, sums);
  add_own_gradients<kScore, T>(k, begin, end, sums);
  if constexpr (!std::is_same_v<T, A>) narrow_row(gradients, size, out);
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

void gather_pair_gradients(const GatherPairGradients& k, int threads) {
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    dispatch_pair_score(k.score, [&](auto score) {
      parallel_for(k.rows, k.classes * kCostOfExp, threads,
                   [&](int64_t begin, int64_t end) { gather_rows<T, decltype(score)::value>(k, begin, end); });
    });
  });
}

}  // namespace lada::cpu
