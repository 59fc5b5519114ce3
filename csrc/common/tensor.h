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

#include <algorithm>
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

inline void check_on_device_of(const at::Tensor& tensor, const char* op, const char* name, const at::Tensor& other,
                               const char* other_name) {
  TORCH_CHECK(tensor.device() == other.device(), op, ": ", name, " must be on the device of ", other_name, " (",
              other.device(), "), got ", tensor.device());
}

inline void check_same(const at::Tensor& tensor, const char* op, const char* name, const at::Tensor& other,
                       const char* other_name) {
  check_defined(tensor, op, name);
  check_on_device_of(tensor, op, name, other, other_name);
  TORCH_CHECK_TYPE(tensor.scalar_type() == other.scalar_type(), op, ": ", name, " must have the dtype of ", other_name,
                   " (", other.scalar_type(), "), got ", tensor.scalar_type());
}

inline void check_shape(const at::Tensor& tensor, const char* op, const char* name, at::IntArrayRef expected) {
  TORCH_CHECK_VALUE(tensor.sizes() == expected, op, ": ", name, " must have shape ", expected, ", got ",
                    tensor.sizes());
}

// A gradient that a backward op is given: of this shape, on the device of the others.
inline void check_gradient(const at::Tensor& grad, const char* op, const char* name, at::IntArrayRef expected,
                           const at::Tensor& other, const char* other_name) {
  check_defined(grad, op, name);
  check_shape(grad, op, name, expected);
  check_on_device_of(grad, op, name, other, other_name);
}

// Keys, and what names pairs in the random stream.
inline void check_int64_vector(const at::Tensor& tensor, const char* op, const char* name, int64_t size,
                               const at::Tensor& other, const char* other_name) {
  check_is_int64(tensor, op, name);
  check_shape(tensor, op, name, {size});
  check_on_device_of(tensor, op, name, other, other_name);
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

// Where element i of a contiguous tensor is, as Python writes it: [1], or [1, 0].
inline std::string place_of(int64_t i, const at::Tensor& tensor) {
  std::string place;
  for (int64_t axis = tensor.dim() - 1; axis >= 0; i /= tensor.size(axis--))
    place = std::to_string(i % tensor.size(axis)) + (place.empty() ? "" : ", ") + place;
  return "[" + place + "]";
}

// int64 numbers, each of them in [0, count).
inline void check_each_below(const at::Tensor& tensor, int64_t count, const char* op, const char* name) {
  if (!should_check_values(tensor)) return;
  const at::Tensor values = tensor.to(at::kCPU).contiguous();
  const int64_t *value = values.const_data_ptr<int64_t>(), *end = value + values.numel();
  uint64_t outside = 0;  // its sign, if one is outside; first without branches, which is several times as fast
  for (const int64_t* v = value; v < end; ++v)
    outside |= static_cast<uint64_t>(*v) | (static_cast<uint64_t>(count - 1) - static_cast<uint64_t>(*v));
  if (static_cast<int64_t>(outside) >= 0) return;
  const int64_t* wrong = std::find_if_not(value, end, [count](int64_t v) { return v >= 0 && v < count; });
  TORCH_CHECK_VALUE(wrong == end, op, ": ", name, " must lie in [0, ", count, "), got ", name,
                    place_of(wrong - value, values), " = ", *wrong);
}

// float64 or float32 numbers, each of them above `least`, as NaN is not; `expected` says so of `name`.
template <class A>
void check_each_above(const at::Tensor& tensor, A least, const char* op, const char* name, const char* expected) {
  if (!should_check_values(tensor)) return;
  const at::Tensor values = tensor.to(at::kCPU).contiguous();
  const A *value = values.const_data_ptr<A>(), *end = value + values.numel();
  int wrong_ones = 0;
  for (const A* v = value; v < end; ++v) wrong_ones |= *v > least ? 0 : 1;
  if (wrong_ones == 0) return;
  const A* wrong = std::find_if_not(value, end, [least](A v) { return v > least; });
  TORCH_CHECK_VALUE(wrong == end, op, ": ", expected, ", got ", name, place_of(wrong - value, values), " = ", *wrong);
}

// tau in arithmetic type, or its logarithm.
inline void check_each_tau(const at::Tensor& tau, bool is_log, const char* op) {
  const char* expected = is_log ? "log tau must be above -inf" : "tau must be positive";
  if (tau.scalar_type() == at::kDouble)
    return check_each_above(tau, is_log ? -infinity<double>() : 0, op, "tau", expected);
  check_each_above(tau, is_log ? -infinity<float>() : 0, op, "tau", expected);
}

// pairs: (P, 2) int64, rows of `pool` along its first axis.
inline void check_pairs(const at::Tensor& pairs, const char* op, const at::Tensor& pool, const char* pool_name) {
  check_is_int64(pairs, op, "pairs");
  TORCH_CHECK_VALUE(pairs.dim() == 2 && pairs.size(1) == 2, op, ": pairs must have shape (P, 2), got ", pairs.sizes());
  check_on_device_of(pairs, op, "pairs", pool, pool_name);
  check_each_below(pairs, pool.size(0), op, "pairs");
}

}  // namespace lada
