// Uncertainty of one row of logits z, and its gradient, from sums over the row.
//
// With m = max z, d_j = z_j - m, e_j = exp(d_j), S = sum_j e_j and p_j = e_j / S, the second largest of the p being p2:
//   entropy (nats)    H = -sum_j p_j log p_j = log S - sum_j e_j d_j / S     dH/dz_j = -p_j (d_j - sum_i p_i d_i)
//   variation ratio   V = 1 - p1,  p1 = 1 / S                                dV/dz_j = p1 (p_j - [j is first])
//   margin            G = 1 - (p1 - p2)                dG/dz_j = p_j (1 - G) - p1 [j is first] + p2 [j is second]
// S - 1 is kept beside S, so that all three are relatively exact also where the row is almost certain. A logit of -inf
// is probability zero; a row that is all -inf, or holds NaN or +inf, gives NaN: no comparison below drops a NaN that
// has entered a sum.
#pragma once
#include "../common/elementary.h"

namespace lada {

enum class Score { kEntropy, kVariationRatio, kMargin };

// Below every logit but -inf, and finite.
template <class A>
LADA_HD A lowest();
template <>
LADA_HD float lowest() {
  return -3.402823466e+38f;
}
template <>
LADA_HD double lowest() {
  return -1.7976931348623157e+308;
}

template <class A>
LADA_HD A larger(A a, A b) {
  return a > b ? a : b;
}

template <class A>
LADA_HD A smaller(A a, A b) {
  return a < b ? a : b;
}

template <class A>
struct RowStats {
  A max = lowest<A>();
  A second = lowest<A>();  // the second largest, equal to max if that occurs twice
  A ties = 0;              // how often max occurs
  A below = 0;             // sum of e_j over z_j < max
  A weighted = 0;          // sum of e_j d_j
};

// d_j: at least exp_floor, so that e_j = 0 has a finite factor; NaN if z_j, or z_j and max, are not numbers to
// subtract.
template <class A>
LADA_HD A below_max(A z, A max) {
  const A d = z - max;
  return exp_floor<A>() > d ? exp_floor<A>() : d;
}

// The sums relative to a larger maximum.
template <class A>
LADA_HD RowStats<A> raised(const RowStats<A>& s, A max) {
  const A shift = below_max(s.max, max), scale = exp_negative(shift), sum = s.ties + s.below;
  return s.max == max ? s : RowStats<A>{max, s.second, A(0), scale * sum, scale * (s.weighted + shift * sum)};
}

// The statistics of two disjoint parts of a row together.
template <class A>
LADA_HD RowStats<A> merge(const RowStats<A>& a, const RowStats<A>& b) {
  const A max = larger(a.max, b.max);
  const A second = larger(smaller(a.max, b.max), larger(a.second, b.second));
  const RowStats<A> x = raised(a, max), y = raised(b, max);
  return {max, second, x.ties + y.ties, x.below + y.below, x.weighted + y.weighted};
}

// Adds one element, whose value does not exceed s.max; returns e_j.
template <class A>
LADA_HD A add(RowStats<A>& s, A z) {
  const A d = below_max(z, s.max), e = exp_negative(d);
  if (d == 0)
    s.ties += 1;
  else
    s.below += e;
  s.weighted += e * d;
  return e;
}

template <class A>
LADA_HD A sum_of(const RowStats<A>& s) {
  return s.ties + s.below;
}

template <class A>
LADA_HD A score_of(const RowStats<A>& s, Score score) {
  const A rest = s.below + (s.ties - 1), sum = sum_of(s);
  A value;
  if (score == Score::kEntropy)
    value = log1p_positive(rest) - s.weighted / sum;
  else if (score == Score::kVariationRatio)
    value = rest / sum;
  else
    value = (rest + exp_negative(below_max(s.second, s.max))) / sum;
  return s.ties > 0 ? value : not_a_number<A>();
}

// What an element is to its row: gradients of maxima go to the first of equal elements.
enum class Role { kOther, kFirst, kSecond };

// d score / d z_j
template <class A>
LADA_HD A score_gradient(const RowStats<A>& s, Score score, A z, Role role) {
  const A inverse = 1 / sum_of(s), d = below_max(z, s.max), p = exp_negative(d) * inverse;
  if (score == Score::kEntropy) return -p * (d - s.weighted * inverse);
  const A value = score_of(s, score);
  if (score == Score::kVariationRatio) return role == Role::kFirst ? -value * inverse : p * inverse;
  return role == Role::kFirst ? -p * value : p * (role == Role::kSecond ? 2 - value : 1 - value);
}

}  // namespace lada
