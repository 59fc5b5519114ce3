// Channels side by side in vector registers, for the CPU loops of affine_sample: a block of kLanes channels of an image
// is copied channels-last, so that one pixel is one vector load.
#pragma once
#include <cstdint>
#include <cstring>
#include <vector>

#include "../common/cpu.h"

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
    Lanes lanes;
    std::memcpy(lanes.vector, from, sizeof(Lanes));
    return lanes;
  }
  LADA_HD void store(A* to) const { std::memcpy(to, vector, sizeof(Lanes)); }
  // *this += factor * other
  LADA_HD void add(A factor, const Lanes& other) {
    for (int i = 0; i < kVectors; ++i) vector[i] += factor * other.vector[i];
  }
  // *this += other * another
  LADA_HD void add(const Lanes& other, const Lanes& another) {
    for (int i = 0; i < kVectors; ++i) vector[i] += other.vector[i] * another.vector[i];
  }
  LADA_HD A sum() const {
    A total = 0;
    for (int i = 0; i < kVectors; ++i)
      for (int lane = 0; lane < kWidth; ++lane) total += vector[i][lane];
    return total;
  }
};

// Four rows of four values to their transpose.
template <class A>
LADA_HD void transpose_4x4(const A* from, int64_t from_stride, A* to, int64_t to_stride) {
  typedef A Row __attribute__((vector_size(4 * sizeof(A))));
  typedef std::conditional_t<sizeof(A) == 4, int32_t, int64_t> Order __attribute__((vector_size(4 * sizeof(A))));
  Row in[4];
  for (int i = 0; i < 4; ++i) std::memcpy(&in[i], from + i * from_stride, sizeof(Row));
  const Row low_01 = __builtin_shuffle(in[0], in[1], Order{0, 4, 1, 5});
  const Row low_23 = __builtin_shuffle(in[2], in[3], Order{0, 4, 1, 5});
  const Row high_01 = __builtin_shuffle(in[0], in[1], Order{2, 6, 3, 7});
  const Row high_23 = __builtin_shuffle(in[2], in[3], Order{2, 6, 3, 7});
  const Row out[4] = {
      __builtin_shuffle(low_01, low_23, Order{0, 1, 4, 5}), __builtin_shuffle(low_01, low_23, Order{2, 3, 6, 7}),
      __builtin_shuffle(high_01, high_23, Order{0, 1, 4, 5}), __builtin_shuffle(high_01, high_23, Order{2, 3, 6, 7})};
  for (int i = 0; i < 4; ++i) std::memcpy(to + i * to_stride, &out[i], sizeof(Row));
}

// `rows` x `columns` values, multiples of 4, to their transpose.
template <class A>
LADA_CLONES void transpose(const A* from, int64_t from_stride, int64_t rows, int64_t columns, A* to,
                           int64_t to_stride) {
  for (int64_t column = 0; column < columns; column += 4)
    for (int64_t row = 0; row < rows; row += 4)
      transpose_4x4(from + row * from_stride + column, from_stride, to + column * to_stride + row, to_stride);
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

constexpr int64_t rounded_up_to_4(int64_t count) { return (count + 3) / 4 * 4; }

// A block of at most kLanes channels of a tensor: how its rows are read into lanes and written from them. A lane
// without a channel holds zeros. Rows in lanes have room for a multiple of 4 pixels.
template <class A, int kLanes>
class ChannelBlock {
 public:
  ChannelBlock(int channels, int64_t longest_row)
      : channels_(channels), pitch_(rounded_up_to_4(longest_row)), rows_(kLanes * pitch_, A(0)) {
    for (int c = 0; c < kLanes; ++c) set_tone(c, 1, 0);
  }

  void set_tone(int channel, A scale, A shift) { scale_[channel] = scale, shift_[channel] = shift; }

  template <class T>
  void read_row(const T* from, int64_t channel_stride, int64_t column_stride, int64_t width, A* lanes) {
    if (channel_stride == 1 && column_stride != 1) {
      if (channels_ < kLanes) std::fill_n(lanes, width * kLanes, A(0));
      convert_pixels<kLanes>(from, column_stride, lanes, kLanes, width, channels_, scale_, shift_);
      return;
    }
    for (int c = 0; c < channels_; ++c)
      convert(from + c * channel_stride, column_stride, &rows_[c * pitch_], 1, width, scale_[c], shift_[c]);
    transpose(rows_.data(), pitch_, kLanes, rounded_up_to_4(width), lanes, kLanes);
  }

  template <class T>
  void write_row(const A* lanes, int64_t width, T* to, int64_t channel_stride, int64_t column_stride) {
    if (channel_stride == 1 && column_stride != 1) {
      convert_pixels<kLanes>(lanes, kLanes, to, column_stride, width, channels_, scale_, shift_);
      return;
    }
    transpose(lanes, kLanes, rounded_up_to_4(width), kLanes, rows_.data(), pitch_);
    for (int c = 0; c < channels_; ++c)
      convert(&rows_[c * pitch_], 1, to + c * channel_stride, column_stride, width, scale_[c], shift_[c]);
  }

 private:
  int channels_;
  int64_t pitch_;
  std::vector<A> rows_;  // kLanes rows of the tensor
  A scale_[kLanes], shift_[kLanes];
};

}  // namespace lada::cpu
