// Launches of BALD and its gradient: how many threads share an instance goes by the number of classes.
#include "scores_launch.cuh"

namespace lada::cuda {

void bald(const Bald& k, void* stream) {
  constexpr const char* name = "bald";
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (k.classes <= 16)
      launch(name, short_bald_kernel<T, kShortThreads, 16>, ceil_div(k.rows, kShortThreads), kShortThreads, stream, k,
             static_cast<arithmetic_t<T>>(k.scale));
    else if (k.classes <= 8 * 16)
      launch(name, bald_kernel<T, kThreads, 8, 16>, ceil_div(k.rows, kThreads / 8), kThreads, stream, k,
             static_cast<arithmetic_t<T>>(k.scale));
    else if (k.classes <= 32 * 16)
      launch(name, bald_kernel<T, kThreads, 32, 16>, ceil_div(k.rows, kThreads / 32), kThreads, stream, k,
             static_cast<arithmetic_t<T>>(k.scale));
    else if (k.classes <= kMostClassesInRegisters)
      launch(name, bald_kernel<T, kThreads, kThreads, kMostClassesInRegisters / kThreads>, k.rows, kThreads, stream, k,
             static_cast<arithmetic_t<T>>(k.scale));
    else
      launch(name, long_bald_kernel<T, kThreads>, k.rows, kThreads, stream, k, static_cast<arithmetic_t<T>>(k.scale));
  });
}

void bald_backward(const BaldBackward& k, void* stream) {
  constexpr const char* name = "bald_backward";
  const int64_t rows = k.forward.rows, classes = k.forward.classes;
  dispatch(k.forward.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (classes <= 16)
      launch(name, short_bald_backward_kernel<T, kShortThreads, 16>, ceil_div(rows, kShortThreads), kShortThreads,
             stream, k, static_cast<arithmetic_t<T>>(k.forward.scale));
    else if (classes <= 8 * 16)
      launch(name, bald_backward_kernel<T, kThreads, 8, 16>, ceil_div(rows, kThreads / 8), kThreads, stream, k,
             static_cast<arithmetic_t<T>>(k.forward.scale));
    else if (classes <= 32 * 16)
      launch(name, bald_backward_kernel<T, kThreads, 32, 16>, ceil_div(rows, kThreads / 32), kThreads, stream, k,
             static_cast<arithmetic_t<T>>(k.forward.scale));
    else if (classes <= kMostClassesInRegisters)
      launch(name, bald_backward_kernel<T, kThreads, kThreads, kMostClassesInRegisters / kThreads>, rows, kThreads,
             stream, k, static_cast<arithmetic_t<T>>(k.forward.scale));
    else
      launch(name, long_bald_backward_kernel<T, kThreads>, rows, kThreads, stream, k,
             static_cast<arithmetic_t<T>>(k.forward.scale));
  });
}

}  // namespace lada::cuda
