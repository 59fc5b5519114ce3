// Device code of the Beta ops. lam is drawn where it is used and drawn again in the backward pass, so no tensor of
// lam or of 1 - lam is read from memory; grad_a, grad_b and grad_tau come from one pass over grad_mixed.
//
// A group of kGroup threads works on one pair, or one slice of it: a part of a warp, a warp, or a block. Threads of a
// block run the same number of rounds, so that all of them meet at every barrier.
#pragma once
#include "../common/packet.cuh"
#include "beta_mix.h"
#include "formula.h"

namespace lada::cuda {

template <class A>
__device__ __forceinline__ A tau_of(const BetaSource& source, int64_t pair) {
  return tau_of_given(static_cast<const A*>(source.tau)[pair], source.log_tau);
}

template <class A>
__device__ __forceinline__ BetaDraw<A> draw_of(const BetaSource& source, int64_t pair, int64_t n) {
  return beta_draw(source.key, source.index_of(pair), n, tau_of<A>(source, pair));
}

template <class A>
__device__ __forceinline__ A slope_of(const BetaSource& source, const BetaDraw<A>& draw, int64_t pair) {
  return beta_lam_gradient_log_tau(draw, tau_of<A>(source, pair), source.pathwise);
}

template <class A>
__device__ __forceinline__ void store_gradient(const BetaSource& source, void* grad_tau, int64_t pair, A to_log_tau) {
  static_cast<A*>(grad_tau)[pair] = gradient_to_given(to_log_tau, tau_of<A>(source, pair), source.log_tau);
}

constexpr int kAhead = 2;  // samples whose packets are under way at a time

// kWidth neighbouring features of a row: a packet, or a single one where rows do not begin at multiples of 16 bytes.
template <class T, int kWidth>
struct Features {
  T value[kWidth];
};

template <class T, int kWidth>
__device__ __forceinline__ Features<T, kWidth> load(const T* from) {
  if constexpr (kWidth == 1) {
    return {*from};
  } else {
    static_assert(kWidth == Packet<T>::kSize);
    const Packet<T> packet = load_aligned(from);
    Features<T, kWidth> features;
    for (int i = 0; i < kWidth; ++i) features.value[i] = packet.value[i];
    return features;
  }
}

template <class T, int kWidth>
__device__ __forceinline__ void store(T* to, const Features<T, kWidth>& features) {
  if constexpr (kWidth == 1) {
    *to = features.value[0];
  } else {
    static_assert(kWidth == Packet<T>::kSize);
    Packet<T> packet;
    for (int i = 0; i < kWidth; ++i) packet.value[i] = features.value[i];
    store_aligned(to, packet);
  }
}

// Waits for the threads of a group; for a group within a warp, all lanes of the warp call it.
template <int kGroup>
__device__ __forceinline__ void group_barrier() {
  if constexpr (kGroup <= kWarp)
    __syncwarp();
  else
    __syncthreads();
}

// The sum over a group is with its first thread. All threads of the block call it.
template <int kGroup, class A>
__device__ __forceinline__ A group_sum(A value) {
  if constexpr (kGroup > kWarp) {
    return block_sum<kGroup>(value);
  } else {
    for (int offset = kGroup / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(kAllLanes, value, offset);
    return value;
  }
}

template <class A, int kThreads>
__global__ void __launch_bounds__(kThreads) beta_logit_gradient_kernel(BetaLogitGradient k) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < k.count; i += int64_t{gridDim.x} * kThreads)
    static_cast<A*>(k.out)[i] =
        lada::beta_logit_gradient(static_cast<const A*>(k.x)[i], static_cast<const A*>(k.tau)[i]);
}

template <class A, int kThreads>
__global__ void __launch_bounds__(kThreads) beta_sample_kernel(BetaSample k) {
  const int64_t samples = k.source.samples, count = k.source.pairs * samples;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += int64_t{gridDim.x} * kThreads)
    static_cast<A*>(k.lam)[i] = draw_of<A>(k.source, i / samples, i % samples).lam;
}

template <class A, int kGroup, int kThreads>
__global__ void __launch_bounds__(kThreads) beta_sample_backward_kernel(BetaSampleBackward k) {
  constexpr int kGroups = kThreads / kGroup;
  const int64_t samples = k.source.samples;
  const int group = threadIdx.x / kGroup, lane = threadIdx.x % kGroup;
  for (int64_t base = int64_t{blockIdx.x} * kGroups; base < k.source.pairs; base += int64_t{gridDim.x} * kGroups) {
    const int64_t pair = base + group;
    const bool active = pair < k.source.pairs;
    A sum = 0;
    if (active)
      for (int64_t n = lane; n < samples; n += kGroup)
        sum +=
            static_cast<const A*>(k.grad)[pair * samples + n] * slope_of(k.source, draw_of<A>(k.source, pair, n), pair);
    sum = group_sum<kGroup>(sum);
    if (active && lane == 0) store_gradient(k.source, k.grad_tau, pair, sum);
  }
}

