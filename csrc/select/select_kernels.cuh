// Device code of the selections. One launch a pick, and no block waits for another: each launch first finds, in every
// block alike, the winner of the launch before it, then brings to date those rows that can still win. As on the CPU a
// row is left alone while the upper bound of its worth is below what another row is known to reach.
#pragma once
#include <cstring>

#include "../common/device.cuh"
#include "select.h"

namespace lada::cuda {

template <class A>
__device__ __forceinline__ Candidate<A> warp_best(Candidate<A> best) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    Candidate<A> other;
    other.worth = __shfl_xor_sync(kAllLanes, best.worth, offset);
    other.draw = __shfl_xor_sync(kAllLanes, best.draw, offset);
    other.row = __shfl_xor_sync(kAllLanes, best.row, offset);
    if (beats(other, best)) best = other;
  }
  return best;
}

// The best candidate of a block, the same in every thread. Every thread of the block must call it.
template <int kThreads, class A>
__device__ __forceinline__ Candidate<A> block_best(Candidate<A> best) {
  SHARED_ARRAY(A, worth, kThreads / kWarp);
  SHARED_ARRAY(A, draw, kThreads / kWarp);
  SHARED_ARRAY(int64_t, row, kThreads / kWarp);
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  best = warp_best(best);
  __syncthreads();  // the previous call's readers are done
  if (lane == 0) {
    worth[warp] = best.worth;
    draw[warp] = best.draw;
    row[warp] = best.row;
  }
  __syncthreads();
  Candidate<A> mine;
  if (lane < kThreads / kWarp) {
    mine.worth = worth[lane];
    mine.draw = draw[lane];
    mine.row = row[lane];
  }
  return warp_best(mine);
}

template <class T>
__device__ __forceinline__ bool in_packs(const T* matrix, int64_t width) {
  return width % (16 / sizeof(T)) == 0 && reinterpret_cast<uintptr_t>(matrix) % 16 == 0;
}

template <class T>
struct Pack {
  T value[16 / sizeof(T)];
};

template <class T>
__device__ __forceinline__ Pack<T> load_pack(const T* from) {
  const uint4 bits = *reinterpret_cast<const uint4*>(from);
  Pack<T> pack;
  std::memcpy(&pack, &bits, sizeof(pack));
  return pack;
}

// sum_j term(x_j, y_j), the same in every lane of the warp; `packed` if both rows can be read 16 bytes at a time.
template <class T, class Term>
__device__ __forceinline__ arithmetic_t<T> warp_sum_over(const T* x, const T* y, int64_t width, bool packed,
                                                         const Term& term) {
  constexpr int kSize = 16 / sizeof(T);
  const int lane = threadIdx.x % kWarp;
  arithmetic_t<T> sum = 0;
  if (packed) {
#pragma unroll 2
    for (int64_t j = lane * kSize; j < width; j += kWarp * kSize) {
      const Pack<T> a = load_pack(x + j), b = load_pack(y + j);
#pragma unroll
      for (int i = 0; i < kSize; ++i) sum += term(widen(a.value[i]), widen(b.value[i]));
    }
  } else {
#pragma unroll 1
    for (int64_t j = lane; j < width; j += kWarp) sum += term(widen(x[j]), widen(y[j]));
  }
  return warp_sum(sum);
}

struct Product {
  template <class A>
  __device__ __forceinline__ A operator()(A a, A b) const {
    return a * b;
  }
};

struct SquaredDifference {
  template <class A>
  __device__ __forceinline__ A operator()(A a, A b) const {
    return (a - b) * (a - b);
  }
};

template <class T, int kThreads>
__global__ void __launch_bounds__(kThreads) row_lengths_kernel(RowLengths k) {
  using A = arithmetic_t<T>;
  constexpr int kRowsPerBlock = kThreads / kWarp;
  const T* features = static_cast<const T*>(k.features);
  const bool packed = in_packs(features, k.width);
  for (int64_t row = int64_t{blockIdx.x} * kRowsPerBlock + threadIdx.x / kWarp; row < k.rows;
       row += int64_t{gridDim.x} * kRowsPerBlock) {
    const T* x = features + row * k.width;
    const A length = warp_sum_over(x, x, k.width, packed, Product());
    if (threadIdx.x % kWarp == 0)
      static_cast<A*>(k.lengths)[row] =
          k.factors ? embedding_length(static_cast<const A*>(k.factors)[row], length) : length;
  }
}

