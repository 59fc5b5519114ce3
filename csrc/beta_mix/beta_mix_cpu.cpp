// CPU loops of the Beta ops. A pair belongs to one thread, so results do not depend on the number of threads. The
// backward pass draws lam again from the key instead of keeping it.
#include <vector>

#include "../common/cpu.h"
#include "beta_mix.h"
#include "formula.h"

namespace lada::cpu {
namespace {

constexpr int64_t kCostOfDraw = 64;  // about six transcendental functions

template <class A>
BetaDraw<A> draw_of(const BetaSource& source, int64_t pair, int64_t n) {
  return beta_draw(source.key, source.index_of(pair), n, static_cast<const A*>(source.tau)[pair]);
}

template <class T, class A>
LADA_CLONES void mix_rows(const T* a, const T* b, A lam, A mu, T* mixed, int64_t features) {
  for (int64_t d = 0; d < features; ++d) mixed[d] = static_cast<T>(lam * widen(a[d]) + mu * widen(b[d]));
}

// The N weights with which a backward pass sums the rows of grad_mixed.
template <class A>
struct Weights {
  std::vector<A> lam, mu, slope;  // slope = dlam / dlog tau
};

// One pass over the rows g of a pair: grad_a = sum_n lam_n g_n, grad_b = sum_n mu_n g_n, and returned
// sum_d (a_d - b_d) sum_n slope_n g_nd. Features are taken in blocks that stay in the first-level cache.
template <class T, class A>
LADA_CLONES A mix_rows_backward(const T* g, const T* a, const T* b, const Weights<A>& weights, T* grad_a, T* grad_b,
                                int64_t features) {
  constexpr int64_t kBlock = 512;
  A sum_a[kBlock], sum_b[kBlock], sum_slope[kBlock], total = 0;
  for (int64_t begin = 0; begin < features; begin += kBlock) {
    const int64_t size = std::min(kBlock, features - begin);
    std::fill_n(sum_a, size, A(0));
    std::fill_n(sum_b, size, A(0));
    std::fill_n(sum_slope, size, A(0));
    for (size_t n = 0; n < weights.lam.size(); ++n) {
      const T* row = g + static_cast<int64_t>(n) * features + begin;
      const A lam = weights.lam[n], mu = weights.mu[n], slope = weights.slope[n];
      for (int64_t d = 0; d < size; ++d) {
        const A value = widen(row[d]);
        sum_a[d] += lam * value;
        sum_b[d] += mu * value;
        sum_slope[d] += slope * value;
      }
    }
    if (grad_a)
      for (int64_t d = 0; d < size; ++d) grad_a[begin + d] = static_cast<T>(sum_a[d]);
    if (grad_b)
      for (int64_t d = 0; d < size; ++d) grad_b[begin + d] = static_cast<T>(sum_b[d]);
    for (int64_t d = 0; d < size; ++d) total += sum_slope[d] * (widen(a[begin + d]) - widen(b[begin + d]));
  }
  return total;
}

template <class T>
void mix_pair(const BetaMix& k, int64_t pair) {
  using A = arithmetic_t<T>;
  const T* a = static_cast<const T*>(k.a) + pair * k.features;
  const T* b = static_cast<const T*>(k.b) + pair * k.features;
  for (int64_t n = 0; n < k.source.samples; ++n) {
    const int64_t row = pair * k.source.samples + n;
    const BetaDraw<A> draw = draw_of<A>(k.source, pair, n);
    static_cast<A*>(k.lam)[row] = draw.lam;
    mix_rows(a, b, draw.lam, draw.mu, static_cast<T*>(k.mixed) + row * k.features, k.features);
  }
}

template <class T>
T* row_or_null(void* rows, int64_t row, int64_t width) {
  return rows ? static_cast<T*>(rows) + row * width : nullptr;
}

template <class T>
void mix_pair_backward(const BetaMixBackward& k, int64_t pair) {
  using A = arithmetic_t<T>;
  const int64_t samples = k.source.samples;
  const A tau = static_cast<const A*>(k.source.tau)[pair];
  const A* grad_lam = static_cast<const A*>(k.grad_lam) + pair * samples;
  Weights<A> weights;
  A grad_log_tau = 0;
  for (int64_t n = 0; n < samples; ++n) {
    const BetaDraw<A> draw = draw_of<A>(k.source, pair, n);
    const A slope = beta_lam_gradient_log_tau(draw, tau);
    weights.lam.push_back(draw.lam);
    weights.mu.push_back(draw.mu);
    weights.slope.push_back(slope);
    grad_log_tau += slope * grad_lam[n];
  }
  grad_log_tau += mix_rows_backward(
      static_cast<const T*>(k.grad_mixed) + pair * samples * k.features, static_cast<const T*>(k.a) + pair * k.features,
      static_cast<const T*>(k.b) + pair * k.features, weights, row_or_null<T>(k.grad_a, pair, k.features),
      row_or_null<T>(k.grad_b, pair, k.features), k.features);
  if (k.grad_tau) static_cast<A*>(k.grad_tau)[pair] = grad_log_tau / clamp_tau(tau);
}

}  // namespace

void beta_logit_gradient(const BetaLogitGradient& k, int threads) {
  dispatch_arithmetic(k.dtype, [&](auto tag) {
    using A = typename decltype(tag)::type;
    const A *x = static_cast<const A*>(k.x), *tau = static_cast<const A*>(k.tau);
    parallel_for(k.count, kCostOfDraw, threads, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) static_cast<A*>(k.out)[i] = lada::beta_logit_gradient(x[i], tau[i]);
    });
  });
}

void beta_sample(const BetaSample& k, int threads) {
  dispatch_arithmetic(k.dtype, [&](auto tag) {
    using A = typename decltype(tag)::type;
    const int64_t samples = k.source.samples;
    parallel_for(k.source.pairs * samples, kCostOfDraw, threads, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        static_cast<A*>(k.lam)[i] = draw_of<A>(k.source, i / samples, i % samples).lam;
    });
  });
}

void beta_sample_backward(const BetaSampleBackward& k, int threads) {
  dispatch_arithmetic(k.dtype, [&](auto tag) {
    using A = typename decltype(tag)::type;
    const int64_t samples = k.source.samples;
    parallel_for(k.source.pairs, samples * kCostOfDraw, threads, [&](int64_t begin, int64_t end) {
      for (int64_t pair = begin; pair < end; ++pair) {
        const A tau = static_cast<const A*>(k.source.tau)[pair];
        A sum = 0;
        for (int64_t n = 0; n < samples; ++n)
          sum += static_cast<const A*>(k.grad)[pair * samples + n] *
                 beta_lam_gradient_log_tau(draw_of<A>(k.source, pair, n), tau);
        static_cast<A*>(k.grad_tau)[pair] = sum / clamp_tau(tau);
      }
    });
  });
}

void beta_mix(const BetaMix& k, int threads) {
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    parallel_for(k.source.pairs, k.source.samples * (k.features + kCostOfDraw), threads,
                 [&](int64_t begin, int64_t end) {
                   for (int64_t pair = begin; pair < end; ++pair) mix_pair<T>(k, pair);
                 });
  });
}

void beta_mix_backward(const BetaMixBackward& k, int threads) {
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    parallel_for(k.source.pairs, k.source.samples * (k.features + kCostOfDraw), threads,
                 [&](int64_t begin, int64_t end) {
                   for (int64_t pair = begin; pair < end; ++pair) mix_pair_backward<T>(k, pair);
                 });
  });
}

}  // namespace lada::cpu
