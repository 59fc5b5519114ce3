// The only place a kernel is launched: skips empty work, caps the grid (kernels loop over it), and reports a failed
// launch by the kernel's name. The caller has set the device and passes its current stream. Compiled for the host
// (tests/emulation), a launch runs the blocks one after another.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "device.cuh"

namespace lada::cuda {

#ifdef __CUDACC__

inline int64_t max_blocks() { return int64_t{1} << 30; }
inline int64_t max_int32_count() { return int64_t{1} << 31; }

inline void check(cudaError_t status, const char* name) {
  if (status != cudaSuccess)
    throw std::runtime_error(std::string("lada_ext: launch of ") + name + " failed: " + cudaGetErrorString(status));
}

template <class... Parameters, class... Arguments>
void start(const char* name, void (*kernel)(Parameters...), unsigned blocks, unsigned threads, void* stream,
           Arguments... arguments) {
  kernel<<<blocks, threads, 0, static_cast<cudaStream_t>(stream)>>>(arguments...);
  check(cudaGetLastError(), name);
}

// How many blocks of a kernel the device runs at once.
template <class... Parameters>
int64_t resident_blocks(const char* name, void (*kernel)(Parameters...), int threads) {
  int device = 0, multiprocessors = 0, blocks = 0;
  check(cudaGetDevice(&device), name);
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device), name);
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, 0), name);
  return std::max<int64_t>(1, int64_t{blocks} * multiprocessors);
}

#else

using on_host::max_blocks;
using on_host::max_int32_count;

template <class... Parameters, class... Arguments>
void start(const char* name, void (*kernel)(Parameters...), unsigned blocks, unsigned threads, void*,
           Arguments... arguments) {
  on_host::launch(name, reinterpret_cast<void*>(kernel), blocks, threads, [=] { kernel(arguments...); });
}

template <class... Parameters>
int64_t resident_blocks(const char*, void (*)(Parameters...), int) {
  return max_blocks();
}

#endif

template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), int64_t blocks, int threads, void* stream,
            Arguments... arguments) {
  if (blocks <= 0) return;
  start(name, kernel, static_cast<unsigned>(std::min(blocks, max_blocks())), static_cast<unsigned>(threads), stream,
        arguments...);
}

// For a kernel whose blocks ask for their next work while they do the present one: no more blocks than run at once.
template <class... Parameters, class... Arguments>
void launch_resident(const char* name, void (*kernel)(Parameters...), int64_t blocks, int threads, void* stream,
                     Arguments... arguments) {
  launch(name, kernel, std::min(blocks, resident_blocks(name, kernel, threads)), threads, stream, arguments...);
}

// Whether indices 0 .. count-1, and a grid's stride beyond them, fit 32 bits: the choice of a kernel's index type.
inline bool fits_int32(int64_t count) { return count < max_int32_count() / 2; }

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