template <class T, int kThreads>
__global__ void __launch_bounds__(kThreads, 4) badge_residuals_kernel(BadgeResiduals k) {
  using A = arithmetic_t<T>;
  constexpr int kRowsPerBlock = kThreads / kWarp;
  const int lane = threadIdx.x % kWarp;
  for (int64_t row = int64_t{blockIdx.x} * kRowsPerBlock + threadIdx.x / kWarp; row < k.rows;
       row += int64_t{gridDim.x} * kRowsPerBlock) {
    const T* z = static_cast<const T*>(k.logits) + row * k.classes;
    A* q = static_cast<A*>(k.residuals) + row * k.classes;
    Candidate<A> top;
    for (int64_t j = lane; j < k.classes; j += kWarp) {
      const Candidate<A> mine = {widen(z[j]), A(0), j};
      if (beats(mine, top)) top = mine;
    }
    top = warp_best(top);
    Residual<A> residual = {top.worth, 0, top.row};
    for (int64_t j = lane; j < k.classes; j += kWarp)
      if (j != residual.argmax) residual.rest += std::exp(widen(z[j]) - residual.max);
    residual.rest = warp_sum(residual.rest);
    for (int64_t j = lane; j < k.classes; j += kWarp) q[j] = residual(widen(z[j]), j);
    __syncwarp();
    // in the order in which products with other rows are summed, so that equal rows have no distance
    const A length = warp_sum_over(q, q, k.classes, in_packs(static_cast<const A*>(k.residuals), k.classes), Product());
    if (lane == 0) static_cast<A*>(k.lengths)[row] = length;
  }
}

// What a launch knows of the centres: all of them but the newest are in memory.
template <class T, bool kBadge>
struct Centres {
  using A = arithmetic_t<T>;
  const Selection& k;
  int64_t count, newest;  // how many; the row of the last one, if any was picked
  bool features_packed, residuals_packed;

  __device__ __forceinline__ Centres(const Selection& selection, int64_t pick, int64_t newest_row)
      : k(selection), count(selection.center_count + pick), newest(newest_row) {
    const T* features = static_cast<const T*>(k.features);
    features_packed =
        in_packs(features, k.width) && (k.center_count == 0 || in_packs(static_cast<const T*>(k.centers), k.width));
    residuals_packed = kBadge && in_packs(static_cast<const A*>(k.residuals), k.classes);
  }

  // The squared distance from a row to a centre, the same in every lane.
  __device__ __forceinline__ A distance(int64_t row, int64_t centre) const {
    const T* x = static_cast<const T*>(k.features) + row * k.width;
    if (centre < k.center_count)
      return warp_sum_over(x, static_cast<const T*>(k.centers) + centre * k.width, k.width, features_packed,
                           SquaredDifference());
    const int64_t other = centre == count - 1 ? newest : k.picked[centre - k.center_count];
    const T* y = static_cast<const T*>(k.features) + other * k.width;
    if constexpr (!kBadge) {
      return warp_sum_over(x, y, k.width, features_packed, SquaredDifference());
    } else {
      const A *lengths = static_cast<const A*>(k.lengths), *residuals = static_cast<const A*>(k.residuals);
      const A features_dot = warp_sum_over(x, y, k.width, features_packed, Product());
      const A residuals_dot = warp_sum_over(residuals + row * k.classes, residuals + other * k.classes, k.classes,
                                            residuals_packed, Product());
      return embedding_distance(lengths[row], lengths[other], residuals_dot, features_dot);
    }
  }
};

// k-center: a weight that some row has after the newest pick, from the runners-up of the launch before. Each warp takes
// the best of its share of the blocks' champions. None is a row that is not finite: its distance, NaN, would not be the
// same floor for all threads.
template <class T, int kThreads>
__device__ __forceinline__ arithmetic_t<T> reached_floor(const Centres<T, false>& centres,
                                                         const Candidate<arithmetic_t<T>>* champions, int64_t blocks) {
  using A = arithmetic_t<T>;
  constexpr int kWarps = kThreads / kWarp;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  Candidate<A> top;
  for (int64_t i = warp + kWarps * lane; i < blocks; i += kThreads)
    if (champions[i].row != centres.newest && champions[i].worth >= 0 && beats(champions[i], top)) top = champions[i];
  top = warp_best(top);
  if (top.row >= 0) {  // the same for the whole warp
    const A distance = centres.distance(top.row, centres.count - 1);
    const bool was_length = centres.count == 1;
    if (distance < top.worth || (was_length && distance == distance)) top.worth = distance;
  }
  const A worth = block_best<kThreads>(top).worth;
  return worth > Weight<A>::lowest() ? worth : Weight<A>::lowest();
}

