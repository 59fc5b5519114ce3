// Storage types and the type arithmetic is done in: float64 for float64, float32 for all others.
#pragma once
#include "math.h"

namespace lada {

enum class DType { kFloat64, kFloat32, kFloat16, kBFloat16 };

template <class T>
struct Tag {
  using type = T;
};

template <class T>
struct Arithmetic {
  using type = float;
};
template <>
struct Arithmetic<double> {
  using type = double;
};
template <class T>
using arithmetic_t = typename Arithmetic<T>::type;

// A number from Python in both arithmetic types, so that a float kernel converts no double.
struct Scalar {
  double wide;
  float narrow;

  Scalar(double value) : wide(value), narrow(static_cast<float>(value)) {}
  LADA_HD void get(double& value) const { value = wide; }
  LADA_HD void get(float& value) const { value = narrow; }
  template <class A>
  LADA_HD A as() const {
    A value;
    get(value);
    return value;
  }
};

// Calls f(Tag<A>{}) with the arithmetic type of `dtype`.
template <class F>
void dispatch_arithmetic(DType dtype, F&& f) {
  dtype == DType::kFloat64 ? f(Tag<double>{}) : f(Tag<float>{});
}

}  // namespace lada
