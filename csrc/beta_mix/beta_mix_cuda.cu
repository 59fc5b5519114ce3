// Launches of the Beta kernels.
#include "../common/launch.cuh"
#include "beta_mix_kernels.cuh"

namespace lada::cuda {
namespace {
constexpr int kThreads = 256;
constexpr int kSlice = 4096;
}  // namespace

void beta_logit_gradient(const BetaLogitGradient& k, void* stream) {
  dispatch_arithmetic(k.dtype, [&](auto tag) {
    using A = typename decltype(tag)::type;
    launch("beta_logit_gradient", beta_logit_gradient_kernel<A, kThreads>, ceil_div(k.count, kThreads), kThreads,
           stream, k);
  });
}

void beta_sample(const BetaSample& k, void* stream) {
  dispatch_arithmetic(k.dtype, [&](auto tag) {
    using A = typename decltype(tag)::type;
    launch("beta_sample", beta_sample_kernel<A, kThreads>, ceil_div(k.source.pairs * k.source.samples, kThreads),
           kThreads, stream, k);
  });
}

void beta_sample_backward(const BetaSampleBackward& k, void* stream) {
  dispatch_arithmetic(k.dtype, [&](auto tag) {
    using A = typename decltype(tag)::type;
    launch("beta_sample_backward", beta_sample_backward_kernel<A, kThreads>, ceil_div(k.source.pairs, kThreads),
           kThreads, stream, k);
  });
}

void beta_mix(const BetaMix& k, void* stream) {
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const int64_t slices = std::max<int64_t>(1, ceil_div(k.features, kSlice));
    launch("beta_mix", beta_mix_kernel<T, kThreads, kSlice>, k.source.pairs * slices, kThreads, stream, k);
  });
}

void beta_mix_backward(const BetaMixBackward& k, void* stream) {
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch("beta_mix_backward", beta_mix_backward_kernel<T, kThreads>, k.source.pairs, kThreads, stream, k);
  });
}

}  // namespace lada::cuda
