// Logits of mixtures of features that a frozen classifier takes through ReLU and an affine map:
//   m_nd = lam_n a_d + mu_n b_d, mu = 1 - lam (Eq. 10)      logits_nc = sum_d w_cd relu(m_nd) + bias_c
//   dlogits_nc / dlam_n = sum_d [m_nd > 0] w_cd (a_d - b_d)
// NaN passes through both, as it does through torch's relu and its gradient.
#pragma once
#include "../common/math.h"

namespace lada {

// Rounded alike in the forward and the backward pass, which must agree on its sign.
template <class A>
LADA_HD A mixture(A lam, A mu, A a, A b) {
  return std::fma(lam, a, mu * b);
}

template <class A>
LADA_HD A relu(A mixed) {
  return mixed < 0 ? A(0) : mixed;
}

template <class A>
LADA_HD A relu_gradient(A mixed, A gradient) {
  return mixed <= 0 ? A(0) : gradient;
}

}  // namespace lada
