// Launches of the row scores. Their gradients are a file apart, because there are many versions and files compile side
// by side.
#include "scores_launch.cuh"

namespace lada::cuda {

void row_scores(const RowScores& k, void* stream) {
  constexpr const char* name = "row_scores";
  dispatch_score(k.dtype, k.score, [&](auto tag, auto score) {
    using T = typename decltype(tag)::type;
    constexpr Score kScore = decltype(score)::value;
    if (k.classes <= kShortRow)
      launch_resident(name, short_row_scores_kernel<T, kScore, kShortThreads>, ceil_div(k.rows, kShortThreads),
                      kShortThreads, stream, k, static_cast<arithmetic_t<T>>(k.scale));
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

}  // namespace lada::cuda
