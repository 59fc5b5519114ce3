// What becomes of the four sums of a window, for one output or for a vector of them.
#pragma once
#include "../common/math.h"

namespace lada::cpu {

// The greatest, rectified, and the bit of its place unless it is cut off; the first of equals, and NaN is greater than
// all.
template <class A, class V>
LADA_HD void pool_greatest(const V (&results)[4], V& value, V& where) {
  value = results[0];
  where = V{} + A(1);
  for (int p = 1; p < 4; ++p) {
    const auto greater = (results[p] > value) | (results[p] != results[p]);
    value = greater ? results[p] : value;
    where = greater ? static_cast<A>(1 << p) : where;
  }
  where = value <= A(0) ? A(0) : where;
  value = value <= A(0) ? A(0) : value;
}

// The mean of all four, each rectified, and the bits of those that are not cut off.
template <class A, class V>
LADA_HD void pool_mean(const V (&results)[4], V& value, V& where) {
  value = where = V{};
  for (int p = 0; p < 4; ++p) {
    value += results[p] <= A(0) ? A(0) : results[p];
    where += results[p] <= A(0) ? A(0) : static_cast<A>(1 << p);
  }
  value *= A(0.25);
}

template <class A, class V>
LADA_HD void pool(bool mean, const V (&sums)[4], const V& bias, V& value, V& where) {
  const V results[4] = {sums[0] + bias, sums[1] + bias, sums[2] + bias, sums[3] + bias};
  mean ? pool_mean<A>(results, value, where) : pool_greatest<A>(results, value, where);
}

}  // namespace lada::cpu
