// Copies past the caches: for results so large that they do not fit there, and that memory would otherwise have to be
// read for before it is written.
#pragma once
#include <cstdint>
#include <cstring>

#include "large_bytes.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace lada::cpu {

template <class T>
bool is_large(int64_t count) {
  return count * static_cast<int64_t>(sizeof(T)) > static_cast<int64_t>(kLargeBytes);
}

constexpr int64_t kCacheLine = 64;

// A cache line, to the beginning of one. Others may read it after end_stream().
template <class A>
inline __attribute__((always_inline)) void stream_line(const A* from, A* to) {
#if defined(__SSE2__)
  for (int i = 0; i < 4; ++i)
    _mm_stream_si128(reinterpret_cast<__m128i*>(to) + i, _mm_loadu_si128(reinterpret_cast<const __m128i*>(from) + i));
#else
  std::memcpy(to, from, kCacheLine);
#endif
}

inline void end_stream() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

}  // namespace lada::cpu
