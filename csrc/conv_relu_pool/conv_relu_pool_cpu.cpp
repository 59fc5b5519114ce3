// CPU loops over convolutions whose results are rectified and pooled: the four results of a window are made together in
// registers (by_rows.h, by_outputs.h), and only what is pooled of them is written (pool.h). gradients.h goes back.
//
// Sums over images are made in parts that depend on the batch alone, and added in order: threads change no bit.
#include <optional>

#include "by_outputs.h"
#include "gradients.h"

namespace lada::cpu {
namespace {

// How many outputs' windows of four the registers hold sums of, and how many vectors of weights' gradients; and how
// wide a block of outputs is, of how many windows.
struct Avx512 {
  static constexpr int kBytes = 64, kOutputs = 6, kVectors = 10, kBlockBytes = 32, kWindows = 4;
};
struct Avx2 {
  static constexpr int kBytes = 32, kOutputs = 2, kVectors = 10, kBlockBytes = 32, kWindows = 3;
};
struct Portable {
  static constexpr int kBytes = 16, kOutputs = 2, kVectors = 10, kBlockBytes = 16, kWindows = 3;
};

// Elements that a thread reads or writes for an image, of each output.
int64_t cost(const ConvReluPool& k) { return k.height * k.width * k.channels * k.outputs; }

// pool(padded image, its results, its part of `where`) for every image of the batch.
template <class A, class F>
void for_each_image(const ConvReluPoolForward& k, const Layout& l, int64_t lanes, int threads, const F& pool) {
  balanced_for(k.of.batch, cost(k.of), threads, [&](int64_t begin, int64_t end) {
    Buffer<A> image(l.padded(lanes));
    for (int64_t b = begin; b < end; ++b) {
      pad(l, static_cast<const A*>(k.of.image) + b * l.pixels(), image.data());
      const int64_t at = b * l.windows() * l.outputs;
      pool(image.data(), static_cast<A*>(k.result) + at, k.where + at);
    }
  });
}

// Pools what `convolve` finds.
template <class A, class Tile>
struct Pool {
  using L = typename Row<A, Tile>::L;
  using Some = Lanes<A, Tile::kBlockBytes>;  // of which g++ compares any two at once
  const Layout& l;
  const A* bias;  // a vector may overhang
  bool mean;
  A* result;
  uint8_t* where;

