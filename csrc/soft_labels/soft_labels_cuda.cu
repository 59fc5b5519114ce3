// Launches of the kernels over mixed labels.
#include "../common/launch.cuh"
#include "soft_labels_kernels.cuh"

namespace lada::cuda {
namespace {

constexpr int kThreads = 256, kFewClasses = 32;

}  // namespace

void mix_labels(const MixLabels& k, void* stream) {
  dispatch_arithmetic(k.dtype, [&](auto tag) {
    using A = typename decltype(tag)::type;
    launch("mix_labels", mix_labels_kernel<A, kThreads>, ceil_div(k.labels.rows * k.labels.classes, kThreads), kThreads,
           stream, k);
  });
}

void mix_labels_backward(const MixLabelsBackward& k, void* stream) {
  dispatch_arithmetic(k.dtype, [&](auto tag) {
    using A = typename decltype(tag)::type;
    launch("mix_labels_backward", mix_labels_backward_kernel<A, kThreads>, ceil_div(k.labels.rows, kThreads), kThreads,
           stream, k);
  });
}

void soft_cross_entropy(const SoftCrossEntropy& k, void* stream) {
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const bool few = k.labels.classes <= kFewClasses;
    launch("soft_cross_entropy",
           few ? soft_cross_entropy_kernel<T, 8, kThreads> : soft_cross_entropy_kernel<T, kWarp, kThreads>,
           ceil_div(k.labels.rows, kThreads / (few ? 8 : kWarp)), kThreads, stream, k);
  });
}

void soft_cross_entropy_backward(const SoftCrossEntropyBackward& k, void* stream) {
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const bool few = k.labels.classes <= kFewClasses;
    launch("soft_cross_entropy_backward",
           few ? soft_cross_entropy_backward_kernel<T, 8, kThreads>
               : soft_cross_entropy_backward_kernel<T, kWarp, kThreads>,
           ceil_div(k.labels.rows, kThreads / (few ? 8 : kWarp)), kThreads, stream, k);
  });
}

}  // namespace lada::cuda
