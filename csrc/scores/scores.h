// The bridge between scores.cpp (tensors) and its backends (pointers): plain structs, no torch header.
#pragma once
#include <cstdint>

#include "../common/dtype.h"
#include "formula.h"

namespace lada {

struct RowScores {
  const void* logits;  // (rows, classes)
  void* out;           // (rows,), arithmetic type of the logits
  int64_t rows, classes;
  DType dtype;
  Score score;
  double scale;  // out = scale * score in nats
};

struct RowScoresBackward {
  const void* grad;  // (rows / group,), arithmetic type; row r reads element r / group
  const void* logits;
  void* grad_logits;  // storage type of the logits
  int64_t rows, classes, group;
  DType dtype;
  Score score;
  double scale;
};

// BALD of `rows` instances, each with `passes` rows of logits. Logits of pass t and instance m start at
// t * pass_stride + m * row_stride.
struct Bald {
  const void* logits;
  void* out;   // (rows,), arithmetic type
  void* mean;  // scratch for the mean probabilities of long rows on CUDA, (rows, classes), arithmetic type; or null
  int64_t passes, rows, classes, pass_stride, row_stride;
  DType dtype;
  double scale;
};

struct BaldBackward {
  Bald forward;       // `out` is not used
  const void* grad;   // (rows,), arithmetic type
  void* grad_logits;  // (passes, rows, classes), storage type
};

// The k best of `count` scores: higher first, then the smaller index; NaN counts as -inf. On the CPU alone.
struct TopK {
  const void* scores;
  int64_t count, k;
  void* values;      // (k,)
  int64_t* indices;  // (k,)
  DType dtype;       // float32 or float64
};

// Above this many classes the CUDA kernels of BALD need their scratch.
constexpr int64_t kMostClassesInRegisters = 4096;

namespace cpu {
void row_scores(const RowScores&, int threads);
void row_scores_backward(const RowScoresBackward&, int threads);
void bald(const Bald&, int threads);
void bald_backward(const BaldBackward&, int threads);
void top_k(const TopK&, int threads);
}  // namespace cpu

namespace cuda {
void row_scores(const RowScores&, void* stream);
void row_scores_backward(const RowScoresBackward&, void* stream);
void bald(const Bald&, void* stream);
void bald_backward(const BaldBackward&, void* stream);
}  // namespace cuda

}  // namespace lada
