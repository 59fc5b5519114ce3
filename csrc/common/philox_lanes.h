// Philox for many counters at a time, on the CPU.
#pragma once
#include <cstring>

#include "avx512.h"
#include "philox.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define LADA_PHILOX_VECTORS 1
#include <immintrin.h>
#endif

namespace lada::cpu {

constexpr int kLanes = 64;

// Counters (sample, low and high half of index, stream), and what becomes of each: four random words, which are the low
// halves of `word`.
struct PhiloxLanes {
  alignas(64) uint64_t sample[kLanes], index[kLanes], word[4][kLanes];

  LADA_HD Philox4 words(int i) const {
    Philox4 r;
    for (int j = 0; j < 4; ++j) r.word[j] = static_cast<uint32_t>(word[j][i]);
    return r;
  }
};

inline void philox_lanes_anywhere(uint64_t key, uint32_t stream, PhiloxLanes& lanes) {
  for (int i = 0; i < kLanes; ++i) {
    const uint64_t index = lanes.index[i];
    const Philox4 r = philox(key, {{static_cast<uint32_t>(lanes.sample[i]), static_cast<uint32_t>(index),
                                    static_cast<uint32_t>(index >> 32), stream}});
    for (int j = 0; j < 4; ++j) lanes.word[j][i] = r.word[j];
  }
}

#ifdef LADA_PHILOX_VECTORS
#pragma GCC push_options
#pragma GCC target("avx2")
namespace avx2 {
using Vector = uint64_t __attribute__((vector_size(32)));
inline Vector multiply(Vector a, Vector b) { return Vector(_mm256_mul_epu32(__m256i(a), __m256i(b))); }
#include "philox_vectors.inc"
}  // namespace avx2
#pragma GCC target("avx512f")
namespace avx512 {
using Vector = uint64_t __attribute__((vector_size(64)));
inline Vector multiply(Vector a, Vector b) { return Vector(_mm512_maskz_mul_epu32(0xff, __m512i(a), __m512i(b))); }
#include "philox_vectors.inc"
}  // namespace avx512
#pragma GCC pop_options
#endif

inline void philox_lanes(uint64_t key, uint32_t stream, PhiloxLanes& lanes) {
#ifdef LADA_PHILOX_VECTORS
  static const bool has_avx2 = __builtin_cpu_supports("avx2");
  if (takes_avx512()) return avx512::philox_lanes(key, stream, lanes);
  if (has_avx2) return avx2::philox_lanes(key, stream, lanes);
#endif
  philox_lanes_anywhere(key, stream, lanes);
}

}  // namespace lada::cpu
