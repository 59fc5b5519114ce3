// Rows in the lanes of a vector unit: how the CPU loops of the scores are written.
//
// A tile holds the logits of kRowLanes rows, transposed: tile[j * kRowLanes + l] is logit j of row l, so that every
// step of the online sums is one vector operation for all rows, and nothing is summed across lanes. Rows too long for
// that are taken one at a time, in chunks that stay in the first-level cache. All of this is inlined into LADA_CLONES
// functions.
#pragma once
#include <array>
#include <vector>

#include "../common/cpu.h"
#include "formula.h"

#define LADA_SIMD _Pragma("omp simd")

namespace lada::cpu {

// Calls f with the score as a compile-time constant.
template <Score kScore>
struct ScoreTag {
  static constexpr Score value = kScore;
};

template <class F>
void dispatch_score(Score score, F&& f) {
  switch (score) {
    case Score::kEntropy:
      return f(ScoreTag<Score::kEntropy>{});
    case Score::kVariationRatio:
      return f(ScoreTag<Score::kVariationRatio>{});
    case Score::kMargin:
      return f(ScoreTag<Score::kMargin>{});
  }
}

template <class A>
constexpr int kRowLanes = 128 / sizeof(A);

constexpr int64_t kTileClasses = 128;  // a row of more classes is not taken in lanes

template <class A>
struct alignas(64) Tile {
  A value[kTileClasses * kRowLanes<A>];
};

template <class A>
struct alignas(64) Lane {
  A value[kRowLanes<A>];
  LADA_HD A& operator[](int l) { return value[l]; }
  LADA_HD const A& operator[](int l) const { return value[l]; }
};

// The rows of a tile: `count` of them, the last repeated to fill the lanes.
template <class T>
struct TileRows {
  const T* row[kRowLanes<arithmetic_t<T>>];
  LADA_HD const T* operator[](int l) const { return row[l]; }
};

// As many rows as there are lanes, `stride` elements apart.
template <class T>
struct FullRows {
  const T* first;
  int64_t stride;
  LADA_HD const T* operator[](int l) const { return first + l * stride; }
};

template <class T>
LADA_HD TileRows<T> consecutive_rows(const T* first, int64_t count, int64_t stride) {
  TileRows<T> rows;
  for (int l = 0; l < kRowLanes<arithmetic_t<T>>; ++l) rows.row[l] = first + std::min<int64_t>(l, count - 1) * stride;
  return rows;
}

#if defined(__GNUC__) && (defined(__x86_64__) || defined(__aarch64__))
#define LADA_QUADS 1
using Quad = float __attribute__((vector_size(16)));

LADA_HD Quad load_quad(const float* from) {
  Quad quad;
  std::memcpy(&quad, from, sizeof quad);
  return quad;
}

// Four matrices of 4 x 4 side by side, one quad of a, b, c and d each; their rows become their columns.
using Quads = float __attribute__((vector_size(64)));

LADA_HD void transpose(Quads& a, Quads& b, Quads& c, Quads& d) {
#define LADA_LOW(x, y) __builtin_shufflevector(x, y, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29)
#define LADA_HIGH(x, y) __builtin_shufflevector(x, y, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31)
#define LADA_FIRSTS(x, y) __builtin_shufflevector(x, y, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
#define LADA_SECONDS(x, y) __builtin_shufflevector(x, y, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31)
  const Quads ab_low = LADA_LOW(a, b), ab_high = LADA_HIGH(a, b);
  const Quads cd_low = LADA_LOW(c, d), cd_high = LADA_HIGH(c, d);
  a = LADA_FIRSTS(ab_low, cd_low);
  b = LADA_SECONDS(ab_low, cd_low);
  c = LADA_FIRSTS(ab_high, cd_high);
  d = LADA_SECONDS(ab_high, cd_high);
}

// Four quads that lie `rows` rows apart, side by side.
using Pair = float __attribute__((vector_size(32)));

template <class Rows>
LADA_HD void join(const Rows& rows, int l, int64_t j, Quads& quads) {
  const Quad a = load_quad(rows[l] + j), b = load_quad(rows[l + 4] + j);
  const Quad c = load_quad(rows[l + 8] + j), d = load_quad(rows[l + 12] + j);
  const Pair low = __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7);
  const Pair high = __builtin_shufflevector(c, d, 0, 1, 2, 3, 4, 5, 6, 7);
  quads = __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}
#endif

