// Channels side by side in vector registers, for the CPU loops of affine_sample: a block of kLanes channels of an image
// is copied channels-last, so that one pixel is one vector load.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "../common/cpu.h"
#include "../common/stream.h"
#include "affine_sample.h"

#pragma GCC diagnostic ignored "-Wpsabi"  // vectors are passed between inlined functions only

namespace lada::cpu {

// kLanes values. The compiler makes of each operation what the instruction set has.
template <class A, int kLanes>
struct Lanes {
  static constexpr int kWidth = kLanes * sizeof(A) < 32 ? kLanes : static_cast<int>(32 / sizeof(A));
  static constexpr int kVectors = kLanes / kWidth;
  typedef A Vector __attribute__((vector_size(kWidth * sizeof(A))));
  Vector vector[kVectors];

  LADA_HD static Lanes load(const A* from) {
    Lanes lanes;  // vector by vector: all at once, g++ would copy through memory in smaller pieces
    for (int i = 0; i < kVectors; ++i) std::memcpy(&lanes.vector[i], from + i * kWidth, sizeof(Vector));
    return lanes;
  }
  LADA_HD void store(A* to) const {
    for (int i = 0; i < kVectors; ++i) std::memcpy(to + i * kWidth, &vector[i], sizeof(Vector));
  }
  // *this += factor * other
  LADA_HD void add(A factor, const Lanes& other) {
    for (int i = 0; i < kVectors; ++i) vector[i] += factor * other.vector[i];
  }
  LADA_HD Lanes operator*(const Lanes& other) const {
    Lanes product;
    for (int i = 0; i < kVectors; ++i) product.vector[i] = vector[i] * other.vector[i];
    return product;
  }
  LADA_HD Lanes operator*(A factor) const {
    Lanes product;
    for (int i = 0; i < kVectors; ++i) product.vector[i] = factor * vector[i];
    return product;
  }
  // Lanes kPart * kCount and on, kCount of them.
  template <int kPart, int kCount>
  LADA_HD Lanes<A, kCount> part() const {
    using Part = Lanes<A, kCount>;
    Part lanes;
    if constexpr (Part::kWidth == kWidth)
      for (int i = 0; i < Part::kVectors; ++i) lanes.vector[i] = vector[kPart * Part::kVectors + i];
    else
      lanes.vector[0] = half<kPart>(vector[0]);
    return lanes;
  }
  // Four lanes with the same total.
  LADA_HD auto in_quad() const {
    Vector total = vector[0];
    for (int i = 1; i < kVectors; ++i) total += vector[i];
    if constexpr (kWidth == 4)
      return total;
    else
      return half<0>(total) + half<1>(total);
  }

