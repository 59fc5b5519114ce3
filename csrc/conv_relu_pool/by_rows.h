// Convolution by rows of a kernel: a result is kernel_height scalar products, whose lanes are the columns and channels.
// The four results of a window are made together for a block of outputs, in registers.
#pragma once
#include "../common/cpu.h"
#include "../common/registers.h"
#include "layout.h"

namespace lada::cpu {

template <class A, class Tile>
struct Row {
  using L = Lanes<A, Tile::kBytes>;
  using Vector = typename L::Vector;

  // Zeros the lanes behind the end of a kernel's row: its weights are 0 there, but what it sees may be infinite.
  LADA_HD static void cut_off(Vector& values, int64_t keep) {
    Vector lane;
    for (int i = 0; i < L::kCount; ++i) lane[i] = static_cast<A>(i);
    values = lane < static_cast<A>(keep) ? values : Vector{};
  }
};

// sums[p][o] += what vector `v` of a kernel's row adds to place p of a window, for a block of outputs.
template <class A, class Tile, int kOutputs, bool kLast>
LADA_HD void add_products(const Layout& l, const A* image, const A* weight, int64_t v,
                          typename Row<A, Tile>::Vector (&sums)[4][kOutputs]) {
  using R = Row<A, Tile>;
  using L = typename R::L;
  typename R::Vector seen[4], w;
  for (int p = 0; p < 4; ++p) {
    L::load(image + l.place(p) + v * L::kCount, seen[p]);
    if constexpr (kLast) R::cut_off(seen[p], l.keep);
  }
  for (int o = 0; o < kOutputs; ++o) {
    L::load(weight + (o * l.kernel_height * l.vectors + v) * L::kCount, w);
    for (int p = 0; p < 4; ++p) sums[p][o] += seen[p] * w;
  }
}

// Calls f(row of windows, column, first, the sums of each place, kOutputs), where the first kOutputs lanes are those of
// the outputs from `first` on; f must be LADA_HD.
template <class A, class Tile, int kOutputs, class F>
LADA_CLONES void convolve_block(const Layout& l, const A* image, const A* weight, int64_t first, const F& f) {
  using R = Row<A, Tile>;
  for (int64_t row = 0; row < l.rows; ++row)
    for (int64_t column = 0; column < l.columns; ++column) {
      typename R::Vector sums[4][kOutputs] = {}, places[4];
      const A* corner = image + l.corner(row, column);
      int64_t y = 0;
      do {  // once at least, so that the sums are in registers from the start
        const A* of_row = weight + (first * l.kernel_height + y) * l.vectors * R::L::kCount;
        for (int64_t v = 0; v + 1 < l.vectors; ++v)
          add_products<A, Tile, kOutputs, false>(l, corner + y * l.line, of_row, v, sums);
        add_products<A, Tile, kOutputs, true>(l, corner + y * l.line, of_row, l.vectors - 1, sums);
      } while (++y < l.kernel_height);
      for (int p = 0; p < 4; ++p) R::L::sums(sums[p], places[p]);
      f(row, column, first, places, kOutputs);
    }
}

template <class A, class Tile, int kOutputs = Tile::kOutputs, class F>
void convolve(const Layout& l, const A* image, const A* weight, int64_t first, const F& f) {
  for (; first + kOutputs <= l.outputs; first += kOutputs)
    convolve_block<A, Tile, kOutputs>(l, image, weight, first, f);
  if constexpr (kOutputs > 1)
    if (first < l.outputs) convolve<A, Tile, kOutputs - 1>(l, image, weight, first, f);
}

}  // namespace lada::cpu
