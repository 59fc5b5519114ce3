// CPU loops over logits of mixtures. The mixtures of a few samples of a pair are made in registers, a vector of
// features at a time, and meet the weights of a few classes there: what is loaded serves a whole block of samples and
// classes, and no mixture reaches memory. A block belongs to one thread.
//
// Lane l of the vectors sums features l, l + lanes, ..., then the lanes are added up, then the features behind the last
// whole vector. So the sum of a mixture depends neither on the block it is in, nor on the other pairs, nor on threads.
#include <type_traits>

#include "../common/cpu.h"
#include "../common/registers.h"
#include "relu_mix.h"

namespace lada::cpu {
namespace {

// What fills the registers, 32 of 64 bytes, 16 of 32 bytes or 16 of 16 bytes: samples by classes whose sums they hold
// in the forward pass, and samples by vectors of features that they hold in the backward pass.
struct Avx512 {
  static constexpr int kBytes = 64, kSamples = 5, kClasses = 5, kBackwardSamples = 5, kVectors = 4;
};
struct Avx2 {
  static constexpr int kBytes = 32, kSamples = 2, kClasses = 5, kBackwardSamples = 5, kVectors = 2;
};
struct Portable {
  static constexpr int kBytes = 16, kSamples = 2, kClasses = 5, kBackwardSamples = 5, kVectors = 2;
};

template <class A>
struct MixedRows {
  const A *a, *b, *lam;
  int64_t features;
};

// sums[s][c] = sum_d relu(mixture of sample s)_d w_cd
template <class A, class Tile, int kSamples>
LADA_CLONES void sums_of_block(const MixedRows<A>& rows, const A* const (&weight)[Tile::kClasses],
                               A (&sums)[kSamples][Tile::kClasses]) {
  using L = Lanes<A, Tile::kBytes>;
  typename L::Vector sum[kSamples][Tile::kClasses] = {}, lam[kSamples], mu[kSamples];
  for (int s = 0; s < kSamples; ++s) {
    lam[s] = typename L::Vector{} + rows.lam[s];
    mu[s] = A(1) - lam[s];
  }
  int64_t d = 0;
  for (; d + L::kCount <= rows.features; d += L::kCount) {
    typename L::Vector a, b, w, mixed[kSamples];
    L::load(rows.a + d, a);
    L::load(rows.b + d, b);
    for (int s = 0; s < kSamples; ++s) {
      mixed[s] = lam[s] * a + mu[s] * b;
      mixed[s] = mixed[s] < A(0) ? typename L::Vector{} : mixed[s];
    }
    for (int c = 0; c < Tile::kClasses; ++c) {
      L::load(weight[c] + d, w);
      for (int s = 0; s < kSamples; ++s) sum[s][c] += mixed[s] * w;
    }
  }
  for (int s = 0; s < kSamples; ++s)
    for (int c = 0; c < Tile::kClasses; ++c) {
      A total = L::sum(sum[s][c]);
      for (int64_t i = d; i < rows.features; ++i)
        total += relu(mixture(rows.lam[s], 1 - rows.lam[s], rows.a[i], rows.b[i])) * weight[c][i];
      sums[s][c] = total;
    }
}

// Adds what the features [d, d + vectors * lanes) contribute to the gradients of some samples.
template <class L, int kSamples, int kVectors, class A>
LADA_HD void add_gradients(const MixedRows<A>& rows, const A* grad, const A* weight, int64_t classes, int64_t d,
                           typename L::Vector (&sum)[kSamples]) {
  typename L::Vector pull[kSamples][kVectors] = {}, w[kVectors], a, b;
  for (int64_t c = 0; c < classes; ++c) {
    for (int v = 0; v < kVectors; ++v) L::load(weight + c * rows.features + d + v * L::kCount, w[v]);
    for (int s = 0; s < kSamples; ++s)
      for (int v = 0; v < kVectors; ++v) pull[s][v] += grad[s * classes + c] * w[v];
  }
  for (int v = 0; v < kVectors; ++v) {
    L::load(rows.a + d + v * L::kCount, a);
    L::load(rows.b + d + v * L::kCount, b);
    for (int s = 0; s < kSamples; ++s) {
      const typename L::Vector mixed = rows.lam[s] * a + (A(1) - rows.lam[s]) * b;
      sum[s] += mixed <= A(0) ? typename L::Vector{} : pull[s][v] * (a - b);
    }
  }
}

template <class A, class Tile, int kSamples>
LADA_CLONES void gradients_of_block(const MixedRows<A>& rows, const A* grad, const A* weight, int64_t classes,
                                    A* grad_lam) {
  using L = Lanes<A, Tile::kBytes>;
  typename L::Vector sum[kSamples] = {};
  int64_t d = 0;
  for (; d + Tile::kVectors * L::kCount <= rows.features; d += Tile::kVectors * L::kCount)
    add_gradients<L, kSamples, Tile::kVectors>(rows, grad, weight, classes, d, sum);
  for (; d + L::kCount <= rows.features; d += L::kCount)
    add_gradients<L, kSamples, 1>(rows, grad, weight, classes, d, sum);
  for (int s = 0; s < kSamples; ++s) {
    A total = L::sum(sum[s]);
    for (int64_t i = d; i < rows.features; ++i) {
      A pull = 0;
      for (int64_t c = 0; c < classes; ++c) pull += grad[s * classes + c] * weight[c * rows.features + i];
      const A mixed = mixture(rows.lam[s], 1 - rows.lam[s], rows.a[i], rows.b[i]);
      total += relu_gradient(mixed, pull * (rows.a[i] - rows.b[i]));
    }
    grad_lam[s] = total;
  }
}

// Calls f with the number of samples of a block as a constant.
template <int kMost, class F>
void with_samples(int64_t count, const F& f) {
  if constexpr (kMost > 1)
    if (count < kMost) return with_samples<kMost - 1>(count, f);
  f(std::integral_constant<int, kMost>{});
}

// body(rows of the pair, its first sample, how many samples as a constant) for every block of samples.
template <class A, int kSamples, class Body>
void for_each_block(const ReluMix& k, int threads, const Body& body) {
  const int64_t blocks = (k.samples + kSamples - 1) / kSamples;
  balanced_for(k.pairs * blocks, k.features * (k.classes + 2), threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t pair = i / blocks, sample = i % blocks * kSamples, row = pair * k.samples + sample;
      const MixedRows<A> rows = {static_cast<const A*>(k.a) + pair * k.features,
                                 static_cast<const A*>(k.b) + pair * k.features, static_cast<const A*>(k.lam) + row,
                                 k.features};
      with_samples<kSamples>(k.samples - sample, [&](auto samples) { body(rows, row, samples); });
    }
  });
}

