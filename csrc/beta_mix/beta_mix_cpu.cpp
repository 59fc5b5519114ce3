// CPU loops of the Beta ops. Work is cut into parts that do not depend on the number of threads, and a part belongs to
// one thread, so results do not depend on it either. The backward pass draws lam again from the key.
#include <numeric>

#include "../common/cpu.h"
#include "beta_mix.h"
#include "draws.h"
#include "formula.h"

namespace lada::cpu {
namespace {

constexpr int64_t kChunk = 1 << 14;  // draws of one pair that are summed at a time
constexpr int64_t kSlice = 1 << 15;  // features of one pair that are mixed at a time
constexpr int64_t kBlock = 512;      // features whose sums stay in the first-level cache
constexpr int64_t kSums = 32;        // independent partial sums, so that a sum can run in vectors

int64_t ceil_div(int64_t count, int64_t size) { return (count + size - 1) / size; }

template <class A>
LADA_HD A sum_of(const A (&sums)[kSums]) {
  A total = 0;
  for (A value : sums) total += value;
  return total;
}

template <class A>
LADA_CLONES A dot(const A* x, const A* y, int64_t count) {
  A sums[kSums] = {};
  int64_t i = 0;
  for (; i + kSums <= count; i += kSums)
    for (int64_t j = 0; j < kSums; ++j) sums[j] += x[i + j] * y[i + j];
  for (; i < count; ++i) sums[i % kSums] += x[i] * y[i];
  return sum_of(sums);
}

// The draws of one pair.
template <class A>
struct DrawsOfPair {
  int64_t pair;
  const A *lam, *mu, *slope;
};

// body(DrawsOfPair, first slice, last slice) for the tasks [begin, end) of (pairs x slices). Pairs of few samples are
// drawn several at a time, to fill the lanes.
template <class A, class Body>
void for_each_pair(const BetaSource& source, int64_t slices, int64_t begin, int64_t end, Want want, const Body& body) {
  const int64_t samples = source.samples, group = std::max<int64_t>(1, kLanes / std::max<int64_t>(1, samples));
  const int64_t last = ceil_div(end, slices);
  Draws<A> draws;
  for (int64_t first = begin / slices; first < last; first += group) {
    const int64_t count = std::min(group, last - first);
    draws.draw(source, first * samples, count * samples, want);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t pair = first + i, task = pair * slices;
      body(DrawsOfPair<A>{pair, draws.lam.data() + i * samples, draws.mu.data() + i * samples,
                          draws.slope.data() + i * samples},
           std::max(begin, task) - task, std::min(end, task + slices) - task);
    }
  }
}

template <class T, class A>
LADA_CLONES void mix_rows(const T* __restrict a, const T* __restrict b, const A* lam, const A* mu, int64_t samples,
                          T* __restrict mixed, int64_t size, int64_t features) {
  for (int64_t begin = 0; begin < size; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, size);
    for (int64_t n = 0; n < samples; ++n) {
      const A weight_a = lam[n], weight_b = mu[n];
      T* row = mixed + n * features;
      for (int64_t d = begin; d < end; ++d) row[d] = static_cast<T>(weight_a * widen(a[d]) + weight_b * widen(b[d]));
    }
  }
}

template <class A>
using Sums = A[kBlock];

// sums_d += sum_n weight_n g_nd
template <class T, class A>
LADA_HD void add_rows(const T* g, const A* weight, int64_t samples, int64_t size, int64_t features, Sums<A>& sums) {
  int64_t n = 0;
  for (; n + 1 < samples; n += 2) {  // two rows at a time: half the reads and writes of the sums
    const T *row = g + n * features, *next = row + features;
    const A first = weight[n], second = weight[n + 1];
    for (int64_t d = 0; d < size; ++d) sums[d] += first * widen(row[d]) + second * widen(next[d]);
  }
  if (n == samples) return;
  const T* row = g + n * features;
  const A weight_n = weight[n];
  for (int64_t d = 0; d < size; ++d) sums[d] += weight_n * widen(row[d]);
}

// The gradient of a row that several ends share, end after end, or that none uses.
template <class T, class A>
LADA_CLONES void shared_row(const BetaMixBackward& k, int64_t row, T* out) {
  const int64_t samples = k.source.samples;
  for (int64_t begin = 0; begin < k.features; begin += kBlock) {
    const int64_t size = std::min(kBlock, k.features - begin);
    Sums<A> sums = {};
    for (int64_t i = k.ends.start[row]; i < k.ends.start[row + 1]; ++i) {
      const int64_t end = k.ends.order[i];
      const T* g = static_cast<const T*>(k.grad_mixed) + end / 2 * samples * k.features + begin;
      add_rows(g, static_cast<const A*>(k.weights) + end * samples, samples, size, k.features, sums);
    }
    for (int64_t d = 0; d < size; ++d) out[begin + d] = static_cast<T>(sums[d]);
  }
}