template <class T, class Rows>
LADA_HD void load_tile(const Rows& rows, int64_t classes, arithmetic_t<T>* tile) {
  constexpr int kWidth = kRowLanes<arithmetic_t<T>>;
#ifdef LADA_QUADS
  if constexpr (std::is_same_v<T, float>)
    if (classes >= 4) {
      for (int64_t step = 0; step < classes; step += 4) {
        const int64_t j = std::min(step, classes - 4);  // the last quad overlaps the one before
        for (int l = 0; l < kWidth; l += 16) {
          Quads a, b, c, d;
          join(rows, l, j, a);
          join(rows, l + 1, j, b);
          join(rows, l + 2, j, c);
          join(rows, l + 3, j, d);
          transpose(a, b, c, d);
          float* to = tile + j * kWidth + l;
          std::memcpy(to, &a, sizeof a);
          std::memcpy(to + kWidth, &b, sizeof b);
          std::memcpy(to + 2 * kWidth, &c, sizeof c);
          std::memcpy(to + 3 * kWidth, &d, sizeof d);
        }
      }
      return;
    }
#endif
  for (int l = 0; l < kWidth; ++l)
    for (int64_t j = 0; j < classes; ++j) tile[j * kWidth + l] = widen(rows[l][j]);
}

// The first `count` rows of a tile to consecutive rows in memory.
template <class T>
LADA_HD void store_tile(const arithmetic_t<T>* tile, int64_t classes, T* to, int64_t count) {
  constexpr int kWidth = kRowLanes<arithmetic_t<T>>;
#ifdef LADA_QUADS
  if constexpr (std::is_same_v<T, float>)
    if (classes >= 4 && count == kWidth) {
      for (int64_t step = 0; step < classes; step += 4) {
        const int64_t j = std::min(step, classes - 4);
        for (int first = 0; first < kWidth; first += 16) {
          Quads part[4];
          for (int i = 0; i < 4; ++i) std::memcpy(&part[i], tile + (j + i) * kWidth + first, sizeof(Quads));
          transpose(part[0], part[1], part[2], part[3]);
          for (int l = 0; l < 16; ++l)
            std::memcpy(to + (first + l) * classes + j, reinterpret_cast<const float*>(&part[l % 4]) + l / 4 * 4,
                        sizeof(Quad));
        }
      }
      return;
    }
#endif
  for (int l = 0; l < count; ++l)
    for (int64_t j = 0; j < classes; ++j) to[l * classes + j] = static_cast<T>(tile[j * kWidth + l]);
}

// Loops are cut where they leave the storage type: what follows a load is compiled for float and double alone.
template <class T>
LADA_CLONES void load_rows(const T* rows, int64_t count, int64_t stride, int64_t classes, arithmetic_t<T>* tile) {
  if (count == kRowLanes<arithmetic_t<T>>)
    load_tile<T>(FullRows<T>{rows, stride}, classes, tile);
  else
    load_tile<T>(consecutive_rows(rows, count, stride), classes, tile);
}

template <class T>
LADA_CLONES void store_rows(const arithmetic_t<T>* tile, int64_t classes, T* to, int64_t count) {
  store_tile(tile, classes, to, count);
}

template <class T>
LADA_CLONES void narrow_row(const arithmetic_t<T>* row, int64_t size, T* to) {
  for (int64_t j = 0; j < size; ++j) to[j] = static_cast<T>(row[j]);
}

template <class T>
LADA_CLONES void widen_row(const T* row, int64_t size, arithmetic_t<T>* to) {
  for (int64_t j = 0; j < size; ++j) to[j] = widen(row[j]);
}

// A long row in arithmetic type: itself, or a copy.
template <class T>
class WideRow {
 public:
  using A = arithmetic_t<T>;
  explicit WideRow(int64_t classes) : copy_(std::is_same_v<T, A> ? 0 : static_cast<size_t>(classes)) {}

  const A* of(const T* row, int64_t classes) {
    if constexpr (std::is_same_v<T, A>) return row;
    widen_row(row, classes, copy_.data());
    return copy_.data();
  }

 private:
  std::vector<A> copy_;
};

// The constant, but unknown to the compiler, which would else make branches of comparisons with it, and slow string
// instructions of zeros.
template <class A>
LADA_HD A opaque(A constant) {
#if defined(__GNUC__)
  asm("" : "+m"(constant));
#endif
  return constant;
}

// Sums of this many classes are added up before they are added to those of the classes before: the rounding of a sum
// grows with the number of its terms.
constexpr int64_t kClassesOfASum = 256;

// RowStats of all rows of a tile.
template <class A>
struct LaneStats {
  Lane<A> max, second, ties, below, weighted;

  LADA_HD RowStats<A> row(int l) const { return {max[l], second[l], ties[l], below[l], weighted[l]}; }
};

