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

// Blocks of 256 threads that a multiprocessor shall hold: at most 64 registers a thread, or 80 where the number of taps
// is known at run time only, and any number for float64.
template <class A, int kTaps>
constexpr int kResident = sizeof(A) == 8 ? 1 : (kTaps == kAnyTaps ? 3 : 4);

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

// Channels that a thread keeps in registers.
constexpr int kGroup = 4;

template <class In, class Out, int kTaps, class Index, int kThreads>
__global__ void __launch_bounds__(kThreads, kResident<arithmetic_t<Out>, kTaps>)
    affine_sample_kernel(AffineSample k, Frame<arithmetic_t<Out>> frame, ChannelGroups groups, int taps) {
  using A = arithmetic_t<Out>;
  const AffineInputs& in = k.in;
  const Index out_width = in.geometry.out_width, out_plane = in.geometry.out_height * in.geometry.out_width;
  const Index transforms = in.transforms, count = in.images * transforms * groups.count * out_plane;
  const Index step = Index(gridDim.x) * kThreads;
  const Index channel_stride = in.image_strides.channel, out_channel_stride = k.out_strides.channel;
  for (Index i = Index(blockIdx.x) * kThreads + threadIdx.x; i < count; i += step) {
    const GroupedPixel<Index> at = grouped_pixel(i, out_plane, groups);
    const int32_t y = at.pixel / out_width, x = at.pixel - y * out_width;
    const Place<A> place =
        place_of(static_cast<const A*>(in.theta) + int64_t{at.image} * 6, frame.x[x], frame.y[y], frame);
    const In* image = static_cast<const In*>(in.image) + int64_t{at.image / transforms} * in.image_strides.image +
                      at.channel * channel_stride;
    Out* out = static_cast<Out*>(k.out) + int64_t{at.image} * k.out_strides.image + at.channel * out_channel_stride +
               y * Index(k.out_strides.row) + x * Index(k.out_strides.column);
    const int32_t channels = in.channels, last = at.channel + groups.size, end = last < channels ? last : channels;
    for (int32_t channel = at.channel; channel < end; channel += kGroup) {
      const A none = nothing<kTaps>(place, frame, taps);
      A total[kGroup] = {}, inside = 0;
      for_each_pair<kTaps>(place, frame, taps, [&](const Tap<A>& row, const Tap<A>& column) {
        const A weight = row.weight * column.weight;
        const In* pixel =
            image + row.pixel * Index(in.image_strides.row) + column.pixel * Index(in.image_strides.column);
        inside += weight;
#pragma unroll
        for (int c = 0; c < kGroup; ++c)
          if (channel + c < end) total[c] += weight * widen(pixel[c * channel_stride]);
      });
#pragma unroll
      for (int c = 0; c < kGroup; ++c)
        if (channel + c < end) {
          const Tone<A> tone = tone_of<A>(in.normalization, channel + c);
          out[c * out_channel_stride] = narrow<Out>(tone.scale * total[c] + tone.shift * inside + none);
        }
      image += kGroup * channel_stride;
      out += kGroup * out_channel_stride;
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
__global__ void __launch_bounds__(kThreads, kResident<arithmetic_t<Out>, kTaps>)
    affine_sample_backward_kernel(AffineSampleBackward k, Frame<arithmetic_t<Out>> frame, Parts parts, bool scatter,
                                  int taps) {
  using A = arithmetic_t<Out>;
  const AffineInputs& in = k.in;
  const Index out_width = in.geometry.out_width, out_plane = in.geometry.out_height * in.geometry.out_width;
  const Index count = in.images * in.transforms * parts.count();
  const Index channel_stride = in.image_strides.channel, grad_channel_stride = k.grad_strides.channel,
              grad_image_channel_stride = k.grad_image_strides.channel;
  SHARED_ARRAY(Tone<A>, tones, kMostChannels);
  for (Index block = blockIdx.x; block < count; block += gridDim.x) {
    const Index transform = block / parts.count(), image = transform / Index(in.transforms);
    const int32_t part = block - transform * parts.count();
    const int32_t channel_part = part % parts.of_channels, pixel_part = part / parts.of_channels;
    const int32_t first = in.channels * channel_part / parts.of_channels,
                  channels = in.channels * (channel_part + 1) / parts.of_channels - first;
    const Index begin = int64_t{out_plane} * pixel_part / parts.of_pixels,
                end = int64_t{out_plane} * (pixel_part + 1) / parts.of_pixels;
    const In* pixels = static_cast<const In*>(in.image) + image * in.image_strides.image + first * channel_stride;
    const Out* grads = static_cast<const Out*>(k.grad) + transform * k.grad_strides.image + first * grad_channel_stride;
    A* grad_pixels =
        static_cast<A*>(k.grad_image) + image * k.grad_image_strides.image + first * grad_image_channel_stride;
    __syncthreads();  // the previous part's readers are done with `tones`
    if (static_cast<int32_t>(threadIdx.x) < channels)
      tones[threadIdx.x] = tone_of<A>(in.normalization, first + threadIdx.x);
    __syncthreads();
    A sums[6] = {};
    for (Index at = begin + Index(threadIdx.x); at < end; at += kThreads) {
      const int32_t y = at / out_width, x = at - y * out_width;
      const A grid_x = frame.x[x], grid_y = frame.y[y];
      const Place<A> place = place_of(static_cast<const A*>(in.theta) + int64_t{transform} * 6, grid_x, grid_y, frame);
      const Out* grad = grads + y * Index(k.grad_strides.row) + x * Index(k.grad_strides.column);
      A grad_x = nothing<kTaps>(place, frame, taps), grad_y = grad_x;
      for_each_pair<kTaps>(place, frame, taps, [&](const Tap<A>& row, const Tap<A>& column) {
        const A weight = row.weight * column.weight;
        const In* from =
            pixels + row.pixel * Index(in.image_strides.row) + column.pixel * Index(in.image_strides.column);
        A* to = grad_pixels + row.pixel * Index(k.grad_image_strides.row) +
                column.pixel * Index(k.grad_image_strides.column);
        A product = 0;
#pragma unroll(kTaps == kAnyTaps ? 1 : 2)
        for (int32_t c = 0; c < channels; ++c) {
          const A go = widen(grad[c * grad_channel_stride]);
          const Tone<A> tone = tones[c];
          if (scatter) atomicAdd(to + c * grad_image_channel_stride, weight * go * tone.scale);
          if (k.grad_theta) product += go * (tone.scale * widen(from[c * channel_stride]) + tone.shift);
        }
        grad_x += row.weight * column.slope * product;
        grad_y += row.slope * column.weight * product;
      });
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

// Whether a position reads a pixel, and with which weight.
template <int kTaps, class A>
__device__ __forceinline__ bool reads(const Position<A>& p, const Axis<A>& axis, int32_t pixel, int taps, A& weight) {
  const int count = kTaps == kAnyTaps ? taps : kTaps;
  bool found = false;
  weight = 0;
#pragma unroll(kTaps == kAnyTaps ? 1 : kTaps)
  for (int i = 0; i < count; ++i) {
    const Tap<A> tap = tap_at<kTaps>(p, axis, i, taps);
    if (tap.pixel == pixel) weight += tap.weight, found = true;
  }
  return found;
}

// grad_image in a fixed order of summation: a thread gathers one input pixel, in kGroup channels, from the output
// pixels that read it.
template <class T, int kTaps, class Index, int kThreads>
__global__ void __launch_bounds__(kThreads, kResident<arithmetic_t<T>, kTaps>)
    affine_sample_gather_kernel(AffineSampleBackward k, Frame<arithmetic_t<T>> frame, ChannelGroups groups, int taps) {
  using A = arithmetic_t<T>;
  const AffineInputs& in = k.in;
  const AffineGeometry& g = in.geometry;
  const A reach = static_cast<A>(taps) / 2;
  const Index width = g.width, plane = g.height * g.width;
  const Index count = in.images * groups.count * plane, step = Index(gridDim.x) * kThreads;
  for (Index i = Index(blockIdx.x) * kThreads + threadIdx.x; i < count; i += step) {
    const GroupedPixel<Index> at = grouped_pixel(i, plane, groups);
    const int32_t row = at.pixel / width, column = at.pixel - row * width;
    const int32_t rest = in.channels - at.channel, channels = rest < kGroup ? rest : kGroup;
    A total[kGroup] = {};
    const int64_t first = at.image * in.transforms;
    const A* theta = static_cast<const A*>(in.theta) + first * 6;
    const T* grad = static_cast<const T*>(k.grad) + first * k.grad_strides.image + at.channel * k.grad_strides.channel;
    for (int32_t t = 0; t < in.transforms; ++t, theta += 6, grad += k.grad_strides.image) {
      const Preimage preimage = preimage_of(theta, g, frame, row, column, reach);
      for (int32_t y = preimage.rows.begin; y < preimage.rows.end; ++y) {
        const A grid_y = frame.y[y];
        for_each_column(theta, grid_y, frame, preimage.mirrored, column, reach, g.out_width, [&](int32_t x) {
          const Place<A> place = place_of(theta, frame.x[x], grid_y, frame);
          A weight_y, weight_x;
          if (!reads<kTaps>(place.y, frame.down, row, taps, weight_y)) return;
          if (!reads<kTaps>(place.x, frame.across, column, taps, weight_x)) return;
          const T* from = grad + y * Index(k.grad_strides.row) + x * Index(k.grad_strides.column);
          const A weight = weight_y * weight_x;
#pragma unroll
          for (int c = 0; c < kGroup; ++c)
            if (c < channels) total[c] += weight * widen(from[c * Index(k.grad_strides.channel)]);
        });
      }
    }
    T* to = static_cast<T*>(k.grad_image) + at.image * k.grad_image_strides.image +
            at.channel * k.grad_image_strides.channel + row * k.grad_image_strides.row +
            column * k.grad_image_strides.column;
#pragma unroll
    for (int c = 0; c < kGroup; ++c)
      if (c < channels)
        to[c * k.grad_image_strides.channel] = narrow<T>(total[c] * tone_of<A>(in.normalization, at.channel + c).scale);
  }
}

}  // namespace lada::cuda