template <class T>
const T* row(const Ends& ends, int64_t pair) {
  return static_cast<const T*>(ends.data) + ends.row_of(pair) * ends.stride;
}

template <class T>
const T* grad_rows(const BetaMixBackward& k, int64_t pair) {
  return static_cast<const T*>(k.grad_mixed) + pair * k.source.samples * k.features;
}

// Where a pair writes the gradient of one of its ends: nowhere if it is not wanted, or if other ends share the row.
template <class T>
T* target(const BetaMixBackward& k, void* grad, const Ends& ends, int64_t pair) {
  const int64_t row = ends.row_of(pair);
  if (!grad || (k.ends.start && k.ends.count(row) > 1)) return nullptr;
  return static_cast<T*>(grad) + row * k.features;
}

// A part of one pair: its rows of grad_mixed, its ends, and where their gradients go, if anywhere.
template <class T>
struct PairRows {
  const T *g, *a, *b;
  T *grad_a, *grad_b;
};

// The gradients of a and b for features [d, d + size), and sums_j += (a - b) sum_n slope_n g_n. One pass over the rows
// of grad_mixed: what it sums stays in registers where `size` is a constant.
template <bool kTau, bool kEnds, class T, class A, class Size>
LADA_HD void strip_backward(const PairRows<T>& rows, const DrawsOfPair<A>& draws, int64_t samples, int64_t features,
                            int64_t d, Size size, A (&sums)[kSums]) {
  A of_a[kSums] = {}, of_b[kSums] = {}, of_slope[kSums] = {};
  for (int64_t n = 0; n < samples; ++n) {
    const T* g = rows.g + n * features + d;
    const A lam = draws.lam[n], mu = draws.mu[n], slope = draws.slope[n];
    for (int64_t j = 0; j < size; ++j) {
      const A value = widen(g[j]);
      if constexpr (kEnds) of_a[j] += lam * value, of_b[j] += mu * value;
      if constexpr (kTau) of_slope[j] += slope * value;
    }
  }
  if constexpr (kTau)
    for (int64_t j = 0; j < size; ++j) sums[j] += of_slope[j] * (widen(rows.a[d + j]) - widen(rows.b[d + j]));
  if constexpr (!kEnds) return;
  if (rows.grad_a)
    for (int64_t j = 0; j < size; ++j) rows.grad_a[d + j] = static_cast<T>(of_a[j]);
  if (rows.grad_b)
    for (int64_t j = 0; j < size; ++j) rows.grad_b[d + j] = static_cast<T>(of_b[j]);
}

// The gradients of a and b for features [begin, end), and sum_d (a_d - b_d) sum_n slope_n g_nd.
template <bool kTau, bool kEnds, class T, class A>
LADA_CLONES A rows_backward(const PairRows<T>& rows, const DrawsOfPair<A>& draws, int64_t samples, int64_t features,
                            int64_t begin, int64_t end) {
  A sums[kSums] = {};
  int64_t d = begin;
  for (; d + kSums <= end; d += kSums)
    strip_backward<kTau, kEnds>(rows, draws, samples, features, d, std::integral_constant<int64_t, kSums>{}, sums);
  strip_backward<kTau, kEnds>(rows, draws, samples, features, d, end - d, sums);
  return sum_of(sums);
}

template <class T, class A>
A mix_pair_backward(const BetaMixBackward& k, const DrawsOfPair<A>& draws, int64_t slice) {
  const int64_t samples = k.source.samples, pair = draws.pair, begin = slice * k.slice;
  const int64_t end = std::min(begin + k.slice, k.features);
  A slope = 0;
  if (slice == 0 && k.grad_tau && k.grad_lam)
    slope += dot(draws.slope, static_cast<const A*>(k.grad_lam) + pair * samples, samples);
  if (!k.grad_mixed) return slope;
  const PairRows<T> rows = {grad_rows<T>(k, pair), row<T>(k.a, pair), row<T>(k.b, pair),
                            target<T>(k, k.grad_a, k.a, pair), target<T>(k, k.grad_b, k.b, pair)};
  if (!rows.grad_a && !rows.grad_b && !k.grad_tau) return slope;  // the rows are shared, and are nowhere read then
  const auto backward = !rows.grad_a && !rows.grad_b ? rows_backward<true, false, T, A>
                        : k.grad_tau                 ? rows_backward<true, true, T, A>
                                                     : rows_backward<false, true, T, A>;
  return slope + backward(rows, draws, samples, k.features, begin, end);
}

