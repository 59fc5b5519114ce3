// The Python module lada_ext._C. Importing it loads the library and so registers the ops; it also says what was built.
// Memory that results were in is given back to the system on request.
#include <pybind11/pybind11.h>

#include <string>

#include "common/large_memory.h"

#ifndef LADA_CUDA_ARCHITECTURES
#define LADA_CUDA_ARCHITECTURES ""
#endif
#ifndef LADA_CUDA_VERSION
#define LADA_CUDA_VERSION ""
#endif

namespace py = pybind11;

namespace {

py::dict build_info() {
  py::dict info;
  info["torch"] = LADA_TORCH_VERSION;
  info["compiler"] = __VERSION__;
#ifdef LADA_WITH_CUDA
  info["cuda"] = LADA_CUDA_VERSION;
#else
  info["cuda"] = py::none();
#endif
  info["cuda_architectures"] = LADA_CUDA_ARCHITECTURES;
#ifdef _OPENMP
  info["openmp"] = true;
#else
  info["openmp"] = false;
#endif
#ifdef NDEBUG
  info["debug"] = false;
#else
  info["debug"] = true;
#endif
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled ops of lada_ext; use them through lada_ext or torch.ops.lada_ext.";
  m.def("build_info", &build_info, "How this extension was built.");
  m.def("release_memory", &lada::release_large_memory, "Gives memory that is kept for large results back.");
}