// Blocks that a multiprocessor should hold: their threads have 64 registers each, or 80 where a packet of sums needs
// them.
template <class T>
constexpr int kBlocks = sizeof(T) == 4 ? 4 : 3;

// The draws of a pair that a group holds in shared memory at a time.
template <int kGroup>
constexpr int kDraws = kGroup < kWarp ? 32 : 2 * kGroup;

// What the samples of a pair weigh, in shared memory.
template <class A, int kGroup>
struct Weights {
  A lam[kDraws<kGroup>], mu[kDraws<kGroup>], slope[kDraws<kGroup>];  // slope = dlam / dlog tau
};

template <int kGroup>
__device__ __forceinline__ int draws_from(int64_t first, int64_t samples) {
  return static_cast<int>(samples - first < kDraws<kGroup> ? samples - first : kDraws<kGroup>);
}

// The part of a pair, or of a row, that a group works on: features [begin, begin + size).
struct Slice {
  int64_t pair, begin;
  int size;
};

__device__ __forceinline__ Slice slice_of(int64_t task, int64_t slices, int64_t slice, int64_t features) {
  const int64_t pair = slices == 1 ? task : task / slices, begin = (task - pair * slices) * slice;
  return {pair, begin, static_cast<int>(begin + slice < features ? slice : features - begin)};
}

// Where the slice of one end begins, or null if the row does not exist.
template <class T>
__device__ __forceinline__ const T* slice_of_row(const Ends& ends, const Slice& slice) {
  const int64_t number = ends.row_of(slice.pair);
  return number < 0 ? nullptr : static_cast<const T*>(ends.data) + number * ends.stride + slice.begin;
}

template <class Arguments>
__device__ __forceinline__ bool rows_exist(const Arguments& k, int64_t pair) {
  return k.a.row_of(pair) >= 0 && k.b.row_of(pair) >= 0;
}

// a and b are read once (from the cache if there are more samples than draws at a time), and the mixed rows written.
// A pair of rows that do not exist gives NaN.
template <class T, int kWidth, int kGroup, int kThreads>
__global__ void __launch_bounds__(kThreads) beta_mix_kernel(BetaMix k, int64_t features_of_slice, int64_t slices) {
  using A = arithmetic_t<T>;
  constexpr int kGroups = kThreads / kGroup;
  SHARED_ARRAY(A, all_lam, kGroups * kDraws<kGroup>);
  SHARED_ARRAY(A, all_mu, kGroups * kDraws<kGroup>);
  const int group = threadIdx.x / kGroup, lane = threadIdx.x % kGroup;
  A *lam = all_lam + group * kDraws<kGroup>, *mu = all_mu + group * kDraws<kGroup>;
  const int64_t samples = k.source.samples, tasks = k.source.pairs * slices;
  for (int64_t base = int64_t{blockIdx.x} * kGroups; base < tasks; base += int64_t{gridDim.x} * kGroups) {
    const bool active = base + group < tasks;
    const Slice slice = active ? slice_of(base + group, slices, features_of_slice, k.features) : Slice{0, 0, 0};
    const T *a = slice_of_row<T>(k.a, slice), *b = slice_of_row<T>(k.b, slice);
    const bool exists = active && rows_exist(k, slice.pair);
    for (int64_t first = 0; first < samples; first += kDraws<kGroup>) {
      const int count = draws_from<kGroup>(first, samples);
      for (int n = lane; active && n < count; n += kGroup) {
        const BetaDraw<A> draw = draw_of<A>(k.source, slice.pair, first + n);
        lam[n] = exists ? draw.lam : not_a_number<A>();
        mu[n] = draw.mu;
        if (slice.begin == 0) static_cast<A*>(k.lam)[slice.pair * samples + first + n] = lam[n];
      }
      group_barrier<kGroup>();
      T* mixed = static_cast<T*>(k.mixed) + (slice.pair * samples + first) * k.features + slice.begin;
      for (int d = lane * kWidth; d < slice.size; d += kGroup * kWidth) {
        Features<T, kWidth> from_a = {}, from_b = {};
        if (exists) {
          from_a = load<T, kWidth>(a + d);
          from_b = load<T, kWidth>(b + d);
        }
        T* out = mixed + d;
#pragma unroll 1
        for (int n = 0; n < count; ++n, out += k.features) {
          Features<T, kWidth> values;
          for (int i = 0; i < kWidth; ++i)
            values.value[i] = narrow<T>(lam[n] * widen(from_a.value[i]) + mu[n] * widen(from_b.value[i]));
          store(out, values);
        }
      }
      group_barrier<kGroup>();  // lam and mu are free for the next draws
    }
  }
}

