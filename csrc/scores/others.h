// Sums over the logits of a row but the largest, for float32 where the processor has AVX-512: how scores are found
// there.
//
// Of the next logit and the largest so far, the larger is kept and the smaller is put aside. What has been put aside in
// the end are all logits but the largest, so the sum of their exponentials is S - 1: exact where the row is almost
// certain, and where the largest occurs twice, without a comparison in the inner loop. No exponential is computed for
// the largest.
//
// A vector holds one logit of each of kVectorLanes rows, which are transposed for that; or neighbours in one long row,
// whose lanes are joined in the end. Shuffles and exponentials keep different units of the processor busy, so the next
// tile of rows is transposed and parted while one is summed.
#pragma once
#include <vector>

#include "vectors.h"

#ifdef LADA_AVX512

namespace lada::cpu::avx512 {

// The sums of some rows, relative to the largest logit of each: of e_j and of e_j d_j over the others, and the largest
// of their d_j.
struct alignas(64) BlockSums {
  float rest[kBlockRows], weighted[kBlockRows], second[kBlockRows];
};

// Such sums in the making.
template <Score kScore>
struct OtherSums {
  Vector max, rest, weighted, second;

  // NaN from the start where the largest logit is not finite.
  LADA_512_HELPER explicit OtherSums(Vector largest)
      : max(largest), rest(largest - largest), weighted(all(0)), second(all(exp_floor<float>())) {}

  // n vectors of others.
  template <int n>
  LADA_512_HELPER void add(const float* others) {
    Vector d[n], e[n];
    for (int v = 0; v < n; ++v) d[v] = load(others + v * kVectorLanes) - max;
    exps_of(d, e);
    Vector sum = e[0], product = add_product(all(0), e[0], d[0]);
    for (int v = 1; v < n; ++v) sum += e[v], product = add_product(product, e[v], d[v]);
    rest += sum;
    if constexpr (kScore == Score::kEntropy) weighted += product;
    if constexpr (kScore == Score::kMargin)
      for (int v = 0; v < n; ++v) second = larger_of(d[v], second);
  }

  // Relative to a larger maximum; the earlier one is then among the others.
  LADA_512_HELPER void raise(Vector larger) {
    const Vector shift = larger_of(all(exp_floor<float>()), max - larger), scale = exp_of(shift);
    weighted = scale * (weighted + shift * rest);
    rest *= scale;
    second = larger_of(all(exp_floor<float>()), second + shift);
    max = larger;
  }
};

// Of the largest logits so far and of more, the largest stay and as many as came go to `others`. Where a maximum is
// taken, the minimum of the same two is as well, in the other order, so that a NaN goes to the others and is not lost.
LADA_512_HELPER void put_aside(Vector z, Vector& max, float* others) {
  store(others, smaller_of(max, z));
  max = larger_of(z, max);
}

LADA_512_HELPER void put_four_aside(const float* z, Vector& max, float* others) {
  const Vector a = load(z), b = load(z + kVectorLanes), c = load(z + 2 * kVectorLanes), d = load(z + 3 * kVectorLanes);
  const Vector ab = larger_of(b, a), cd = larger_of(d, c);
  store(others, smaller_of(a, b));
  store(others + kVectorLanes, smaller_of(c, d));
  store(others + 2 * kVectorLanes, smaller_of(ab, cd));
  put_aside(larger_of(cd, ab), max, others + 3 * kVectorLanes);
}

// Parts a tile of rows into the largest logit of each and the others, and meanwhile sums one that has been parted. What
// lies a tile behind `rows` is asked of memory, as rows of a tile are too many streams for the processor to foresee. Up
// to three logits behind the last row are read.
template <Score kScore, int kFirst>
LADA_512_HELPER OtherSums<kScore> part_and_sum(const float* rows, int64_t classes, RowTile& parted,
                                               const RowTile& summed) {
  OtherSums<kScore> sums(load(summed.max));
  const float *other = summed.value, *ahead = rows + kVectorLanes * classes;
  float* to = parted.value;
  const FourClasses start(rows, classes);
  Vector max = start.z[0];
  const auto take = [&](const Quads* z, auto count) LADA_512_LAMBDA {
    constexpr int n = decltype(count)::value;
    sums.template add<n>(other);
    ask_for<n>(ahead);
    for (int v = 0; v < n; ++v) put_aside(z[v], max, to + v * kVectorLanes);
    other += n * kVectorLanes, ahead += n * kVectorLanes, to += n * kVectorLanes;
  };
  if constexpr (kFirst > 1) take(start.z + 1, std::integral_constant<int, kFirst - 1>{});
  for (int64_t j = kFirst; j < classes; j += 4)
    take(FourClasses(rows + j, classes).z, std::integral_constant<int, 4>{});
  store(parted.max, max);
  return sums;
}

// Consecutive rows in tiles: the first `whole` of them where they lie, the others in a copy.
struct BlockRows {
  const float* rows;
  const float* copy;
  int64_t whole, tiles, classes;

