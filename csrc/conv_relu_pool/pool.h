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

// The first `count` lanes. For a count that is known when this is inlined, they are stored as vectors.
template <class V, class T>
LADA_HD void store_first(const V& lanes, int64_t count, T* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<T>(lanes[i]);
}

// What became of a window, for `count` outputs.
template <class A, class V>
LADA_HD void store_pooled(const V& value, const V& bits, int64_t count, A* result, uint8_t* where) {
  store_first(value, count, result);
  store_first(bits, count, where);
}

}  // namespace lada::cpu