// Where a pair writes the gradient of one of its ends: nowhere if it is not wanted, or if other ends share the row.
template <class T>
__device__ __forceinline__ T* target(const BetaMixBackward& k, void* grad, const Ends& ends, const Slice& slice) {
  const int64_t number = ends.row_of(slice.pair);
  if (!grad || number < 0 || (k.ends.start && k.ends.count(number) > 1)) return nullptr;
  return static_cast<T*>(grad) + number * k.features + slice.begin;
}

// Adds to what an earlier round of draws has left at `to`.
template <class T, int kWidth, class A>
__device__ __forceinline__ void store_sums(T* to, const A (&sums)[kWidth], bool add) {
  Features<T, kWidth> before = {}, values;
  if (add) before = load<T, kWidth>(to);
  for (int i = 0; i < kWidth; ++i) values.value[i] = narrow<T>(add ? widen(before.value[i]) + sums[i] : sums[i]);
  store(to, values);
}

// sum_i (a_i - b_i) sums_i over the features from d, or NaN if one of the rows does not exist.
template <class T, int kWidth, class A>
__device__ __forceinline__ A dot_of_difference(const BetaMixBackward& k, const Slice& slice, int d,
                                               const A (&sums)[kWidth]) {
  const T *a = slice_of_row<T>(k.a, slice), *b = slice_of_row<T>(k.b, slice);
  if (!a || !b) return not_a_number<A>();
  const Features<T, kWidth> from_a = load<T, kWidth>(a + d), from_b = load<T, kWidth>(b + d);
  A dot = 0;
  for (int i = 0; i < kWidth; ++i) dot += sums[i] * (widen(from_a.value[i]) - widen(from_b.value[i]));
  return dot;
}

// What a group adds up over its slice for `count` samples, whose weights are in shared memory: writes the gradients of
// the ends, and returns this thread's part of sum_d (a_d - b_d) sum_n slope_n g_nd. Each g[n, d] is read once and
// enters three sums over n; without kFeatures only that of the slope. `g` is the slice in the first of the samples'
// rows.
template <int kWidth, int kGroup, bool kFeatures, class T, class A>
__device__ __forceinline__ A add_samples(const BetaMixBackward& k, const Slice& slice, const T* g, int count, bool add,
                                         const Weights<A, kGroup>& weights) {
  A to_log_tau = 0;
  for (int d = threadIdx.x % kGroup * kWidth; d < slice.size; d += kGroup * kWidth) {
    A sum_a[kWidth] = {}, sum_b[kWidth] = {}, sum_slope[kWidth] = {};
    const T* row = g + d;
#pragma unroll kAhead
    for (int n = 0; n < count; ++n, row += k.features) {
      const Features<T, kWidth> values = load<T, kWidth>(row);
      for (int i = 0; i < kWidth; ++i) {
        const A value = widen(values.value[i]);
        if (kFeatures) {
          sum_a[i] += weights.lam[n] * value;
          sum_b[i] += weights.mu[n] * value;
        }
        sum_slope[i] += weights.slope[n] * value;
      }
    }
    if (kFeatures) {  // the addresses are formed here, because registers are short in the loop
      if (T* grad_a = target<T>(k, k.grad_a, k.a, slice)) store_sums<T, kWidth>(grad_a + d, sum_a, add);
      if (T* grad_b = target<T>(k, k.grad_b, k.b, slice)) store_sums<T, kWidth>(grad_b + d, sum_b, add);
    }
    if (k.partial) to_log_tau += dot_of_difference<T, kWidth>(k, slice, d, sum_slope);
  }
  return to_log_tau;
}

