// Eq. 13 for a pair of rows a, b of logits:  f(a) + f(b) + gamma / N sum_n f(lam_n a + (1 - lam_n) b).
#pragma once
#include "../scores/formula.h"

namespace lada {

// Whether a pair's index names a row of the pool.
LADA_HD bool is_row(int64_t index, int64_t rows) { return index >= 0 && index < rows; }

// lam = 0, and 1 - lam = 0, are kept from meeting a logit of -inf, which would give NaN. NaN stays NaN.
LADA_HD float positive_weight(float weight) { return weight < 1.17549435e-38f ? 1.17549435e-38f : weight; }
LADA_HD double positive_weight(double weight) {
  return weight < 2.2250738585072014e-308 ? 2.2250738585072014e-308 : weight;
}

// What lam changes: the derivative of a mixed logit to lam, times the gradient to that logit. Classes of probability
// zero, whose logits may be -inf, add nothing.
template <class A>
LADA_HD A slope_to_lam(A gradient, A a, A b) {
  return gradient == 0 ? A(0) : gradient * (a - b);
}

// A pair's place in the order of top_pairs: higher score first, then the smaller first index, then the second.
template <class A>
struct RankedPair {
  A score;
  int64_t first, second;

  LADA_HD bool before(const RankedPair& other) const {
    if (score != other.score) return score > other.score;
    return first != other.first ? first < other.first : second < other.second;
  }
};

// Whether no pair with an own score and bound of `most` in sum, none of its indices below `least_index`, is before
// `threshold`.
template <class A>
LADA_HD bool is_hopeless(A most, int64_t least_index, const RankedPair<A>& threshold) {
  return most < threshold.score || (most == threshold.score && least_index > threshold.first);
}

// One step of sum_n weight_n f_n. Scores and their bound are formed by it, so that rounding cannot part them.
template <class A>
LADA_HD A add_weighted(A sum, A weight, A score) {
  return std::fma(weight, score, sum);
}

// f of a mixture within its bounds, which rounding may pass; NaN stays NaN.
template <class A>
LADA_HD A bounded(A score, A most) {
  return smaller(most, larger(A(0), score));
}

}  // namespace lada
