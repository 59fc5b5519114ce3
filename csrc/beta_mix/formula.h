// Exact draws from Beta(tau, tau) for every tau in (0, inf), and their derivative to tau.
//
// Sampler. With U, V uniform on (0, 1), Bailey's polar Student-t transform gives the logit of a symmetric Beta:
//   x = 2 asinh(sqrt(U^(-1/tau) - 1) cos(2 pi V)),   lam = 1 / (1 + exp(-x)).
// It rejects nothing, so lam is a pure function of (key, index, n, tau). It is evaluated here without overflow or
// cancellation, and returns lam and mu = 1 - lam both exact at their small side.
//
// Gradient. Implicit: dx/dtau at a fixed value of the CDF, also called the optimal mass transport (OMT) gradient;
// tables.h covers |x| <= 3, a series in a = sech(x/2)^2 the rest. Pathwise: dx/dtau at fixed U and V; the implicit one
// is its mean given lam. Both are formed as tau dx/dtau = dx/dlog tau; callers divide by tau once, after all sums.
//
// Everything is written with selections in place of branches, so that loops over draws can run in vectors.
#pragma once
#include "../common/math.h"
#include "../common/philox.h"
#include "elementary.h"

namespace lada {

// kFar: where e^-z does not change 1 any more; beyond it e^-z is kept as e^-(z - kFar), which ends at kFarEnd.
template <class A>
struct BetaLimits;

template <>
struct BetaLimits<float> {
  static constexpr float kMinTau = 1e-36f, kMaxTau = 1e36f, kMax = 3.4028235e38f, kMaxPower = 87;
  static constexpr float kFar = 64, kFarEnd = 150, kExpMinusFar = 1.6038108906e-28f;
  static constexpr int kTailTerms = 8;
};

template <>
struct BetaLimits<double> {
  static constexpr double kMinTau = 1e-300, kMaxTau = 1e300, kMax = 1.7976931348623157e308, kMaxPower = 700;
  static constexpr double kFar = 600, kFarEnd = 1300, kExpMinusFar = 2.6503965530043108e-261;
  static constexpr int kTailTerms = 14;
};

template <class A>
LADA_HD A clamp_tau(A tau) {
  return clamp(tau, BetaLimits<A>::kMinTau, BetaLimits<A>::kMaxTau);
}

// tau as the formulas want it; NaN stands for none.
template <class A>
LADA_HD A valid_tau(A tau) {
  return tau > 0 ? clamp_tau(tau) : not_a_number<A>();
}

// tau of what the caller gave: itself, or its logarithm. Only log 0 and NaN stand for no concentration.
template <class A>
LADA_HD A tau_of_given(A given, bool is_log) {
  if (!is_log) return given;
  const A tau = std::exp(given);
  return given > -infinity<A>() && tau < BetaLimits<A>::kMinTau ? BetaLimits<A>::kMinTau : tau;
}

// Turns a derivative to log tau into one to what the caller gave.
template <class A>
LADA_HD A gradient_to_given(A to_log_tau, A tau, bool is_log) {
  return is_log ? to_log_tau : clamp(to_log_tau / clamp_tau(tau), -BetaLimits<A>::kMax, BetaLimits<A>::kMax);
}

// What one Philox call becomes: E = -log U, C = |cos 2 pi V| and the sign of the cosine.
template <class A>
struct BetaUniforms {
  A exponential, cosine;
  bool negative;
};

// U = (u + 1/2) / 2^bits; 1 - U is as exact as U, so E is relatively exact also near U = 1. V: a sign and a fraction.
template <class A, class Word>
LADA_HD BetaUniforms<A> uniforms_of(Word u, Word v, A step) {
  constexpr Word kTop = Word(1) << (8 * sizeof(Word) - 1);
  const A uniform = (real_of(u) + A(0.5)) * step, rest = (real_of(static_cast<Word>(~u)) + A(0.5)) * step;
  const A fraction = (real_of(static_cast<Word>(v & (kTop - 1))) + A(0.5)) * (2 * step);
  return {-log_with_residual(uniform, -rest), sin_half_pi(fraction), (v & kTop) != 0};
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

// `stretch` is z / (1 - e^-z) with z = E / tau, which the pathwise derivative needs.
template <class A>
struct BetaDraw {
  A logit, lam, mu, stretch;
};

// With z = E / tau, e^-z = U^(1/tau) =: u, A = C sqrt(1 - u), S = A + sqrt(u + A^2): the small and the large side of
// lam are (u, S^2) / (u + S^2), and |x| = log1p(2 A S / u), or z + 2 log S where u is tiny. tau is a valid_tau; NaN
// gives NaN.
template <class A>
LADA_HD BetaDraw<A> beta_from_uniforms(const BetaUniforms<A>& uniform, A tau) {
  using Limits = BetaLimits<A>;
  const A z = uniform.exponential / tau;
  const bool far = z > Limits::kFar;
  const A is_far = far ? 1 : 0, cut = Limits::kFarEnd < z ? Limits::kFarEnd : z;
  const ExpMinus<A> near_or_far = exp_minus(cut - is_far * Limits::kFar);
  const A m = near_or_far.complement < is_far ? is_far : near_or_far.complement;
  const A u = near_or_far.power, added_u = u * (1 - is_far);
  const A a = uniform.cosine * std::sqrt(m), s = a + std::sqrt(added_u + a * a), s2 = s * s;
  const A inverse = 1 / (added_u + s2), small = u * inverse * (far ? Limits::kExpMinusFar : A(1)), large = s2 * inverse;
  const A w = 2 * a * s / u, log = log_with_residual(far ? s : 1 + w, far ? s - 1 : w);
  const A magnitude = z < infinity<A>() ? is_far * z + (1 + is_far) * log : z;
  return {uniform.negative ? -magnitude : magnitude, uniform.negative ? small : large, uniform.negative ? large : small,
          m > 0 ? z / m : A(1)};
}

// Sample n of the pair with this index. key[0] is the Philox key, the low half of key[1] names a stream.
template <class A>
LADA_HD BetaDraw<A> beta_draw(const int64_t* key, int64_t index, int64_t n, A tau) {
  const auto bits = static_cast<uint64_t>(index);
  const Philox4 counter = {{static_cast<uint32_t>(n), static_cast<uint32_t>(bits), static_cast<uint32_t>(bits >> 32),
                            static_cast<uint32_t>(static_cast<uint64_t>(key[1]))}};
  BetaUniforms<A> uniform;
  uniforms(philox(static_cast<uint64_t>(key[0]), counter), uniform);
  return beta_from_uniforms(uniform, valid_tau(tau));
}

template <class A>
struct Horner {
  A x;

  template <class... Coefficients>
  LADA_HD A operator()(Coefficients... c) const {
    return horner(x, c...);
  }
};

// sum_k b_k a^k tau / (tau + k) and sum_k b_k a^k k / (tau + k)^2, from k = 0 and k = 1 on: the two sums of beta_tail.
template <class A>
struct TailSums {
  A factor, rest;
};

// What dx / dlog tau needs of a valid_tau alone. Loops over draws of one tau keep it in a form of their own.
template <class A>
struct SlopeOfTau {
  A tau, s;

  LADA_HD explicit SlopeOfTau(A valid) : tau(valid), s(1 - A(1.5) / (tau + A(0.75))) {}
  LADA_HD A centre(A u) const { return beta_centre_rows(s, Horner<A>{u}); }
  LADA_HD A d() const { return beta_d_table(s); }
  LADA_HD TailSums<A> tail(A a) const {
    A weight = 1;
    TailSums<A> sums = {1, 0};
    for (int k = 1; k <= BetaLimits<A>::kTailTerms; ++k) {
      weight *= a * (A(2 * k - 1) / A(2 * k));
      const A inverse = 1 / (tau + k);
      sums.factor += weight * (tau * inverse);
      sums.rest += weight * (k * inverse) * inverse;
    }
    return sums;
  }
};

// dx / dlog tau at |x| > 3, x > 0: with b_k = C(2k, k) / 4^k, as many k as it takes and M = log a - d(tau),
//   M (1 + sum_k b_k a^k tau / (tau + k)) + sum_k b_k a^k k / (tau + k)^2.
template <class A, class OfTau>
LADA_HD A beta_tail(A x, const OfTau& of_tau) {
  const A e = exp_minus(x < BetaLimits<A>::kMaxPower ? x : BetaLimits<A>::kMaxPower).power;
  const A m = A(1.38629436111989062) - x - 2 * log_with_residual(1 + e, e) - of_tau.d();
  const TailSums<A> sums = of_tau.tail(4 * e / ((1 + e) * (1 + e)));
  return m * sums.factor + sums.rest;
}

// dx / dlog tau: odd in x, exactly 0 at x = 0, never NaN or Inf unless x is NaN.
template <class A, class OfTau>
LADA_HD A beta_logit_slope(A x, const OfTau& of_tau) {
  const A magnitude = std::abs(x), finite = magnitude < BetaLimits<A>::kMax ? magnitude : BetaLimits<A>::kMax;
  const A inner = finite < 3 ? finite : A(3), third = inner / 3;
  const A centre = -inner * of_tau.centre(2 * third * third - 1);
  const A tail = beta_tail(finite > 3 ? finite : A(3), of_tau);
  const A slope = magnitude <= 3 ? centre : tail;
  return x > 0 ? slope : (x < 0 ? -slope : x);  // NaN stays NaN
}

template <class A>
LADA_HD A beta_logit_gradient_log_tau(A x, A tau) {
  return beta_logit_slope(x, SlopeOfTau<A>(valid_tau(tau)));
}

// dx / dtau, cut off at the largest finite number (reached only for tau < 1e-36 in float32).
template <class A>
LADA_HD A beta_logit_gradient(A x, A tau) {
  if (!(tau > 0)) return not_a_number<A>();
  return gradient_to_given(beta_logit_gradient_log_tau(x, tau), tau, false);
}

template <class A>
LADA_HD A beta_logit_gradient_pathwise(const BetaDraw<A>& draw) {
  return -(draw.lam - draw.mu) * draw.stretch;
}

// dlam / dlog tau from dx / dlog tau. With the implicit one it is bounded by 0.2239 for every tau and x.
template <class A>
LADA_HD A beta_lam_gradient(const BetaDraw<A>& draw, A of_logit) {
  const A slope = draw.lam * draw.mu;
  return slope == 0 ? A(0) : slope * of_logit;
}

template <class A>
LADA_HD A beta_lam_gradient_log_tau(const BetaDraw<A>& draw, A tau, bool pathwise) {
  return beta_lam_gradient(
      draw, pathwise ? beta_logit_gradient_pathwise(draw) : beta_logit_gradient_log_tau(draw.logit, tau));
}

}  // namespace lada
