// exp and log for the inner loops of the scores. On the host they are straight-line arithmetic on bits and polynomials,
// because a call to libm keeps a loop from being vectorised; on the device they are CUDA's own functions.
#pragma once
#include <cstring>

#include "math.h"

namespace lada {

#if defined(__CUDA_ARCH__) || defined(LADA_CUDA_ON_HOST)  // the latter where the tests run kernels on the host
#define LADA_CUDA_ELEMENTARY
#endif

// exp_negative of this is 0, as everything is that would be denormal, but for float64 on the device. Arguments are
// clamped here, so that a sum of exp(x) x never meets 0 * infinity.
template <class A>
LADA_HD constexpr A exp_floor() {
#ifdef LADA_CUDA_ELEMENTARY
  return sizeof(A) == 4 ? A(-88) : A(-750);
#else
  return sizeof(A) == 4 ? A(-88) : A(-709);
#endif
}

template <class To, class From>
LADA_HD To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "bits_as keeps the size");
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

#ifdef LADA_CUDA_ELEMENTARY

// 2^x to 2 units in the last place, and 0 where it would be denormal: what exp2f() does in three more instructions.
LADA_HD float exp2_flushed(float x) {
#ifdef __CUDA_ARCH__
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
#else
  return x < -126 ? 0.0f : exp2f(x);
#endif
}

LADA_HD float exp_negative(float x) { return exp2_flushed(x * 1.44269504088896341f); }
LADA_HD double exp_negative(double x) { return exp(x); }
LADA_HD float log1p_positive(float x) { return log1pf(x); }
LADA_HD double log1p_positive(double x) { return log1p(x); }
LADA_HD float log_positive(float x) { return logf(x); }
LADA_HD double log_positive(double x) { return log(x); }

#else

template <class A>
struct Elementary;

template <>
struct Elementary<float> {
  using Bits = uint32_t;
  static constexpr int kMantissa = 23;
  static constexpr Bits kOne = 0x3f800000u, kRootHalf = 0x3f3504f3u;
  static constexpr float kRound = 12583039.0f;  // 1.5 * 2^23 + 127: after adding it, the low bits are a biased exponent
  static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;

  // e^r for |r| <= ln 2 / 2; minimax, relative error 8e-8
  static constexpr float kExp[] = {1.000000072f,  0.9999996918f,  0.4999889441f,
                                   0.1666757509f, 0.04191543147f, 0.008297648357f};
  LADA_HD static float exp_reduced(float r) { return horner(r, kExp[0], kExp[1], kExp[2], kExp[3], kExp[4], kExp[5]); }
  // (log(1 + f) - 2 s) / s + f^2 / 2 with s = f / (2 + f) and z = s^2; fdlibm's coefficients
  LADA_HD static float log_series(float z) {
    return z * horner(z, 0.66666662693f, 0.40000972152f, 0.28498786688f, 0.24279078841f);
  }
  LADA_HD static float exponent(Bits shifted) { return static_cast<float>(static_cast<int32_t>(shifted)); }
};

template <>
struct Elementary<double> {
  using Bits = uint64_t;
  static constexpr int kMantissa = 52;
  static constexpr Bits kOne = 0x3ff0000000000000u, kRootHalf = 0x3fe6a09e667f3bcdu;
  static constexpr double kRound = 6755399441056767.0;  // 1.5 * 2^52 + 1023
  static constexpr double kLn2High = 6.93147180369123816490e-01, kLn2Low = 1.90821492927058770002e-10;

  LADA_HD static double exp_reduced(double r) {  // Taylor: the remainder is below 1e-17
    return horner(r, 1.0, 1.0, 1 / 2.0, 1 / 6.0, 1 / 24.0, 1 / 120.0, 1 / 720.0, 1 / 5040.0, 1 / 40320.0, 1 / 362880.0,
                  1 / 3628800.0, 1 / 39916800.0, 1 / 479001600.0, 1 / 6227020800.0);
  }
  LADA_HD static double log_series(double z) {
    return z * horner(z, 6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01,
                      2.222219843214978396e-01, 1.818357216161805012e-01, 1.531383769920937332e-01,
                      1.479819860511658591e-01);
  }
  LADA_HD static double exponent(Bits shifted) {  // an integer below 2^52 in the mantissa of 2^52
    return bits_as<double>(shifted | 0x4330000000000000u) - 4503599627370496.0;
  }
};

// exp(x) for exp_floor() <= x <= 0, with a relative error below (2 + |x|) units in the last place; 0 where it would be
// denormal, because the biased exponent is then 0. NaN stays NaN.
template <class A>
LADA_HD A exp_negative(A x) {
  using E = Elementary<A>;
  const A shifted = x * A(1.44269504088896341) + E::kRound, k = shifted - E::kRound;
  const A r = x - k * A(0.693147180559945309);
  return E::exp_reduced(r) * bits_as<A>(bits_as<typename E::Bits>(shifted) << E::kMantissa);
}

// k ln 2 + log(1 + f) for f in [sqrt(1/2) - 1, sqrt(2) - 1]
template <class A>
LADA_HD A log_assembled(A k, A f) {
  using E = Elementary<A>;
  const A s = f / (2 + f), half = A(0.5) * f * f;
  return k * E::kLn2High - ((half - (s * (half + E::log_series(s * s)) + k * E::kLn2Low)) - f);
}

// log(1 + x) for finite x >= 0, relatively exact as x -> 0
template <class A>
LADA_HD A log1p_positive(A x) {
  using E = Elementary<A>;
  using Bits = typename E::Bits;
  constexpr Bits kFraction = (Bits(1) << E::kMantissa) - 1;
  const Bits bits = bits_as<Bits>(1 + x) - E::kRootHalf;
  const A k = E::exponent(bits >> E::kMantissa);
  const A reduced = bits_as<A>((bits & kFraction) + E::kRootHalf) - 1;
  return log_assembled(k, k == 0 ? x : reduced);
}

// log(x) for normal 0 < x <= 1; finite, and wrong, for others
template <class A>
LADA_HD A log_positive(A x) {
  using E = Elementary<A>;
  using Bits = typename E::Bits;
  constexpr Bits kFraction = (Bits(1) << E::kMantissa) - 1, kBias = E::kOne >> E::kMantissa;
  const Bits bits = bits_as<Bits>(x) - E::kRootHalf + E::kOne;  // the exponent, biased as in x itself
  const A k = E::exponent(bits >> E::kMantissa) - static_cast<A>(kBias);
  const A reduced = bits_as<A>((bits & kFraction) + E::kRootHalf) - 1;
  return log_assembled(k, reduced);
}

#endif

// log(p) of a probability, for sums of p log p: 0 for p = 0, NaN for NaN.
template <class A>
LADA_HD A log_of_probability(A p) {
  const A value = log_positive(p);
  return p > 0 ? value : p;
}

}  // namespace lada
