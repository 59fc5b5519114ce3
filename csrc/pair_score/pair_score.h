// The bridge of Eq. 13: over given logits of the mixtures, over mixtures of logits, and the best of all pairs of a
// pool.
#pragma once
#include "../beta_mix/beta_mix.h"
#include "../scores/scores.h"
#include "formula.h"

namespace lada {

// The two ends of a pair are rows of logits of their own, or scores of a pool by index.
struct PairScores {
  const void* logits_a;  // (pairs, classes), or null
  const void* logits_b;
  const void* own;      // (rows,), arithmetic type; used if the two above are null
  const int64_t* ends;  // (pairs, 2), rows of `own`
  int64_t rows;
  const void* mixed;  // (pairs, samples, classes)
  void* out;          // (pairs,), arithmetic type
  int64_t pairs, samples, classes;
  DType dtype;
  Score score;
  double scale;  // of the two ends' rows and of the mixtures; `own` is in the unit of the result
  double gamma;  // weight of the mean over the mixtures
};

struct MixedPairScores {
  const void* logits;   // (rows, classes), classes below 2^31
  const int64_t* ends;  // (pairs, 2)
  int64_t rows, classes;
  BetaSource source;
  void* out;  // (pairs,), arithmetic type
  DType dtype;
  Score score;
  double scale, gamma;
};

// One pass over the pairs: the gradient to tau, and what each pair adds to the gradients of its two rows. CUDA gives
// the gradient to lam instead, which beta_sample's backward pass turns into one to tau. On the CPU a pair adds the
// gradients of its ends' own scores, too, if the pool has more rows than there are pairs.
struct MixedPairScoresBackward {
  MixedPairScores forward;  // `out` is not used
  const void* grad;         // (pairs,), arithmetic type
  void* grad_lam;           // (pairs, samples), arithmetic type, or null; on CUDA
  void* grad_tau;           // (pairs,), arithmetic type, or null; on the CPU
  void* contributions;      // (2, pairs, classes), arithmetic type, or null
};

// The gradient of each row: that of its own score, once, and the contributions of the pairs it belongs to. Slot s is
// end s % 2 of pair s / 2. On CUDA the slots of row r are given: slots[begin[r]] .. slots[begin[r + 1] - 1], ascending.
struct GatherPairGradients {
  const void* logits;            // (rows, classes)
  const void* grad;              // (pairs,), arithmetic type
  const void* contributions;     // (2, pairs, classes), arithmetic type
  const int64_t* ends;           // (pairs, 2)
  const int64_t *begin, *slots;  // on CUDA
  void* grad_logits;             // (rows, classes), storage type
  int64_t rows, pairs, classes;
  DType dtype;
  Score score;
  double scale;
};

// Finds pairs of rows that may be among the k best by Eq. 13. The rows are sorted by their own scores, best first.
//
//   score(i, j) = (own_i + own_j) + sum_n weight_n f(lam_n z_i + mu_n z_j),   0 <= f <= most
//
// The bound of the sum over n, with f at its largest (or at zero, for negative weights), is formed by the operations
// that form the sum, in their order: no computed score can exceed (own_i + own_j) + bound, even in its last bit.
struct PairScan {
  const void* logits;          // (classes, rows), arithmetic type
  const void* own;             // (rows,), arithmetic type, none of them NaN or infinite
  const int64_t* index;        // (rows,), which row of the pool it is
  const int64_t* least_index;  // (rows,), the least of index[i], index[i + 1], ...
  const void *lam, *mu;        // (samples,), arithmetic type: the nodes, positive, and one minus them
  const void* weight;          // (samples,), arithmetic type: gamma * scale * weight of the node, all of one sign
  int64_t rows, classes, samples, k, capacity;
  bool prune;
  DType dtype;  // float32 or float64
  Score score;
  RankedPair<double> threshold;  // a pair that is not before this one is not among the k best
  // Results: those of the k best that are before the threshold, and perhaps others, `found` of them in any order. Only
  // the first `capacity` to come are stored.
  void* scores;        // (capacity,), arithmetic type
  int64_t* pairs;      // (capacity, 2), the smaller index first
  int64_t* found;      // zero before
  int64_t* evaluated;  // zero before: the number of pairs that were scored
};

namespace cpu {
void pair_scores(const PairScores&, int threads);
void mixed_pair_scores(const MixedPairScores&, int threads);
void mixed_pair_scores_backward(const MixedPairScoresBackward&, int threads);
void gather_pair_gradients(const GatherPairGradients&, int threads);
void pair_scan(const PairScan&, int threads);
}  // namespace cpu

namespace cuda {
void pair_scores(const PairScores&, void* stream);
void mixed_pair_scores(const MixedPairScores&, void* stream);
void mixed_pair_scores_backward(const MixedPairScoresBackward&, void* stream);
void gather_pair_gradients(const GatherPairGradients&, void* stream);
void pair_scan(const PairScan&, void* stream);
}  // namespace cuda

}  // namespace lada
