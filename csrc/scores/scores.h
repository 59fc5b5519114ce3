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
  Scalar scale;  // out = scale * score in nats
};

struct RowScoresBackward {
  const void* grad;  // (rows / group,), arithmetic type; row r reads element r / group
  const void* logits;
  void* grad_logits;  // storage type of the logits
  int64_t rows, classes, group;
  DType dtype;
  Score score;
  Scalar scale;
};

namespace cpu {
void row_scores(const RowScores&, int threads);
void row_scores_backward(const RowScoresBackward&, int threads);
}  // namespace cpu

namespace cuda {
void row_scores(const RowScores&, void* stream);
void row_scores_backward(const RowScoresBackward&, void* stream);
}  // namespace cuda

}  // namespace lada
