// The bridge between beta_mix.cpp (tensors) and its backends (pointers): plain structs, no torch header.
#pragma once
#include <cstdint>

#include "../common/dtype.h"
#include "../common/math.h"

namespace lada {

// Where the randomness of pair p comes from: (key, index[p], n), and tau[p].
struct BetaSource {
  const void* tau;       // (pairs,), arithmetic type; tau itself or log tau
  const int64_t* key;    // (2,)
  const int64_t* index;  // (pairs,), or null for 0, 1, 2, ...
  int64_t pairs, samples;
  bool log_tau, pathwise;

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

// The end a, or b, of every pair: row p of `data`, or row number[2 p] if numbers are given.
struct Ends {
  const void* data;       // rows of `features` elements, `stride` elements apart, storage type
  const int64_t* number;  // the first column of (pairs, 2), or the second, or null
  int64_t rows, stride;

  // The row of pair p, or -1 if its number is out of range.
  LADA_HD int64_t row_of(int64_t pair) const {
    const int64_t row = number ? number[2 * pair] : pair;
    return row >= 0 && row < rows ? row : -1;
  }
};

struct BetaMix {
  BetaSource source;
  Ends a, b;
  void* mixed;  // (pairs, samples, features), storage type
  void* lam;    // (pairs, samples), arithmetic type
  int64_t features;
  DType dtype;
};

// The ends of all pairs, 2 p for a and 2 p + 1 for b, sorted by the row they use: those of row r are
// order[start[r]] .. order[start[r + 1] - 1]. Null where pairs have rows of their own.
struct EndsOfRows {
  const int64_t *order, *start;

  LADA_HD int64_t count(int64_t row) const { return start[row + 1] - start[row]; }
};

// Pairs are cut into `slices` of `slice` features, whose parts of grad_tau are summed at the end.
struct BetaMixBackward {
  BetaSource source;
  const void* grad_mixed;  // (pairs, samples, features), storage type, or null for zeros
  const void* grad_lam;    // (pairs, samples), arithmetic type, or null for zeros
  Ends a, b;
  EndsOfRows ends;
  void *grad_a, *grad_b;  // rows of a and b, storage type, or null; one tensor if `ends` are given
  void* weights;          // (pairs, 2, samples): lam and 1 - lam, arithmetic type; with `ends` only
  void* grad_tau;         // (pairs,), arithmetic type, or null
  void* partial;          // (pairs, slices), arithmetic type; grad_tau itself if there is one slice
  int64_t features, slice, slices;
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
