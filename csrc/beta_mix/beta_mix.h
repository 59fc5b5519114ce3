// The bridge between beta_mix.cpp (tensors) and its backends (pointers): plain structs, no torch header.
#pragma once
#include <cstdint>

#include "../common/dtype.h"
#include "../common/math.h"

namespace lada {

// Where the randomness of pair p comes from: (key, index[p], n), and tau[p].
struct BetaSource {
  const void* tau;       // (pairs,), arithmetic type
  const int64_t* key;    // (2,)
  const int64_t* index;  // (pairs,), or null for 0, 1, 2, ...
  int64_t pairs, samples;

  LADA_HD int64_t index_of(int64_t pair) const { return index ? index[pair] : pair; }
};

struct BetaLogitGradient {
  const void* x;    // (count,)
  const void* tau;  // (count,)
  void* out;        // (count,)
  int64_t count;
  DType dtype;  // float32 or float64
};

struct BetaSample {
  BetaSource source;
  void* lam;  // (pairs, samples), arithmetic type
  DType dtype;
};

struct BetaSampleBackward {
  BetaSource source;
  const void* grad;  // (pairs, samples), arithmetic type
  void* grad_tau;    // (pairs,), arithmetic type
  DType dtype;
};

struct BetaMix {
  BetaSource source;
  const void *a, *b;  // (pairs, features), storage type
  void* mixed;        // (pairs, samples, features), storage type
  void* lam;          // (pairs, samples), arithmetic type
  int64_t features;
  DType dtype;
};

struct BetaMixBackward {
  BetaSource source;
  const void* grad_mixed;  // (pairs, samples, features), storage type
  const void* grad_lam;    // (pairs, samples), arithmetic type
  const void *a, *b;
  void *grad_a, *grad_b;  // (pairs, features), storage type, or null
  void* grad_tau;         // (pairs,), arithmetic type, or null
  int64_t features;
  DType dtype;
};

namespace cpu {
void beta_logit_gradient(const BetaLogitGradient&, int threads);
void beta_sample(const BetaSample&, int threads);
void beta_sample_backward(const BetaSampleBackward&, int threads);
void beta_mix(const BetaMix&, int threads);
void beta_mix_backward(const BetaMixBackward&, int threads);
}  // namespace cpu

namespace cuda {
void beta_logit_gradient(const BetaLogitGradient&, void* stream);
void beta_sample(const BetaSample&, void* stream);
void beta_sample_backward(const BetaSampleBackward&, void* stream);
void beta_mix(const BetaMix&, void* stream);
void beta_mix_backward(const BetaMixBackward&, void* stream);
}  // namespace cuda

}  // namespace lada
