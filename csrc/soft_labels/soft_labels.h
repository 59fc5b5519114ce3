// The bridge between soft_labels.cpp (tensors) and its backends (pointers): plain structs, no torch header.
#pragma once
#include <cstdint>

#include "../common/dtype.h"
#include "formula.h"

namespace lada {

// Rows of logits or of labels, `rows_of_pair` of them for each pair of labels.
struct SoftLabels {
  const int64_t *y_a, *y_b;  // (rows / rows_of_pair,)
  const void* lam;           // (rows,), arithmetic type
  int64_t rows, rows_of_pair, classes;

  template <class A>
  LADA_HD MixedLabel<A> label(int64_t row) const {
    const int64_t pair = row / rows_of_pair, a = y_a[pair], b = y_b[pair];
    return {a, b, static_cast<const A*>(lam)[row], a >= 0 && a < classes && b >= 0 && b < classes};
  }
};

struct MixLabels {
  SoftLabels labels;
  void* out;  // (rows, classes), arithmetic type
  DType dtype;
};

struct MixLabelsBackward {
  SoftLabels labels;
  const void* grad;  // (rows, classes), arithmetic type
  void* grad_lam;    // (rows,), arithmetic type
  DType dtype;
};

struct SoftCrossEntropy {
  SoftLabels labels;
  const void* logits;  // (rows, classes), storage type
  void* loss;          // (rows,), arithmetic type
  DType dtype;
};

struct SoftCrossEntropyBackward {
  SoftLabels labels;
  const void* grad;    // (rows,), arithmetic type
  const void* logits;  // (rows, classes), storage type
  void* grad_logits;   // (rows, classes), storage type, or null
  void* grad_lam;      // (rows,), arithmetic type, or null
  DType dtype;
};

namespace cpu {
void mix_labels(const MixLabels&, int threads);
void mix_labels_backward(const MixLabelsBackward&, int threads);
void soft_cross_entropy(const SoftCrossEntropy&, int threads);
void soft_cross_entropy_backward(const SoftCrossEntropyBackward&, int threads);
}  // namespace cpu

namespace cuda {
void mix_labels(const MixLabels&, void* stream);
void mix_labels_backward(const MixLabelsBackward&, void* stream);
void soft_cross_entropy(const SoftCrossEntropy&, void* stream);
void soft_cross_entropy_backward(const SoftCrossEntropyBackward&, void* stream);
}  // namespace cuda

}  // namespace lada