 private:
  template <int kHalf>
  LADA_HD static auto half(Vector v) {
    static_assert(kWidth == 8 || kWidth == 4);
    if constexpr (kWidth == 8)
      return __builtin_shufflevector(v, v, 4 * kHalf, 4 * kHalf + 1, 4 * kHalf + 2, 4 * kHalf + 3);
    else
      return v;
  }
};

// Rows of one channel. A row is `row_stride` elements after the one before, or the same again.
template <class A>
struct Plane {
  A* data;
  int64_t row_stride;
};

constexpr int kQuad = 4;

// One value of each of kPlanes planes; or a quad of neighbours of each kQuad-th.
template <class A, int kPlanes>
struct Across {
  typedef A Vector __attribute__((vector_size(kPlanes * sizeof(A))));
};
template <class A>
using Quad = typename Across<A, kQuad>::Vector;

template <class V>
constexpr int kLanesOf = sizeof(V) / sizeof(std::declval<V>()[0]);

// Each quad made of those lanes of the same quads of a (0 to 3) and of b (4 to 7).
template <int kFirst, int kSecond, int kThird, int kFourth, class V>
LADA_HD V of_quads(V a, V b) {
  if constexpr (kLanesOf<V> == kQuad) {
    return __builtin_shufflevector(a, b, kFirst, kSecond, kThird, kFourth);
  } else {
    constexpr auto lane = [](int i, int quad) { return i + quad * kQuad + (i < kQuad ? 0 : kQuad); };
    return __builtin_shufflevector(a, b, lane(kFirst, 0), lane(kSecond, 0), lane(kThird, 0), lane(kFourth, 0),
                                   lane(kFirst, 1), lane(kSecond, 1), lane(kThird, 1), lane(kFourth, 1));
  }
}

// Four vectors as the rows of a 4 x 4 matrix for each quad: they become its columns.
template <class V>
LADA_HD void transpose(V (&v)[4]) {
  const V low_01 = of_quads<0, 4, 1, 5>(v[0], v[1]), low_23 = of_quads<0, 4, 1, 5>(v[2], v[3]);
  const V high_01 = of_quads<2, 6, 3, 7>(v[0], v[1]), high_23 = of_quads<2, 6, 3, 7>(v[2], v[3]);
  v[0] = of_quads<0, 1, 4, 5>(low_01, low_23), v[1] = of_quads<2, 3, 6, 7>(low_01, low_23);
  v[2] = of_quads<0, 1, 4, 5>(high_01, high_23), v[3] = of_quads<2, 3, 6, 7>(high_01, high_23);
}

// The sum over each of four vectors.
template <class A>
LADA_HD Quad<A> sums_of(const Quad<A> (&v)[4]) {
  const Quad<A> first = of_quads<0, 4, 1, 5>(v[0], v[1]) + of_quads<2, 6, 3, 7>(v[0], v[1]);
  const Quad<A> second = of_quads<0, 4, 1, 5>(v[2], v[3]) + of_quads<2, 6, 3, 7>(v[2], v[3]);
  return of_quads<0, 1, 4, 5>(first, second) + of_quads<2, 3, 6, 7>(first, second);
}

// Four neighbours of row i, and of the rows a quad after it.
template <class A, int kPlanes>
LADA_HD auto load_quads(const A* const (&row)[kPlanes], int i, int64_t x) {
  Quad<A> quad[kPlanes / kQuad];
  for (int q = 0; q < kPlanes / kQuad; ++q) std::memcpy(&quad[q], row[i + q * kQuad] + x, sizeof quad[q]);
  if constexpr (kPlanes == kQuad)
    return quad[0];
  else
    return __builtin_shufflevector(quad[0], quad[1], 0, 1, 2, 3, 4, 5, 6, 7);
}
template <class A, int kPlanes>
LADA_HD void store_quads(typename Across<A, kPlanes>::Vector v, A* const (&row)[kPlanes], int i, int64_t x) {
  if constexpr (kPlanes == kQuad) {
    std::memcpy(row[i] + x, &v, sizeof v);
  } else {
    const Quad<A> first = __builtin_shufflevector(v, v, 0, 1, 2, 3), second = __builtin_shufflevector(v, v, 4, 5, 6, 7);
    std::memcpy(row[i] + x, &first, sizeof first);
    std::memcpy(row[i + kQuad] + x, &second, sizeof second);
  }
}

// The planes' values of each pixel side by side: pixel (y, x) at lanes + y * pitch + x * step.
template <class A, int kPlanes>
LADA_CLONES void interleave(const Plane<const A> (&plane)[kPlanes], int64_t height, int64_t width, A* lanes,
                            int64_t pitch, int64_t step) {
  for (int64_t y = 0; y < height; ++y, lanes += pitch) {
    const A* row[kPlanes];
    for (int i = 0; i < kPlanes; ++i) row[i] = plane[i].data + y * plane[i].row_stride;
    int64_t x = 0;
    for (; x + 4 <= width; x += 4) {
      typename Across<A, kPlanes>::Vector v[4];
      for (int i = 0; i < 4; ++i) v[i] = load_quads(row, i, x);
      transpose(v);
      for (int i = 0; i < 4; ++i) std::memcpy(lanes + (x + i) * step, &v[i], sizeof v[i]);
    }
    for (; x < width; ++x)
      for (int i = 0; i < kPlanes; ++i) lanes[x * step + i] = row[i][x];
  }
}

// The reverse for four pixels.
template <class A, int kPlanes>
LADA_HD void separate_four(const A* lanes, int64_t step, A* const (&row)[kPlanes], int64_t x) {
  typename Across<A, kPlanes>::Vector v[4];
  for (int i = 0; i < 4; ++i) std::memcpy(&v[i], lanes + i * step, sizeof v[i]);
  transpose(v);
  for (int i = 0; i < 4; ++i) store_quads<A, kPlanes>(v[i], row, i, x);
}

// The reverse. With `streams`, where planes and their rows begin with a cache line, whole lines pass by the caches.
template <class A, int kPlanes>
LADA_CLONES void separate(const A* lanes, int64_t pitch, int64_t step, int64_t height, int64_t width,
                          const Plane<A> (&plane)[kPlanes], bool streams) {
  constexpr int64_t kLine = kCacheLine / sizeof(A);
  alignas(kCacheLine) A line[kPlanes][kLine];
  for (int64_t y = 0; y < height; ++y) {
    const A* pixels = lanes + y * pitch;
    A *row[kPlanes], *to[kPlanes];
    for (int i = 0; i < kPlanes; ++i) row[i] = plane[i].data + y * plane[i].row_stride, to[i] = line[i];
    int64_t x = 0;
    for (; streams && x + kLine <= width; x += kLine) {
      for (int64_t part = 0; part < kLine; part += 4) separate_four(pixels + (x + part) * step, step, to, part);
      for (int i = 0; i < kPlanes; ++i) stream_line(line[i], row[i] + x);
    }
    for (; x + 4 <= width; x += 4) separate_four(pixels + x * step, step, row, x);
    for (; x < width; ++x)
      for (int i = 0; i < kPlanes; ++i) row[i][x] = pixels[x * step + i];
  }
}

// to[i] = scale * from[i] + shift, for values `from_step` and `to_step` apart.
template <class From, class To, class A>
LADA_CLONES void convert(const From* from, int64_t from_step, To* to, int64_t to_step, int64_t count, A scale,
                         A shift) {
  if (from_step == 1 && to_step == 1) {
    for (int64_t i = 0; i < count; ++i) to[i] = static_cast<To>(scale * static_cast<A>(from[i]) + shift);
  } else {
    for (int64_t i = 0; i < count; ++i)
      to[i * to_step] = static_cast<To>(scale * static_cast<A>(from[i * from_step]) + shift);
  }
}

// The same for `count` pixels whose `channels` lie side by side.
template <int kLanes, class From, class To, class A>
LADA_CLONES void convert_pixels(const From* from, int64_t from_step, To* to, int64_t to_step, int64_t count,
                                int channels, const A* scale, const A* shift) {
  for (int64_t i = 0; i < count; ++i, from += from_step, to += to_step) {
    if (channels == kLanes) {
      for (int c = 0; c < kLanes; ++c) to[c] = static_cast<To>(scale[c] * static_cast<A>(from[c]) + shift[c]);
    } else {
      for (int c = 0; c < channels; ++c) to[c] = static_cast<To>(scale[c] * static_cast<A>(from[c]) + shift[c]);
    }
  }
}

// Rows of pixels in lanes: pixel (y, x) at data + y * pitch + x * kLanes.
template <class A>
struct LaneRows {
  A* data;
  int64_t pitch, height, width;
};

// A block of at most kLanes channels of a tensor: how its rows are read into lanes and written from them. A lane
// without a channel holds zeros. Planes are read and written few at a time, over all rows: more streams than a
// processor follows would each wait for memory.
template <class A, int kLanes>
class ChannelBlock {
  static constexpr int kPlanes = sizeof(A) == 4 && kLanes % 8 == 0 ? 8 : kQuad;  // that are moved together

