// BALD of tiles of instances for float32, where the processor has AVX-512: one pass after another, in the way of
// softmax.h.
#pragma once
#include <vector>

#include "softmax.h"

#ifdef LADA_AVX512

namespace lada::cpu::avx512 {

// A tile of instances of at least four classes, or less than a tile: pass t of instance i starts at
// logits + t * pass_stride + i * row_stride.
struct PassTile {
  const float* logits;
  int64_t passes, classes, pass_stride, row_stride;

  // The rows of a pass, which are the last pass's for those behind it.
  StridedRows rows(int64_t pass) const {
    const auto at = [&](int64_t t) { return logits + std::min(t, passes - 1) * pass_stride; };
    return {at(pass), row_stride, at(pass + 1)};
  }
};

// Of tiles of instances, for one thread.
class BaldTiles {
 public:
  static constexpr int64_t kFewestClasses = 4;

  // With `streams`, gradients do not pass through the caches.
  BaldTiles(int64_t classes, bool streams) : streams_(streams) { work_[1].clear(classes); }

  // H(mean p) - mean H(p), in nats.
  void values(const PassTile& tile, float* out) {
    with_first_step(tile.classes, [&](auto first) { take_mean<first()>(tile, out); });
  }

  // The gradients, times the factor of each instance; pass t of the tile's goes to out + t * out_stride.
  void gradients(const PassTile& tile, const float* factors, float* out, int64_t out_stride) {
    with_first_step(tile.classes, [&](auto first) {
      float unused[kVectorLanes];
      take_mean<first()>(tile, unused);
      store_gradients<first()>(tile, factors, out, out_stride);
    });
    if (streams_) end_stream();
  }

 private:
  // body(pass, softmax, logits) of each pass; the exponentials are in exps_.
  template <int kFirst, class Body>
  LADA_512_HELPER void for_passes(const PassTile& tile, const Body& body) {
    RowTile *now = &work_[0], *next = &work_[1];
    transpose_and_exponentiate<kFirst>(tile.rows(0), tile.classes, *now, *next, exps_);
    for (int64_t pass = 0; pass < tile.passes; ++pass) {
      const Softmax s = transpose_and_exponentiate<kFirst>(tile.rows(pass + 1), tile.classes, *next, *now, exps_);
      body(pass, s, now->value);
      std::swap(now, next);
    }
  }

  template <int kFirst>
  LADA_512 void take_mean(const PassTile& tile, float* value) {
    const float share = 1.0f / static_cast<float>(tile.passes);
    const int64_t size = tile.classes * kVectorLanes;
    alignas(64) float bald[kVectorLanes] = {};
    std::fill_n(mean_, size, 0.0f);
    for_passes<kFirst>(tile, [&](int64_t, const Softmax& s, const float*) LADA_512_LAMBDA {
      const Vector weight = share / s.sum;
      for (int64_t i = 0; i < size; i += kVectorLanes) store(mean_ + i, load(mean_ + i) + weight * load(exps_ + i));
      subtract_entropies(s, share, bald);
    });
    for (int64_t i = 0; i < size; i += kVectorLanes) {
      LADA_SIMD for (int l = 0; l < kVectorLanes; ++l) {
        const float p = mean_[i + l];
        bald[l] -= p * log_of_probability(p);
      }
    }
    std::copy_n(bald, kVectorLanes, value);
  }

  LADA_512_HELPER static void subtract_entropies(const Softmax& s, float share, float* value) {
    alignas(64) float sum[kVectorLanes], weighted[kVectorLanes];
    store(sum, s.sum);
    store(weighted, s.weighted);
    LADA_SIMD for (int l = 0; l < kVectorLanes; ++l) {
      const RowStats<float> row{0.0f, 0.0f, 1.0f, sum[l] - 1, weighted[l]};
      value[l] -= share * score_of(row, Score::kEntropy);
    }
  }

  // factor p_j ((log p_j + H) - (log mean_j - sum_i p_i log mean_i))
  template <int kFirst>
  LADA_512 void store_gradients(const PassTile& tile, const float* factors, float* out, int64_t out_stride) {
    const int64_t size = tile.classes * kVectorLanes;
    LADA_SIMD for (int64_t i = 0; i < size; ++i) mean_[i] = log_of_probability(mean_[i]);
    for_passes<kFirst>(tile, [&](int64_t pass, const Softmax& s, const float* z) LADA_512_LAMBDA {
      const Vector inverse = 1.0f / s.sum, scale = load(factors) * inverse;
      Vector cross = all(0);
      for (int64_t i = 0; i < size; i += kVectorLanes) cross += load(exps_ + i) * load(mean_ + i);
      const Vector offset = (cross - s.weighted) * inverse;
      const auto gradient = [&](int64_t j) LADA_512_LAMBDA {
        const int64_t i = j * kVectorLanes;
        return scale * load(exps_ + i) * (s.below_max(z + i) - load(mean_ + i) + offset);
      };
      float* to = out + pass * out_stride;
      store_tile<kFirst>(gradient, tile.classes, streams_ ? streamed_ : to);
      if (streams_) stream(streamed_, size, to);
    });
  }

  static constexpr int64_t kMost = kTileClasses * kVectorLanes;
  bool streams_;
  RowTile work_[2];
  alignas(64) float exps_[kMost], mean_[kMost], streamed_[kMost];
};

}  // namespace lada::cpu::avx512
#endif