  LADA_HD void operator()(int64_t row, int64_t column, int64_t first, const typename L::Vector (&sums)[4],
                          int count) const {
    const int64_t at = (row * l.columns + column) * l.outputs + first;
    A all[4][L::kCount];
    for (int p = 0; p < 4; ++p) L::store(sums[p], all[p]);
    for (int o = 0; o < count; o += Some::kCount) {
      typename Some::Vector some[4], shift, value, bits;
      for (int p = 0; p < 4; ++p) Some::load(all[p] + o, some[p]);
      Some::load(bias + first + o, shift);
      pool<A>(mean, some, shift, value, bits);
      store_pooled(value, bits, std::min(count - o, Some::kCount), result + at + o, where + at + o);
    }
  }
};

template <class A>
Buffer<A> biases_of(const ConvReluPoolForward& k, int64_t lanes) {
  Buffer<A> result(k.of.outputs + lanes);
  if (k.bias != nullptr) std::copy_n(static_cast<const A*>(k.bias), k.of.outputs, result.data());
  return result;
}

template <class A, class Tile>
void forward(const ConvReluPoolForward& k, int threads) {
  constexpr int64_t kLanes = Row<A, Tile>::L::kCount;
  const Layout l(k.of, kLanes);
  const Buffer<A> bias = biases_of<A>(k, kLanes);
  const Buffer<A> weight = packed(l, static_cast<const A*>(k.of.weight), kLanes);
  for_each_image<A>(k, l, kLanes, threads, [&](const A* image, A* result, uint8_t* where) {
    convolve<A, Tile>(l, image, weight.data(), 0, Pool<A, Tile>{l, bias.data(), k.of.mean, result, where});
  });
}

template <class A, class Tile>
void forward_by_outputs(const ConvReluPoolForward& k, int threads) {
  constexpr int64_t kLanes = Block<A, Tile>::L::kCount;
  const Layout l(k.of, kLanes);
  const Buffer<A> weight = packed_by_outputs(l, static_cast<const A*>(k.of.weight), kLanes);
  const Buffer<A> bias = biases_of<A>(k, kLanes);
  for_each_image<A>(k, l, kLanes, threads, [&](const A* image, A* result, uint8_t* where) {
    for (int64_t first = 0; first < l.outputs; first += kLanes) {
      const Block<A, Tile> block = {weight.data() + first * l.kernel_height * l.reach, bias.data() + first, first,
                                    std::min(kLanes, l.outputs - first)};
      k.of.mean ? pool_by_outputs<A, Tile, true>(l, image, block, result, where)
                : pool_by_outputs<A, Tile, false>(l, image, block, result, where);
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

// Sums of a part of the batch: of the weights' gradients, in the order of `packed` if these are wanted, and behind them
// of the biases'.
template <class A>
void finish(const Layout& l, int64_t lanes, const std::vector<Buffer<A>>& sums, A* grad_weight, A* grad_bias) {
  const int64_t weights = grad_weight != nullptr ? l.weights(lanes) : 0;
  Buffer<A> total(weights + l.outputs);
  for (const Buffer<A>& part : sums)
    for (size_t i = 0; i < total.size(); ++i) total[i] += part[i];
  if (grad_weight != nullptr)
    for_each_packed(l, lanes, [&](int64_t to, int64_t from) { grad_weight[to] = total[from]; });
  if (grad_bias != nullptr) std::copy_n(total.data() + weights, l.outputs, grad_bias);
}

template <class A, class Tile>
void backward(const ConvReluPoolBackward& k, int threads) {
  constexpr int64_t kLanes = Row<A, Tile>::L::kCount;
  const Layout l(k.of, kLanes);
  const bool turns = k.grad_image != nullptr && (k.of.mean || l.short_rows());
  const bool adds = k.grad_image != nullptr && !turns;
  const A* const kernels = static_cast<const A*>(k.of.weight);
  const Buffer<A> weight = adds ? packed(l, kernels, kLanes) : Buffer<A>();
  const A share = k.of.mean ? A(0.25) : A(1);
  const int64_t weights = k.grad_weight != nullptr ? l.weights(kLanes) : 0;
  std::vector<Buffer<A>> sums(std::min(kParts, k.of.batch));
  for_each_part(k.of, threads, [&](int64_t begin, int64_t end, int64_t part) {
    sums[part].resize(weights + l.outputs);
    Buffer<A> image(l.padded(kLanes)), grad_image(adds ? l.padded(kLanes) : 0);
    std::optional<Turned<A, Tile>> turned;
    if (turns) turned.emplace(k.of, kernels);
    Passed<A> passed(l);
    for (int64_t b = begin; b < end; ++b) {
      const A* const grads = static_cast<const A*>(k.grad) + b * l.windows() * l.outputs;
      const uint8_t* const where = k.where + b * l.windows() * l.outputs;
      A* const to_image = adds || turns ? static_cast<A*>(k.grad_image) + b * l.pixels() : nullptr;
      if (k.grad_weight != nullptr) pad(l, static_cast<const A*>(k.of.image) + b * l.pixels(), image.data());
      std::fill(grad_image.begin(), grad_image.end(), A(0));
      for (int64_t o = 0; o < l.outputs && (adds || k.grad_weight != nullptr || k.grad_bias != nullptr); ++o) {
        passed.find(l, grads, where, share, k.of.mean ? 4 : 1, o);
        const int64_t kernel = o * l.kernel(kLanes);
        for (int64_t i = 0; i < passed.count; ++i) sums[part][weights + o] += passed.grad[i];
        if (k.grad_weight != nullptr) add_to_kernel<A, Tile>(l, image.data(), passed, 0, sums[part].data() + kernel);
        if (adds) add_to_image<A, Tile>(l, weight.data() + kernel, passed, grad_image.data());
      }
      if (turns) turned->image(grads, where, share, to_image);
      if (adds)
        for_each_row(l, [&](int64_t to, int64_t from) {
          std::copy_n(grad_image.data() + from, l.width * l.channels, to_image + to);
        });
    }
  });
  finish(l, kLanes, sums, static_cast<A*>(k.grad_weight), static_cast<A*>(k.grad_bias));
}

}  // namespace

void conv_relu_pool(const ConvReluPoolForward& k, int threads) {
  dispatch_arithmetic(k.of.dtype, [&](auto tag) {
    using A = typename decltype(tag)::type;
    with_tile<Avx512, Avx2, Portable>([&](auto tile) {
      using Tile = decltype(tile);
      Layout(k.of, 1).small_kernels() ? forward_by_outputs<A, Tile>(k, threads) : forward<A, Tile>(k, threads);
    });
  });
}

void conv_relu_pool_backward(const ConvReluPoolBackward& k, int threads) {
  dispatch_arithmetic(k.of.dtype, [&](auto tag) {
    using A = typename decltype(tag)::type;
    with_tile<Avx512, Avx2, Portable>([&](auto tile) { backward<A, decltype(tile)>(k, threads); });
  });
}

}  // namespace lada::cpu