  const float* tile(int64_t t) const {
    return t < whole ? rows + t * kVectorLanes * classes : copy + (t - whole) * kVectorLanes * classes;
  }
};

template <Score kScore, int kFirst>
LADA_512 void sum_tiles(const BlockRows& block, RowTile (&tiles)[2], BlockSums& block_sums) {
  RowTile *summed = &tiles[0], *parted = &tiles[1];
  part_and_sum<kScore, kFirst>(block.tile(0), block.classes, *summed, *parted);
  for (int64_t t = 0; t < block.tiles; ++t) {
    const float* next = block.tile(std::min(t + 1, block.tiles - 1));
    const OtherSums<kScore> sums = part_and_sum<kScore, kFirst>(next, block.classes, *parted, *summed);
    store(block_sums.rest + t * kVectorLanes, sums.rest);
    if constexpr (kScore == Score::kEntropy) store(block_sums.weighted + t * kVectorLanes, sums.weighted);
    if constexpr (kScore == Score::kMargin) store(block_sums.second + t * kVectorLanes, sums.second);
    std::swap(parted, summed);
  }
}

constexpr int64_t kChunk = 2048;

// The logits of a chunk of one long row that have been put aside.
struct alignas(64) PartedChunk {
  float others[kChunk];

  // The others go to the beginning of the chunk; where they end.
  LADA_512_HELPER const float* part(const float* z, const float* end, Vector& max) {
    float* to = others;
    for (; z + 4 * kVectorLanes <= end; z += 4 * kVectorLanes, to += 4 * kVectorLanes) put_four_aside(z, max, to);
    for (; z + kVectorLanes <= end; z += kVectorLanes, to += kVectorLanes) put_aside(load(z), max, to);
    if (z == end) return to;
    put_aside(load_some(z, end - z), max, to);
    return to + kVectorLanes;
  }
};

// Sums of the lanes of a long row.
template <Score kScore>
LADA_512_HELPER OtherSums<kScore> sums_of_lanes(const float* z, int64_t classes, PartedChunk& chunk) {
  const float* const end = z + classes;
  Vector max = all(lowest<float>());
  const float* others_end = chunk.part(z, std::min(z + kChunk, end), max);
  OtherSums<kScore> sums(max);
  for (;;) {
    const float *other = chunk.others, *ahead = z + kAhead;
    for (; other + 4 * kVectorLanes <= others_end; other += 4 * kVectorLanes, ahead += 4 * kVectorLanes) {
      ask_for<4>(ahead);
      sums.template add<4>(other);
    }
    for (; other < others_end; other += kVectorLanes, ahead += kVectorLanes) {
      ask_for<1>(ahead);
      sums.template add<1>(other);
    }
    z += kChunk;
    if (z >= end) return sums;
    others_end = chunk.part(z, std::min(z + kChunk, end), max);
    sums.raise(max);
  }
}

// A row without a logit above lowest(), which lanes cannot tell from one without a logit above -inf.
inline void sum_lowest(const float* z, int64_t classes, BlockSums& sums, int64_t row) {
  float count = 0;
  for (int64_t j = 0; j < classes; ++j) count += z[j] == -infinity<float>() ? 0 : 1 + (z[j] - z[j]);
  sums.rest[row] = count == 0 ? not_a_number<float>() : count - 1;
  sums.weighted[row] = 0;
  sums.second[row] = count > 1 ? 0 : exp_floor<float>();
}

// What was summed in the lanes of some long rows.
struct alignas(64) LaneSums {
  float max[kVectorLanes][kVectorLanes], rest[kVectorLanes][kVectorLanes];
  float weighted[kVectorLanes][kVectorLanes], second[kVectorLanes][kVectorLanes];

