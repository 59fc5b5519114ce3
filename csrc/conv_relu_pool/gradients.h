// Backward, a window passes its gradient to those of its four places whose bits `where` holds, which for the greatest
// are one or none of them: at most a quarter of the products of a dense convolution are left to do, and those alone are
// done. But what short rows of a kernel add to an image overlaps, and waiting for the last sum takes longer than
// products that are 0; so there, and for means, the gradient of an image is a convolution.
#pragma once
#include "by_rows.h"
#include "pool.h"

namespace lada::cpu {

// What reaches the sums of one output: where in the padded image each was seen, and its gradient.
template <class A>
struct Passed {
  std::vector<int64_t> place;
  Buffer<A> grad;
  int64_t count = 0;

  explicit Passed(const Layout& l) : place(4 * l.windows() + 1), grad(4 * l.windows() + 1) {}

  // `most` is how many places a window passes to.
  void find(const Layout& l, const A* grads, const uint8_t* where, A share, int most, int64_t output) {
    count = 0;
    int64_t at = output;
    for (int64_t row = 0; row < l.rows; ++row)
      for (int64_t column = 0; column < l.columns; ++column, at += l.outputs) {
        unsigned bits = where[at] & 15u;
        for (int i = 0; i < most; ++i) {
          place[count] = l.corner(row, column) + l.place(__builtin_ctz(bits | 16u));
          grad[count] = share * grads[at];
          count += bits != 0;
          bits &= bits - 1;
        }
      }
  }
};

// Adds to vectors `v` to `v + kVectors` of the gradient of an output's kernel what all windows pass to them.
template <class A, class Tile, int kVectors>
LADA_CLONES void add_to_weights(const Layout& l, const A* image, const Passed<A>& passed, int64_t v, A* grad_weight) {
  using L = Lanes<A, Tile::kBytes>;
  const A* from[kVectors];
  typename L::Vector sums[kVectors], seen;
  for (int i = 0; i < kVectors; ++i) {
    from[i] = image + (v + i) / l.vectors * l.line + (v + i) % l.vectors * L::kCount;
    L::load(grad_weight + (v + i) * L::kCount, sums[i]);
  }
  for (int64_t j = 0; j < passed.count; ++j)
    for (int i = 0; i < kVectors; ++i) {
      L::load(from[i] + passed.place[j], seen);
      sums[i] += passed.grad[j] * seen;
    }
  for (int i = 0; i < kVectors; ++i) L::store(sums[i], grad_weight + (v + i) * L::kCount);
}

template <class A, class Tile, int kVectors = Tile::kVectors>
void add_to_kernel(const Layout& l, const A* image, const Passed<A>& passed, int64_t v, A* grad_weight) {
  const int64_t vectors = l.kernel_height * l.vectors;
  for (; v + kVectors <= vectors; v += kVectors) add_to_weights<A, Tile, kVectors>(l, image, passed, v, grad_weight);
  if constexpr (kVectors > 1)
    if (v < vectors) add_to_kernel<A, Tile, kVectors - 1>(l, image, passed, v, grad_weight);
}

// Adds to the gradient of a padded image what the windows of one output, of these weights, pass to it.
template <class A, class Tile>
LADA_CLONES void add_to_image(const Layout& l, const A* weight, const Passed<A>& passed, A* image) {
  using R = Row<A, Tile>;
  using L = typename R::L;
  for (int64_t i = 0; i < passed.count; ++i)
    for (int64_t y = 0; y < l.kernel_height; ++y)
      for (int64_t v = 0; v < l.vectors; ++v) {
        A* to = image + passed.place[i] + y * l.line + v * L::kCount;
        typename R::Vector sum, w;
        L::load(to, sum);
        L::load(weight + (y * l.vectors + v) * L::kCount, w);
        typename R::Vector product = passed.grad[i] * w;
        if (v + 1 == l.vectors) R::cut_off(product, l.keep);
        sum += product;
        L::store(sum, to);
      }
}

// Writes to the four places of a window what kCount outputs pass to them, or 0. Which of them is random, so by bits and
// without a branch.
template <class A, int kCount>
LADA_HD void spread_window(const Layout& l, const A* grads, const uint8_t* where, A share, A* sums) {
  using Bits = std::conditional_t<sizeof(A) == 8, uint64_t, uint32_t>;
  for (int p = 0; p < 4; ++p)
    for (int o = 0; o < kCount; ++o) {
      const A passed = share * grads[o];
      Bits bits;
      std::memcpy(&bits, &passed, sizeof bits);
      bits &= -static_cast<Bits>(where[o] >> p & 1);
      std::memcpy(&sums[l.place(p) + o], &bits, sizeof bits);
    }
}

// Of all windows of an image; a channel of the layout is an output here.
template <class A>
LADA_CLONES void spread(const Layout& l, const A* grads, const uint8_t* where, A share, int64_t rows, int64_t columns,
                        A* sums) {
  constexpr int kTogether = 8;
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t column = 0; column < columns; ++column, grads += l.channels, where += l.channels) {
      A* const window = sums + l.corner(row, column);
      int64_t o = 0;
      for (; o + kTogether <= l.channels; o += kTogether)
        spread_window<A, kTogether>(l, grads + o, where + o, share, window + o);
      for (; o < l.channels; ++o) spread_window<A, 1>(l, grads + o, where + o, share, window + o);
    }
}

