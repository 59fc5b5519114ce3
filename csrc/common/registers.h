// Vectors of the widest registers a processor has, for loops that hold as many sums as fit in them: a tile says how
// wide they are, and each family how many it takes.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "avx512.h"
#include "math.h"

namespace lada::cpu {

#if defined(__clang__)
constexpr bool kShuffles = false;  // it has a builtin of its own
#else
constexpr bool kShuffles = true;
#endif

template <class A, int kBytes>
struct Lanes {
  static constexpr int kCount = kBytes / sizeof(A);
  typedef A Vector __attribute__((vector_size(kBytes)));  // g++ takes no attribute of a template in `using`

  LADA_HD static void load(const A* from, Vector& to) { std::memcpy(&to, from, sizeof to); }
  LADA_HD static void store(const Vector& from, A* to) { std::memcpy(to, &from, sizeof from); }

  LADA_HD static A sum(const Vector& vector) {
    A value[kCount];
    std::memcpy(value, &vector, sizeof vector);
    for (int size = kCount / 2; size > 0; size /= 2)
      for (int l = 0; l < size; ++l) value[l] += value[l + size];
    return value[0];
  }

  // The sums of the vectors, at most kCount, as the first lanes of one: halves of two are added at a time, then
  // quarters of four, and so on, in the order of `sum`.
  template <int kVectors>
  LADA_HD static void sums(const Vector (&vectors)[kVectors], Vector& result) {
    static_assert(kVectors <= kCount);
    if constexpr (kShuffles)
      add_halves<kVectors, kCount / 2>(vectors, result);
    else
      for (int i = 0; i < kVectors; ++i) result[i] = sum(vectors[i]);
  }

 private:
  typedef std::conditional_t<sizeof(A) == 8, int64_t, int32_t> Index __attribute__((vector_size(kBytes)));

  // Of the parts of a and b, kPart lanes each, adds the second to the first, the fourth to the third, and so on.
  template <int kPart>
  LADA_HD static void add_parts(const Vector& a, const Vector& b, Vector& sum) {
    Index first, second;
    for (int i = 0; i < kCount; ++i) {
      first[i] = i / kPart * 2 * kPart + i % kPart;
      second[i] = first[i] + kPart;
    }
    sum = __builtin_shuffle(a, b, first) + __builtin_shuffle(a, b, second);
  }

  template <int kVectors, int kPart>
  LADA_HD static void add_halves(const Vector (&vectors)[kVectors], Vector& result) {
    if constexpr (kPart == 0) {
      result = vectors[0];
    } else {
      Vector half[(kVectors + 1) / 2];
      for (int i = 0; i < kVectors; i += 2) add_parts<kPart>(vectors[i], vectors[i + (i + 1 < kVectors)], half[i / 2]);
      add_halves<(kVectors + 1) / 2, kPart / 2>(half, result);
    }
  }
};

// Calls f with a Tile for the registers of this processor.
template <class Avx512, class Avx2, class Portable, class F>
void with_tile(const F& f) {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
  if (takes_avx512()) return f(Avx512{});
  if (__builtin_cpu_supports("avx2")) return f(Avx2{});
#endif
  f(Portable{});
}

}  // namespace lada::cpu
