// What a CPU backend needs: storage types, a dtype switch, a parallel loop, and run-time choice of instruction set.
#pragma once
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cstdint>
#include <exception>

#include "dtype.h"
#include "math.h"

// A function marked LADA_CLONES is compiled for AVX-512, AVX2 and plain x86-64; the loader picks one. Everything it
// calls must be LADA_HD (always inlined), or it would run the plain version.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12 && \
    !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
#define LADA_CLONES __attribute__((noinline, target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define LADA_CLONES __attribute__((noinline))
#endif

namespace lada::cpu {

template <class T>
LADA_HD arithmetic_t<T> widen(T value) {
  return static_cast<arithmetic_t<T>>(value);
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
      return f(Tag<c10::Half>{});
    case DType::kBFloat16:
      return f(Tag<c10::BFloat16>{});
  }
}

// What a body throws (std::bad_alloc) must not leave a region of OpenMP, which would end the process: the first is kept
// and thrown behind it.
class FirstError {
 public:
  template <class F>
  void guard(const F& f) noexcept {
    try {
      f();
    } catch (...) {
#pragma omp critical(lada_first_error)
      if (!error_) error_ = std::current_exception();
    }
  }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::exception_ptr error_;
};

// body(begin, end) over [0, count) in contiguous parts, at most `threads` of them. `cost` is what one item costs, in
// elements read or written; parts too small to pay for a thread are not split off.
template <class Body>
void parallel_for(int64_t count, int64_t cost, int threads, const Body& body) {
  constexpr int64_t kCostOfThread = 1 << 14;
  const int64_t parts = std::min<int64_t>(threads, count * std::min(cost, kCostOfThread) / kCostOfThread);
  if (parts <= 1) {
    if (count > 0) body(int64_t{0}, count);
    return;
  }
  FirstError error;
#pragma omp parallel for num_threads(static_cast<int>(parts)) schedule(static, 1)
  for (int64_t part = 0; part < parts; ++part)
    error.guard([&] { body(part * count / parts, (part + 1) * count / parts); });
  error.rethrow();
}

// The same in several parts a thread, each taken by the thread that is free first: a thread that wakes late or shares
// its core does less, where equal shares would make the others wait for it. For bodies that are cheap to begin.
template <class Body>
void balanced_for(int64_t count, int64_t cost, int threads, const Body& body) {
  constexpr int64_t kCostOfPart = 1 << 14, kPartsOfThread = 8;
  const int64_t parts =
      std::min(threads > 1 ? threads * kPartsOfThread : 1, count * std::min(cost, kCostOfPart) / kCostOfPart);
  if (parts <= 1) {
    if (count > 0) body(int64_t{0}, count);
    return;
  }
  FirstError error;
#pragma omp parallel for num_threads(static_cast<int>(std::min<int64_t>(threads, parts))) schedule(dynamic, 1)
  for (int64_t part = 0; part < parts; ++part)
    error.guard([&] { body(part * count / parts, (part + 1) * count / parts); });
  error.rethrow();
}

}  // namespace lada::cpu
