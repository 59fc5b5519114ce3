// The score's name as users write it.
#pragma once
#include <ATen/core/Tensor.h>

#include <string>

#include "formula.h"

namespace lada {

inline Score score_named(const std::string& name, const char* op) {
  if (name == "entropy") return Score::kEntropy;
  TORCH_CHECK_VALUE(name == "variation_ratio", op, ": score must be 'entropy' or 'variation_ratio', got '", name, "'");
  return Score::kVariationRatio;
}

// Scores are computed in nats; Eq. 13 is in bits, and a variation ratio has no unit.
inline double unit_of(Score score) { return score == Score::kEntropy ? 1.4426950408889634 : 1.0; }

}  // namespace lada
