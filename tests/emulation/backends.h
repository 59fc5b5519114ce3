// Force-included in front of the host code of the ops: sends the tensors of the CPU to the CUDA kernels on the host.
#pragma once

namespace lada {

template <auto kernel_launcher>
struct OnHost;
template <class Arguments, void (*launcher)(const Arguments&, void*)>
struct OnHost<launcher> {
  static void run(const Arguments& arguments, int) { launcher(arguments, nullptr); }
};

}  // namespace lada

#define LADA_BACKENDS(name) lada::OnHost<lada::cuda::name>::run, nullptr
