// Uncertainty of one row of logits z, and its gradient, from one online pass over the row.
//
// With m = max z, d_j = z_j - m and the sums below,  p_j = exp(d_j) / (1 + rest)  and
//   entropy (nats)   H = -sum_j p_j log p_j = log(1 + rest) - weighted / (1 + rest)      dH/dz_j = -p_j (d_j - mean_d)
//   variation ratio  V = 1 - max_j p_j      = rest / (1 + rest)                          dV/dz_j = p_max (p_j - [j is
//   max])
// Both keep their relative accuracy when the row is almost certain. A logit of -inf is probability zero; a row that
// is all -inf, or holds NaN or +inf, gives NaN.
#pragma once
#include "../common/math.h"

namespace lada {

enum class Score { kEntropy, kVariationRatio };

template <class A>
struct RowStats {
  A max = -infinity<A>();
  A rest = 0;           // sum of exp(d_j) over all j but the first maximum
  A weighted = 0;       // sum of exp(d_j) d_j
  int64_t argmax = -1;  // first index of the maximum
};

template <class A>
LADA_HD void push(RowStats<A>& s, A z, int64_t j) {
  if (z > s.max) {
    if (s.argmax >= 0) {
      const A shift = s.max - z, scale = std::exp(shift);
      s.weighted = scale * (s.weighted + shift * (1 + s.rest));
      s.rest = scale * (1 + s.rest);
    }
    s.max = z;
    s.argmax = j;
  } else if (z != -infinity<A>()) {
    const A d = z - s.max, e = std::exp(d);
    s.rest += e;
    s.weighted += e * d;
  }
}

// The statistics of two disjoint parts of a row together.
template <class A>
LADA_HD RowStats<A> merge(RowStats<A> a, RowStats<A> b) {
  if (b.max > a.max || (b.max == a.max && b.argmax < a.argmax)) {
    const RowStats<A> other = a;
    a = b;
    b = other;
  }
  if (b.max == -infinity<A>()) {  // b is empty or holds NaN
    a.rest += b.rest;
    a.weighted += b.weighted;
    return a;
  }
  const A shift = b.max - a.max, scale = std::exp(shift);
  a.weighted += scale * (b.weighted + shift * (1 + b.rest));
  a.rest += scale * (1 + b.rest);
  return a;
}

template <class A>
LADA_HD bool is_valid(const RowStats<A>& s) {
  return s.max > -infinity<A>() && s.max < infinity<A>();
}

template <class A>
LADA_HD A score_of(const RowStats<A>& s, Score score) {
  if (!is_valid(s)) return not_a_number<A>();
  const A sum = 1 + s.rest;
  return score == Score::kEntropy ? std::log1p(s.rest) - s.weighted / sum : s.rest / sum;
}

// d score / d z_j
template <class A>
LADA_HD A score_gradient(const RowStats<A>& s, Score score, A z, int64_t j) {
  if (!is_valid(s)) return not_a_number<A>();
  if (z == -infinity<A>()) return 0;
  const A sum = 1 + s.rest, d = z - s.max, p = std::exp(d) / sum;
  if (score == Score::kEntropy) return -p * (d - s.weighted / sum);
  return j == s.argmax ? -s.rest / (sum * sum) : p / sum;
}

}  // namespace lada