  template <Score kScore>
  LADA_512_HELPER void put(int64_t row, const OtherSums<kScore>& sums) {
    store(max[row], sums.max);
    store(rest[row], sums.rest);
    store(weighted[row], sums.weighted);
    store(second[row], sums.second);
  }
};

// Joins the lanes of a vector of rows; the largest logits go to `top`.
LADA_512 inline void join_lanes(const LaneSums& lanes, BlockSums& to, int64_t row, float* top) {
  Vector max = all(lowest<float>()), rest = all(0), weighted = all(0), second = all(exp_floor<float>());
  for (int lane = 0; lane < kVectorLanes; lane += 4) {
    const FourClasses part(lanes.max[0] + lane, kVectorLanes);
    for (int i = 0; i < 4; ++i) max = larger_of(part.z[i], max);
  }
  Vector again = all(-1);  // how often the largest logit occurs but once
  for (int lane = 0; lane < kVectorLanes; lane += 4) {
    const FourClasses m(lanes.max[0] + lane, kVectorLanes), r(lanes.rest[0] + lane, kVectorLanes);
    const FourClasses w(lanes.weighted[0] + lane, kVectorLanes), s(lanes.second[0] + lane, kVectorLanes);
    for (int i = 0; i < 4; ++i) {
      const Vector shift = larger_of(all(exp_floor<float>()), m.z[i] - max), scale = exp_of(shift);
      const Vector sum = 1.0f + r.z[i];
      const auto largest = m.z[i] == max;
      again += largest ? all(1) : all(0);
      rest += largest ? r.z[i] : scale * sum;
      weighted += scale * (w.z[i] + shift * sum);
      second = larger_of(largest ? s.z[i] : shift, second);
    }
  }
  store(to.rest + row, rest + again + (max - max));
  store(to.weighted + row, weighted);
  store(to.second + row, again > 0 ? all(0) : second);
  store(top, max);
}

// At most kVectorLanes long rows.
template <Score kScore>
LADA_512 void sum_long_rows(const float* rows, int64_t count, int64_t classes, PartedChunk& chunk, LaneSums& lanes,
                            BlockSums& to, int64_t row) {
  float top[kVectorLanes];
  for (int64_t i = 0; i < count; ++i) lanes.put(i, sums_of_lanes<kScore>(rows + i * classes, classes, chunk));
  join_lanes(lanes, to, row, top);
  for (int64_t i = 0; i < count; ++i)
    if (top[i] == lowest<float>()) sum_lowest(rows + i * classes, classes, to, row + i);
}

// Whole vectors of rows, so that a row's score does not depend on how many others there are.
template <Score kScore>
LADA_512 void scores_of_sums(const BlockSums& sums, int64_t count, float scale, float* out) {
  for (int64_t begin = 0; begin < count; begin += kVectorLanes) {
    alignas(64) float scores[kVectorLanes];
    LADA_SIMD for (int64_t l = 0; l < kVectorLanes; ++l) {
      const RowStats<float> s{0.0f, sums.second[begin + l], 1.0f, sums.rest[begin + l], sums.weighted[begin + l]};
      scores[l] = scale * score_of(s, kScore);
    }
    if (begin + kVectorLanes <= count)
      store(out + begin, load(scores));
    else
      store_some(out + begin, count - begin, load(scores));
  }
}

// Blocks of rows, for one thread.
template <Score kScore>
class Scorer {
 public:
  explicit Scorer(int64_t classes) : classes_(classes) { tiles_[1].clear(std::min(classes, kTileClasses)); }

  // `scale` times the scores of consecutive rows, at most block_rows() of them.
  void score(const float* rows, int64_t count, float scale, float* out) {
    if (classes_ > kTileClasses)
      for (int64_t row = 0; row < count; row += kVectorLanes)
        sum_long_rows<kScore>(rows + row * classes_, std::min<int64_t>(kVectorLanes, count - row), classes_, chunk_,
                              lanes_, sums_, row);
    else
      sum_short_rows(rows, count);
    scores_of_sums<kScore>(sums_, count, scale, out);
  }

 private:
  // What is copied: a last tile that is not full, and rows so short that reading four classes goes beyond the last.
  void sum_short_rows(const float* rows, int64_t count) {
    const int64_t tiles = (count + kVectorLanes - 1) / kVectorLanes, size = kVectorLanes * classes_;
    const int64_t whole = classes_ < 4 ? 0 : count / kVectorLanes;
    if (whole < tiles) {
      copy_.assign(static_cast<size_t>((tiles - whole) * size + 3), 0.0f);
      std::copy(rows + whole * size, rows + count * classes_, copy_.begin());
    }
    const BlockRows block = {rows, copy_.data(), whole, tiles, classes_};
    with_first_step(classes_, [&](auto first) { sum_tiles<kScore, first()>(block, tiles_, sums_); });
  }

  int64_t classes_;
  std::vector<float> copy_;
  RowTile tiles_[2];
  PartedChunk chunk_;
  LaneSums lanes_{};
  BlockSums sums_{};
};

}  // namespace lada::cpu::avx512
#endif
