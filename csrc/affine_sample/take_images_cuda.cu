// Launch of the kernel that takes images.
#include "../common/launch.cuh"
#include "take_images_kernels.cuh"

namespace lada::cuda {

void take_images(const TakeImages& k, void* stream) {
  constexpr int kThreads = 256;
  const int64_t blocks_of_image = ceil_div(k.channels * k.height * k.width, kTakenByBlock<kThreads>);
  launch("take_images", take_images_kernel<kThreads>, k.count * blocks_of_image, kThreads, stream, k);
}

}  // namespace lada::cuda
