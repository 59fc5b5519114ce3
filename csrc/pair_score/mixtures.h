// Mixtures lam a + mu b of two tiles of logits (scores/lanes.h), sample after sample: their scores, and the gradients.
//
// The weights are multiplied by log2 e before they meet the logits, so mixed logits are exponents of 2, which saves two
// multiplications of an exponential. The maximum is found while the logits are mixed.
#pragma once
#include "../beta_mix/draws.h"
#include "../scores/lanes.h"
#include "formula.h"

namespace lada::cpu {

constexpr double kLogTwo = 0.693147180559945309, kInverseLogTwo = 1.44269504088896341;

// 2^x is 0 here, where its exponent would be that of denormal numbers.
template <class A>
LADA_HD constexpr A exp2_floor() {
  return sizeof(A) == 4 ? A(-127) : A(-1023);
}

// 2^r for |r| <= 1/2: the polynomials of exp_negative in r log 2
LADA_HD float exp2_reduced(float r) {
  return horner(r, 1.000000072f, 0.693146967f, 0.2402211951f, 0.05550713393f, 0.009675552756f, 0.001327646122f);
}
LADA_HD double exp2_reduced(double r) { return Elementary<double>::exp_reduced(r * kLogTwo); }

// 2^x for exp2_floor() <= x <= 0; NaN stays NaN.
template <class A>
LADA_HD A exp2_negative(A x) {
  using E = Elementary<A>;
  const A shifted = x + E::kRound;
  return exp2_reduced(x - (shifted - E::kRound)) * bits_as<A>(bits_as<typename E::Bits>(shifted) << E::kMantissa);
}

// The draws of a tile of pairs: sample n of lane l is at [n * kLanes + l].
template <class A>
struct TileDraws {
  const A *lam, *mu, *slope;
};

// The sums of the exponentials 2^(z_j - max z) of all mixtures of a tile; `weighted` is in bits.
template <class A>
struct MixtureSums {
  Lane<A> max, ties, below, weighted;
};

template <class A>
LADA_HD void mix_tiles(const A* a, const A* b, const A* lam, const A* mu, int64_t classes, A* mixed, Lane<A>& max) {
  Lane<A> of_a, of_b;
  LADA_SIMD for (int l = 0; l < kRowLanes<A>; ++l) {
    of_a[l] = A(kInverseLogTwo) * positive_weight(lam[l]);
    of_b[l] = A(kInverseLogTwo) * positive_weight(mu[l]);
    max[l] = lowest<A>();
  }
  for (int64_t j = 0; j < classes; ++j) {
    LADA_SIMD for (int l = 0; l < kRowLanes<A>; ++l) {
      const int64_t i = j * kRowLanes<A> + l;
      mixed[i] = of_a[l] * a[i] + of_b[l] * b[i];
      max[l] = larger(mixed[i], max[l]);
    }
  }
}

// Sums over the exponentials of mixed logits, which are kept if `exps` is given.
template <Score kScore, class A>
LADA_HD void sum_mixture(const A* mixed, int64_t classes, A* exps, MixtureSums<A>& s) {
  const A floor = opaque(exp2_floor<A>()), zero = opaque(A(0));
  Lane<A> sum, below, weighted;
  LADA_SIMD for (int l = 0; l < kRowLanes<A>; ++l) s.ties[l] = s.below[l] = s.weighted[l] = zero;
  for (int64_t begin = 0; begin < classes; begin += kClassesOfASum) {
    const int64_t end = std::min(begin + kClassesOfASum, classes);
    LADA_SIMD for (int l = 0; l < kRowLanes<A>; ++l) sum[l] = below[l] = weighted[l] = zero;
    for (int64_t j = begin; j < end; ++j) {
      LADA_SIMD for (int l = 0; l < kRowLanes<A>; ++l) {
        const A d = larger(floor, mixed[j * kRowLanes<A> + l] - s.max[l]), e = exp2_negative(d);
        sum[l] += e;
        below[l] += d == 0 ? A(0) : e;
        if constexpr (kScore == Score::kEntropy) weighted[l] += e * d;
        if (exps) exps[j * kRowLanes<A> + l] = e;
      }
    }
    LADA_SIMD for (int l = 0; l < kRowLanes<A>; ++l) {
      s.ties[l] += std::nearbyint(sum[l] - below[l]);
      s.below[l] += below[l];
      if constexpr (kScore == Score::kEntropy) s.weighted[l] += weighted[l];
    }
  }
}

// Several scores of a lane with one logarithm and one division for all of them. Of S_n = 1 + r_n it keeps
// p = prod_n (1 + r_n) - 1, so that sum_n log S_n = log(1 + p), and q with sum_n w_n / S_n = q / (1 + p). Products stay
// relatively exact where all r_n are small; they must not overflow.
template <Score kScore, class A>
struct ScoreSum {
  Lane<A> p, q;

  LADA_HD void clear() {
    const A zero = opaque(A(0));
    for (int l = 0; l < kRowLanes<A>; ++l) p[l] = q[l] = zero;
  }

  // w_n is the weighted sum of S_n, or r_n itself for the variation ratio. Without a maximum there is no r_n: with -1
  // in its place 1 + p would be 0, but for its rounding.
  template <class Sums>
  LADA_HD void add(const Sums& s) {
    LADA_SIMD for (int l = 0; l < kRowLanes<A>; ++l) {
      const A rest = s.ties[l] > 0 ? s.below[l] + (s.ties[l] - 1) : not_a_number<A>(),
              part = kScore == Score::kEntropy ? s.weighted[l] : rest;
      q[l] = q[l] * (s.below[l] + s.ties[l]) + part * (1 + p[l]);
      p[l] += rest + p[l] * rest;
    }
  }

