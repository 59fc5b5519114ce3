// Device code of affine_sample. Forward: a thread samples one output pixel in a group of channels. Backward: a block
// takes a part of one sampled image, so that the gradient of theta is summed inside the block and no gradient of a grid
// exists; the image gradient is scattered with atomics, or, for bitwise repeatability, gathered by the last kernel.
// Index is the type of offsets within one image and of the numbers of threads.
#pragma once
#include "../common/device.cuh"
#include "affine_sample.h"
#include "preimage.h"

namespace lada::cuda {

__device__ __forceinline__ float widen(uint8_t value) { return static_cast<float>(value); }

// Blocks of 256 threads that a multiprocessor shall hold: at most 64 registers a thread, but for float64.
template <class A>
constexpr int kResident = sizeof(A) == 8 ? 1 : 4;

// The order in which threads take the pixels and groups of channels of an image: neighbours in a warp are neighbours in
// memory.
struct ChannelGroups {
  int32_t size, count;
  bool first;  // groups vary faster than pixels: channels lie side by side
};

template <class Index>
struct GroupedPixel {
  Index image, pixel;
  int32_t channel;
};

// Number i of (images, groups, pixels), or of (images, pixels, groups).
template <class Index>
__device__ __forceinline__ GroupedPixel<Index> grouped_pixel(Index i, Index pixels, const ChannelGroups& groups) {
  const Index count = groups.count, slow = i / (groups.first ? count : pixels);
  const Index fast = i - slow * (groups.first ? count : pixels);
  const Index image = slow / (groups.first ? pixels : count), middle = slow - image * (groups.first ? pixels : count);
  return {image, groups.first ? middle : fast, static_cast<int32_t>(groups.first ? fast : middle) * groups.size};
}

template <class In, class Out, int kTaps, class Index, int kThreads>
__global__ void __launch_bounds__(kThreads, kResident<arithmetic_t<Out>>) affine_sample_kernel(AffineSample k, Frame<arithmetic_t<Out>> frame, ChannelGroups groups) {
  using A = arithmetic_t<Out>;
  const AffineInputs& in = k.in;
  const AffineGeometry& g = in.geometry;
    const Index out_width = g.out_width, out_plane = g.out_height * g.out_width, transforms = in.transforms;
  const Index count = in.images * transforms * groups.count * out_plane, step = Index(gridDim.x) * kThreads;
  const Index row_stride = in.image_strides.row, column_stride = in.image_strides.column;
  for (Index i = Index(blockIdx.x) * kThreads + threadIdx.x; i < count; i += step) {
    const GroupedPixel<Index> at = grouped_pixel(i, out_plane, groups);
    const Index y = at.pixel / out_width, x = at.pixel - y * out_width;
    const Place<A> place = place_of(static_cast<const A*>(in.theta) + int64_t{at.image} * 6, frame.x[x], frame.y[y], frame);
    const Taps<A, kTaps> taps_x = taps_at<kTaps>(place.x, frame.across), taps_y = taps_at<kTaps>(place.y, frame.down);
    const In* image = static_cast<const In*>(in.image) + int64_t{at.image / transforms} * in.image_strides.image +
                      at.channel * in.image_strides.channel;
    Out* out = static_cast<Out*>(k.out) + at.image * k.out_strides.image + at.channel * k.out_strides.channel +
               y * k.out_strides.row + x * k.out_strides.column;
    const int32_t end = min(at.channel + groups.size, static_cast<int32_t>(in.channels));
    for (int32_t channel = at.channel; channel < end; ++channel) {
      const Tone<A> tone = tone_of<A>(in.normalization, channel);
      A value = nothing(taps_y.weight[0], taps_x.weight[0]);
#pragma unroll
      for (int i = 0; i < kTaps; ++i)
#pragma unroll
        for (int j = 0; j < kTaps; ++j)
          if (taps_y.pixel[i] != kOutside && taps_x.pixel[j] != kOutside) {
            const In pixel = image[taps_y.pixel[i] * row_stride + taps_x.pixel[j] * column_stride];
            value += taps_y.weight[i] * taps_x.weight[j] * (tone.scale * widen(pixel) + tone.shift);
          }
      *out = narrow<Out>(value);
      image += in.image_strides.channel;
      out += k.out_strides.channel;
    }
  }
}

constexpr int kMostChannels = 32;

// How the pixels and channels of a sampled image are shared out to blocks.
struct Parts {
  int32_t of_pixels, of_channels;  // at most kMostChannels channels each