// With `exps`, the exponentials e_j are kept there. What lies at `next`, as much as this tile, is asked of memory on
// the way: rows of a tile are too many streams for the processor to foresee.
template <Score kScore, class A>
LADA_HD LaneStats<A> stats_of_tile(const A* tile, int64_t classes, A* exps = nullptr, const char* next = nullptr) {
  constexpr int kWidth = kRowLanes<A>;
  const A floor = opaque(exp_floor<A>()), zero = opaque(A(0));
  LaneStats<A> s;
  Lane<A> sum, below, weighted;
  for (int l = 0; l < kWidth; ++l) {
    s.max[l] = s.second[l] = lowest<A>();
    s.below[l] = s.weighted[l] = s.ties[l] = zero;
  }
  for (int64_t j = 0; j < classes; ++j) {
    LADA_SIMD for (int l = 0; l < kWidth; ++l) {
      const A z = tile[j * kWidth + l];
      if constexpr (kScore == Score::kMargin) s.second[l] = larger(smaller(z, s.max[l]), s.second[l]);
      s.max[l] = larger(z, s.max[l]);
    }
  }
  for (int64_t begin = 0; begin < classes; begin += kClassesOfASum) {
    const int64_t end = std::min(begin + kClassesOfASum, classes);
    for (int l = 0; l < kWidth; ++l) sum[l] = below[l] = weighted[l] = zero;
    for (int64_t j = begin; j < end; ++j) {
      for (int line = 0; next && line < kWidth * static_cast<int>(sizeof(A)); line += 64, next += 64)
        __builtin_prefetch(next);
      LADA_SIMD for (int l = 0; l < kWidth; ++l) {
        const A d = larger(floor, tile[j * kWidth + l] - s.max[l]), e = exp_negative(d);
        sum[l] += e;
        below[l] += d == 0 ? A(0) : e;
        if constexpr (kScore == Score::kEntropy) weighted[l] += e * d;
        if (exps) exps[j * kWidth + l] = e;
      }
    }
    LADA_SIMD for (int l = 0; l < kWidth; ++l) {
      s.ties[l] += std::nearbyint(sum[l] - below[l]);  // each is e^0
      s.below[l] += below[l];
      if constexpr (kScore == Score::kEntropy) s.weighted[l] += weighted[l];
    }
  }
  return s;
}

template <Score kScore, class A>
LADA_HD Lane<A> scores_of_tile(const LaneStats<A>& s) {
  Lane<A> scores;
  LADA_SIMD for (int l = 0; l < kRowLanes<A>; ++l) scores[l] =
      score_of(RowStats<A>{s.max[l], s.second[l], s.ties[l], s.below[l], s.weighted[l]}, kScore);
  return scores;
}

// Replaces the logits of a tile by factor[l] * d score / d z. `exps` are those of stats_of_tile.
template <Score kScore, class A>
LADA_HD void gradient_of_tile(A* tile, const A* exps, int64_t classes, const LaneStats<A>& s, const Lane<A>& factor) {
  constexpr int kWidth = kRowLanes<A>;
  Lane<A> inverse, mean, value, firsts, seconds;
  LADA_SIMD for (int l = 0; l < kWidth; ++l) {
    inverse[l] = 1 / (s.ties[l] + s.below[l]);
    mean[l] = s.weighted[l] * inverse[l];
    firsts[l] = seconds[l] = 0;
  }
  if constexpr (kScore != Score::kEntropy) value = scores_of_tile<kScore>(s);
  for (int64_t j = 0; j < classes; ++j) {
    LADA_SIMD for (int l = 0; l < kWidth; ++l) {
      const A z = tile[j * kWidth + l], p = exps[j * kWidth + l] * inverse[l];
      A slope;
      if constexpr (kScore == Score::kEntropy) {
        slope = -p * (below_max(z, s.max[l]) - mean[l]);
      } else {
        const A first = z == s.max[l] ? 1 - firsts[l] : A(0);  // 1 where z is the first maximum
        firsts[l] += first;
        if constexpr (kScore == Score::kVariationRatio) {
          slope = first != 0 ? -p * value[l] : p * inverse[l];
        } else {
          const A second = z == s.second[l] ? (1 - seconds[l]) * (1 - first) : A(0);
          seconds[l] += second;
          slope = first != 0 ? -p * value[l] : p * (1 + second - value[l]);
        }
      }
      tile[j * kWidth + l] = factor[l] * slope;
    }
  }
}

// sum_j term(j) over a long row, in many partial sums and in chunks, so that its error depends neither on the vectors
// that a compiler makes of it nor, much, on the length. The term is a lambda marked LADA_TERM.
#define LADA_TERM __attribute__((always_inline))