  // The sum in nats, where `weighted` are in units of 1 / unit nats.
  LADA_HD void add_to(Lane<A>& total, A unit) const {
    LADA_SIMD for (int l = 0; l < kRowLanes<A>; ++l) {
      const A product = 1 + p[l], ratio = q[l] / product;
      const A value = kScore == Score::kEntropy ? log1p_positive(p[l]) - unit * ratio : ratio;
      total[l] += product > 0 ? value : not_a_number<A>();
    }
  }
};

// How many sums of exponentials, each at most `classes`, may be multiplied.
template <class A>
int64_t factors_without_overflow(int64_t classes) {
  const double bits = sizeof(A) == 4 ? 100 : 1000;
  return std::max(int64_t{1}, static_cast<int64_t>(bits / std::log2(static_cast<double>(classes) + 1)));
}

// sum += the scores of all mixtures, of which at most `group` are taken together.
template <Score kScore, class A>
LADA_CLONES void add_mixture_scores(const A* a, const A* b, const TileDraws<A>& draws, int64_t samples, int64_t group,
                                    int64_t classes, A* mixed, Lane<A>& sum) {
  MixtureSums<A> s;
  ScoreSum<kScore, A> of_group;
  for (int64_t first = 0; first < samples; first += group) {
    of_group.clear();
    for (int64_t n = first; n < std::min(first + group, samples); ++n) {
      mix_tiles(a, b, draws.lam + n * kLanes, draws.mu + n * kLanes, classes, mixed, s.max);
      sum_mixture<kScore, A>(mixed, classes, nullptr, s);
      of_group.add(s);
    }
    of_group.add_to(sum, A(kLogTwo));
  }
}

// What the gradient of a mixture adds up to: to both ends, and along its draws' change with log tau.
template <class A>
struct MixtureGradients {
  A *to_a, *to_b;  // tiles
  Lane<A> to_log_tau;
};

// a - b, but 0 where a class is impossible in an end: it is so in every mixture, whose gradient to its logit is 0.
template <class A>
LADA_CLONES void difference_of_tiles(const A* a, const A* b, int64_t size, A* difference) {
  LADA_SIMD for (int64_t i = 0; i < size; ++i) {
    const A value = a[i] - b[i];
    difference[i] = std::abs(value) < infinity<A>() ? value : A(0);
  }
}

// With s = factor * d score / d mixed logits of sample n: to_a += lam s, to_b += mu s, to_log_tau += slope s (a - b).
template <Score kScore, class A>
LADA_HD void add_gradient(const A* mixed, const A* exps, const MixtureSums<A>& s, const A* difference,
                          const TileDraws<A>& draws, int64_t n, const Lane<A>& factor, int64_t classes,
                          MixtureGradients<A>& out) {
  constexpr int kWidth = kRowLanes<A>;
  const A floor = opaque(exp2_floor<A>());
  Lane<A> lam, mu, scale, mean, rest, firsts, to_lam;
  LADA_SIMD for (int l = 0; l < kWidth; ++l) {
    const A inverse = 1 / (s.ties[l] + s.below[l]);
    lam[l] = draws.lam[n * kLanes + l];
    mu[l] = draws.mu[n * kLanes + l];
    mean[l] = s.weighted[l] * inverse;
    scale[l] = (kScore == Score::kEntropy ? -A(kLogTwo) : inverse) * inverse * factor[l];
    rest[l] = s.below[l] + (s.ties[l] - 1);
    firsts[l] = to_lam[l] = 0;
  }
  for (int64_t j = 0; j < classes; ++j) {
    LADA_SIMD for (int l = 0; l < kWidth; ++l) {
      const int64_t i = j * kWidth + l;
      A gradient = scale[l] * exps[i];
      if constexpr (kScore == Score::kEntropy) {
        gradient *= larger(floor, mixed[i] - s.max[l]) - mean[l];
      } else {
        const A first = mixed[i] == s.max[l] ? 1 - firsts[l] : A(0);  // 1 where z is the first maximum
        firsts[l] += first;
        gradient = first != 0 ? -gradient * rest[l] : gradient;
      }
      out.to_a[i] += lam[l] * gradient;
      out.to_b[i] += mu[l] * gradient;
      to_lam[l] += gradient * difference[i];
    }
  }
  if (!draws.slope) return;
  LADA_SIMD for (int l = 0; l < kWidth; ++l) out.to_log_tau[l] += draws.slope[n * kLanes + l] * to_lam[l];
}

template <Score kScore, class A>
LADA_CLONES void add_mixture_gradients(const A* a, const A* b, const A* difference, const TileDraws<A>& draws,
                                       int64_t samples, int64_t classes, const Lane<A>& factor, A* mixed, A* exps,
                                       MixtureGradients<A>& out) {
  MixtureSums<A> s;
  for (int64_t n = 0; n < samples; ++n) {
    mix_tiles(a, b, draws.lam + n * kLanes, draws.mu + n * kLanes, classes, mixed, s.max);
    sum_mixture<kScore>(mixed, classes, exps, s);
    add_gradient<kScore>(mixed, exps, s, difference, draws, n, factor, classes, out);
  }
}

}  // namespace lada::cpu
