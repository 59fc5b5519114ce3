// The types that the image and the results of affine_sample are stored in, for the CPU loops.
#pragma once
#include <type_traits>

#include "../common/cpu.h"
#include "affine_sample.h"

namespace lada::cpu {

// Calls f(Tag<type of the result>), among the types whose arithmetic type is A.
template <class A, class F>
void dispatch_result(const AffineInputs& in, F&& f) {
  if constexpr (std::is_same_v<A, double>) return f(Tag<double>{});
  dispatch(in.dtype, [&](auto tag) {
    if constexpr (std::is_same_v<arithmetic_t<typename decltype(tag)::type>, A>) f(tag);
  });
}

// The same with the type of the image.
template <class A, class F>
void dispatch_image(const AffineInputs& in, F&& f) {
  if constexpr (std::is_same_v<A, float>)
    if (in.of_bytes) return f(Tag<uint8_t>{});
  dispatch_result<A>(in, f);
}

}  // namespace lada::cpu
