// Where images and weights lie while they are worked on. An image with its padding is copied to where it stays in the
// cache. There, what one row of a kernel sees is one piece of memory, kernel_width * channels long, because channels
// lie side by side.
#pragma once
#include <algorithm>
#include <cstdint>
#include <new>
#include <vector>

#include "conv_relu_pool.h"

namespace lada::cpu {

// Memory that begins with a cache line: where channels fill whole ones, no vector crosses from one to the next.
template <class A>
struct CacheLines {
  using value_type = A;
  static constexpr std::align_val_t kLine{64};

  CacheLines() = default;
  template <class B>
  CacheLines(const CacheLines<B>&) {}

  A* allocate(size_t count) { return static_cast<A*>(::operator new(count * sizeof(A), kLine)); }
  void deallocate(A* memory, size_t) { ::operator delete(memory, kLine); }
  bool operator==(const CacheLines&) const { return true; }
};

template <class A>
using Buffer = std::vector<A, CacheLines<A>>;

// Numbers of an output's kernel, and of a row of it, by measurements.
constexpr int64_t kSmallKernel = 150, kShortRow = 24;

// Lengths and steps in elements. A row of a kernel is padded to whole vectors; `keep` is how many lanes of the last
// one are its own.
struct Layout {
  int64_t channels, height, width, outputs, kernel_height, kernel_width, padding, rows, columns;
  int64_t line, reach, vectors, keep;

  Layout(const ConvReluPool& k, int64_t lanes)
      : channels(k.channels),
        height(k.height),
        width(k.width),
        outputs(k.outputs),
        kernel_height(k.kernel_height),
        kernel_width(k.kernel_width),
        padding(k.padding),
        rows(k.rows()),
        columns(k.columns()),
        line(k.padded_width() * k.channels),
        reach(k.kernel_width * k.channels),
        vectors((reach + lanes - 1) / lanes),
        keep(reach - (vectors - 1) * lanes) {}

  bool small_kernels() const { return kernel_height * reach <= kSmallKernel; }
  bool short_rows() const { return reach < kShortRow; }
  int64_t stride(int64_t lanes) const { return vectors * lanes; }                // of a kernel's row
  int64_t kernel(int64_t lanes) const { return kernel_height * stride(lanes); }  // of an output
  int64_t weights(int64_t lanes) const { return outputs * kernel(lanes); }
  int64_t padded(int64_t lanes) const { return (height + 2 * padding) * line + lanes; }  // a vector may overhang
  int64_t pixels() const { return height * width * channels; }
  int64_t windows() const { return rows * columns; }
  int64_t corner(int64_t row, int64_t column) const { return 2 * (row * line + column * channels); }  // of a window
  int64_t place(int64_t p) const { return p / 2 * line + p % 2 * channels; }                          // in a window
};

// f(output, channel, row, column, place in (outputs, channels, kernel_height, kernel_width)).
template <class F>
void for_each_weight(const Layout& l, const F& f) {
  int64_t at = 0;
  for (int64_t o = 0; o < l.outputs; ++o)
    for (int64_t c = 0; c < l.channels; ++c)
      for (int64_t y = 0; y < l.kernel_height; ++y)
        for (int64_t x = 0; x < l.kernel_width; ++x) f(o, c, y, x, at++);
}

// f(place in (outputs, channels, kernel_height, kernel_width), place in (outputs, kernel_height, stride)).
template <class F>
void for_each_packed(const Layout& l, int64_t lanes, const F& f) {
  for_each_weight(l, [&](int64_t o, int64_t c, int64_t y, int64_t x, int64_t at) {
    f(at, (o * l.kernel_height + y) * l.stride(lanes) + x * l.channels + c);
  });
}

template <class A>
Buffer<A> packed(const Layout& l, const A* weight, int64_t lanes) {
  Buffer<A> result(l.weights(lanes));
  for_each_packed(l, lanes, [&](int64_t from, int64_t to) { result[to] = weight[from]; });
  return result;
}

// f(row of the image, its place in the padded one).
template <class F>
void for_each_row(const Layout& l, const F& f) {
  for (int64_t y = 0; y < l.height; ++y) f(y * l.width * l.channels, (y + l.padding) * l.line + l.padding * l.channels);
}

template <class A>
void pad(const Layout& l, const A* image, A* padded) {
  for_each_row(l, [&](int64_t from, int64_t to) { std::copy_n(image + from, l.width * l.channels, padded + to); });
}

}  // namespace lada::cpu
