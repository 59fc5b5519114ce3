// Launch of the pair-score kernel: one warp a pair.
#include "../common/launch.cuh"
#include "pair_score_kernels.cuh"

namespace lada::cuda {

void pair_scores(const PairScores& k, void* stream) {
  constexpr int kThreads = 256;
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch("pair_scores", pair_scores_kernel<T, kThreads>, ceil_div(k.pairs, kThreads / kWarp), kThreads, stream, k);
  });
}

}  // namespace lada::cuda
