// CPU loops over convolutions whose results are rectified and pooled. An image with its padding is copied to where it
// stays in the cache. There, what one row of a kernel sees is one piece of memory, kernel_width * channels long,
// because channels lie side by side: a result is kernel_height scalar products, whose lanes are the columns and
// channels. The four results of a window are made together for a block of outputs, in registers, and only their maximum
// is written.
//
// Backward, a window passes its gradient to the place of its maximum, or to none where that was cut off. So at most a
// quarter of the products of a dense convolution are left to do, and those alone are done.
//
// Sums over images are made in parts that depend on the batch alone, and added in order: threads change no bit.
#include <array>
#include <vector>

#include "../common/cpu.h"
#include "../common/registers.h"
#include "conv_relu_pool.h"

namespace lada::cpu {
namespace {

// How many outputs' windows of four the registers hold sums of, and how many vectors of weights' gradients.
struct Avx512 {
  static constexpr int kBytes = 64, kOutputs = 6, kVectors = 10;
};
struct Avx2 {
  static constexpr int kBytes = 32, kOutputs = 2, kVectors = 10;
};
struct Portable {
  static constexpr int kBytes = 16, kOutputs = 2, kVectors = 10;
};

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

  int64_t stride(int64_t lanes) const { return vectors * lanes; }                           // of a kernel's row
  int64_t weights(int64_t lanes) const { return kernel_height * outputs * stride(lanes); }  // in the order of `packed`
  int64_t padded(int64_t lanes) const { return (height + 2 * padding) * line + lanes; }     // a vector may overhang
  int64_t windows() const { return rows * columns; }
};

// f(place in (outputs, channels, kernel_height, kernel_width), place in (kernel_height, outputs, stride)).
template <class F>
void for_each_weight(const Layout& l, int64_t lanes, const F& f) {
  for (int64_t o = 0; o < l.outputs; ++o)
    for (int64_t c = 0; c < l.channels; ++c)
      for (int64_t y = 0; y < l.kernel_height; ++y)
        for (int64_t x = 0; x < l.kernel_width; ++x)
          f(((o * l.channels + c) * l.kernel_height + y) * l.kernel_width + x,
            (y * l.outputs + o) * l.stride(lanes) + x * l.channels + c);
}

template <class A>
std::vector<A> packed(const Layout& l, const A* weight, int64_t lanes) {
  std::vector<A> result(l.weights(lanes));
  for_each_weight(l, lanes, [&](int64_t from, int64_t to) { result[to] = weight[from]; });
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

// sums[o][p] += what vector `v` of a kernel's row adds to place p of a window, for a block of outputs.
template <class A, class Tile, int kOutputs, bool kLast>
LADA_HD void add_products(const Layout& l, const A* image, const A* weight, int64_t v,
                          typename Row<A, Tile>::Vector (&sums)[kOutputs][4]) {
  using R = Row<A, Tile>;
  using L = typename R::L;
  typename R::Vector seen[4], w;
  for (int p = 0; p < 4; ++p) {
    L::load(image + p / 2 * l.line + p % 2 * l.channels + v * L::kCount, seen[p]);
    if constexpr (kLast) R::cut_off(seen[p], l.keep);
  }
  for (int o = 0; o < kOutputs; ++o) {
    L::load(weight + (o * l.vectors + v) * L::kCount, w);
    for (int p = 0; p < 4; ++p) sums[o][p] += seen[p] * w;
  }
}

// The greatest of four sums and its place; NaN is greater than all.
template <class A>
LADA_HD A greatest(const A (&sums)[4], uint8_t& place) {
  place = 0;
  for (uint8_t p = 1; p < 4; ++p)
    if (sums[p] > sums[place] || sums[p] != sums[p]) place = p;
  return sums[place];
}

// Results `first` to `first + kOutputs` of all windows of an image.
template <class A, class Tile, int kOutputs>
LADA_CLONES void pool_block(const Layout& l, const A* image, const A* weight, const A* bias, int64_t first, A* result,
                            uint8_t* where) {
  using R = Row<A, Tile>;
  for (int64_t window = 0; window < l.windows(); ++window) {
    typename R::Vector sums[kOutputs][4] = {};
    const A* corner = image + window / l.columns * 2 * l.line + window % l.columns * 2 * l.channels;
    for (int64_t y = 0; y < l.kernel_height; ++y) {
      const A* of_row = weight + (y * l.outputs + first) * l.vectors * R::L::kCount;
      for (int64_t v = 0; v + 1 < l.vectors; ++v)
        add_products<A, Tile, kOutputs, false>(l, corner + y * l.line, of_row, v, sums);
      add_products<A, Tile, kOutputs, true>(l, corner + y * l.line, of_row, l.vectors - 1, sums);
    }
    for (int o = 0; o < kOutputs; ++o) {
      const int64_t at = window * l.outputs + first + o;
      A four[4];
      R::L::sums(sums[o], four);
      const A value = greatest(four, where[at]) + (bias != nullptr ? bias[first + o] : A(0));
      const bool cut = value <= A(0);
      result[at] = cut ? A(0) : value;
      where[at] = cut ? kNowhere : where[at];
    }
  }
}

template <class A, class Tile, int kOutputs = Tile::kOutputs>
void pool_outputs(const Layout& l, const A* image, const A* weight, const A* bias, int64_t first, A* result,
                  uint8_t* where) {
  for (; first + kOutputs <= l.outputs; first += kOutputs)
    pool_block<A, Tile, kOutputs>(l, image, weight, bias, first, result, where);
  if constexpr (kOutputs > 1)
    if (first < l.outputs) pool_outputs<A, Tile, kOutputs - 1>(l, image, weight, bias, first, result, where);
}

// The windows of one output that pass a gradient on: where in the padded image their maximum was seen, and how much.
template <class A>
struct Passed {
  std::vector<int64_t> place;
  std::vector<A> grad;
  int64_t count = 0;

  explicit Passed(const Layout& l) : place(l.windows()), grad(l.windows()) {}

  void find(const Layout& l, const A* grads, const uint8_t* where, int64_t output) {
    count = 0;
    for (int64_t window = 0; window < l.windows(); ++window) {
      const int64_t at = window * l.outputs + output, spot = where[at];
      if (spot >= kNowhere) continue;
      place[count] = (window / l.columns * 2 + spot / 2) * l.line + (window % l.columns * 2 + spot % 2) * l.channels;
      grad[count++] = grads[at];
    }
  }
};

// Adds to kVectors vectors of the gradient of a kernel's row what all windows pass to them.
template <class A, class Tile, int kVectors>
LADA_CLONES void add_to_weights(const A* image, const Passed<A>& passed, A* grad_weight) {
  using L = Lanes<A, Tile::kBytes>;
  typename L::Vector sums[kVectors], seen;
  for (int v = 0; v < kVectors; ++v) L::load(grad_weight + v * L::kCount, sums[v]);
  for (int64_t i = 0; i < passed.count; ++i)
    for (int v = 0; v < kVectors; ++v) {
      L::load(image + passed.place[i] + v * L::kCount, seen);
      sums[v] += passed.grad[i] * seen;
    }
  for (int v = 0; v < kVectors; ++v) L::store(sums[v], grad_weight + v * L::kCount);
}

template <class A, class Tile>
void add_to_kernel(const Layout& l, const A* image, const Passed<A>& passed, int64_t output, A* grad_weight) {
  constexpr int64_t kLanes = Lanes<A, Tile::kBytes>::kCount;
  for (int64_t y = 0; y < l.kernel_height; ++y) {
    const A* seen = image + y * l.line;
    A* grads = grad_weight + (y * l.outputs + output) * l.stride(kLanes);
    int64_t v = 0;
    for (; v + Tile::kVectors <= l.vectors; v += Tile::kVectors)
      add_to_weights<A, Tile, Tile::kVectors>(seen + v * kLanes, passed, grads + v * kLanes);
    for (; v < l.vectors; ++v) add_to_weights<A, Tile, 1>(seen + v * kLanes, passed, grads + v * kLanes);
  }
}

// Adds to the gradient of a padded image what the windows of one output pass to it.
template <class A, class Tile>
LADA_CLONES void add_to_image(const Layout& l, const A* weight, const Passed<A>& passed, int64_t output, A* image) {
  using R = Row<A, Tile>;
  using L = typename R::L;
  for (int64_t i = 0; i < passed.count; ++i)
    for (int64_t y = 0; y < l.kernel_height; ++y)
      for (int64_t v = 0; v < l.vectors; ++v) {
        A* to = image + passed.place[i] + y * l.line + v * L::kCount;
        typename R::Vector sum, w;
        L::load(to, sum);
        L::load(weight + ((y * l.outputs + output) * l.vectors + v) * L::kCount, w);
        typename R::Vector product = passed.grad[i] * w;
        if (v + 1 == l.vectors) R::cut_off(product, l.keep);
        sum += product;
        L::store(sum, to);
      }
}

// Elements that a thread reads or writes for an image, of each output.
int64_t cost(const ConvReluPool& k) { return k.height * k.width * k.channels * k.outputs; }

template <class A, class Tile>
void forward(const ConvReluPoolForward& k, int threads) {
  constexpr int64_t kLanes = Lanes<A, Tile::kBytes>::kCount;
  const Layout l(k.of, kLanes);
  const std::vector<A> weight = packed(l, static_cast<const A*>(k.of.weight), kLanes);
  balanced_for(k.of.batch, cost(k.of), threads, [&](int64_t begin, int64_t end) {
    std::vector<A> image(l.padded(kLanes));
    for (int64_t b = begin; b < end; ++b) {
      pad(l, static_cast<const A*>(k.of.image) + b * l.height * l.width * l.channels, image.data());
      const int64_t at = b * l.windows() * l.outputs;
      pool_outputs<A, Tile>(l, image.data(), weight.data(), static_cast<const A*>(k.bias), 0,
                            static_cast<A*>(k.result) + at, k.where + at);
    }
  });
}

constexpr int64_t kParts = 16;  // of a batch; each has its own sums over its images

// body(images [begin, end), part)
template <class Body>
void for_each_part(const ConvReluPool& k, int threads, const Body& body) {
  const int64_t parts = std::min(kParts, k.batch);
  balanced_for(parts, k.batch / std::max<int64_t>(parts, 1) * cost(k), threads, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) body(part * k.batch / parts, (part + 1) * k.batch / parts, part);
  });
}