// grad_a and grad_b, unless kFeatures is false, and grad_log_tau: what add_samples returns, and sum_n slope_n
// grad_lam_n with slope_n = dlam / dlog tau.
template <class T, int kWidth, int kGroup, int kThreads, bool kFeatures>
__global__ void __launch_bounds__(kThreads, kBlocks<T>) beta_mix_backward_kernel(BetaMixBackward k) {
  using A = arithmetic_t<T>;
  constexpr int kGroups = kThreads / kGroup;
  using WeightsOfGroup = Weights<A, kGroup>;
  SHARED_ARRAY(WeightsOfGroup, all_weights, kGroups);
  const int group = threadIdx.x / kGroup, lane = threadIdx.x % kGroup;
  auto& weights = all_weights[group];
  const int64_t samples = k.source.samples, tasks = k.source.pairs * k.slices;
  for (int64_t base = int64_t{blockIdx.x} * kGroups; base < tasks; base += int64_t{gridDim.x} * kGroups) {
    const bool active = base + group < tasks;
    const Slice slice = active ? slice_of(base + group, k.slices, k.slice, k.features) : Slice{0, 0, 0};
    A to_log_tau = active && !rows_exist(k, slice.pair) ? not_a_number<A>() : A(0);
    for (int64_t first = 0; first < samples; first += kDraws<kGroup>) {
      const int count = draws_from<kGroup>(first, samples);
      for (int n = lane; active && n < count; n += kGroup) {
        const BetaDraw<A> draw = draw_of<A>(k.source, slice.pair, first + n);
        weights.lam[n] = draw.lam;
        weights.mu[n] = draw.mu;
        weights.slope[n] = k.partial ? slope_of(k.source, draw, slice.pair) : A(0);
        const int64_t place = slice.pair * samples + first + n;
        if (slice.begin == 0 && k.grad_lam) to_log_tau += weights.slope[n] * static_cast<const A*>(k.grad_lam)[place];
        if (kFeatures && slice.begin == 0 && k.weights) {
          A* kept = static_cast<A*>(k.weights) + slice.pair * samples + place;
          kept[0] = draw.lam;
          kept[samples] = draw.mu;
        }
      }
      group_barrier<kGroup>();
      if (active && k.grad_mixed) {
        const T* g = static_cast<const T*>(k.grad_mixed) + (slice.pair * samples + first) * k.features + slice.begin;
        to_log_tau += add_samples<kWidth, kGroup, kFeatures>(k, slice, g, count, first > 0, weights);
      }
      group_barrier<kGroup>();  // the weights are free for the next draws
    }
    to_log_tau = group_sum<kGroup>(to_log_tau);
    if (active && lane == 0 && k.partial) {
      if (k.slices == 1)
        store_gradient(k.source, k.grad_tau, slice.pair, to_log_tau);
      else
        static_cast<A*>(k.partial)[base + group] = to_log_tau;
    }
  }
}

// grad_tau from the parts of a pair's slices.
template <class A, int kThreads>
__global__ void __launch_bounds__(kThreads) sum_of_slices_kernel(BetaMixBackward k) {
  for (int64_t pair = int64_t{blockIdx.x} * kThreads + threadIdx.x; pair < k.source.pairs;
       pair += int64_t{gridDim.x} * kThreads) {
    A sum = 0;
    for (int64_t slice = 0; slice < k.slices; ++slice) sum += static_cast<const A*>(k.partial)[pair * k.slices + slice];
    store_gradient(k.source, k.grad_tau, pair, sum);
  }
}

// The gradient of rows that several ends share, end after end in the order of the pairs, and of those that none uses.
// The weights are those that beta_mix_backward_kernel has written.
template <class T, int kWidth, int kGroup, int kThreads>
__global__ void __launch_bounds__(kThreads) shared_rows_kernel(BetaMixBackward k) {
  using A = arithmetic_t<T>;
  constexpr int kGroups = kThreads / kGroup;
  const int64_t samples = k.source.samples;
  const int64_t tasks = k.a.rows * k.slices;
  const int lane = threadIdx.x % kGroup;
  for (int64_t task = int64_t{blockIdx.x} * kGroups + threadIdx.x / kGroup; task < tasks;
       task += int64_t{gridDim.x} * kGroups) {
    const Slice slice = slice_of(task, k.slices, k.slice, k.features);
    const int64_t number = slice.pair;
    if (k.ends.count(number) == 1) continue;
    for (int d = lane * kWidth; d < slice.size; d += kGroup * kWidth) {
      A sum[kWidth] = {};
      for (int64_t i = k.ends.start[number]; i < k.ends.start[number + 1]; ++i) {
        const int64_t end = k.ends.order[i];
        const A* weight = static_cast<const A*>(k.weights) + end * samples;
        const T* g = static_cast<const T*>(k.grad_mixed) + end / 2 * samples * k.features + slice.begin + d;
#pragma unroll kAhead
        for (int64_t n = 0; n < samples; ++n, g += k.features) {
          const Features<T, kWidth> values = load<T, kWidth>(g);
          for (int j = 0; j < kWidth; ++j) sum[j] += weight[n] * widen(values.value[j]);
        }
      }
      store_sums<T, kWidth>(static_cast<T*>(k.grad_a) + number * k.features + slice.begin + d, sum, false);
    }
  }
}

}  // namespace lada::cuda
