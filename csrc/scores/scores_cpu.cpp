// CPU loops of the row scores, of BALD and of the k best. Rows of up to kTileClasses classes are taken kRowLanes at a
// time, longer ones one by one (lanes.h); either way the logits are read from memory once. In float32 and with AVX-512
// there are faster ways to the scores (others.h), to the gradient of the entropy (entropy_gradient.h), and to BALD of
// short rows (bald_tiles.h).
#include <vector>

#include "../common/stream.h"
#include "bald_tiles.h"
#include "entropy_gradient.h"
#include "lanes.h"
#include "others.h"
#include "scores.h"

namespace lada::cpu {
namespace {

template <Score kScore, class A>
LADA_CLONES void score_tile(const A* tile, int64_t classes, A scale, A* out, int64_t count, const void* next) {
  const Lane<A> scores =
      scores_of_tile<kScore>(stats_of_tile<kScore, A>(tile, classes, nullptr, static_cast<const char*>(next)));
  for (int l = 0; l < count; ++l) out[l] = scale * scores[l];
}

template <Score kScore, class A>
LADA_CLONES RowStats<A> row_stats(const A* row, int64_t classes) {
  return stats_of_row<kScore>(row, classes);
}

template <Score kScore, class A>
LADA_CLONES void tile_gradient(A* tile, A* exps, int64_t classes, const Lane<A>& factor, const void* next) {
  const LaneStats<A> s = stats_of_tile<kScore>(tile, classes, exps, static_cast<const char*>(next));
  gradient_of_tile<kScore>(tile, exps, classes, s, factor);
}

template <Score kScore, class A>
LADA_CLONES void row_gradient(const A* row, int64_t classes, const RowStats<A>& s, A factor, A* out) {
  gradient_of_row<kScore>(row, classes, s, factor, out);
}

#ifdef LADA_AVX512
template <class T, Score kScore>
void score_rows_in_blocks(const RowScores& k, int64_t begin, int64_t end) {
  const int64_t block = std::min(avx512::block_rows(k.classes), end - begin);
  avx512::Scorer<kScore> scorer(k.classes);
  WideRow<T> wide(block * k.classes);
  for (int64_t row = begin; row < end; row += block) {
    const int64_t count = std::min(block, end - row);
    const float* rows = wide.of(static_cast<const T*>(k.logits) + row * k.classes, count * k.classes);
    scorer.score(rows, count, static_cast<float>(k.scale), static_cast<float*>(k.out) + row);
  }
}
#endif

template <class T, Score kScore>
void score_rows(const RowScores& k, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
#ifdef LADA_AVX512
  if constexpr (sizeof(A) == 4)
    if (takes_avx512()) return score_rows_in_blocks<T, kScore>(k, begin, end);
#endif
  const T* logits = static_cast<const T*>(k.logits);
  A* out = static_cast<A*>(k.out);
  const A scale = static_cast<A>(k.scale);
  if (k.classes > kTileClasses) {
    WideRow<T> wide(k.classes);
    for (int64_t row = begin; row < end; ++row)
      out[row] = scale * score_of(row_stats<kScore>(wide.of(logits + row * k.classes, k.classes), k.classes), kScore);
    return;
  }
  Tile<A> tile;
  for (int64_t row = begin; row < end; row += kRowLanes<A>) {
    const int64_t count = std::min<int64_t>(kRowLanes<A>, end - row);
    load_rows(logits + row * k.classes, count, k.classes, k.classes, tile.value);
    score_tile<kScore>(tile.value, k.classes, scale, out + row, count, logits + (row + count) * k.classes);
  }
}

// k.scale times the gradients of the scores of some rows.
template <class A>
void take_factors(const RowScoresBackward& k, int64_t row, int64_t count, A* factors) {
  const A* grad = static_cast<const A*>(k.grad);
  const A scale = static_cast<A>(k.scale);
  for (int64_t i = 0; i < count; ++i) factors[i] = scale * grad[k.group == 1 ? row + i : (row + i) / k.group];
}

#ifdef LADA_AVX512
template <class T>
void entropy_gradients_in_blocks(const RowScoresBackward& k, int64_t begin, int64_t end) {
  const bool streams = std::is_same_v<T, float> && is_large<T>(k.rows * k.classes) &&
                       reinterpret_cast<uintptr_t>(k.grad_logits) % kCacheLine == 0;
  const int64_t block = std::min(avx512::block_rows(k.classes), end - begin);
  avx512::EntropyGradient gradient(k.classes, streams);
  WideRow<T> wide(block * k.classes);
  std::vector<float> narrowed(std::is_same_v<T, float> ? 0 : static_cast<size_t>(block * k.classes));
  std::vector<float> factors(static_cast<size_t>(block));
  for (int64_t row = begin; row < end; row += block) {
    const int64_t count = std::min(block, end - row);
    const float* rows = wide.of(static_cast<const T*>(k.logits) + row * k.classes, count * k.classes);
    T* to = static_cast<T*>(k.grad_logits) + row * k.classes;
    take_factors(k, row, count, factors.data());
    if constexpr (std::is_same_v<T, float>) {
      gradient.gradients(rows, count, factors.data(), to);
    } else {
      gradient.gradients(rows, count, factors.data(), narrowed.data());
      narrow_row(narrowed.data(), count * k.classes, to);
    }
  }
}
#endif

template <class T, Score kScore>
void score_rows_backward(const RowScoresBackward& k, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
#ifdef LADA_AVX512
  if constexpr (sizeof(A) == 4 && kScore == Score::kEntropy)
    if (takes_avx512() && k.classes >= avx512::EntropyGradient::kFewestClasses)
      return entropy_gradients_in_blocks<T>(k, begin, end);
#endif
  const T* logits = static_cast<const T*>(k.logits);
  T* grad_logits = static_cast<T*>(k.grad_logits);
  if (k.classes > kTileClasses) {
    WideRow<T> wide(k.classes);
    std::vector<A> narrowed(std::is_same_v<T, A> ? 0 : static_cast<size_t>(k.classes));
    for (int64_t row = begin; row < end; ++row) {
      const A* z = wide.of(logits + row * k.classes, k.classes);
      const RowStats<A> s = row_stats<kScore>(z, k.classes);
      T* to = grad_logits + row * k.classes;
      A factor;
      take_factors(k, row, 1, &factor);
      if constexpr (std::is_same_v<T, A>) {
        row_gradient<kScore>(z, k.classes, s, factor, to);
      } else {
        row_gradient<kScore>(z, k.classes, s, factor, narrowed.data());
        narrow_row(narrowed.data(), k.classes, to);
      }
    }
    return;
  }
  Tile<A> tile, exps;
  Lane<A> factor{};
  for (int64_t row = begin; row < end; row += kRowLanes<A>) {
    const int64_t count = std::min<int64_t>(kRowLanes<A>, end - row);
    load_rows(logits + row * k.classes, count, k.classes, k.classes, tile.value);
    take_factors(k, row, count, factor.value);
    tile_gradient<kScore>(tile.value, exps.value, k.classes, factor, logits + (row + count) * k.classes);
    if constexpr (std::is_same_v<T, A>) {
      store_rows(tile.value, k.classes, exps.value, count);
      std::memcpy(grad_logits + row * k.classes, exps.value, static_cast<size_t>(count * k.classes) * sizeof(A));
    } else {
      store_rows(tile.value, k.classes, grad_logits + row * k.classes, count);
    }
  }
}

// sum_c p_c log p_c of the mean probabilities `mean` of kRowLanes instances.
template <class A>
LADA_HD Lane<A> negative_entropy(const A* mean, int64_t classes) {
  Lane<A> sum{};
  for (int64_t j = 0; j < classes; ++j) {
    LADA_SIMD for (int l = 0; l < kRowLanes<A>; ++l) {
      const A p = mean[j * kRowLanes<A> + l];
      sum[l] += p * log_of_probability(p);
    }
  }
  return sum;
}

// Adds `share` of the probabilities of a tile, whose exponentials are given, to `mean`.
template <class A>
LADA_HD void add_probabilities(const A* exps, int64_t classes, const LaneStats<A>& s, A share, A* mean) {
  Lane<A> weight;
  LADA_SIMD for (int l = 0; l < kRowLanes<A>; ++l) weight[l] = share / (s.ties[l] + s.below[l]);
  for (int64_t j = 0; j < classes; ++j) {
    LADA_SIMD for (int l = 0; l < kRowLanes<A>; ++l) {
      const int64_t i = j * kRowLanes<A> + l;
      mean[i] += weight[l] * exps[i];
    }
  }
}

template <class T>
const T* pass_rows(const Bald& k, int64_t pass, int64_t row) {
  return static_cast<const T*>(k.logits) + pass * k.pass_stride + row * k.row_stride;
}

// Adds `share` of the probabilities of a tile to `mean`, and subtracts `share` of its entropies from `value`.
template <class A>
LADA_CLONES void add_pass(const A* tile, A* exps, int64_t classes, A share, A* mean, Lane<A>& value) {
  const LaneStats<A> s = stats_of_tile<Score::kEntropy>(tile, classes, exps);
  const Lane<A> entropy = scores_of_tile<Score::kEntropy>(s);
  for (int l = 0; l < kRowLanes<A>; ++l) value[l] -= share * entropy[l];
  add_probabilities(exps, classes, s, share, mean);
}

template <class A>
LADA_CLONES void add_entropy_of_mean(const A* mean, int64_t classes, Lane<A>& value) {
  const Lane<A> of_mean = negative_entropy(mean, classes);
  for (int l = 0; l < kRowLanes<A>; ++l) value[l] -= of_mean[l];
}

// H(mean p) - mean H(p) of kRowLanes instances, `count` of them real, and their mean probabilities. (Not as a result:
// g++ 12 does not align one that nobody takes.)
template <class T, class A>
void bald_of_tile(const Bald& k, int64_t row, int64_t count, A* tile, A* exps, A* mean, Lane<A>& value) {
  const A share = A(1) / static_cast<A>(k.passes);
  std::fill_n(mean, k.classes * kRowLanes<A>, A(0));
  value = {};
  for (int64_t pass = 0; pass < k.passes; ++pass) {
    load_rows(pass_rows<T>(k, pass, row), count, k.row_stride, k.classes, tile);
    add_pass(tile, exps, k.classes, share, mean, value);
  }
  add_entropy_of_mean(mean, k.classes, value);
}

// The same of one instance with many classes.
template <class A>
LADA_CLONES A add_pass_of_row(const A* z, int64_t classes, A share, A* mean) {
  const RowStats<A> s = stats_of_row<Score::kEntropy>(z, classes);
  const A weight = share / sum_of(s), max = s.max;
  LADA_SIMD for (int64_t j = 0; j < classes; ++j) mean[j] += weight * exp_negative(below_max(z[j], max));
  return share * score_of(s, Score::kEntropy);
}

template <class A>
LADA_CLONES A entropy_of_mean_row(const A* mean, int64_t classes) {
  return -sum_of_terms<A>(classes, [=](int64_t j) LADA_TERM { return mean[j] * log_of_probability(mean[j]); });
}

template <class T, class A>
A bald_of_row(const Bald& k, int64_t row, WideRow<T>& wide, std::vector<A>& mean) {
  std::fill(mean.begin(), mean.end(), A(0));
  A entropy = 0;
  for (int64_t pass = 0; pass < k.passes; ++pass)
    entropy += add_pass_of_row(wide.of(pass_rows<T>(k, pass, row), k.classes), k.classes,
                               A(1) / static_cast<A>(k.passes), mean.data());
  return entropy_of_mean_row(mean.data(), k.classes) - entropy;
}

#ifdef LADA_AVX512
bool fits_bald_tiles(const Bald& k) {
  return takes_avx512() && k.classes >= avx512::BaldTiles::kFewestClasses && k.classes <= kTileClasses;
}

// The passes of some instances; where they are less than a tile, in a copy that is one.
avx512::PassTile pass_tile(const Bald& k, int64_t row, int64_t count, std::vector<float>& copy) {
  if (count == avx512::kVectorLanes)
    return {pass_rows<float>(k, 0, row), k.passes, k.classes, k.pass_stride, k.row_stride};
  const int64_t size = avx512::kVectorLanes * k.classes;
  copy.assign(static_cast<size_t>(k.passes * size), 0.0f);
  for (int64_t pass = 0; pass < k.passes; ++pass)
    for (int64_t i = 0; i < count; ++i)
      std::copy_n(pass_rows<float>(k, pass, row + i), k.classes, copy.data() + pass * size + i * k.classes);
  return {copy.data(), k.passes, k.classes, size, k.classes};
}

void bald_in_tiles(const Bald& k, int64_t begin, int64_t end) {
  avx512::BaldTiles tiles(k.classes, false);
  std::vector<float> copy;
  float values[avx512::kVectorLanes];
  for (int64_t row = begin; row < end; row += avx512::kVectorLanes) {
    const int64_t count = std::min<int64_t>(avx512::kVectorLanes, end - row);
    tiles.values(pass_tile(k, row, count, copy), values);
    for (int64_t i = 0; i < count; ++i) static_cast<float*>(k.out)[row + i] = static_cast<float>(k.scale) * values[i];
  }
}
#endif

template <class T>
void bald_rows(const Bald& k, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
#ifdef LADA_AVX512
  if constexpr (std::is_same_v<T, float>)
    if (fits_bald_tiles(k)) return bald_in_tiles(k, begin, end);
#endif
  A* out = static_cast<A*>(k.out);
  const A scale = static_cast<A>(k.scale);
  if (k.classes > kTileClasses) {
    std::vector<A> mean(static_cast<size_t>(k.classes));
    WideRow<T> wide(k.classes);
    for (int64_t row = begin; row < end; ++row) out[row] = scale * bald_of_row(k, row, wide, mean);
    return;
  }
  Tile<A> tile, exps, mean;
  Lane<A> value;
  for (int64_t row = begin; row < end; row += kRowLanes<A>) {
    const int64_t count = std::min<int64_t>(kRowLanes<A>, end - row);
    bald_of_tile<T>(k, row, count, tile.value, exps.value, mean.value, value);
    for (int l = 0; l < count; ++l) out[row + l] = scale * value[l];
  }
}

template <class A>
LADA_CLONES void take_logs(A* mean, int64_t count) {
  LADA_SIMD for (int64_t i = 0; i < count; ++i) mean[i] = log_of_probability(mean[i]);
}

// Replaces a tile of logits of one pass by factor * p_j ((log p_j + H) - (log mean_j - sum_i p_i log mean_i)).
template <class A>
LADA_CLONES void bald_gradient_of_tile(A* tile, A* exps, int64_t classes, const A* log_mean, const Lane<A>& factor) {
  const LaneStats<A> s = stats_of_tile<Score::kEntropy>(tile, classes, exps);
  Lane<A> inverse, offset, cross{};
  LADA_SIMD for (int l = 0; l < kRowLanes<A>; ++l) inverse[l] = 1 / (s.ties[l] + s.below[l]);
  for (int64_t j = 0; j < classes; ++j) {
    LADA_SIMD for (int l = 0; l < kRowLanes<A>; ++l) {
      const int64_t i = j * kRowLanes<A> + l;
      cross[l] += inverse[l] * exps[i] * log_mean[i];
    }
  }
  LADA_SIMD for (int l = 0; l < kRowLanes<A>; ++l) offset[l] = cross[l] - s.weighted[l] * inverse[l];
  for (int64_t j = 0; j < classes; ++j) {
    LADA_SIMD for (int l = 0; l < kRowLanes<A>; ++l) {
      const int64_t i = j * kRowLanes<A> + l;
      tile[i] = factor[l] * inverse[l] * exps[i] * (below_max(tile[i], s.max[l]) - log_mean[i] + offset[l]);
    }
  }
}

// The same of one long row.
template <class A>
LADA_CLONES void bald_gradient_of_row(const A* z, int64_t classes, const A* log_mean, A factor, A* out) {
  const RowStats<A> s = stats_of_row<Score::kEntropy>(z, classes);
  const A inverse = 1 / sum_of(s), max = s.max, scale = factor * inverse;
  const A cross = sum_of_terms<A>(
      classes, [=](int64_t j) LADA_TERM { return inverse * exp_negative(below_max(z[j], max)) * log_mean[j]; });
  const A offset = cross - s.weighted * inverse;
  LADA_SIMD for (int64_t j = 0; j < classes; ++j) {
    const A d = below_max(z[j], max);
    out[j] = scale * exp_negative(d) * (d - log_mean[j] + offset);
  }
}

template <class T>
void long_bald_rows_backward(const BaldBackward& k, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  const Bald& f = k.forward;
  std::vector<A> mean(static_cast<size_t>(f.classes)), out(static_cast<size_t>(f.classes));
  WideRow<T> wide(f.classes);
  for (int64_t row = begin; row < end; ++row) {
    bald_of_row(f, row, wide, mean);
    take_logs(mean.data(), f.classes);
    const A factor = static_cast<A>(f.scale) / static_cast<A>(f.passes) * static_cast<const A*>(k.grad)[row];
    for (int64_t pass = 0; pass < f.passes; ++pass) {
      bald_gradient_of_row(wide.of(pass_rows<T>(f, pass, row), f.classes), f.classes, mean.data(), factor, out.data());
      narrow_row(out.data(), f.classes, static_cast<T*>(k.grad_logits) + (pass * f.rows + row) * f.classes);
    }
  }
}

#ifdef LADA_AVX512
void bald_in_tiles_backward(const BaldBackward& k, int64_t begin, int64_t end) {
  const Bald& f = k.forward;
  const int64_t size = avx512::kVectorLanes * f.classes, pass_size = f.rows * f.classes;
  const float scale = static_cast<float>(f.scale) / static_cast<float>(f.passes);
  float* grad_logits = static_cast<float*>(k.grad_logits);
  avx512::BaldTiles tiles(f.classes, is_large<float>(f.passes * pass_size));
  std::vector<float> copy, result;
  for (int64_t row = begin; row < end; row += avx512::kVectorLanes) {
    const int64_t count = std::min<int64_t>(avx512::kVectorLanes, end - row);
    const avx512::PassTile tile = pass_tile(f, row, count, copy);
    float factors[avx512::kVectorLanes] = {};
    for (int64_t i = 0; i < count; ++i) factors[i] = scale * static_cast<const float*>(k.grad)[row + i];
    if (count == avx512::kVectorLanes) {
      tiles.gradients(tile, factors, grad_logits + row * f.classes, pass_size);
      continue;
    }
    result.resize(copy.size());
    tiles.gradients(tile, factors, result.data(), size);
    for (int64_t pass = 0; pass < f.passes; ++pass)
      std::copy_n(result.data() + pass * size, count * f.classes, grad_logits + pass * pass_size + row * f.classes);
  }
}
#endif

template <class T>
void bald_rows_backward(const BaldBackward& k, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  const Bald& f = k.forward;
#ifdef LADA_AVX512
  if constexpr (std::is_same_v<T, float>)
    if (fits_bald_tiles(f)) return bald_in_tiles_backward(k, begin, end);
#endif
  if (f.classes > kTileClasses) return long_bald_rows_backward<T>(k, begin, end);
  const A scale = static_cast<A>(f.scale) / static_cast<A>(f.passes);
  Tile<A> tile, exps, mean;
  Lane<A> factor, unused;
  for (int64_t row = begin; row < end; row += kRowLanes<A>) {
    const int64_t count = std::min<int64_t>(kRowLanes<A>, end - row);
    bald_of_tile<T>(f, row, count, tile.value, exps.value, mean.value, unused);
    take_logs(mean.value, f.classes * kRowLanes<A>);
    for (int l = 0; l < kRowLanes<A>; ++l)
      factor[l] = l < count ? scale * static_cast<const A*>(k.grad)[row + l] : A(0);
    for (int64_t pass = 0; pass < f.passes; ++pass) {
      load_rows(pass_rows<T>(f, pass, row), count, f.row_stride, f.classes, tile.value);
      bald_gradient_of_tile(tile.value, exps.value, f.classes, mean.value, factor);
      store_rows(tile.value, f.classes, static_cast<T*>(k.grad_logits) + (pass * f.rows + row) * f.classes, count);
    }
  }
}

template <class A>
struct Ranked {
  A key;  // the score, with NaN as -inf
  int64_t index;

