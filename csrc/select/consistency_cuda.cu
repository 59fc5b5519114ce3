// Launches of the consistency kernels: one warp a row.
#include "../common/launch.cuh"
#include "consistency_kernels.cuh"

namespace lada::cuda {
namespace {
constexpr int kThreads = 256;
constexpr int kRowsPerBlock = kThreads / kWarp;
}  // namespace

void consistency(const Consistency& k, void* stream) {
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch("consistency", consistency_kernel<T, kThreads>, ceil_div(k.rows, kRowsPerBlock), kThreads, stream, k);
  });
}

void consistency_backward(const ConsistencyBackward& k, void* stream) {
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch("consistency_backward", consistency_backward_kernel<T, kThreads>, ceil_div(k.rows, kRowsPerBlock), kThreads,
           stream, k);
  });
}

}  // namespace lada::cuda
