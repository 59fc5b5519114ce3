// Logarithm, exponential and sine as the formulas of this family need them. In float32 they are polynomials without
// branches, so that a compiler can work on several draws at once; in float64 they are those of the C library.
#pragma once
#include "../common/elementary.h"
#include "../common/math.h"
#include "tables.h"

namespace lada {

// log 2 in two parts; the first has few digits, so that small multiples of it are exact.
struct LogTwo {
  static constexpr float kHigh = 0.693359375f, kLow = -2.12194440055e-4f, kInverse = 1.44269504089f;
};

// log y for a normal y > 0. `residual` is y - 1, given apart because near y = 1 the caller knows it better than y.
LADA_HD float log_with_residual(float y, float residual) {
  constexpr int32_t kRootHalf = 0x3f3504f3;
  const int32_t bits = bits_as<int32_t>(y), exponent = (bits - kRootHalf) >> 23;
  const float f = exponent == 0 ? residual : bits_as<float>(bits - exponent * (1 << 23)) - 1;
  const float e = static_cast<float>(exponent);
  return e * LogTwo::kHigh + (f + (e * LogTwo::kLow + f * f * (f * log_table(f) - 0.5f)));
}

LADA_HD double log_with_residual(double y, double residual) {
  return residual > -0.5 && residual < 1 ? std::log1p(residual) : std::log(y);
}

// e^-z and 1 - e^-z, both relatively exact.
template <class A>
struct ExpMinus {
  A power, complement;
};

LADA_HD ExpMinus<float> exp_minus(float z) {  // 0 <= z <= 87
  constexpr float kRound = 12582912;          // adding 1.5 * 2^23 leaves no digits behind the point
  const float shifted = z * LogTwo::kInverse + kRound, k = shifted - kRound;
  const float r = (k * LogTwo::kHigh - z) + k * LogTwo::kLow;
  const float minus_one = r + r * r * exp_table(r);
  const float scale = bits_as<float>((127 - (bits_as<int32_t>(shifted) - bits_as<int32_t>(kRound))) * (1 << 23));
  return {scale + scale * minus_one, (1 - scale) - scale * minus_one};
}

LADA_HD ExpMinus<double> exp_minus(double z) { return {std::exp(-z), -std::expm1(-z)}; }

// sin(pi v / 2) for v in [0, 1], relatively exact as v -> 0.
LADA_HD float sin_half_pi(float v) { return v * sin_table(v * v); }

LADA_HD double sin_half_pi(double v) {
#if defined(__CUDA_ARCH__)
  return sinpi(0.5 * v);  // without the slow argument reduction of sin
#else
  return std::sin(1.57079632679489662 * v);
#endif
}

LADA_HD float real_of(uint32_t k) { return static_cast<float>(k); }

LADA_HD double real_of(uint64_t k) { return static_cast<double>(k); }

}  // namespace lada
