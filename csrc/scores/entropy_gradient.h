// Gradient of the entropy for float32, where the processor has AVX-512.
//
// Of what softmax.h keeps, the gradient -p_j (d_j - sum_i p_i d_i) is (a d_j + b) e_j.
#pragma once
#include <vector>

#include "softmax.h"

#ifdef LADA_AVX512

namespace lada::cpu::avx512 {

// (a d + b) e
struct Slope {
  Softmax softmax;
  Vector a, b;

  LADA_512_HELPER Slope(const Softmax& s, Vector factor, Vector sum, Vector weighted)
      : softmax(s), a(-factor / sum), b(-a * (weighted / sum)) {}

  LADA_512_HELPER Vector at(const float* z, const float* exp) const {
    return (a * softmax.below_max(z) + b) * load(exp);
  }
};

// Gradient of a long row, whose last logits are put into a vector of their own.
LADA_512 inline void gradient_of_long_row(const float* z, int64_t classes, float factor, float* exps, float* out) {
  const int64_t left = classes % kVectorLanes, full = classes - left;
  alignas(64) float last[kVectorLanes];
  store(last, load_some(z + full, left));
  Vector max = load(last);
  for (int64_t j = 0; j < full; j += kVectorLanes) max = larger_of(load(z + j), max);
  Softmax s{all(largest_lane(max))};
  int64_t j = 0;
  for (; j + 4 * kVectorLanes <= full; j += 4 * kVectorLanes) {
    ask_for<4>(z + j + kAhead);
    s.add<4>(z + j, exps + j);
  }
  for (; j < full; j += kVectorLanes) s.add<1>(z + j, exps + j);
  if (left > 0) s.add<1>(last, exps + full);
  const Slope slope(s, all(factor), all(sum_of_lanes(s.sum)), all(sum_of_lanes(s.weighted)));
  for (j = 0; j < full; j += kVectorLanes) store(out + j, slope.at(z + j, exps + j));
  if (left > 0) store_some(out + full, left, slope.at(last, exps + full));
}

// Gradients of rows of at least kFewestClasses, for one thread.
class EntropyGradient {
 public:
  static constexpr int64_t kFewestClasses = 4;

  // With `streams`, results do not pass through the caches; those of whole tiles begin with a cache line.
  EntropyGradient(int64_t classes, bool streams)
      : classes_(classes),
        exps_(padded(classes) * (classes > kTileClasses ? 1 : kVectorLanes)),
        streamed_(streams ? exps_.size() : 0) {
    work_[1].clear(std::min(classes, kTileClasses));
  }

  // factor times the gradient of the entropy of each of `count` rows.
  void gradients(const float* rows, int64_t count, const float* factors, float* out) {
    if (classes_ > kTileClasses) {
      for (int64_t row = 0; row < count; ++row, rows += classes_, out += classes_) {
        float* to = streamed() ? streamed() : out;
        gradient_of_long_row(rows, classes_, factors[row], exps_.data(), to);
        if (streamed()) stream(to, classes_, out);
      }
    } else {
      const int64_t tiles = count / kVectorLanes, done = tiles * kVectorLanes;
      if (tiles > 0) gradients_of_tiles(rows, tiles, factors, out, streamed() != nullptr);
      if (done < count) gradients_of_some(rows + done * classes_, count - done, factors + done, out + done * classes_);
    }
    if (streamed()) end_stream();
  }

 private:
  float* streamed() { return streamed_.empty() ? nullptr : streamed_.data(); }
  static size_t padded(int64_t classes) { return static_cast<size_t>(classes + kVectorLanes); }

  // Less than a tile of rows, made a tile.
  void gradients_of_some(const float* rows, int64_t count, const float* factors, float* out) {
    const int64_t size = count * classes_;
    std::vector<float> tile(static_cast<size_t>(kVectorLanes * classes_)), result(tile.size());
    float all_factors[kVectorLanes] = {};
    std::copy_n(rows, size, tile.begin());
    std::copy_n(factors, count, all_factors);
    gradients_of_tiles(tile.data(), 1, all_factors, result.data(), false);
    std::copy_n(result.begin(), size, out);
  }

  void gradients_of_tiles(const float* rows, int64_t tiles, const float* factors, float* out, bool streams) {
    with_first_step(classes_, [&](auto first) {
      streams ? gradients_from<first(), true>(rows, tiles, factors, out)
              : gradients_from<first(), false>(rows, tiles, factors, out);
    });
  }

  // What is streamed of a tile is so while the next is worked on; of the first tile, before it is there as well.
  template <int kFirst, bool kStreams>
  LADA_512 void gradients_from(const float* rows, int64_t tiles, const float* factors, float* out) {
    RowTile *tile = &work_[0], *next = &work_[1];
    const int64_t size = kVectorLanes * classes_;
    float *exps = exps_.data(), *to = out, *done = out;
    transpose_and_exponentiate<kFirst>({rows, classes_, rows}, classes_, *tile, *next, exps);
    for (int64_t t = 0; t < tiles; ++t, done = to, to += size) {
      const float* after = rows + std::min(t + 1, tiles - 1) * size;
      const StridedRows following = {after, classes_, after + size};
      const Softmax s = transpose_and_exponentiate<kFirst>(following, classes_, *next, *tile, exps,
                                                           meanwhile<kStreams>(streamed(), done));
      const Slope slope(s, load(factors + t * kVectorLanes), s.sum, s.weighted);
      const auto gradient = [&](int64_t j) LADA_512_LAMBDA {
        return slope.at(tile->value + j * kVectorLanes, exps + j * kVectorLanes);
      };
      store_tile<kFirst>(gradient, classes_, kStreams ? streamed() : to);
      std::swap(tile, next);
    }
    if constexpr (kStreams) stream(streamed(), size, done);
  }

  int64_t classes_;
  std::vector<float> exps_, streamed_;
  RowTile work_[2];
};

}  // namespace lada::cpu::avx512
#endif
