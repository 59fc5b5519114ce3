// The words in which the loops for float32 are written where the processor has AVX-512: vectors of 16, and tiles of 16
// rows transposed four classes at a time.
#pragma once
#include <type_traits>

#include "../common/avx512.h"
#include "../common/stream.h"
#include "lanes.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define LADA_AVX512 1
#include <immintrin.h>

// Not LADA_CLONES: there is only this clone. Helpers are always inlined, as with LADA_HD.
#define LADA_512 __attribute__((target("avx512f")))
#define LADA_512_HELPER LADA_512 inline __attribute__((always_inline))
#define LADA_512_LAMBDA LADA_512 __attribute__((always_inline))

namespace lada::cpu::avx512 {

constexpr int kVectorLanes = 16;

// Rows are taken in blocks of at most kBlockRows, and of about as many logits as the second-level cache holds.
constexpr int64_t kBlockRows = 512;
inline int64_t block_rows(int64_t classes) { return std::clamp((int64_t{1} << 16) / classes, int64_t{1}, kBlockRows); }

using Vector = __m512;
using Bits = uint32_t __attribute__((vector_size(64)));

LADA_512_HELPER Vector all(float value) { return Vector{} + value; }
LADA_512_HELPER Vector load(const float* from) { return _mm512_loadu_ps(from); }
LADA_512_HELPER void store(float* to, Vector value) { _mm512_storeu_ps(to, value); }

// A tile of rows: the largest logit of each, and a value for each class. The size keeps two of them in a row from
// meeting in the low bits of their addresses, where the processor takes a load for one of what has just been stored.
struct alignas(64) RowTile {
  float max[kVectorLanes];
  float value[(kTileClasses + 31) * kVectorLanes];

  void clear(int64_t classes) {
    std::fill_n(max, kVectorLanes, 0.0f);
    std::fill_n(value, classes * kVectorLanes, 0.0f);
  }
};

// As larger() and smaller(). With masks of all lanes, since g++ warns of its own header without.
LADA_512_HELPER Vector larger_of(Vector a, Vector b) { return _mm512_maskz_max_ps(0xffff, a, b); }
LADA_512_HELPER Vector smaller_of(Vector a, Vector b) { return _mm512_maskz_min_ps(0xffff, a, b); }

// exp_negative of elementary.h
LADA_512_HELPER Vector exp_of(Vector x) {
  using E = Elementary<float>;
  const Vector shifted = x * 1.44269504088896341f + E::kRound, k = shifted - E::kRound;
  const Vector r = x - k * 0.693147180559945309f;
  Vector value = all(E::kExp[5]);
  for (int i = 4; i >= 0; --i) value = r * value + E::kExp[i];
  return value * Vector(Bits(shifted) << E::kMantissa);
}

LADA_512_HELPER float sum_of_lanes(Vector vector) {
  alignas(64) float value[kVectorLanes];
  store(value, vector);
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int l = 0; l < kVectorLanes; ++l) sum += value[l];
  return sum;
}

LADA_512_HELPER float largest_lane(Vector vector) {
  alignas(64) float value[kVectorLanes];
  store(value, vector);
  float largest = lowest<float>();
#pragma omp simd reduction(max : largest)
  for (int l = 0; l < kVectorLanes; ++l) largest = larger(value[l], largest);
  return largest;
}

// Less than a vector of logits; the other lanes have probability zero.
LADA_512_HELPER Vector load_some(const float* from, int64_t count) {
  return _mm512_mask_loadu_ps(all(-infinity<float>()), static_cast<__mmask16>((1 << count) - 1), from);
}

LADA_512_HELPER void store_some(float* to, int64_t count, Vector value) {
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1 << count) - 1), value);
}

// A copy past the caches, for what is larger than they are. end_stream() has to follow.
LADA_512 inline void stream(const float* from, int64_t size, float* to) {
  const auto misaligned = static_cast<int64_t>(reinterpret_cast<uintptr_t>(to) / sizeof(float) % kVectorLanes);
  int64_t i = std::min(misaligned == 0 ? 0 : kVectorLanes - misaligned, size);
  std::copy_n(from, i, to);
  for (; i + kVectorLanes <= size; i += kVectorLanes) _mm512_stream_ps(to + i, load(from + i));
  std::copy_n(from + i, size - i, to + i);
}

// The quads at `from` of rows 0, 4, 8 and 12 side by side.
LADA_512_HELPER Vector join_quads(const float* from, int64_t stride) {
  const __m256 low = _mm256_loadu2_m128(from + 4 * stride, from);
  const __m256 high = _mm256_loadu2_m128(from + 12 * stride, from + 8 * stride);
  return __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

// Four classes of a tile of rows, which lie `stride` apart.
struct FourClasses {
  Quads z[4];

  LADA_512_HELPER FourClasses(const float* from, int64_t stride) {
    for (int row = 0; row < 4; ++row) z[row] = join_quads(from + row * stride, stride);
    transpose(z[0], z[1], z[2], z[3]);
  }
};

// Calls f with how many classes are in the step that comes first, as a constant, so that the others are of four.
template <class F>
void with_first_step(int64_t classes, const F& f) {
  switch (classes % 4) {
    case 1:
      return f(std::integral_constant<int, 1>{});
    case 2:
      return f(std::integral_constant<int, 2>{});
    case 3:
      return f(std::integral_constant<int, 3>{});
    default:
      return f(std::integral_constant<int, 4>{});
  }
}

}  // namespace lada::cpu::avx512
#endif
