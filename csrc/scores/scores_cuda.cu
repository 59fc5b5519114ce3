// Launches of the row-score kernels: how many threads share a row goes by its length.
#include "../common/launch.cuh"
#include "scores_kernels.cuh"

namespace lada::cuda {
namespace {

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

}  // namespace

void row_scores(const RowScores& k, void* stream) {
  constexpr const char* name = "row_scores";
  dispatch_score(k.dtype, k.score, [&](auto tag, auto score) {
    using T = typename decltype(tag)::type;
    constexpr Score kScore = decltype(score)::value;
    if (k.classes <= kShortRow)
      launch(name, short_row_scores_kernel<T, kScore, kShortThreads>, ceil_div(k.rows, kShortThreads), kShortThreads,
             stream, k, static_cast<arithmetic_t<T>>(k.scale));
    else if (k.classes <= kFewLanes)
      launch(name, row_scores_kernel<T, kScore, kThreads, 8>, ceil_div(k.rows, kThreads / 8), kThreads, stream, k,
             static_cast<arithmetic_t<T>>(k.scale));
    else if (k.classes <= kWholeWarp)
      launch(name, row_scores_kernel<T, kScore, kThreads, 32>, ceil_div(k.rows, kThreads / 32), kThreads, stream, k,
             static_cast<arithmetic_t<T>>(k.scale));
    else
      launch(name, row_scores_kernel<T, kScore, kThreads, kThreads>, k.rows, kThreads, stream, k,
             static_cast<arithmetic_t<T>>(k.scale));
  });
}

void row_scores_backward(const RowScoresBackward& k, void* stream) {
  constexpr const char* name = "row_scores_backward";
  dispatch_score(k.dtype, k.score, [&](auto tag, auto score) {
    using T = typename decltype(tag)::type;
    constexpr Score kScore = decltype(score)::value;
    if (k.classes <= kShortRow)
      launch(name, short_row_scores_backward_kernel<T, kScore, kShortThreads>, ceil_div(k.rows, kShortThreads),
             kShortThreads, stream, k, static_cast<arithmetic_t<T>>(k.scale));
    else if (k.classes <= kFewLanes)
      launch(name, row_scores_backward_kernel<T, kScore, kThreads, 8>, ceil_div(k.rows, kThreads / 8), kThreads, stream,
             k, static_cast<arithmetic_t<T>>(k.scale));
    else if (k.classes <= kWholeWarp)
      launch(name, row_scores_backward_kernel<T, kScore, kThreads, 32>, ceil_div(k.rows, kThreads / 32), kThreads,
             stream, k, static_cast<arithmetic_t<T>>(k.scale));
    else
      launch(name, row_scores_backward_kernel<T, kScore, kThreads, kThreads>, k.rows, kThreads, stream, k,
             static_cast<arithmetic_t<T>>(k.scale));
  });
}

void bald(const Bald& k, void* stream) {
  constexpr const char* name = "bald";
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (k.classes <= 16)
      launch(name, short_bald_kernel<T, kShortThreads, 16>, ceil_div(k.rows, kShortThreads), kShortThreads, stream, k,
             static_cast<arithmetic_t<T>>(k.scale));
    else if (k.classes <= 8 * 16)
      launch(name, bald_kernel<T, kThreads, 8, 16>, ceil_div(k.rows, kThreads / 8), kThreads, stream, k,
             static_cast<arithmetic_t<T>>(k.scale));
    else if (k.classes <= 32 * 16)
      launch(name, bald_kernel<T, kThreads, 32, 16>, ceil_div(k.rows, kThreads / 32), kThreads, stream, k,
             static_cast<arithmetic_t<T>>(k.scale));
    else if (k.classes <= kMostClassesInRegisters)
      launch(name, bald_kernel<T, kThreads, kThreads, kMostClassesInRegisters / kThreads>, k.rows, kThreads, stream, k,
             static_cast<arithmetic_t<T>>(k.scale));
    else
      launch(name, long_bald_kernel<T, kThreads>, k.rows, kThreads, stream, k, static_cast<arithmetic_t<T>>(k.scale));
  });
}

void bald_backward(const BaldBackward& k, void* stream) {
  constexpr const char* name = "bald_backward";
  const int64_t rows = k.forward.rows, classes = k.forward.classes;
  dispatch(k.forward.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (classes <= 16)
      launch(name, short_bald_backward_kernel<T, kShortThreads, 16>, ceil_div(rows, kShortThreads), kShortThreads,
             stream, k, static_cast<arithmetic_t<T>>(k.forward.scale));
    else if (classes <= 8 * 16)
      launch(name, bald_backward_kernel<T, kThreads, 8, 16>, ceil_div(rows, kThreads / 8), kThreads, stream, k,
             static_cast<arithmetic_t<T>>(k.forward.scale));
    else if (classes <= 32 * 16)
      launch(name, bald_backward_kernel<T, kThreads, 32, 16>, ceil_div(rows, kThreads / 32), kThreads, stream, k,
             static_cast<arithmetic_t<T>>(k.forward.scale));
    else if (classes <= kMostClassesInRegisters)
      launch(name, bald_backward_kernel<T, kThreads, kThreads, kMostClassesInRegisters / kThreads>, rows, kThreads,
             stream, k, static_cast<arithmetic_t<T>>(k.forward.scale));
    else
      launch(name, long_bald_backward_kernel<T, kThreads>, rows, kThreads, stream, k,
             static_cast<arithmetic_t<T>>(k.forward.scale));
  });
}

}  // namespace lada::cuda
