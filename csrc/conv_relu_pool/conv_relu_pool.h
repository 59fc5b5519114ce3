// The bridge between conv_relu_pool.cpp (tensors) and its loops (pointers): plain structs, no torch header.
#pragma once
#include <cstdint>

#include "../common/dtype.h"

namespace lada {

// All tensors but `where` are in arithmetic type.
struct ConvReluPool {
  const void* image;     // (batch, height, width, channels)
  const int64_t* pairs;  // (batch, 2), or null; if given, `image` is (images, height, width, channels / 2), and the
                         // channels of a pair lie side by side in what is convolved
  const void* weight;    // (outputs, channels, kernel_height, kernel_width)
  int64_t batch, channels, height, width, outputs, kernel_height, kernel_width, padding;
  bool mean;  // of the windows, instead of the greatest
  DType dtype;

  int64_t padded_height() const { return height + 2 * padding; }
  int64_t padded_width() const { return width + 2 * padding; }
  int64_t rows() const { return (padded_height() - kernel_height + 1) / 2; }
  int64_t columns() const { return (padded_width() - kernel_width + 1) / 2; }
};

// `where` says to which of the four places of a window its gradient passes, by bit 2 * row + column: to the greatest,
// or for the mean to all, but to none that is cut off.
struct ConvReluPoolForward {
  ConvReluPool of;
  const void* bias;  // (outputs,), or null
  void* result;      // (batch, rows, columns, outputs)
  uint8_t* where;    // (batch, rows, columns, outputs)
};

struct ConvReluPoolBackward {
  ConvReluPool of;
  const void* grad;      // (batch, rows, columns, outputs)
  const uint8_t* where;  // (batch, rows, columns, outputs)
  void* grad_image;      // (batch, height, width, channels), or null
  void* grad_weight;     // (outputs, channels, kernel_height, kernel_width), or null
  void* grad_bias;       // (outputs,), or null
};

namespace cpu {
void conv_relu_pool(const ConvReluPoolForward&, int threads);
void conv_relu_pool_backward(const ConvReluPoolBackward&, int threads);
}  // namespace cpu

}  // namespace lada
