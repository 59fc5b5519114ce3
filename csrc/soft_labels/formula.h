// Cross entropy of a row of logits z with the mixed label lam [c = a] + mu [c = b], mu = 1 - lam (Eq. 14), and its
// gradients. With m = max z and S = sum_c exp(z_c - m):
//   loss = log S + lam (m - z_a) + mu (m - z_b)      dloss/dz_c = exp(z_c - m) / S - lam [c = a] - mu [c = b]
//   dloss/dlam = z_b - z_a
// A class of weight zero adds nothing, also at a logit of -inf. A row that is all -inf, or holds NaN or +inf, gives
// NaN.
#pragma once
#include "../common/elementary.h"
#include "../common/math.h"

namespace lada {

template <class A>
LADA_HD A exp_below_max(A z, A max) {
  const A d = z - max;
  return d > exp_floor<A>() ? exp_negative(d) : (d <= exp_floor<A>() ? A(0) : d);  // NaN stays NaN
}

// The label of a row: classes a and b, the weight of a, and whether both classes exist.
template <class A>
struct MixedLabel {
  int64_t a, b;
  A lam;
  bool exists;

  LADA_HD A weight(int64_t c) const { return (c == a ? lam : A(0)) + (c == b ? 1 - lam : A(0)); }
};

template <class A>
LADA_HD A soft_cross_entropy_of_row(A max, A sum, A z_a, A z_b, const MixedLabel<A>& label) {
  const A mu = 1 - label.lam;
  const bool valid = label.exists && max > -infinity<A>() && max < infinity<A>();
  const A loss =
      std::log(sum) + (label.lam == 0 ? A(0) : label.lam * (max - z_a)) + (mu == 0 ? A(0) : mu * (max - z_b));
  return valid ? loss : not_a_number<A>();
}

template <class A>
LADA_HD A soft_cross_entropy_gradient(A z, A max, A inverse_sum, int64_t c, const MixedLabel<A>& label) {
  return exp_below_max(z, max) * inverse_sum - label.weight(c);
}

}  // namespace lada