template <class T>
void backward_of_pairs(const BetaMixBackward& k, int threads) {
  using A = arithmetic_t<T>;
  const int64_t samples = k.source.samples;
  const int64_t cost = samples * (std::min(k.slice, k.features) + kCostOfDraw);
  parallel_for(k.source.pairs * k.slices, cost, threads, [&](int64_t begin, int64_t end) {
    for_each_pair<A>(k.source, k.slices, begin, end, Want::kSlope,
                     [&](const DrawsOfPair<A>& draws, int64_t first, int64_t last) {
                       for (int64_t slice = first; slice < last; ++slice) {
                         const A slope = mix_pair_backward<T>(k, draws, slice);
                         if (k.partial) static_cast<A*>(k.partial)[draws.pair * k.slices + slice] = slope;
                       }
                       if (!k.weights || first > 0) return;
                       A* weights = static_cast<A*>(k.weights) + draws.pair * 2 * samples;
                       std::copy_n(draws.mu, samples, std::copy_n(draws.lam, samples, weights));
                     });
  });
}

}  // namespace

void beta_logit_gradient(const BetaLogitGradient& k, int threads) {
  dispatch_arithmetic(k.dtype, [&](auto tag) {
    using A = typename decltype(tag)::type;
    const A *x = static_cast<const A*>(k.x), *tau = static_cast<const A*>(k.tau);
    A* out = static_cast<A*>(k.out);
    parallel_for(ceil_div(k.count, kLanes), kLanes * kCostOfDraw, threads, [&](int64_t begin, int64_t end) {
      A block_x[kLanes] = {}, block_tau[kLanes], slope[kLanes];
      std::fill_n(block_tau, kLanes, A(1));
      for (int64_t first = begin * kLanes; first < std::min(end * kLanes, k.count); first += kLanes) {
        const int64_t size = std::min<int64_t>(kLanes, k.count - first);
        std::copy_n(x + first, size, block_x);
        std::transform(tau + first, tau + first + size, block_tau, [](A given) { return valid_tau(given); });
        logit_gradient_lanes(block_x, block_tau, slope);
        for (int64_t i = 0; i < size; ++i) out[first + i] = gradient_to_given(slope[i], block_tau[i], false);
      }
    });
  });
}

constexpr int kSamples = 16;  // that are drawn of kLanes pairs before they are written

// lam[sample][pair] to the rows of the pairs.
template <class A>
LADA_CLONES void write_lanes(const A (*lam)[kLanes], int64_t pairs, int64_t samples, int64_t stride, A* out) {
  for (int64_t pair = 0; pair < pairs; ++pair)
    for (int64_t n = 0; n < samples; ++n) out[pair * stride + n] = lam[n][pair];
}

// The draws of the pairs [begin, end), with pairs as lanes.
template <class A>
void sample_pairs(const BetaSample& k, int64_t begin, int64_t end) {
  const int64_t samples = k.source.samples;
  DrawsOfPairs<A> draws;
  A lam[kSamples][kLanes];
  for (int64_t first = begin; first < end; first += kLanes) {
    const int64_t pairs = std::min<int64_t>(kLanes, end - first);
    draws.take(k.source, first, pairs, Want::kLam);
    for (int64_t from = 0; from < samples; from += kSamples) {
      const int64_t count = std::min<int64_t>(kSamples, samples - from);
      for (int64_t n = 0; n < count; ++n) {
        draws.draw(from + n);
        std::copy_n(draws.lanes.lam, kLanes, lam[n]);
      }
      write_lanes(lam, pairs, count, samples, static_cast<A*>(k.lam) + first * samples + from);
    }
  }
}

// The rows [begin, end) of (pairs x samples).
template <class A>
void sample_rows(const BetaSample& k, int64_t begin, int64_t end) {
  DrawLanes<A> lanes;
  for (int64_t first = begin; first < end; first += kLanes) {
    const int64_t size = std::min<int64_t>(kLanes, end - first);
    draw_lanes(k.source, first, size, Want::kLam, lanes);
    std::copy_n(lanes.lam, size, static_cast<A*>(k.lam) + first);
  }
}

