// The only place a kernel is launched: skips empty work, caps the grid (kernels loop over it), and reports a failed
// launch by the kernel's name. The caller has set the device and passes its current stream.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "device.cuh"

namespace lada::cuda {

constexpr int64_t kMaxBlocks = int64_t{1} << 30;

template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), int64_t blocks, int threads, void* stream,
            Arguments... arguments) {
  if (blocks <= 0) return;
  const auto grid = static_cast<unsigned>(std::min(blocks, kMaxBlocks));
  kernel<<<grid, threads, 0, static_cast<cudaStream_t>(stream)>>>(arguments...);
  const cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess)
    throw std::runtime_error(std::string("lada_ext: launch of ") + name + " failed: " + cudaGetErrorString(status));
}

// Calls f(Tag<T>{}) with the storage type of `dtype`.
template <class F>
void dispatch(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kFloat64:
      return f(Tag<double>{});
    case DType::kFloat32:
      return f(Tag<float>{});
    case DType::kFloat16:
      return f(Tag<__half>{});
    case DType::kBFloat16:
      return f(Tag<__nv_bfloat16>{});
  }
}

inline int64_t ceil_div(int64_t count, int64_t size) { return (count + size - 1) / size; }

}  // namespace lada::cuda