template <class A, class Tile>
void logits_of_pairs(const ReluMixLogits& k, int threads) {
  constexpr int kClasses = Tile::kClasses;
  const int64_t classes = k.mix.classes;
  const A *weight = static_cast<const A*>(k.mix.weight), *bias = static_cast<const A*>(k.bias);
  for_each_block<A, Tile::kSamples>(k.mix, threads, [&](const MixedRows<A>& rows, int64_t row, auto samples) {
    A sums[samples][kClasses], *logits = static_cast<A*>(k.logits) + row * classes;
    for (int64_t first = 0; first < classes; first += kClasses) {
      const A* of_class[kClasses];
      for (int i = 0; i < kClasses; ++i) of_class[i] = weight + std::min(first + i, classes - 1) * rows.features;
      sums_of_block<A, Tile, samples>(rows, of_class, sums);
      for (int s = 0; s < samples; ++s)
        for (int64_t c = first; c < std::min(first + kClasses, classes); ++c)
          logits[s * classes + c] = sums[s][c - first] + (bias ? bias[c] : A(0));
    }
  });
}

template <class A, class Tile>
void gradients_of_pairs(const ReluMixLogitsBackward& k, int threads) {
  for_each_block<A, Tile::kBackwardSamples>(k.mix, threads, [&](const MixedRows<A>& rows, int64_t row, auto samples) {
    gradients_of_block<A, Tile, samples>(rows, static_cast<const A*>(k.grad) + row * k.mix.classes,
                                         static_cast<const A*>(k.mix.weight), k.mix.classes,
                                         static_cast<A*>(k.grad_lam) + row);
  });
}

}  // namespace

void relu_mix_logits(const ReluMixLogits& k, int threads) {
  dispatch_arithmetic(k.mix.dtype, [&](auto tag) {
    using A = typename decltype(tag)::type;
    with_tile<Avx512, Avx2, Portable>([&](auto tile) { logits_of_pairs<A, decltype(tile)>(k, threads); });
  });
}

void relu_mix_logits_backward(const ReluMixLogitsBackward& k, int threads) {
  dispatch_arithmetic(k.mix.dtype, [&](auto tag) {
    using A = typename decltype(tag)::type;
    with_tile<Avx512, Avx2, Portable>([&](auto tile) { gradients_of_pairs<A, decltype(tile)>(k, threads); });
  });
}

}  // namespace lada::cpu