// The race of one pick among 32 rows, one a lane. `best` is the best row that this warp has brought to date.
template <class T, bool kBadge>
__device__ __forceinline__ void race(const Centres<T, kBadge>& centres, arithmetic_t<T> floor, int64_t first,
                                     Candidate<arithmetic_t<T>> mine, arithmetic_t<T> weight, int32_t seen,
                                     Candidate<arithmetic_t<T>>& best) {
  using A = arithmetic_t<T>;
  const Selection& k = centres.k;
  const int lane = threadIdx.x % kWarp;
  for (;;) {
    Candidate<A> top = warp_best(mine);
    if (!beats(top, best) || top.worth < floor) return;
    const int owner = static_cast<int>(top.row - first);
    A w = __shfl_sync(kAllLanes, weight, owner);
    int64_t next = __shfl_sync(kAllLanes, seen, owner);
    const A enough = floor > best.worth ? floor : best.worth;
    while (next < centres.count && w > 0 && !(top.worth < enough)) {
      const A distance = centres.distance(top.row, next++);
      w = distance < w ? distance : w;
      top.worth = kBadge ? w / top.draw : w;
    }
    if ((next == centres.count || !(w > 0)) && beats(top, best)) best = top;
    if (lane == owner) {
      mine = Candidate<A>();
      if (next > seen) {
        static_cast<A*>(k.weights)[top.row] = w;
        k.seen[top.row] = static_cast<int32_t>(next);
      }
    }
  }
}

// Launch `pick` of picks + 1: settles pick - 1, and unless that was the last one holds the race for `pick`.
template <class T, bool kBadge, int kThreads>
__global__ void __launch_bounds__(kThreads, 3) select_rows_kernel(Selection k, int64_t pick) {
  using A = arithmetic_t<T>;
  constexpr int kRowsPerBlock = kThreads;  // 32 rows a warp
  const int lane = threadIdx.x % kWarp;
  Candidate<A>* champions = static_cast<Candidate<A>*>(k.champions);
  const Candidate<A>* before = champions + (pick + 1) % 2 * kMaxChampions;

  int64_t newest = -1;
  if (pick > 0) {
    Candidate<A> winner;
    for (int64_t i = threadIdx.x; i < gridDim.x; i += kThreads)
      if (beats(before[i], winner)) winner = before[i];
    newest = block_best<kThreads>(winner).row;
    if (blockIdx.x == 0 && threadIdx.x == 0) k.picked[pick - 1] = newest;
    if (pick == k.picks) return;
  }
  const Centres<T, kBadge> centres(k, pick, newest);
  A floor = Weight<A>::lowest();
  if constexpr (!kBadge)
    if (pick > 0) floor = reached_floor<T, kThreads>(centres, before, gridDim.x);

  Candidate<A> best;
  for (int64_t first = int64_t{blockIdx.x} * kRowsPerBlock + threadIdx.x / kWarp * kWarp; first < k.rows;
       first += int64_t{gridDim.x} * kRowsPerBlock) {
    const int64_t row = first + lane;
    A weight = Weight<A>::picked();
    int32_t seen = 0;
    if (row < k.rows && pick == 0) {
      const A length = static_cast<const A*>(k.lengths)[row];
      weight = length < infinity<A>() ? infinity<A>() : Weight<A>::kInvalid;
      static_cast<A*>(k.weights)[row] = weight;
      k.seen[row] = 0;
      if (centres.count == 0 && weight > 0) weight = length;  // without centres the longest row is first
    } else if (row < k.rows) {
      if (row == newest) static_cast<A*>(k.weights)[row] = Weight<A>::picked();
      weight = static_cast<const A*>(k.weights)[row];
      seen = k.seen[row];
    }
    Candidate<A> mine = {weight, A(0), row};
    if (kBadge && centres.count > 0) {
      mine.draw = draw_of<A>(k.key, pick, row);
      mine.worth = weight / mine.draw;
    }
    race(centres, floor, first, mine, weight, seen, best);
  }
  best = block_best<kThreads>(best);
  if (threadIdx.x == 0) champions[pick % 2 * kMaxChampions + blockIdx.x] = best;
}

}  // namespace lada::cuda
