// What becomes of the four sums of a window, for one output or for a vector of them.
#pragma once
#include "../common/math.h"

namespace lada::cpu {

// The greatest, rectified, and the bit of its place unless it is cut off; NaN is greater than all.
template <class A, class V>
LADA_HD void pool_greatest(const V (&sums)[4], const V& bias, V& value, V& where) {
  value = sums[0];
  where = V{} + A(1);
  for (int p = 1; p < 4; ++p) {
    const auto greater = (sums[p] > value) | (sums[p] != sums[p]);
    value = greater ? sums[p] : value;
    where = greater ? static_cast<A>(1 << p) : where;
  }
  value += bias;
  where = value <= A(0) ? A(0) : where;
  value = value <= A(0) ? A(0) : value;
}

// The mean of all four, each rectified, and the bits of those that are not cut off.
template <class A, class V>
LADA_HD void pool_mean(const V (&sums)[4], const V& bias, V& value, V& where) {
  value = where = V{};
  for (int p = 0; p < 4; ++p) {
    const V sum = sums[p] + bias;
    value += sum <= A(0) ? A(0) : sum;
    where += sum <= A(0) ? A(0) : static_cast<A>(1 << p);
  }
  value *= A(0.25);
}

template <class A, class V>
LADA_HD void pool(bool mean, const V (&sums)[4], const V& bias, V& value, V& where) {
  mean ? pool_mean<A>(sums, bias, value, where) : pool_greatest<A>(sums, bias, value, where);
}

}  // namespace lada::cpu
