// Channels side by side in vector registers, for the CPU loops of affine_sample: a block of kLanes channels of an image
// is copied channels-last, so that one pixel is one vector load.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "../common/cpu.h"
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

constexpr int kPlanes = 4;  // that are moved together: a vector of one value of each

template <class A>
struct Quad {
  typedef A Vector __attribute__((vector_size(kPlanes * sizeof(A))));
};

// Four vectors as the rows of a 4 x 4 matrix become its columns.
template <class A>
LADA_HD void transpose(typename Quad<A>::Vector (&v)[4]) {
  typedef std::conditional_t<sizeof(A) == 4, int32_t, int64_t> Order __attribute__((vector_size(4 * sizeof(A))));
  const typename Quad<A>::Vector low_01 = __builtin_shuffle(v[0], v[1], Order{0, 4, 1, 5});
  const typename Quad<A>::Vector low_23 = __builtin_shuffle(v[2], v[3], Order{0, 4, 1, 5});
  const typename Quad<A>::Vector high_01 = __builtin_shuffle(v[0], v[1], Order{2, 6, 3, 7});
  const typename Quad<A>::Vector high_23 = __builtin_shuffle(v[2], v[3], Order{2, 6, 3, 7});
  v[0] = __builtin_shuffle(low_01, low_23, Order{0, 1, 4, 5});
  v[1] = __builtin_shuffle(low_01, low_23, Order{2, 3, 6, 7});
  v[2] = __builtin_shuffle(high_01, high_23, Order{0, 1, 4, 5});
  v[3] = __builtin_shuffle(high_01, high_23, Order{2, 3, 6, 7});
}

// The sum over each of four vectors.
template <class A>
LADA_HD typename Quad<A>::Vector sums_of(const typename Quad<A>::Vector (&v)[4]) {
  typedef std::conditional_t<sizeof(A) == 4, int32_t, int64_t> Order __attribute__((vector_size(4 * sizeof(A))));
  const typename Quad<A>::Vector first =
      __builtin_shuffle(v[0], v[1], Order{0, 4, 1, 5}) + __builtin_shuffle(v[0], v[1], Order{2, 6, 3, 7});
  const typename Quad<A>::Vector second =
      __builtin_shuffle(v[2], v[3], Order{0, 4, 1, 5}) + __builtin_shuffle(v[2], v[3], Order{2, 6, 3, 7});
  return __builtin_shuffle(first, second, Order{0, 1, 4, 5}) + __builtin_shuffle(first, second, Order{2, 3, 6, 7});
}

// The planes' values of each pixel side by side: pixel (y, x) at lanes + y * pitch + x * step.
template <class A>
LADA_CLONES void interleave(const Plane<const A> (&plane)[kPlanes], int64_t height, int64_t width, A* lanes,
                            int64_t pitch, int64_t step) {
  for (int64_t y = 0; y < height; ++y, lanes += pitch) {
    const A* row[kPlanes];
    for (int i = 0; i < kPlanes; ++i) row[i] = plane[i].data + y * plane[i].row_stride;
    int64_t x = 0;
    for (; x + 4 <= width; x += 4) {
      typename Quad<A>::Vector v[4];
      for (int i = 0; i < kPlanes; ++i) std::memcpy(&v[i], row[i] + x, sizeof v[i]);
      transpose<A>(v);
      for (int i = 0; i < 4; ++i) std::memcpy(lanes + (x + i) * step, &v[i], sizeof v[i]);
    }
    for (; x < width; ++x)
      for (int i = 0; i < kPlanes; ++i) lanes[x * step + i] = row[i][x];
  }
}

// The reverse.
template <class A>
LADA_CLONES void separate(const A* lanes, int64_t pitch, int64_t step, int64_t height, int64_t width,
                          const Plane<A> (&plane)[kPlanes]) {
  for (int64_t y = 0; y < height; ++y, lanes += pitch) {
    A* row[kPlanes];
    for (int i = 0; i < kPlanes; ++i) row[i] = plane[i].data + y * plane[i].row_stride;
    int64_t x = 0;
    for (; x + 4 <= width; x += 4) {
      typename Quad<A>::Vector v[4];
      for (int i = 0; i < 4; ++i) std::memcpy(&v[i], lanes + (x + i) * step, sizeof v[i]);
      transpose<A>(v);
      for (int i = 0; i < kPlanes; ++i) std::memcpy(row[i] + x, &v[i], sizeof v[i]);
    }
    for (; x < width; ++x)
      for (int i = 0; i < kPlanes; ++i) row[i][x] = lanes[x * step + i];
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

  template <class T>
  void write(const LaneRows<const A>& from, T* to, const Strides& strides) {
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
        separate(from.data + first, from.pitch, kLanes, from.height, from.width, plane);
        continue;
      }
      for (int64_t y = 0; y < from.height; ++y) {
        separate(from.data + y * from.pitch + first, from.pitch, kLanes, 1, from.width, plane);
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

  A* row(int plane) { return spare_.data() + plane * row_size_; }

  int channels_;
  int64_t row_size_;
  std::vector<A> spare_;  // a row for each plane, and one of zeros
  A scale_[kLanes], shift_[kLanes];
};

}  // namespace lada::cpu
