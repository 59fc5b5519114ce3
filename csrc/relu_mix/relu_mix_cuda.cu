// Launches of the kernels over logits of mixtures.
#include "../common/launch.cuh"
#include "relu_mix_kernels.cuh"

namespace lada::cuda {
namespace {

constexpr int kThreads = 128;

}  // namespace

void relu_mix_logits(const ReluMixLogits& k, void* stream) {
  dispatch(k.mix.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch("relu_mix_logits", relu_mix_logits_kernel<T, kThreads>,
           k.mix.pairs * ceil_div(k.mix.samples, kMixSamples) * ceil_div(k.mix.classes, kMixClasses), kThreads, stream,
           k);
  });
}

void relu_mix_logits_backward(const ReluMixLogitsBackward& k, void* stream) {
  dispatch(k.mix.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch("relu_mix_logits_backward", relu_mix_logits_backward_kernel<T, kThreads>,
           k.mix.pairs * ceil_div(k.mix.samples, kMixSamples), kThreads, stream, k);
  });
}

}  // namespace lada::cuda
