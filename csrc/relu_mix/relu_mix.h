// The bridge between relu_mix.cpp (tensors) and its backends (pointers): plain structs, no torch header.
#pragma once
#include <cstdint>

#include "../common/dtype.h"
#include "formula.h"

namespace lada {

// On the CPU a, b and weight are in arithmetic type.
struct ReluMix {
  const void *a, *b;   // (pairs, features), storage type
  const void* lam;     // (pairs, samples), arithmetic type
  const void* weight;  // (classes, features), storage type
  int64_t pairs, samples, features, classes;
  DType dtype;
};

struct ReluMixLogits {
  ReluMix mix;
  const void* bias;  // (classes,), arithmetic type, or null
  void* logits;      // (pairs, samples, classes), arithmetic type
};

struct ReluMixLogitsBackward {
  ReluMix mix;
  const void* grad;  // (pairs, samples, classes), arithmetic type
  void* grad_lam;    // (pairs, samples), arithmetic type
};

namespace cpu {
void relu_mix_logits(const ReluMixLogits&, int threads);
void relu_mix_logits_backward(const ReluMixLogitsBackward&, int threads);
}  // namespace cpu

namespace cuda {
void relu_mix_logits(const ReluMixLogits&, void* stream);
void relu_mix_logits_backward(const ReluMixLogitsBackward&, void* stream);
}  // namespace cuda

}  // namespace lada
