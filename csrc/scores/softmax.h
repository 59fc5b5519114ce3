// Exponentials of tiles of rows for float32, where the processor has AVX-512: what gradients and BALD are made of.
//
// Each e_j is computed once, and kept until the sums of the row are known. Rows are transposed, so that a vector holds
// one logit of each; as in others.h, that is done to the next tile while exponentials are taken of one.
#pragma once
#include "vectors.h"

#ifdef LADA_AVX512

namespace lada::cpu::avx512 {

// Largest logit of each lane, sum of e_j and of e_j d_j.
struct Softmax {
  Vector max, sum = all(0), weighted = all(0);

  // n vectors of logits; their e_j are put where they will be needed.
  template <int n>
  LADA_512_HELPER void add(const float* z, float* exps) {
    Vector d[n], e[n];
    for (int v = 0; v < n; ++v) d[v] = load(z + v * kVectorLanes) - max;
    exps_of(d, e);
    for (int v = 0; v < n; ++v) {
      sum += e[v];
      weighted = add_product(weighted, e[v], d[v]);
      store(exps + v * kVectorLanes, e[v]);
    }
  }

  // d_j, which is finite, so that e_j d_j is 0 where e_j is.
  LADA_512_HELPER Vector below_max(const float* z) const { return larger_of(all(exp_floor<float>()), load(z) - max); }
};

// The rows of a tile, `stride` apart, and what memory is asked for while they are read.
struct StridedRows {
  const float* first;
  int64_t stride;
  const float* ahead;
};

struct Nothing {
  LADA_512_HELPER void operator()() {}
};

// Of a finished tile, a cache line at a time past the caches, to the beginning of one. end_stream() has to
// follow.
struct StreamLines {
  const float* from;
  float* to;

  LADA_512_HELPER void operator()() {
    _mm512_stream_ps(to, load(from));
    from += kVectorLanes, to += kVectorLanes;
  }
};

template <bool kStreams>
LADA_512_HELPER auto meanwhile(const float* from, float* to) {
  if constexpr (kStreams)
    return StreamLines{from, to};
  else
    return Nothing{};
}

// Transposes a tile of rows of at least four classes, and meanwhile takes the exponentials of another. `beside` is
// called once a class.
template <int kFirst, class Beside = Nothing>
LADA_512_HELPER Softmax transpose_and_exponentiate(const StridedRows& rows, int64_t classes, RowTile& next,
                                                   const RowTile& tile, float* exps, Beside beside = {}) {
  Softmax s{load(tile.max)};
  const float *ahead = rows.ahead, *z = tile.value;
  float* to = next.value;
  const FourClasses start(rows.first, rows.stride);
  Vector max = start.z[0];
  const auto take = [&](const Quads* logits, auto count) LADA_512_LAMBDA {
    constexpr int n = decltype(count)::value;
    s.template add<n>(z, exps);
    ask_for<n>(ahead);
    for (int v = 0; v < n; ++v) {
      store(to + v * kVectorLanes, logits[v]);
      max = larger_of(logits[v], max);
      beside();
    }
    ahead += n * kVectorLanes, to += n * kVectorLanes, z += n * kVectorLanes, exps += n * kVectorLanes;
  };
  take(start.z, std::integral_constant<int, kFirst>{});
  for (int64_t j = kFirst; j < classes; j += 4)
    take(FourClasses(rows.first + j, rows.stride).z, std::integral_constant<int, 4>{});
  store(next.max, max);
  return s;
}

// Classes j to j + 3 of a tile, whose class j is vector_of(j), to consecutive rows.
template <class VectorOf>
LADA_512_HELPER void store_classes(const VectorOf& vector_of, int64_t classes, int64_t j, float* out) {
  Quads quads[4];
  for (int64_t i = 0; i < 4; ++i) quads[i] = vector_of(j + i);
  transpose(quads[0], quads[1], quads[2], quads[3]);
  for (int i = 0; i < 4; ++i) {
    float* to = out + i * classes + j;
    _mm_storeu_ps(to, _mm512_maskz_extractf32x4_ps(0xf, quads[i], 0));
    _mm_storeu_ps(to + 4 * classes, _mm512_maskz_extractf32x4_ps(0xf, quads[i], 1));
    _mm_storeu_ps(to + 8 * classes, _mm512_maskz_extractf32x4_ps(0xf, quads[i], 2));
    _mm_storeu_ps(to + 12 * classes, _mm512_maskz_extractf32x4_ps(0xf, quads[i], 3));
  }
}

// The same of all classes.
template <int kFirst, class VectorOf>
LADA_512_HELPER void store_tile(const VectorOf& vector_of, int64_t classes, float* out) {
  store_classes(vector_of, classes, 0, out);
  for (int64_t j = kFirst; j < classes; j += 4) store_classes(vector_of, classes, j, out);
}

}  // namespace lada::cpu::avx512
#endif
