// What the launches of the row scores share: how many threads take a row, by its length, and which score it is.
#pragma once
#include "../common/launch.cuh"
#include "scores_kernels.cuh"

namespace lada::cuda {

constexpr int kThreads = 256, kShortThreads = 128;
constexpr int64_t kFewLanes = 256, kWholeWarp = kMostClassesInRegisters;  // longest rows of 8 lanes and of a warp

template <Score kScore>
struct ScoreTag {
  static constexpr Score value = kScore;
};

// f(Tag<T>, ScoreTag<score>) with both as compile-time constants.
template <class F>
void dispatch_score(DType dtype, Score score, const F& f) {
  dispatch(dtype, [&](auto tag) {
    if (score == Score::kEntropy)
      f(tag, ScoreTag<Score::kEntropy>{});
    else if (score == Score::kVariationRatio)
      f(tag, ScoreTag<Score::kVariationRatio>{});
    else
      f(tag, ScoreTag<Score::kMargin>{});
  });
}

}  // namespace lada::cuda
