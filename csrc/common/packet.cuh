// 16 bytes of a row at a time: one load or store instruction where the address allows it, single elements elsewhere. An
// element belongs to the same packet either way, so the alignment of a tensor does not change a result.
#pragma once
#include <cstring>

#include "device.cuh"

namespace lada::cuda {

template <class T>
struct Packet {
  static constexpr int kSize = 16 / sizeof(T);
  T value[kSize];
};

template <class T>
__device__ __forceinline__ bool is_aligned(const T* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

template <class T>
__device__ __forceinline__ Packet<T> load_aligned(const T* from) {
  const uint4 bits = *reinterpret_cast<const uint4*>(from);
  Packet<T> packet;
  std::memcpy(packet.value, &bits, sizeof bits);
  return packet;
}

template <class T>
__device__ __forceinline__ void store_aligned(T* to, const Packet<T>& packet) {
  uint4 bits;
  std::memcpy(&bits, packet.value, sizeof bits);
  *reinterpret_cast<uint4*>(to) = bits;
}

// The elements row[j], row[j + 1], ... below `end`, and `fill` in place of those that are not.
template <class T>
__device__ __forceinline__ Packet<T> load_packet(const T* row, int64_t j, int64_t end, bool aligned, T fill) {
  if (aligned && j + Packet<T>::kSize <= end) return load_aligned(row + j);
  Packet<T> packet;
#pragma unroll
  for (int i = 0; i < Packet<T>::kSize; ++i) packet.value[i] = j + i < end ? row[j + i] : fill;
  return packet;
}

template <class T>
__device__ __forceinline__ void store_packet(T* row, int64_t j, int64_t end, bool aligned, const Packet<T>& packet) {
  if (aligned && j + Packet<T>::kSize <= end) return store_aligned(row + j, packet);
#pragma unroll
  for (int i = 0; i < Packet<T>::kSize; ++i)
    if (j + i < end) row[j + i] = packet.value[i];
}

}  // namespace lada::cuda
