// Launches of the pair-score kernels.
#include "../common/launch.cuh"
#include "pair_score_kernels.cuh"

namespace lada::cuda {
namespace {

constexpr int kThreads = 256, kScanThreads = 128;

template <Score kScore>
struct ScoreTag {
  static constexpr Score value = kScore;
};

// f(Tag<T>, ScoreTag<score>, lanes of a pair) with all three as compile-time constants.
template <class F>
void dispatch_pairs(DType dtype, Score score, int64_t classes, const F& f) {
  dispatch(dtype, [&](auto tag) {
    const auto with_score = [&](auto score_tag) {
      classes <= kShortPairRow ? f(tag, score_tag, ByRow{}) : f(tag, score_tag, ByClass{});
    };
    score == Score::kEntropy ? with_score(ScoreTag<Score::kEntropy>{}) : with_score(ScoreTag<Score::kVariationRatio>{});
  });
}

template <class L>
int64_t blocks_of(int64_t pairs) {
  return ceil_div(pairs, kThreads / L::kLanes);
}

}  // namespace

void pair_scores(const PairScores& k, void* stream) {
  dispatch_pairs(k.dtype, k.score, k.classes, [&](auto tag, auto score, auto lanes) {
    using T = typename decltype(tag)::type;
    using A = arithmetic_t<T>;
    using L = decltype(lanes);
    launch("pair_scores", pair_scores_kernel<T, decltype(score)::value, kThreads, L>, blocks_of<L>(k.pairs), kThreads,
           stream, k, static_cast<A>(k.scale), static_cast<A>(k.gamma / static_cast<double>(k.samples)));
  });
}

void mixed_pair_scores(const MixedPairScores& k, void* stream) {
  dispatch_pairs(k.dtype, k.score, k.classes, [&](auto tag, auto score, auto lanes) {
    using T = typename decltype(tag)::type;
    using A = arithmetic_t<T>;
    using L = decltype(lanes);
    launch("mixed_pair_scores", mixed_pair_scores_kernel<T, decltype(score)::value, kThreads, L>,
           blocks_of<L>(k.source.pairs), kThreads, stream, k, static_cast<A>(k.scale),
           static_cast<A>(k.gamma / static_cast<double>(k.source.samples)));
  });
}

void mixed_pair_scores_backward(const MixedPairScoresBackward& k, void* stream) {
  const MixedPairScores& f = k.forward;
  dispatch_pairs(f.dtype, f.score, f.classes, [&](auto tag, auto score, auto lanes) {
    using T = typename decltype(tag)::type;
    using L = decltype(lanes);
    launch("mixed_pair_scores_backward", mixed_pair_scores_backward_kernel<T, decltype(score)::value, kThreads, L>,
           blocks_of<L>(f.source.pairs), kThreads, stream, k,
           static_cast<arithmetic_t<T>>(f.scale * f.gamma / static_cast<double>(f.source.samples)));
  });
}

void gather_pair_gradients(const GatherPairGradients& k, void* stream) {
  dispatch_pairs(k.dtype, k.score, k.classes, [&](auto tag, auto score, auto) {
    using T = typename decltype(tag)::type;
    launch("gather_pair_gradients", gather_pair_gradients_kernel<T, decltype(score)::value, kThreads>,
           ceil_div(k.rows, kThreads / kWarp), kThreads, stream, k, static_cast<arithmetic_t<T>>(k.scale));
  });
}

void pair_scan(const PairScan& k, void* stream) {
  const int64_t tasks = ceil_div(k.rows, kScanRows) * ceil_div(k.rows, kScanThreads);
  dispatch_arithmetic(k.dtype, [&](auto tag) {
    using A = typename decltype(tag)::type;
    const RankedPair<A> threshold = {static_cast<A>(k.threshold.score), k.threshold.first, k.threshold.second};
    const auto scan = [&](auto at_hand) {
      constexpr bool kAtHand = decltype(at_hand)::value;
      const auto kernel = k.score == Score::kEntropy
                              ? pair_scan_kernel<A, Score::kEntropy, kScanThreads, kAtHand>
                              : pair_scan_kernel<A, Score::kVariationRatio, kScanThreads, kAtHand>;
      launch("pair_scan", kernel, tasks, kScanThreads, stream, k, threshold);
    };
    k.classes <= kScanClasses ? scan(std::true_type{}) : scan(std::false_type{});
  });
}

}  // namespace lada::cuda
