// CUDA's device language for a host compiler, so that the kernels of csrc/ run, and are checked, without a GPU. This
// header is force-included in front of a .cu file that g++ compiles as C++20; NVIDIA's own headers give the vector and
// half types. Each CUDA thread is a fiber, all on one OS thread; cuda_on_host.cpp schedules them. Every barrier and
// warp operation carries its source line, for the report when threads do not meet.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <source_location>
#include <type_traits>

#define LADA_CUDA_ON_HOST

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace on_host {

using Where = std::source_location;

// Runs body() as every thread of every block. Throws std::runtime_error where the threads of a block do not meet.
void launch(const char* name, void* kernel, unsigned blocks, unsigned threads, const std::function<void()>& body);

void sync_block(Where where);
void sync_warp(unsigned mask, Where where);
// The `bits` that lane `source` of this warp brought to the same call.
uint64_t exchange(unsigned mask, uint64_t bits, int source, Where where);
// Bit i: lane i of the mask brought a true predicate.
unsigned vote(unsigned mask, bool predicate, Where where);
// The block's memory of the array that `tag` identifies, filled with the poison byte.
void* shared_array(const void* tag, size_t bytes, size_t alignment);

// What tests turn: how many blocks a grid may have, and from how many elements on indices are 64-bit.
int64_t max_blocks();
int64_t max_int32_count();

inline int lane() { return static_cast<int>(threadIdx.x % warpSize); }

template <class T>
T exchange_value(unsigned mask, T value, int source, Where where) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = exchange(mask, bits, source, where);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

// The source lane of a shuffle within segments of `width` lanes; out of the segment a lane reads itself.
inline int segment_lane(int source, int width) { return source / width == lane() / width ? source : lane(); }

template <class T, class Update>
T atomic_update(T* address, Update update) {
  std::atomic_ref<T> target(*address);
  T old = target.load(std::memory_order_relaxed);
  while (!target.compare_exchange_weak(old, update(old), std::memory_order_relaxed)) {
  }
  return old;
}

}  // namespace on_host

#define __launch_bounds__(...)
#undef __shared__
#define __shared__ static_assert(false, "use SHARED_ARRAY");
#define SHARED_ARRAY(T, name, count)   \
  static char name##_tag;              \
  T(&name)                             \
  [count] = *static_cast<T(*)[count]>( \
      on_host::shared_array(&name##_tag, sizeof(T) * (count), alignof(T) > 16 ? alignof(T) : 16))

inline void __syncthreads(on_host::Where where = on_host::Where::current()) { on_host::sync_block(where); }

inline void __syncwarp(unsigned mask = 0xffffffffu, on_host::Where where = on_host::Where::current()) {
  on_host::sync_warp(mask, where);
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = warpSize,
              on_host::Where where = on_host::Where::current()) {
  const int base = on_host::lane() / width * width;
  return on_host::exchange_value(mask, value, base + (source & (width - 1)), where);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = warpSize,
                  on_host::Where where = on_host::Where::current()) {
  return on_host::exchange_value(mask, value, on_host::segment_lane(on_host::lane() ^ lanes, width), where);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                   on_host::Where where = on_host::Where::current()) {
  const int source = on_host::lane() + static_cast<int>(delta);
  return on_host::exchange_value(mask, value, on_host::segment_lane(source, width), where);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                 on_host::Where where = on_host::Where::current()) {
  const int source = on_host::lane() - static_cast<int>(delta);
  return on_host::exchange_value(mask, value, source < 0 ? on_host::lane() : on_host::segment_lane(source, width),
                                 where);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, on_host::Where where = on_host::Where::current()) {
  return on_host::vote(mask, predicate != 0, where);
}

inline int __any_sync(unsigned mask, int predicate, on_host::Where where = on_host::Where::current()) {
  return on_host::vote(mask, predicate != 0, where) != 0;
}

inline int __all_sync(unsigned mask, int predicate, on_host::Where where = on_host::Where::current()) {
  return on_host::vote(mask, predicate != 0, where) == mask;
}

// Atomics order nothing: relaxed, as on the device.
template <class T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  return on_host::atomic_update(address, [&](T old) { return static_cast<T>(old + value); });
}

template <class T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  return on_host::atomic_update(address, [&](T old) { return old < value ? value : old; });
}

template <class T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  return on_host::atomic_update(address, [&](T old) { return value < old ? value : old; });
}

template <class T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  return on_host::atomic_update(address, [&](T) { return value; });
}

template <class T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  return on_host::atomic_update(address, [&](T old) { return old == expected ? value : old; });
}

template <class T>
T __ldg(const T* address) {
  return *address;
}

inline int __popc(unsigned value) { return std::popcount(value); }
inline int __popcll(unsigned long long value) { return std::popcount(value); }
inline int __clz(int value) { return std::countl_zero(static_cast<unsigned>(value)); }
inline int __clzll(long long value) { return std::countl_zero(static_cast<unsigned long long>(value)); }
inline int __ffs(int value) { return value == 0 ? 0 : std::countr_zero(static_cast<unsigned>(value)) + 1; }
inline int __float_as_int(float value) { return std::bit_cast<int>(value); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline float __int_as_float(int value) { return std::bit_cast<float>(value); }
inline float __uint_as_float(unsigned value) { return std::bit_cast<float>(value); }
inline long long __double_as_longlong(double value) { return std::bit_cast<long long>(value); }
inline double __longlong_as_double(long long value) { return std::bit_cast<double>(value); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>((uint64_t{a} * b) >> 32); }
