// The torch side of every op: argument checks that name the argument, what was expected and what came, and the call of
// the backend that the tensors live on. Only the <family>.cpp files include this.
#pragma once
#include <ATen/Context.h>
#include <ATen/EmptyTensor.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#ifdef LADA_WITH_CUDA
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

#include <cstdlib>
#include <string>
#include <type_traits>

#include "dtype.h"
#include "large_memory.h"

#if defined(LADA_BACKENDS)  // the host emulation has its own
#define LADA_EMULATED
#elif defined(LADA_WITH_CUDA)
#define LADA_BACKENDS(name) lada::cpu::name, lada::cuda::name
#else
#define LADA_BACKENDS(name) lada::cpu::name, nullptr
#endif

namespace lada {

// Whether `run` takes the loops of the CPU. The host emulation runs CUDA's kernels on the CPU's tensors.
inline bool runs_on_cpu(const at::Tensor& tensor) {
#ifdef LADA_EMULATED
  return false;
#else
  return tensor.is_cpu();
#endif
}

// How many threads a loop of the CPU may take.
inline int threads() { return at::in_parallel_region() ? 1 : at::get_num_threads(); }

// Runs `arguments` on the device of `tensor`: on its current stream, or with torch's number of threads.
template <class Arguments>
void run(const at::Tensor& tensor, void (*cpu)(const Arguments&, int),
         std::common_type_t<void (*)(const Arguments&, void*)> cuda, const Arguments& arguments) {
  if (tensor.is_cpu()) return cpu(arguments, threads());
  TORCH_CHECK(cuda != nullptr, "lada_ext was built without CUDA, but got a tensor on ", tensor.device(),
              "; rebuild it with FORCE_CUDA=1");
#ifdef LADA_WITH_CUDA
  const c10::cuda::CUDAGuard guard(tensor.device());
  cuda(arguments, c10::cuda::getCurrentCUDAStream().stream());
#endif
}

inline void check_defined(const at::Tensor& tensor, const char* op, const char* name) {
  TORCH_CHECK_TYPE(tensor.defined(), op, ": ", name, " must be a tensor, got None");
}

inline void check_is_int64(const at::Tensor& tensor, const char* op, const char* name) {
  check_defined(tensor, op, name);
  TORCH_CHECK_TYPE(tensor.scalar_type() == at::kLong, op, ": ", name, " must have dtype int64, got ",
                   tensor.scalar_type());
}

inline void check_floating(const at::Tensor& tensor, const char* op, const char* name) {
  check_defined(tensor, op, name);
  const auto type = tensor.scalar_type();
  TORCH_CHECK_TYPE(type == at::kDouble || type == at::kFloat || type == at::kHalf || type == at::kBFloat16, op, ": ",
                   name, " must have dtype float64, float32, float16 or bfloat16, got ", type);
}

inline void check_same(const at::Tensor& tensor, const char* op, const char* name, const at::Tensor& other,
                       const char* other_name) {
  check_defined(tensor, op, name);
  TORCH_CHECK(tensor.device() == other.device(), op, ": ", name, " must be on the device of ", other_name, " (",
              other.device(), "), got ", tensor.device());
  TORCH_CHECK_TYPE(tensor.scalar_type() == other.scalar_type(), op, ": ", name, " must have the dtype of ", other_name,
                   " (", other.scalar_type(), "), got ", tensor.scalar_type());
}

inline void check_shape(const at::Tensor& tensor, const char* op, const char* name, at::IntArrayRef expected) {
  TORCH_CHECK_VALUE(tensor.sizes() == expected, op, ": ", name, " must have shape ", expected, ", got ",
                    tensor.sizes());
}

inline DType dtype_of(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kDouble:
      return DType::kFloat64;
    case at::kHalf:
      return DType::kFloat16;
    case at::kBFloat16:
      return DType::kBFloat16;
    default:
      return DType::kFloat32;
  }
}

// The type that sums and scores of `tensor` have.
inline at::ScalarType arithmetic_type(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// A tensor of which the op will write every element.
inline at::Tensor fresh(at::IntArrayRef sizes, const at::TensorOptions& options,
                        at::MemoryFormat order = at::MemoryFormat::Contiguous) {
  const size_t bytes = at::detail::computeStorageNbytesContiguous(sizes, options.dtype().itemsize());
  if (!options.device().is_cpu() || bytes < kKeptBytes) return at::empty(sizes, options, order);
  return at::Tensor(at::detail::empty_generic(sizes, large_memory(), c10::DispatchKeySet(c10::DispatchKey::CPU),
                                              c10::typeMetaToScalarType(options.dtype()), order));
}

inline at::Tensor arithmetic(const at::Tensor& tensor, at::ScalarType type) { return tensor.to(type).contiguous(); }

// What a backward op returns for an input that needs no gradient: schemas have no optional results.
inline at::Tensor no_gradient(const at::Tensor& like) { return at::empty({0}, like.options()); }

// Values of CUDA tensors are checked only on request, because reading them waits for the device.
inline bool should_check_values(const at::Tensor& tensor) {
  static const bool requested = [] {
    const char* text = std::getenv("LADA_EXT_CHECK");
    return text != nullptr && std::string(text) == "1";
  }();
  return tensor.is_cpu() || requested;
}

}  // namespace lada
