// Device code of take_images: a thread makes four elements of an image that lie next to each other, and stores them at
// once. It works out where the first is, and walks from there.
#pragma once
#include "../common/packet.cuh"
#include "take_images.h"

namespace lada::cuda {

// Elements that a block of kThreads makes of one image.
template <int kThreads>
constexpr int64_t kTakenByBlock = int64_t{kThreads} * Packet<float>::kSize;

// An element of a taken image, in the order of its memory.
struct TakenElement {
  uint32_t channel, row, column;

  __device__ __forceinline__ TakenElement(const TakeImages& k, uint32_t element) {
    const auto channels = static_cast<uint32_t>(k.channels), width = static_cast<uint32_t>(k.width);
    if (k.channels_last) {
      const uint32_t pixel = element / channels;
      channel = element - pixel * channels;
      row = pixel / width;
      column = pixel - row * width;
    } else {
      const auto height = static_cast<uint32_t>(k.height);
      const uint32_t rows = element / width;
      column = element - rows * width;
      channel = rows / height;
      row = rows - channel * height;
    }
  }

  __device__ __forceinline__ void advance(const TakeImages& k) {
    if (k.channels_last) {
      if (++channel < k.channels) return;
      channel = 0;
      if (++column < k.width) return;
      column = 0;
      ++row;
    } else {
      if (++column < k.width) return;
      column = 0;
      if (++row < k.height) return;
      row = 0;
      ++channel;
    }
  }

  __device__ __forceinline__ float of(const TakeImages& k, int64_t stored, const Window& window) const {
    const int64_t y = row + window.top;
    const int64_t x = (window.mirrored ? k.width - 1 - column : column) + window.left;
    const bool inside = y >= 0 && y < k.height && x >= 0 && x < k.width;
    const Strides& s = k.strides;
    const uint8_t byte = inside ? k.images[stored * s.image + channel * s.channel + y * s.row + x * s.column] : 0;
    return normalised(byte, k.mean[channel], k.deviation[channel]);
  }
};

template <int kThreads>
__global__ void __launch_bounds__(kThreads) take_images_kernel(TakeImages k) {
  constexpr int kSize = Packet<float>::kSize;
  const int64_t size = k.channels * k.height * k.width;  // below 2^31
  const int64_t parts = (size + kTakenByBlock<kThreads> - 1) / kTakenByBlock<kThreads>;
  for (int64_t block = blockIdx.x; block < k.count * parts; block += gridDim.x) {
    const int64_t image = block / parts;
    const int64_t first = (block - image * parts) * kTakenByBlock<kThreads> + threadIdx.x * kSize;
    if (first >= size) continue;
    const int64_t stored = k.index[image];
    const bool exists = stored >= 0 && stored < k.stored;
    const Window window = k.window(stored);
    TakenElement element(k, static_cast<uint32_t>(first));
    Packet<float> packet;
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      const bool is_there = exists && first + i < size;
      packet.value[i] = is_there ? element.of(k, stored, window) : not_a_number<float>();
      element.advance(k);
    }
    float* out = k.out + image * size;
    store_packet(out, first, size, is_aligned(out), packet);
  }
}

}  // namespace lada::cuda
