// Convolution by outputs, for kernels so small that adding up lanes costs more than their products: a lane is an
// output, and a number of the image is multiplied by the weights of all of them. Windows side by side are made
// together.
#pragma once
#include "../common/cpu.h"
#include "../common/registers.h"
#include "layout.h"
#include "pool.h"

namespace lada::cpu {

// Outputs that a vector holds, from `first`; lanes behind them are 0.
template <class A, class Tile>
struct Block {
  using L = Lanes<A, Tile::kBlockBytes>;
  const A* weight;  // (kernel_height, reach, lanes)
  const A* bias;    // (lanes,)
  int64_t first, count;
};

// (blocks, kernel_height, reach, lanes)
template <class A>
Buffer<A> packed_by_outputs(const Layout& l, const A* weight, int64_t lanes) {
  Buffer<A> result((l.outputs + lanes - 1) / lanes * l.kernel_height * l.reach * lanes);
  for_each_weight(l, [&](int64_t o, int64_t c, int64_t y, int64_t x, int64_t at) {
    result[((o / lanes * l.kernel_height + y) * l.reach + x * l.channels + c) * lanes + o % lanes] = weight[at];
  });
  return result;
}

// kWindows of them, of which the first has its corner at `image`.
template <class A, class Tile, int kWindows, bool kMean>
LADA_HD void pool_windows(const Layout& l, const A* image, const Block<A, Tile>& block, A* result, uint8_t* where) {
  using L = typename Block<A, Tile>::L;
  typename L::Vector sums[kWindows][4] = {}, w, bias, value, bits;
  L::load(block.bias, bias);
  const A* weight = block.weight;
  for (int64_t y = 0; y < l.kernel_height; ++y)
    for (int64_t i = 0; i < l.reach; ++i, weight += L::kCount) {
      L::load(weight, w);
      for (int p = 0; p < 4; ++p)
        for (int b = 0; b < kWindows; ++b) sums[b][p] += image[y * l.line + l.place(p) + l.corner(0, b) + i] * w;
    }
  for (int b = 0; b < kWindows; ++b) {
    pool<A>(kMean, sums[b], bias, value, bits);
    const int64_t at = b * l.outputs;
    block.count == L::kCount ? store_pooled(value, bits, L::kCount, result + at, where + at)
                             : store_pooled(value, bits, block.count, result + at, where + at);
  }
}

template <class A, class Tile, int kWindows, bool kMean>
LADA_HD void pool_row(const Layout& l, const A* image, const Block<A, Tile>& block, int64_t column, A* result,
                      uint8_t* where) {
  for (; column + kWindows <= l.columns; column += kWindows)
    pool_windows<A, Tile, kWindows, kMean>(l, image + l.corner(0, column), block, result + column * l.outputs,
                                           where + column * l.outputs);
  if constexpr (kWindows > 1)
    if (column < l.columns) pool_row<A, Tile, kWindows - 1, kMean>(l, image, block, column, result, where);
}

template <class A, class Tile, bool kMean>
LADA_CLONES void pool_by_outputs(const Layout& l, const A* image, const Block<A, Tile>& block, A* result,
                                 uint8_t* where) {
  for (int64_t row = 0; row < l.rows; ++row) {
    const int64_t at = row * l.columns * l.outputs + block.first;
    pool_row<A, Tile, Tile::kWindows, kMean>(l, image + l.corner(row, 0), block, 0, result + at, where + at);
  }
}

}  // namespace lada::cpu