 public:
  ChannelBlock(int channels, int64_t longest_row)
      : channels_(channels), row_size_(longest_row), spare_((kPlanes + 1) * longest_row, A(0)) {
    for (int c = 0; c < kLanes; ++c) set_tone(c, 1, 0);
  }

  void set_tone(int channel, A scale, A shift) { scale_[channel] = scale, shift_[channel] = shift; }

  template <class T>
  void read(const T* from, const Strides& strides, const LaneRows<A>& to) {
    if (is_channels_last(strides)) {
      for (int64_t y = 0; y < to.height; ++y) {
        A* lanes = to.data + y * to.pitch;
        if (channels_ < kLanes) std::fill_n(lanes, to.width * kLanes, A(0));
        convert_pixels<kLanes>(from + y * strides.row, strides.column, lanes, kLanes, to.width, channels_, scale_,
                               shift_);
      }
      return;
    }
    for (int first = 0; first < kLanes; first += kPlanes) {
      Plane<const A> plane[kPlanes];
      for (int i = 0; i < kPlanes; ++i) plane[i] = {row(kPlanes), 0};
      if (is_plain<T>(first, strides)) {
        for (int i = 0; i < planes_from(first); ++i)
          plane[i] = {reinterpret_cast<const A*>(from) + (first + i) * strides.channel, strides.row};
        interleave(plane, to.height, to.width, to.data + first, to.pitch, kLanes);
        continue;
      }
      for (int i = 0; i < planes_from(first); ++i) plane[i].data = row(i);
      for (int64_t y = 0; y < to.height; ++y) {
        for (int i = 0; i < planes_from(first); ++i)
          convert(from + (first + i) * strides.channel + y * strides.row, strides.column, row(i), 1, to.width,
                  scale_[first + i], shift_[first + i]);
        interleave(plane, 1, to.width, to.data + y * to.pitch + first, to.pitch, kLanes);
      }
    }
  }