  bool operator<(const Ranked& other) const {  // better first; the top of a heap of these is the worst
    return key > other.key || (key == other.key && index < other.index);
  }
};

template <class A>
void best_of(const TopK& k) {
  const A* scores = static_cast<const A*>(k.scores);
  std::vector<Ranked<A>> held;
  held.reserve(static_cast<size_t>(k.k));
  for (int64_t i = 0; i < k.count; ++i) {
    const Ranked<A> candidate = {std::isnan(scores[i]) ? -infinity<A>() : scores[i], i};
    if (i < k.k) {
      held.push_back(candidate);
      if (i == k.k - 1) std::make_heap(held.begin(), held.end());
    } else if (k.k > 0 && candidate.key > held.front().key) {  // a later index loses a tie
      std::pop_heap(held.begin(), held.end());
      held.back() = candidate;
      std::push_heap(held.begin(), held.end());
    }
  }
  std::sort_heap(held.begin(), held.end());
  for (int64_t i = 0; i < k.k; ++i) {
    k.indices[i] = held[static_cast<size_t>(i)].index;
    static_cast<A*>(k.values)[i] = scores[k.indices[i]];
  }
}

constexpr int64_t kCostOfExp = 4;  // of a logit, in elements read or written

}  // namespace

void row_scores(const RowScores& k, int threads) {
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    dispatch_score(k.score, [&](auto score) {
      parallel_tiles(k.rows, kRowLanes<arithmetic_t<T>>, k.classes * kCostOfExp, threads,
                     [&](int64_t begin, int64_t end) { score_rows<T, decltype(score)::value>(k, begin, end); });
    });
  });
}

void row_scores_backward(const RowScoresBackward& k, int threads) {
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    dispatch_score(k.score, [&](auto score) {
      parallel_tiles(
          k.rows, kRowLanes<arithmetic_t<T>>, k.classes * kCostOfExp, threads,
          [&](int64_t begin, int64_t end) { score_rows_backward<T, decltype(score)::value>(k, begin, end); });
    });
  });
}

void bald(const Bald& k, int threads) {
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    parallel_tiles(k.rows, kRowLanes<arithmetic_t<T>>, k.passes * k.classes * kCostOfExp, threads,
                   [&](int64_t begin, int64_t end) { bald_rows<T>(k, begin, end); });
  });
}

void bald_backward(const BaldBackward& k, int threads) {
  dispatch(k.forward.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    parallel_tiles(k.forward.rows, kRowLanes<arithmetic_t<T>>, k.forward.passes * k.forward.classes * kCostOfExp,
                   threads, [&](int64_t begin, int64_t end) { bald_rows_backward<T>(k, begin, end); });
  });
}

void top_k(const TopK& k, int) {
  dispatch_arithmetic(k.dtype, [&](auto tag) { best_of<typename decltype(tag)::type>(k); });
}

}  // namespace lada::cpu
