// Launches of the affine_sample kernels.
#include "../common/launch.cuh"
#include "affine_sample_kernels.cuh"

namespace lada::cuda {
namespace {
constexpr int kThreads = 256;
}

void affine_sample(const AffineSample& k, void* stream) {
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const int64_t pixels = k.images * k.transforms * k.geometry.out_height * k.geometry.out_width;
    launch("affine_sample", affine_sample_kernel<T, kThreads>, ceil_div(pixels, kThreads), kThreads, stream, k);
  });
}

void affine_sample_backward(const AffineSampleBackward& k, void* stream) {
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const bool scatter = k.grad_image && !k.deterministic, gather = k.grad_image && k.deterministic;
    if (scatter || k.grad_theta)
      launch("affine_sample_backward", affine_sample_backward_kernel<T, kThreads>, k.images * k.transforms, kThreads,
             stream, k, scatter);
    if (gather)
      launch("affine_sample_gather", affine_sample_gather_kernel<T, kThreads>,
             ceil_div(k.images * k.geometry.height * k.geometry.width, kThreads), kThreads, stream, k);
  });
}

}  // namespace lada::cuda
