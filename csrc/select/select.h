// The bridge between select.cpp (tensors) and its backends (pointers): plain structs, no torch header.
#pragma once
#include <cstdint>

#include "../common/dtype.h"
#include "formula.h"

namespace lada {

// residuals = p - onehot(argmax p), and their squared norms.
struct BadgeResiduals {
  const void* logits;  // (rows, classes), storage type
  void* residuals;     // (rows, classes), arithmetic type
  void* lengths;       // (rows,), arithmetic type
  int64_t rows, classes;
  DType dtype;
};

// lengths = |h|^2, or with `factors` |h|^2 * factors.
struct RowLengths {
  const void* features;  // (rows, width), storage type
  const void* factors;   // (rows,), arithmetic type; or null
  void* lengths;         // (rows,), arithmetic type
  int64_t rows, width;
  DType dtype;
};

// Farthest-first selection (k-center) or, with `residuals`, D^2 sampling (BADGE).
struct Selection {
  const void* features;   // (rows, width), storage type
  const void* centers;    // (center_count, width), storage type
  const void* residuals;  // (rows, classes), arithmetic type; null for k-center
  const void* lengths;    // (rows,), arithmetic type: squared norms of what is selected
  const int64_t* key;     // (2,); null for k-center
  int64_t rows, width, center_count, classes, picks;
  void* weights;    // (rows,), arithmetic type, scratch: squared distance to the nearest of the centres seen so far
  int32_t* seen;    // (rows,), scratch: how many centres that is
  void* champions;  // (2, kMaxChampions) Candidates, scratch of CUDA: the best of each block
  int64_t* picked;  // (picks,)
  DType dtype;
};

constexpr int64_t kMaxChampions = 1024;

namespace cpu {
void badge_residuals(const BadgeResiduals&, int threads);
void row_lengths(const RowLengths&, int threads);
void select_rows(const Selection&, int threads);
}  // namespace cpu

namespace cuda {
void badge_residuals(const BadgeResiduals&, void* stream);
void row_lengths(const RowLengths&, void* stream);
void select_rows(const Selection&, void* stream);
}  // namespace cuda

}  // namespace lada