// The gradient of an image as a convolution: of the gradients of all sums, those that get none being 0, by the kernels
// turned around, whose outputs are the channels.
template <class A, class Tile>
struct Turned {
  static constexpr int64_t kLanes = Row<A, Tile>::L::kCount;
  Layout of, l;
  Buffer<A> weight, sums;

  Turned(const ConvReluPool& k, const A* weights) : of(k, kLanes), l(turned(k), kLanes), sums(l.padded(kLanes)) {
    l.rows = (k.height + 1) / 2;
    l.columns = (k.width + 1) / 2;
    Buffer<A> reordered(of.outputs * of.channels * of.kernel_height * of.kernel_width);
    for_each_weight(of, [&](int64_t o, int64_t c, int64_t y, int64_t x, int64_t at) {
      const int64_t row = of.kernel_height - 1 - y, column = of.kernel_width - 1 - x;
      reordered[((c * of.outputs + o) * of.kernel_height + row) * of.kernel_width + column] = weights[at];
    });
    weight = packed(l, reordered.data(), kLanes);
  }

  // An image of the sums, with as many zeros around as kernels and padding reach.
  static ConvReluPool turned(ConvReluPool k) {
    k.height += k.padding + std::max(k.padding, k.kernel_height);
    k.width += k.padding + std::max(k.padding, k.kernel_width);
    std::swap(k.channels, k.outputs);
    k.padding = 0;
    return k;
  }

  void image(const A* grads, const uint8_t* where, A share, A* grad_image) {
    A* const first = sums.data() + (of.kernel_height - 1) * l.line + (of.kernel_width - 1) * l.channels;
    spread(l, grads, where, share, of.rows, of.columns, first);
    convolve<A, Tile>(l, sums.data() + of.padding * (l.line + l.channels), weight.data(), 0, Write{of, grad_image});
  }

 private:
  struct Write {
    const Layout& of;
    A* grad_image;

    template <class V>
    LADA_HD void operator()(int64_t row, int64_t column, int64_t first, const V (&places)[4], int count) const {
      for (int64_t p = 0; p < 4; ++p) {
        const int64_t y = 2 * row + p / 2, x = 2 * column + p % 2;
        if (y < of.height && x < of.width)
          store_first(places[p], count, grad_image + (y * of.width + x) * of.channels + first);
      }
    }
  };
};

}  // namespace lada::cpu
