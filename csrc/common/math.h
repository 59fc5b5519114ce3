// The words every formula.h is written in: functions that g++ and nvcc's device compiler both take, so that a
// formula is written once for all backends.
#pragma once
#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define LADA_HD __host__ __device__ __forceinline__
#define LADA_PRAGMA(words) _Pragma(#words)
#define LADA_UNROLL(count) LADA_PRAGMA(unroll(count))
#else
#define LADA_HD inline __attribute__((always_inline))
#define LADA_UNROLL(count)
#endif

namespace lada {

template <class T>
LADA_HD T infinity() {
  return static_cast<T>(INFINITY);
}

template <class T>
LADA_HD T not_a_number() {
  return static_cast<T>(NAN);
}

template <class T>
LADA_HD T clamp(T value, T low, T high) {
  const T raised = low > value ? low : value;  // NaN passes through
  return high < raised ? high : raised;
}

// c0 + c1 x + c2 x^2 + ...
template <class T>
LADA_HD T horner(T, T c0) {
  return c0;
}

template <class T, class... Rest>
LADA_HD T horner(T x, T c0, Rest... rest) {
  return c0 + x * horner(x, rest...);
}

}  // namespace lada
