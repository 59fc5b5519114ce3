// The check of a tensor of pairs.
#pragma once
#include <algorithm>

#include "../common/tensor.h"
#include "formula.h"

namespace lada {

// pairs: (P, 2) int64, rows of `pool` along its first axis.
inline void check_pairs(const at::Tensor& pairs, const char* op, const at::Tensor& pool, const char* pool_name) {
  check_is_int64(pairs, op, "pairs");
  TORCH_CHECK_VALUE(pairs.dim() == 2 && pairs.size(1) == 2, op, ": pairs must have shape (P, 2), got ", pairs.sizes());
  TORCH_CHECK(pairs.device() == pool.device(), op, ": pairs must be on the device of ", pool_name, " (", pool.device(),
              "), got ", pairs.device());
  if (!should_check_values(pairs)) return;
  const at::Tensor values = pairs.to(at::kCPU).contiguous();
  const int64_t *value = values.const_data_ptr<int64_t>(), *end = value + values.numel(), rows = pool.size(0);
  uint64_t outside = 0;  // its sign, if one is outside; first without branches, which is several times as fast
  for (const int64_t* v = value; v < end; ++v)
    outside |= static_cast<uint64_t>(*v) | (static_cast<uint64_t>(rows - 1) - static_cast<uint64_t>(*v));
  if (static_cast<int64_t>(outside) >= 0) return;
  const int64_t* wrong = std::find_if_not(value, end, [rows](int64_t row) { return is_row(row, rows); });
  TORCH_CHECK_VALUE(wrong == end, op, ": pairs must hold rows of ", pool_name, ", from 0 to ", rows - 1, ", got pairs[",
                    (wrong - value) / 2, ", ", (wrong - value) % 2, "] = ", *wrong);
}

}  // namespace lada