// Sums of a part of the batch: of the weights' gradients, in the order of `packed`, and behind them of the biases'.
template <class A>
void finish(const Layout& l, int64_t lanes, const std::vector<std::vector<A>>& sums, A* grad_weight, A* grad_bias) {
  std::vector<A> total(l.weights(lanes) + l.outputs);
  for (const std::vector<A>& part : sums)
    for (size_t i = 0; i < total.size(); ++i) total[i] += part[i];
  if (grad_weight != nullptr)
    for_each_weight(l, lanes, [&](int64_t to, int64_t from) { grad_weight[to] = total[from]; });
  if (grad_bias != nullptr) std::copy_n(total.data() + l.weights(lanes), l.outputs, grad_bias);
}

template <class A, class Tile>
void backward(const ConvReluPoolBackward& k, int threads) {
  constexpr int64_t kLanes = Lanes<A, Tile::kBytes>::kCount;
  const Layout l(k.of, kLanes);
  std::vector<A> weight;
  if (k.grad_image != nullptr) weight = packed(l, static_cast<const A*>(k.of.weight), kLanes);
  std::vector<std::vector<A>> sums(std::min(kParts, k.of.batch));
  for_each_part(k.of, threads, [&](int64_t begin, int64_t end, int64_t part) {
    sums[part].resize(l.weights(kLanes) + l.outputs);
    std::vector<A> image(l.padded(kLanes)), grad_image(k.grad_image != nullptr ? l.padded(kLanes) : 0);
    Passed<A> passed(l);
    for (int64_t b = begin; b < end; ++b) {
      const int64_t pixels = b * l.height * l.width * l.channels, at = b * l.windows() * l.outputs;
      if (k.grad_weight != nullptr) pad(l, static_cast<const A*>(k.of.image) + pixels, image.data());
      std::fill(grad_image.begin(), grad_image.end(), A(0));
      for (int64_t o = 0; o < l.outputs; ++o) {
        passed.find(l, static_cast<const A*>(k.grad) + at, k.where + at, o);
        for (int64_t i = 0; i < passed.count; ++i) sums[part][l.weights(kLanes) + o] += passed.grad[i];
        if (k.grad_weight != nullptr) add_to_kernel<A, Tile>(l, image.data(), passed, o, sums[part].data());
        if (k.grad_image != nullptr) add_to_image<A, Tile>(l, weight.data(), passed, o, grad_image.data());
      }
      if (k.grad_image != nullptr)
        for_each_row(l, [&](int64_t to, int64_t from) {
          std::copy_n(grad_image.data() + from, l.width * l.channels, static_cast<A*>(k.grad_image) + pixels + to);
        });
    }
  });
  finish(l, kLanes, sums, static_cast<A*>(k.grad_weight), static_cast<A*>(k.grad_bias));
}

}  // namespace

void conv_relu_pool(const ConvReluPoolForward& k, int threads) {
  dispatch_arithmetic(k.of.dtype, [&](auto tag) {
    using A = typename decltype(tag)::type;
    with_tile<Avx512, Avx2, Portable>([&](auto tile) { forward<A, decltype(tile)>(k, threads); });
  });
}

void conv_relu_pool_backward(const ConvReluPoolBackward& k, int threads) {
  dispatch_arithmetic(k.of.dtype, [&](auto tag) {
    using A = typename decltype(tag)::type;
    with_tile<Avx512, Avx2, Portable>([&](auto tile) { backward<A, decltype(tile)>(k, threads); });
  });
}

}  // namespace lada::cpu
