// consistency_variance for tensors: checks, allocation, registration.
#include "consistency.h"

#include "../common/tensor.h"

namespace lada {
namespace {

void check_views(const at::Tensor& logits, const char* op) {
  check_floating(logits, op, "logits");
  TORCH_CHECK_VALUE(logits.dim() == 3 && logits.size(0) >= 1 && logits.size(2) >= 1, op,
                    ": logits must have shape (V, M, C) with at least one view and one class, got ", logits.sizes());
}

at::Tensor consistency_variance(const at::Tensor& logits) {
  check_views(logits, "consistency_variance");
  const at::Tensor views = logits.contiguous();
  at::Tensor out = at::empty({views.size(1)}, views.options().dtype(arithmetic_type(views)));
  run(views, LADA_BACKENDS(consistency),
      Consistency{views.const_data_ptr(), out.mutable_data_ptr(), views.size(0), views.size(1), views.size(2),
                  dtype_of(views)});
  return out;
}

at::Tensor consistency_variance_backward(const at::Tensor& grad, const at::Tensor& logits) {
  constexpr const char* op = "consistency_variance_backward";
  check_views(logits, op);
  check_shape(grad, op, "grad", {logits.size(1)});
  const at::Tensor views = logits.contiguous(), row_grads = arithmetic(grad, arithmetic_type(views));
  at::Tensor out = at::empty(views.sizes(), views.options());
  at::Tensor means = at::empty({views.size(1), views.size(2)}, row_grads.options());
  run(views, LADA_BACKENDS(consistency_backward),
      ConsistencyBackward{row_grads.const_data_ptr(), views.const_data_ptr(), means.mutable_data_ptr(),
                          out.mutable_data_ptr(), views.size(0), views.size(1), views.size(2), dtype_of(views)});
  return out;
}

void implement(torch::Library& m) {
  m.impl("consistency_variance", &consistency_variance);
  m.impl("consistency_variance_backward", &consistency_variance_backward);
}

}  // namespace

TORCH_LIBRARY_IMPL(lada_ext, CPU, m) { implement(m); }
TORCH_LIBRARY_IMPL(lada_ext, CUDA, m) { implement(m); }

}  // namespace lada