  __host__ __device__ int32_t count() const { return of_pixels * of_channels; }
};

// grad_image, scattered (where wanted), and the partial sums of grad_theta.
template <class In, class Out, int kTaps, class Index, int kThreads>
__global__ void __launch_bounds__(kThreads, kResident<arithmetic_t<Out>>)
    affine_sample_backward_kernel(AffineSampleBackward k, Frame<arithmetic_t<Out>> frame, Parts parts, bool scatter) {
  using A = arithmetic_t<Out>;
  const AffineInputs& in = k.in;
  const AffineGeometry& g = in.geometry;
    const Index out_width = g.out_width, out_plane = g.out_height * g.out_width;
  const Index count = in.images * in.transforms * parts.count();
  const int32_t channels = in.channels;
  constexpr int kUnrolled = sizeof(Index) == 4 ? 2 : 1;  // what 64 registers allow
  const bool theta = kTaps > 1 && k.grad_theta != nullptr;
  SHARED_ARRAY(Tone<A>, tones, kMostChannels);
  for (Index block = blockIdx.x; block < count; block += gridDim.x) {
    const Index transform = block / parts.count();
    const int32_t part = block - transform * parts.count();
    const int32_t channel_part = part % parts.of_channels, pixel_part = part / parts.of_channels;
    const int32_t first = int64_t{channels} * channel_part / parts.of_channels,
                  last = int64_t{channels} * (channel_part + 1) / parts.of_channels;
    const Index begin = int64_t{out_plane} * pixel_part / parts.of_pixels,
                end = int64_t{out_plane} * (pixel_part + 1) / parts.of_pixels;
    const Index image = transform / Index(in.transforms);
    const In* pixels = static_cast<const In*>(in.image) + image * in.image_strides.image;
    A* grad_pixels = static_cast<A*>(k.grad_image) + image * k.grad_image_strides.image;
    __syncthreads();  // the previous part's readers are done with `tones`
    if (static_cast<int32_t>(threadIdx.x) < last - first)
      tones[threadIdx.x] = tone_of<A>(in.normalization, first + threadIdx.x);
    __syncthreads();
    A sums[6] = {};
    for (Index at = begin + Index(threadIdx.x); at < end; at += kThreads) {
      const Index y = at / out_width, x = at - y * out_width;
      const A grid_x = frame.x[x], grid_y = frame.y[y];
      const Place<A> place =
          place_of(static_cast<const A*>(in.theta) + int64_t{transform} * 6, grid_x, grid_y, frame);
      const Out* grad = static_cast<const Out*>(k.grad) + transform * k.grad_strides.image + y * k.grad_strides.row +
                        x * k.grad_strides.column;
      A grad_x = 0, grad_y = 0;
#pragma unroll 1  // one pair of taps at a time keeps registers free
      for (int pair = 0; pair < kTaps * kTaps; ++pair) {
        const Tap<A> row = tap_at<kTaps>(place.y, frame.down, pair / kTaps),
                     column = tap_at<kTaps>(place.x, frame.across, pair % kTaps);
        A product = nothing(row.weight, column.weight);
        if (row.pixel != kOutside && column.pixel != kOutside) {
          const In* from = pixels + row.pixel * Index(in.image_strides.row) + column.pixel * Index(in.image_strides.column);
          A* to = grad_pixels + row.pixel * Index(k.grad_image_strides.row) +
                  column.pixel * Index(k.grad_image_strides.column);
#pragma unroll kUnrolled
          for (int32_t channel = first; channel < last; ++channel) {
            const A go = widen(grad[channel * Index(k.grad_strides.channel)]);
            const Tone<A> tone = tones[channel - first];
            if (scatter)
              atomicAdd(to + channel * Index(k.grad_image_strides.channel), row.weight * column.weight * go * tone.scale);
            if (theta)
              product += go * (tone.scale * widen(from[channel * Index(in.image_strides.channel)]) + tone.shift);
          }
        }
        grad_x += row.weight * column.slope * product;
        grad_y += row.slope * column.weight * product;
      }
      sums[0] += grad_x * grid_x;
      sums[1] += grad_x * grid_y;
      sums[2] += grad_x;
      sums[3] += grad_y * grid_x;
      sums[4] += grad_y * grid_y;
      sums[5] += grad_y;
    }
    if (k.grad_theta == nullptr) continue;  // the same for the whole block
    for (int i = 0; i < 6; ++i) {
      const A sum = block_sum<kThreads>(sums[i]);
      if (threadIdx.x == 0) static_cast<A*>(k.partial)[(transform * parts.count() + part) * 6 + i] = sum;
    }
  }
}

// grad_theta from its parts, a warp each entry.
template <class A, int kThreads>
__global__ void __launch_bounds__(kThreads)
    affine_sample_sum_kernel(const A* partial, A* grad_theta, int64_t transforms, int64_t parts) {
  constexpr int kWarps = kThreads / kWarp;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  for (int64_t i = int64_t{blockIdx.x} * kWarps + warp; i < transforms * 6; i += int64_t{gridDim.x} * kWarps) {
    A sum = 0;
    for (int64_t part = lane; part < parts; part += kWarp) sum += partial[(i / 6 * parts + part) * 6 + i % 6];
    sum = warp_sum(sum);
    if (lane == 0) grad_theta[i] = sum;
  }
}

// Channels that a thread gathers: what 64 registers allow.
template <int kTaps, class Index>
constexpr int gathered_channels() {
  return kTaps < 4 ? 4 : (sizeof(Index) == 4 ? 2 : 1);
}

// Whether a position reads a pixel, and with which weight.
template <int kTaps, class A>
__device__ __forceinline__ bool reads(Position<A> p, const Axis<A>& axis, int32_t pixel, A& weight) {
  bool found = false;
  weight = 0;
#pragma unroll 1
  for (int i = 0; i < kTaps; ++i) {
    const Tap<A> tap = tap_at<kTaps>(p, axis, i);
    if (tap.pixel == pixel) weight += tap.weight, found = true;
  }
  return found;
}

// grad_image in a fixed order of summation: a thread gathers one input pixel, in a group of channels, from the output
// pixels that read it.
template <class T, int kTaps, class Index, int kThreads>
__global__ void __launch_bounds__(kThreads, kResident<arithmetic_t<T>>)
    affine_sample_gather_kernel(AffineSampleBackward k, Frame<arithmetic_t<T>> frame, ChannelGroups groups) {
  using A = arithmetic_t<T>;
  const AffineInputs& in = k.in;
  const AffineGeometry& g = in.geometry;
    constexpr A kReach = A(kTaps) / 2;
  constexpr int kChannels = gathered_channels<kTaps, Index>();
  const Index width = g.width, plane = g.height * g.width;
  const Index count = in.images * groups.count * plane, step = Index(gridDim.x) * kThreads;
  for (Index i = Index(blockIdx.x) * kThreads + threadIdx.x; i < count; i += step) {
    const GroupedPixel<Index> at = grouped_pixel(i, plane, groups);
    const int32_t row = at.pixel / width, column = at.pixel - row * width;
    const int32_t channels = min(kChannels, static_cast<int32_t>(in.channels) - at.channel);
    A total[kChannels] = {};
    const int64_t first = at.image * in.transforms;
    const A* theta = static_cast<const A*>(in.theta) + first * 6;
    const T* grad =
        static_cast<const T*>(k.grad) + first * k.grad_strides.image + at.channel * k.grad_strides.channel;
    for (int32_t t = 0; t < in.transforms; ++t, theta += 6, grad += k.grad_strides.image) {
      const Preimage preimage = preimage_of(theta, g, frame, row, column, kReach);
      for (int32_t y = preimage.rows.begin; y < preimage.rows.end; ++y) {
        const A grid_y = frame.y[y];
        for_each_column(theta, grid_y, frame, preimage.mirrored, column, kReach, g.out_width, [&](int32_t x) {
          const Place<A> place = place_of(theta, frame.x[x], grid_y, frame);
          A weight_y, weight_x;
          if (!reads<kTaps>(place.y, frame.down, row, weight_y)) return;
          if (!reads<kTaps>(place.x, frame.across, column, weight_x)) return;
          const T* from = grad + y * k.grad_strides.row + x * k.grad_strides.column;
          const A weight = weight_y * weight_x;
#pragma unroll
          for (int c = 0; c < kChannels; ++c)
            if (c < channels) total[c] += weight * widen(from[c * k.grad_strides.channel]);
        });
      }
    }
    T* to = static_cast<T*>(k.grad_image) + at.image * k.grad_image_strides.image +
            at.channel * k.grad_image_strides.channel + row * k.grad_image_strides.row +
            column * k.grad_image_strides.column;
#pragma unroll
    for (int c = 0; c < kChannels; ++c)
      if (c < channels)
        to[c * k.grad_image_strides.channel] = narrow<T>(total[c] * tone_of<A>(in.normalization, at.channel + c).scale);
  }
}

}  // namespace lada::cuda
