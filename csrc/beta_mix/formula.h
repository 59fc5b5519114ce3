// Exact draws from Beta(tau, tau) for every tau in (0, inf), and their derivative to tau.
//
// Sampler. With U, V uniform on (0, 1), Bailey's polar Student-t transform gives the logit of a symmetric Beta:
//   x = 2 asinh(sqrt(U^(-1/tau) - 1) cos(2 pi V)),   lam = 1 / (1 + exp(-x)).
// It rejects nothing, so lam is a pure function of (key, index, n, tau). It is evaluated here without overflow or
// cancellation, and returns lam and mu = 1 - lam both exact at their small side.
//
// Gradient. dx/dtau at a fixed value of the CDF: the implicit, or optimal mass transport (OMT), gradient. tables.h
// covers |x| <= 3, a series in a = sech(x/2)^2 the rest. It is formed as tau dx/dtau = dx/dlog tau, which is bounded
// by |x|; callers divide by tau once, after all sums.
#pragma once
#include "../common/math.h"
#include "../common/philox.h"
#include "tables.h"

namespace lada {

template <class A>
struct BetaLimits;

template <>
struct BetaLimits<float> {
  static constexpr float kMinTau = 1e-36f, kMaxTau = 1e36f, kMinPower = 1e-30f, kMax = 3.4028235e38f;
  static constexpr int kTailTerms = 8;
};

template <>
struct BetaLimits<double> {
  static constexpr double kMinTau = 1e-300, kMaxTau = 1e300, kMinPower = 1e-290, kMax = 1.7976931348623157e308;
  static constexpr int kTailTerms = 14;
};

template <class A>
LADA_HD A clamp_tau(A tau) {
  return clamp(tau, BetaLimits<A>::kMinTau, BetaLimits<A>::kMaxTau);
}

// What one Philox call becomes: E = -log U, C = |cos 2 pi V| and the sign of the cosine.
template <class A>
struct BetaUniforms {
  A exponential, cosine;
  bool negative;
};

// -log((k + 1/2) / 2^bits), relatively exact also where it is small, that is for k near 2^bits.
template <class A, class Word>
LADA_HD A minus_log_uniform(Word k, A step) {
  constexpr Word kHalf = Word(1) << (8 * sizeof(Word) - 1);
  return k < kHalf ? -std::log((static_cast<A>(k) + A(0.5)) * step)
                   : -std::log1p(-(static_cast<A>(static_cast<Word>(~k)) + A(0.5)) * step);
}

template <class A, class Word>
LADA_HD BetaUniforms<A> uniforms_of(Word u, Word v, A step) {
  constexpr Word kTop = Word(1) << (8 * sizeof(Word) - 1);
  const Word fraction = v & (kTop - 1);
  return {minus_log_uniform(u, step), sin_half_pi((static_cast<A>(fraction) + A(0.5)) * (2 * step)), (v & kTop) != 0};
}

// float32 uses the upper halves of the 64-bit words that float64 uses, so both draw the same numbers.
LADA_HD void uniforms(const Philox4& r, BetaUniforms<float>& out) {
  out = uniforms_of<float, uint32_t>(r.word[0], r.word[2], 2.3283064365386963e-10f);
}

LADA_HD void uniforms(const Philox4& r, BetaUniforms<double>& out) {
  const uint64_t u = static_cast<uint64_t>(r.word[0]) << 32 | r.word[1];
  const uint64_t v = static_cast<uint64_t>(r.word[2]) << 32 | r.word[3];
  out = uniforms_of<double, uint64_t>(u, v, 5.4210108624275222e-20);
}

template <class A>
struct BetaDraw {
  A logit, lam, mu;
};

template <class A>
LADA_HD BetaDraw<A> beta_from_uniforms(const BetaUniforms<A>& uniform, A tau) {
  if (!(tau > 0)) return {not_a_number<A>(), not_a_number<A>(), not_a_number<A>()};
  const A z = uniform.exponential / clamp_tau(tau);
  const A m = -std::expm1(-z), u = z < A(0.5) ? 1 - m : std::exp(-z);
  const A a = uniform.cosine * std::sqrt(m), s = a + std::sqrt(u + a * a), s2 = s * s;
  const bool in_range = u > BetaLimits<A>::kMinPower;
  const A magnitude = in_range ? std::log1p(2 * a * s / u) : z + 2 * std::log(s);
  const A small = in_range ? u / (u + s2) : std::exp(-magnitude), large = s2 / (u + s2);
  return uniform.negative ? BetaDraw<A>{-magnitude, small, large} : BetaDraw<A>{magnitude, large, small};
}

// Sample n of the pair with this index. key[0] is the Philox key, the low half of key[1] names a stream.
template <class A>
LADA_HD BetaDraw<A> beta_draw(const int64_t* key, int64_t index, int64_t n, A tau) {
  const auto bits = static_cast<uint64_t>(index);
  const Philox4 counter = {{static_cast<uint32_t>(n), static_cast<uint32_t>(bits), static_cast<uint32_t>(bits >> 32),
                            static_cast<uint32_t>(static_cast<uint64_t>(key[1]))}};
  BetaUniforms<A> uniform;
  uniforms(philox(static_cast<uint64_t>(key[0]), counter), uniform);
  return beta_from_uniforms(uniform, tau);
}

// dx / dlog tau at |x| > 3, x > 0: with b_k = C(2k, k) / 4^k, K large enough and M = log a - d(tau),
//   M (1 + sum_k b_k a^k tau / (tau + k)) + sum_k b_k a^k k / (tau + k)^2.
template <class A>
LADA_HD A beta_tail(A x, A tau, A s) {
  const A e = std::exp(-x);
  const A m = A(1.38629436111989062) - x - 2 * std::log1p(e) - beta_d_table(s);
  const A a = 4 * e / ((1 + e) * (1 + e));
  A weight = 1, factor = 1, rest = 0;
  for (int k = 1; k <= BetaLimits<A>::kTailTerms; ++k) {
    weight *= a * (A(2 * k - 1) / A(2 * k));
    const A inverse = 1 / (tau + k);
    factor += weight * (tau * inverse);
    rest += weight * (k * inverse) * inverse;
  }
  return m * factor + rest;
}

// dx / dlog tau: odd in x, exactly 0 at x = 0, never NaN or Inf for finite x.
template <class A>
LADA_HD A beta_logit_gradient_log_tau(A x, A tau) {
  tau = clamp_tau(tau);
  const A s = 1 - A(1.5) / (tau + A(0.75)), magnitude = std::abs(x);
  if (magnitude <= 3) {
    const A third = x / 3;
    return -x * beta_centre_table(2 * third * third - 1, s);
  }
  const A tail = beta_tail(magnitude < BetaLimits<A>::kMax ? magnitude : BetaLimits<A>::kMax, tau, s);
  return x > 0 ? tail : (x < 0 ? -tail : x);  // NaN stays NaN
}

// dx / dtau, cut off at the largest finite number (reached only for tau < 1e-36 in float32).
template <class A>
LADA_HD A beta_logit_gradient(A x, A tau) {
  if (!(tau > 0)) return not_a_number<A>();
  const A gradient = beta_logit_gradient_log_tau(x, tau) / clamp_tau(tau);
  return clamp(gradient, -BetaLimits<A>::kMax, BetaLimits<A>::kMax);
}

// dlam / dlog tau, bounded by 0.2239 for every tau and x.
template <class A>
LADA_HD A beta_lam_gradient_log_tau(const BetaDraw<A>& draw, A tau) {
  const A slope = draw.lam * draw.mu;
  return slope == 0 ? A(0) : slope * beta_logit_gradient_log_tau(draw.logit, tau);
}

}  // namespace lada
