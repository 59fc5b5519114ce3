// Neighbouring elements, 16 bytes of a row as a rule: one load or store instruction where the address allows it, single
// elements elsewhere. An element belongs to the same packet either way, so the alignment of a tensor does not change a
// result.
#pragma once
#include <cstring>
#include <type_traits>

#include "device.cuh"

namespace lada::cuda {

template <class T, int kCount = 16 / sizeof(T)>
struct Packet {
  static constexpr int kSize = kCount, kBytes = kCount * sizeof(T);
  static_assert(kBytes == 16 || kBytes == 8 || kBytes == 4, "one instruction");
  using Bits = std::conditional_t<kBytes == 16, uint4, std::conditional_t<kBytes == 8, uint2, unsigned>>;
  T value[kSize];
};

template <class T>
__device__ __forceinline__ bool is_aligned(const T* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

template <class T, int kCount = Packet<T>::kSize>
__device__ __forceinline__ Packet<T, kCount> load_aligned(const T* from) {
  using Bits = typename Packet<T, kCount>::Bits;
  const Bits bits = *reinterpret_cast<const Bits*>(from);
  Packet<T, kCount> packet;
  std::memcpy(packet.value, &bits, sizeof bits);
  return packet;
}

template <class T, int kCount>
__device__ __forceinline__ void store_aligned(T* to, const Packet<T, kCount>& packet) {
  typename Packet<T, kCount>::Bits bits;
  std::memcpy(&bits, packet.value, sizeof bits);
  *reinterpret_cast<decltype(bits)*>(to) = bits;
}

// The elements row[j], row[j + 1], ... below `end`, and `fill` in place of those that are not.
template <class T, class Index>
__device__ __forceinline__ Packet<T> load_packet(const T* row, Index j, Index end, bool aligned, T fill) {
  if (aligned && j + Packet<T>::kSize <= end) return load_aligned(row + j);
  Packet<T> packet;
#pragma unroll
  for (int i = 0; i < Packet<T>::kSize; ++i) packet.value[i] = j + i < end ? row[j + i] : fill;
  return packet;
}

// Packets j, j + step, ... of the row: all are asked for before one is waited for.
template <int kCount, class T, class Index>
__device__ __forceinline__ void load_packets(const T* row, Index j, Index step, Index end, bool aligned, T fill,
                                             Packet<T> (&packet)[kCount]) {
#pragma unroll
  for (int u = 0; u < kCount; ++u) packet[u] = load_packet(row, static_cast<Index>(j + u * step), end, aligned, fill);
}

template <class T, class Index>
__device__ __forceinline__ void store_packet(T* row, Index j, Index end, bool aligned, const Packet<T>& packet) {
  if (aligned && j + Packet<T>::kSize <= end) return store_aligned(row + j, packet);
#pragma unroll
  for (int i = 0; i < Packet<T>::kSize; ++i)
    if (j + i < end) row[j + i] = packet.value[i];
}

}  // namespace lada::cuda
