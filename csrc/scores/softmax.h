// Exponentials of tiles of rows for float32, where the processor has AVX-512: what gradients and BALD are made of.
//
// Each logit's d_j and e_j are computed once, and kept until the sums of the row are known. Rows are transposed, so
// that a vector holds one logit of each; as in others.h, that is done to the next tile while exponentials are taken of
// one.
#pragma once
#include "vectors.h"

#ifdef LADA_AVX512

namespace lada::cpu::avx512 {

// Largest logit of each lane, sum of e_j and of e_j d_j; each d_j and e_j is put where it will be needed.
struct Softmax {
  Vector max, sum = all(0), weighted = all(0);

  LADA_512_HELPER void add(Vector z, float* to_d, float* to_e) {
    const Vector d = larger_of(all(exp_floor<float>()), z - max), e = exp_of(d);
    sum += e;
    weighted += e * d;
    store(to_d, d);
    store(to_e, e);
  }
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
                                                   RowTile& tile, float* exps, Beside beside = {}) {
  Softmax s{load(tile.max)};
  const float* ahead = rows.ahead;
  float *to = next.value, *z = tile.value;
  Vector max;
  const auto take = [&](Vector logits) LADA_512_LAMBDA {
    _mm_prefetch(ahead, _MM_HINT_T0);
    store(to, logits);
    max = larger_of(logits, max);
    s.add(load(z), z, exps);
    beside();
    ahead += kVectorLanes, to += kVectorLanes, z += kVectorLanes, exps += kVectorLanes;
  };
  const FourClasses start(rows.first, rows.stride);
  max = start.z[0];
  for (int i = 0; i < kFirst; ++i) take(start.z[i]);
  for (int64_t j = kFirst; j < classes; j += 4) {
    const FourClasses step(rows.first + j, rows.stride);
    for (int i = 0; i < 4; ++i) take(step.z[i]);
  }
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
