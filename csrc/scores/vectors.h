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

// Whether e^x is not so small that it would be denormal; true of NaN.
LADA_512_HELPER __mmask16 has_exp(Vector x) { return _mm512_cmp_ps_mask(x, all(-87.33f), _CMP_NLT_UQ); }

// Mantissas of 2^(i / 32).
alignas(64) inline constexpr uint32_t kRoots[32] = {
    0x000000, 0x02cd87, 0x05aac3, 0x08980f, 0x0b95c2, 0x0ea43a, 0x11c3d3, 0x14f4f0, 0x1837f0, 0x1b8d3a, 0x1ef532,
    0x227043, 0x25fed7, 0x29a15b, 0x2d583f, 0x3123f6, 0x3504f3, 0x38fbaf, 0x3d08a4, 0x412c4d, 0x45672a, 0x49b9be,
    0x4e248c, 0x52a81e, 0x5744fd, 0x5bfbb8, 0x60ccdf, 0x65b907, 0x6ac0c7, 0x6fe4ba, 0x75257d, 0x7a83b3};

// e^x of vectors of x <= 0 in step, as exp_negative of elementary.h but in half its multiplications. With
// x = (k + i / 32) ln 2 + r it is 2^k, which is the exponent of a number, times 2^(i / 32), which is its mantissa,
// times e^r, for which a parabola is enough (5.4e-8), as |r| <= ln 2 / 64.
template <int n>
LADA_512_HELPER void exps_of(const Vector (&x)[n], Vector (&e)[n]) {
  constexpr float kRound = 12582912.0f + 127 * 32;  // 1.5 * 2^23: after adding it, the low bits are 32 (127 + k) + i
  const __m512i low = _mm512_load_si512(kRoots), high = _mm512_load_si512(kRoots + 16);
  const __m512i exponent_bits = _mm512_set1_epi32(static_cast<int>(0xff800000));
  Vector shifted[n], r[n];
  for (int v = 0; v < n; ++v) shifted[v] = x[v] * 46.1662413084468284f + kRound;
  for (int v = 0; v < n; ++v) r[v] = x[v] - (shifted[v] - kRound) * 0.0216608493924982910f;
  for (int v = 0; v < n; ++v) {
    const __m512i bits = _mm512_castps_si512(shifted[v]);
    const __m512i mantissa = _mm512_permutex2var_epi32(low, bits, high);
    const __m512i exponent = _mm512_maskz_slli_epi32(0xffff, bits, 18);
    const __m512i power = _mm512_ternarylogic_epi32(mantissa, exponent, exponent_bits, 0xf8);  // a | (b & c)
    const Vector of_r = (r[v] * 0.50000053f + 1.00001464f) * r[v] + 1.0f;
    e[v] = _mm512_maskz_mul_ps(has_exp(x[v]), _mm512_castsi512_ps(power), of_r);
  }
}

LADA_512_HELPER Vector exp_of(Vector x) {
  Vector e[1];
  exps_of({x}, e);
  return e[0];
}

// sum + e^d d, where d may be -infinity.
LADA_512_HELPER Vector add_product(Vector sum, Vector e, Vector d) {
  return _mm512_mask3_fmadd_ps(e, d, sum, has_exp(d));
}

// Asks memory for n vectors.
template <int n>
LADA_512_HELPER void ask_for(const float* from) {
  for (int v = 0; v < n; ++v) _mm_prefetch(from + v * kVectorLanes, _MM_HINT_T0);
}

// How many floats behind what is read of a long row memory is asked.
constexpr int64_t kAhead = 4096;

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

// The quads at `from` of rows 0, 4, 8 and 12 side by side. (Broadcasts into some lanes keep the shuffles' units free.)
LADA_512_HELPER Vector join_quads(const float* from, int64_t stride) {
  Vector quads = _mm512_maskz_broadcast_f32x4(0xffff, _mm_loadu_ps(from));
  quads = _mm512_mask_broadcast_f32x4(quads, 0x00f0, _mm_loadu_ps(from + 4 * stride));
  quads = _mm512_mask_broadcast_f32x4(quads, 0x0f00, _mm_loadu_ps(from + 8 * stride));
  return _mm512_mask_broadcast_f32x4(quads, 0xf000, _mm_loadu_ps(from + 12 * stride));
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