template <class A, class Term>
LADA_HD A sum_of_terms(int64_t count, const Term& term) {
  constexpr int64_t kSums = 32, kChunk = 2048;
  A total = 0;
  for (int64_t begin = 0; begin < count; begin += kChunk) {
    const int64_t end = std::min(begin + kChunk, count);
    A sums[kSums] = {}, sum = 0;
    int64_t j = begin;
    for (; j + kSums <= end; j += kSums) {
      LADA_SIMD for (int64_t i = 0; i < kSums; ++i) sums[i] += term(j + i);
    }
    for (; j < end; ++j) sums[j % kSums] += term(j);
    for (int64_t i = 0; i < kSums; ++i) sum += sums[i];
    total += sum;
  }
  return total;
}

// The largest and the second largest of a chunk of a row.
template <Score kScore, class A>
LADA_HD RowStats<A> largest_of(const A* z, int64_t size) {
  A max = lowest<A>(), second = lowest<A>(), equal = 0;
#pragma omp simd reduction(max : max)
  for (int64_t j = 0; j < size; ++j) max = larger(z[j], max);
  if constexpr (kScore == Score::kMargin) {
#pragma omp simd reduction(max : second) reduction(+ : equal)
    for (int64_t j = 0; j < size; ++j) {
      const A value = z[j], rest = value < max ? value : lowest<A>(), one = value == max ? A(1) : A(0);
      second = larger(rest, second);
      equal += one;
    }
  }
  RowStats<A> part;
  part.max = max;
  part.second = equal > 1 ? max : second;
  return part;
}

// The statistics of one long row: in each chunk first the maximum, then the sums relative to the largest so far.
template <Score kScore, class A>
LADA_HD RowStats<A> stats_of_row(const A* z, int64_t classes) {
  constexpr int64_t kChunk = 2048;
  const A floor = opaque(exp_floor<A>());
  RowStats<A> total;
  for (int64_t begin = 0; begin < classes; begin += kChunk) {
    const int64_t size = std::min(kChunk, classes - begin);
    const A* chunk = z + begin;
    total = merge(total, largest_of<kScore>(chunk, size));
    const A top = total.max;
    A sum = 0, below = 0, weighted = 0;
#pragma omp simd reduction(+ : sum, below, weighted)
    for (int64_t j = 0; j < size; ++j) {
      const A d = larger(floor, chunk[j] - top), e = exp_negative(d);
      sum += e;
      below += d == 0 ? A(0) : e;
      if constexpr (kScore == Score::kEntropy) weighted += e * d;
    }
    total.ties += std::nearbyint(sum - below);
    total.below += below;
    total.weighted += weighted;
  }
  return total;
}

// grad_z = factor * d score / d z of one long row.
template <Score kScore, class A>
LADA_HD void gradient_of_row(const A* z, int64_t classes, const RowStats<A>& s, A factor, A* grad_z) {
  const A inverse = 1 / sum_of(s), mean = s.weighted * inverse, value = score_of(s, kScore), max = s.max;
  const A scale = factor * inverse;
  LADA_SIMD for (int64_t j = 0; j < classes; ++j) {
    const A d = below_max(z[j], max), e = exp_negative(d);
    A slope;
    if constexpr (kScore == Score::kEntropy)
      slope = -e * (d - mean);
    else if constexpr (kScore == Score::kVariationRatio)
      slope = e * inverse;
    else
      slope = e * (1 - value);
    grad_z[j] = scale * slope;
  }
  if constexpr (kScore != Score::kEntropy) {
    const int64_t first = std::find(z, z + classes, max) - z;
    if (first == classes || !(s.ties > 0)) return;
    grad_z[first] = factor * score_gradient(s, kScore, max, Role::kFirst);
    if constexpr (kScore == Score::kMargin) {
      const int64_t begin = s.second == max ? first + 1 : 0;
      const int64_t second = std::find(z + begin, z + classes, s.second) - z;
      if (second < classes) grad_z[second] = factor * score_gradient(s, kScore, s.second, Role::kSecond);
    }
  }
}

// Ranges of whole tiles, so that a row's lane mates do not depend on the number of threads.
template <class Body>
void parallel_tiles(int64_t rows, int64_t lanes, int64_t cost, int threads, const Body& body) {
  parallel_for((rows + lanes - 1) / lanes, lanes * cost, threads,
               [&](int64_t begin, int64_t end) { body(begin * lanes, std::min(rows, end * lanes)); });
}

}  // namespace lada::cpu