  // With `streams`, past the caches where that is possible; end_stream() has to follow.
  template <class T>
  void write(const LaneRows<const A>& from, T* to, const Strides& strides, bool streams) {
    if (is_channels_last(strides)) {
      for (int64_t y = 0; y < from.height; ++y)
        convert_pixels<kLanes>(from.data + y * from.pitch, kLanes, to + y * strides.row, strides.column, from.width,
                               channels_, scale_, shift_);
      return;
    }
    for (int first = 0; first < channels_; first += kPlanes) {
      Plane<A> plane[kPlanes];
      for (int i = 0; i < kPlanes; ++i) plane[i] = {row(i), 0};
      if (is_plain<T>(first, strides)) {
        for (int i = 0; i < planes_from(first); ++i)
          plane[i] = {reinterpret_cast<A*>(to) + (first + i) * strides.channel, strides.row};
        separate(from.data + first, from.pitch, kLanes, from.height, from.width, plane, streams && begins_lines(plane));
        continue;
      }
      for (int64_t y = 0; y < from.height; ++y) {
        separate(from.data + y * from.pitch + first, from.pitch, kLanes, 1, from.width, plane, false);
        for (int i = 0; i < planes_from(first); ++i)
          convert(row(i), 1, to + (first + i) * strides.channel + y * strides.row, strides.column, from.width,
                  scale_[first + i], shift_[first + i]);
      }
    }
  }

 private:
  static bool is_channels_last(const Strides& strides) { return strides.channel == 1 && strides.column != 1; }

  // Channels among the planes from `first` on.
  int planes_from(int first) const { return std::clamp(channels_ - first, 0, kPlanes); }

  // Whether the values of these planes are moved as they are.
  template <class T>
  bool is_plain(int first, const Strides& strides) const {
    bool plain = std::is_same_v<T, A> && strides.column == 1;
    for (int c = first; c < first + planes_from(first); ++c) plain = plain && scale_[c] == 1 && shift_[c] == 0;
    return plain;
  }

  static bool begins_lines(const Plane<A> (&plane)[kPlanes]) {
    uintptr_t low = 0;
    for (const Plane<A>& p : plane)
      low |= reinterpret_cast<uintptr_t>(p.data) | static_cast<uintptr_t>(p.row_stride) * sizeof(A);
    return low % kCacheLine == 0;
  }

  A* row(int plane) { return spare_.data() + plane * row_size_; }

  int channels_;
  int64_t row_size_;
  std::vector<A> spare_;  // a row for each plane, and one of zeros
  A scale_[kLanes], shift_[kLanes];
};

}  // namespace lada::cpu
