// The bridge of Eq. 13 over given logits: one score a pair from its two rows and the rows of its N mixtures. The
// backward pass is that of the row scores (scores.h), once for each of the three tensors.
#pragma once
#include "../scores/scores.h"

namespace lada {

struct PairScores {
  const void* logits_a;  // (pairs, classes)
  const void* logits_b;  // (pairs, classes)
  const void* mixed;     // (pairs, samples, classes)
  void* out;             // (pairs,), arithmetic type
  int64_t pairs, samples, classes;
  DType dtype;
  Score score;
  Scalar scale;  // of the two ends
  Scalar gamma;  // weight of the mean over the mixtures
};

namespace cpu {
void pair_scores(const PairScores&, int threads);
}
namespace cuda {
void pair_scores(const PairScores&, void* stream);
}

}  // namespace lada
