// kWidth neighbouring elements, read and written at once: by one 16-byte access where they fill 16 bytes.
#pragma once
#include <cstring>

#include "device.cuh"

namespace lada::cuda {

template <class T, int kWidth>
struct Packet {
  T value[kWidth];
};

template <class T>
constexpr int kWidest = 16 / sizeof(T);

template <class T, int kWidth>
__device__ __forceinline__ Packet<T, kWidth> load_packet(const T* from) {
  Packet<T, kWidth> packet;
  if constexpr (sizeof(packet) == 16) {
    const uint4 bits = *reinterpret_cast<const uint4*>(from);
    memcpy(static_cast<void*>(&packet), &bits, 16);
  } else {
    for (int i = 0; i < kWidth; ++i) packet.value[i] = from[i];
  }
  return packet;
}

template <class T, int kWidth>
__device__ __forceinline__ void store_packet(T* to, const Packet<T, kWidth>& packet) {
  if constexpr (sizeof(packet) == 16) {
    uint4 bits;
    memcpy(&bits, &packet, 16);
    *reinterpret_cast<uint4*>(to) = bits;
  } else {
    for (int i = 0; i < kWidth; ++i) to[i] = packet.value[i];
  }
}

// Whether rows at this address, `stride` elements apart, can be read in packets of 16 bytes.
template <class T>
bool fills_packets(const void* rows, int64_t stride) {
  return reinterpret_cast<uintptr_t>(rows) % 16 == 0 && stride % kWidest<T> == 0;
}

}  // namespace lada::cuda