void beta_sample(const BetaSample& k, int threads) {
  dispatch_arithmetic(k.dtype, [&](auto tag) {
    using A = typename decltype(tag)::type;
    const int64_t pairs = k.source.pairs, samples = k.source.samples;
    if (pairs < 4 * kLanes)  // too few to fill lanes with
      return parallel_for(pairs * samples, kCostOfDraw, threads,
                          [&](int64_t begin, int64_t end) { sample_rows<A>(k, begin, end); });
    parallel_for(pairs, samples * kCostOfDraw, threads,
                 [&](int64_t begin, int64_t end) { sample_pairs<A>(k, begin, end); });
  });
}

void beta_sample_backward(const BetaSampleBackward& k, int threads) {
  dispatch_arithmetic(k.dtype, [&](auto tag) {
    using A = typename decltype(tag)::type;
    const int64_t samples = k.source.samples, chunks = std::max<int64_t>(1, ceil_div(samples, kChunk));
    const A* grad = static_cast<const A*>(k.grad);
    std::vector<A> sums(static_cast<size_t>(k.source.pairs * chunks));
    const auto chunks_of_pairs = [&](int64_t begin, int64_t end) {
      Draws<A> draws;
      for (int64_t task = begin; task < end; ++task) {
        const int64_t from = task % chunks * kChunk, size = std::min(kChunk, samples - from);
        const int64_t first = task / chunks * samples + from;
        draws.draw(k.source, first, size, Want::kSlope);
        sums[task] = dot(draws.slope.data(), grad + first, size);
      }
    };
    const auto whole_pairs = [&](int64_t begin, int64_t end) {
      for_each_pair<A>(k.source, 1, begin, end, Want::kSlope, [&](const DrawsOfPair<A>& draws, int64_t, int64_t) {
        sums[draws.pair] = dot(draws.slope, grad + draws.pair * samples, samples);
      });
    };
    parallel_for(
        k.source.pairs * chunks, std::min(samples, kChunk) * kCostOfDraw, threads,
        [&](int64_t begin, int64_t end) { chunks == 1 ? whole_pairs(begin, end) : chunks_of_pairs(begin, end); });
    for (int64_t pair = 0; pair < k.source.pairs; ++pair) {
      const A sum = std::accumulate(sums.begin() + pair * chunks, sums.begin() + (pair + 1) * chunks, A(0));
      static_cast<A*>(k.grad_tau)[pair] = gradient_of_pair(k.source, pair, sum);
    }
  });
}

void beta_mix(const BetaMix& k, int threads) {
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = arithmetic_t<T>;
    const int64_t samples = k.source.samples, slices = std::max<int64_t>(1, ceil_div(k.features, kSlice));
    const int64_t cost = samples * (std::min(kSlice, k.features) + kCostOfDraw);
    parallel_for(k.source.pairs * slices, cost, threads, [&](int64_t begin, int64_t end) {
      for_each_pair<A>(k.source, slices, begin, end, Want::kLam,
                       [&](const DrawsOfPair<A>& draws, int64_t first, int64_t last) {
                         const int64_t d = first * kSlice, size = std::min(last * kSlice, k.features) - d;
                         T* mixed = static_cast<T*>(k.mixed) + draws.pair * samples * k.features + d;
                         mix_rows(row<T>(k.a, draws.pair) + d, row<T>(k.b, draws.pair) + d, draws.lam, draws.mu,
                                  samples, mixed, size, k.features);
                         if (first > 0) return;
                         std::copy_n(draws.lam, samples, static_cast<A*>(k.lam) + draws.pair * samples);
                       });
    });
  });
}

void beta_mix_backward(const BetaMixBackward& k, int threads) {
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = arithmetic_t<T>;
    backward_of_pairs<T>(k, threads);
    if (k.grad_tau)
      for (int64_t pair = 0; pair < k.source.pairs; ++pair) {
        const A* parts = static_cast<const A*>(k.partial) + pair * k.slices;
        static_cast<A*>(k.grad_tau)[pair] =
            gradient_of_pair(k.source, pair, std::accumulate(parts, parts + k.slices, A(0)));
      }
    if (!k.ends.start) return;
    parallel_for(k.a.rows, k.source.samples * k.features, threads, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row)
        if (k.ends.count(row) != 1) shared_row<T, A>(k, row, static_cast<T*>(k.grad_a) + row * k.features);
    });
  });
}

}  // namespace lada::cpu
