// Launches of the row-score kernels: one warp a row.
#include "../common/launch.cuh"
#include "scores_kernels.cuh"

namespace lada::cuda {
namespace {
constexpr int kThreads = 256;
constexpr int kRowsPerBlock = kThreads / kWarp;
}  // namespace

void row_scores(const RowScores& k, void* stream) {
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch("row_scores", row_scores_kernel<T, kThreads>, ceil_div(k.rows, kRowsPerBlock), kThreads, stream, k);
  });
}

void row_scores_backward(const RowScoresBackward& k, void* stream) {
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch("row_scores_backward", row_scores_backward_kernel<T, kThreads>, ceil_div(k.rows, kRowsPerBlock), kThreads,
           stream, k);
  });
}

}  // namespace lada::cuda
