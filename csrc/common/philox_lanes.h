// Philox for many counters at a time, on the CPU.
#pragma once
#include "cpu.h"
#include "philox.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#endif

namespace lada::cpu {

constexpr int kLanes = 64;
constexpr int kRun = 16;  // lanes that are filled at a time, perhaps beyond the last one

// Counters, which become random words.
struct PhiloxLanes {
  alignas(64) uint32_t word[4][kLanes + kRun];
};

namespace detail {

inline LADA_CLONES void philox_lanes_anywhere(uint64_t key, PhiloxLanes& lanes) {
  for (int i = 0; i < kLanes; ++i) {
    const Philox4 r = philox(key, {{lanes.word[0][i], lanes.word[1][i], lanes.word[2][i], lanes.word[3][i]}});
    for (int j = 0; j < 4; ++j) lanes.word[j][i] = r.word[j];
  }
}

#if defined(__x86_64__) && defined(__GNUC__)
// g++ makes a 32 x 32 -> 64 bit product of vectors with six shuffles; two blends are enough, and twice as fast.
#define LADA_AVX2 __attribute__((target("avx2")))

struct HighLow {
  __m256i high, low;
};

LADA_AVX2 inline HighLow multiply(__m256i a, __m256i b) {
  const __m256i even = _mm256_mul_epu32(a, b), odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), b);
  return {_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa),
          _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa)};
}

// Two vectors of counters at a time share the keys and hide each other's latency.
LADA_AVX2 inline void philox_lanes_avx2(uint64_t key, PhiloxLanes& lanes) {
  constexpr int kVectors = 2;
  const __m256i multiply0 = _mm256_set1_epi32(static_cast<int>(kPhiloxMultiply0));
  const __m256i multiply1 = _mm256_set1_epi32(static_cast<int>(kPhiloxMultiply1));
  for (int i = 0; i < kLanes; i += 8 * kVectors) {
    __m256i c[4][kVectors];
    for (int j = 0; j < 4; ++j)
      for (int v = 0; v < kVectors; ++v)
        c[j][v] = _mm256_load_si256(reinterpret_cast<const __m256i*>(&lanes.word[j][i + 8 * v]));
    uint32_t key0 = static_cast<uint32_t>(key), key1 = static_cast<uint32_t>(key >> 32);
    for (int round = 0; round < 10; ++round) {
      const __m256i keys0 = _mm256_set1_epi32(static_cast<int>(key0));
      const __m256i keys1 = _mm256_set1_epi32(static_cast<int>(key1));
      for (int v = 0; v < kVectors; ++v) {
        const HighLow product0 = multiply(c[0][v], multiply0), product1 = multiply(c[2][v], multiply1);
        c[0][v] = _mm256_xor_si256(_mm256_xor_si256(product1.high, c[1][v]), keys0);
        c[2][v] = _mm256_xor_si256(_mm256_xor_si256(product0.high, c[3][v]), keys1);
        c[1][v] = product1.low;
        c[3][v] = product0.low;
      }
      key0 += kPhiloxWeyl0;
      key1 += kPhiloxWeyl1;
    }
    for (int j = 0; j < 4; ++j)
      for (int v = 0; v < kVectors; ++v)
        _mm256_store_si256(reinterpret_cast<__m256i*>(&lanes.word[j][i + 8 * v]), c[j][v]);
  }
}
#undef LADA_AVX2
#endif

}  // namespace detail

inline void philox_lanes(uint64_t key, PhiloxLanes& lanes) {
#if defined(__x86_64__) && defined(__GNUC__)
  static const bool has_avx2 = __builtin_cpu_supports("avx2");
  if (has_avx2) return detail::philox_lanes_avx2(key, lanes);
#endif
  detail::philox_lanes_anywhere(key, lanes);
}

}  // namespace lada::cpu
