// The bridge between consistency.cpp (tensors) and its backends (pointers): plain structs, no torch header.
//
// CAL's score of an instance m seen in several views v: sum_c Var_v p_vmc, with p = softmax(logits) and the variance
// over all the views there are (divided by V, not by V - 1). With e_vc = p_vc - mean_v p_vc
//   d score / d z_vc = 2/V p_vc (e_vc - sum_j p_vj e_vj)
#pragma once
#include <cstdint>

#include "../common/dtype.h"
#include "../common/math.h"

namespace lada {

struct Consistency {
  const void* logits;  // (views, rows, classes), storage type
  void* out;           // (rows,), arithmetic type
  int64_t views, rows, classes;
  DType dtype;
};

struct ConsistencyBackward {
  const void* grad;  // (rows,), arithmetic type
  const void* logits;
  void* means;        // (rows, classes), arithmetic type, scratch that CUDA uses
  void* grad_logits;  // like logits
  int64_t views, rows, classes;
  DType dtype;
};

// softmax of one row, as p_c = exp(z_c - max) / sum. A row that is all -inf, or holds NaN or +inf, gives NaN.
template <class A>
struct Softmax {
  A max, sum;

  LADA_HD A operator()(A z) const { return max < infinity<A>() ? std::exp(z - max) / sum : not_a_number<A>(); }
};

// Mean and sum of squared deviations of a growing sample (Welford, 1962).
template <class A>
struct Moments {
  A mean = 0, squares = 0;

  LADA_HD void push(A value, int64_t count) {
    const A change = value - mean;
    mean += change / static_cast<A>(count);
    squares += change * (value - mean);
  }
};

namespace cpu {
void consistency(const Consistency&, int threads);
void consistency_backward(const ConsistencyBackward&, int threads);
}  // namespace cpu

namespace cuda {
void consistency(const Consistency&, void* stream);
void consistency_backward(const ConsistencyBackward&, void* stream);
}  // namespace cuda

}  // namespace lada
