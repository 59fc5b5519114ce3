// Device code of the row scores and of BALD. Rows are read from memory once, 16 bytes an instruction where the address
// allows it; nothing but the result is written. By the length of a row there are two ways:
//
// - short rows (up to kShortRow): a block copies the consecutive rows of its threads to shared memory, and each thread
//   takes the row of its own, so that no lane idles for C = 10 and nothing is summed across lanes;
// - longer rows: a group of 8 or 32 lanes or a whole block shares a row. Each thread keeps online sums of its packets,
//   and the group brings them to one maximum and adds them.
//
// Which elements a thread takes depends on C alone, so that a row's score does not depend on the rows around it.
#pragma once
#include "../common/packet.cuh"
#include "scores.h"

namespace lada::cuda {

constexpr int kShortRow = 32;

struct Sum {
  template <class V>
  __device__ __forceinline__ V operator()(V a, V b) const {
    return a + b;
  }
};

struct Largest {
  template <class V>
  __device__ __forceinline__ V operator()(V a, V b) const {
    return a > b ? a : b;
  }
};

struct Least {
  template <class V>
  __device__ __forceinline__ V operator()(V a, V b) const {
    return a < b ? a : b;
  }
};

// `value` of all threads of a group combined, the same in each of them. A group is 2^n lanes of a warp or the whole
// block; every thread of the block must call it.
template <int kGroup, class V, class Op>
__device__ __forceinline__ V group_reduce(V value, Op op) {
  for (int offset = (kGroup < kWarp ? kGroup : kWarp) / 2; offset > 0; offset /= 2)
    value = op(value, __shfl_xor_sync(kAllLanes, value, offset));
  if constexpr (kGroup > kWarp) {
    SHARED_ARRAY(V, partial, kGroup / kWarp);
    __syncthreads();  // the previous call's readers are done with `partial`
    if (threadIdx.x % kWarp == 0) partial[threadIdx.x / kWarp] = value;
    __syncthreads();
    value = partial[0];
    for (int warp = 1; warp < kGroup / kWarp; ++warp) value = op(value, partial[warp]);
  }
  return value;
}

// As larger(z, max) where max is a number, in one instruction.
__device__ __forceinline__ float raised_to(float max, float z) { return fmaxf(max, z); }
__device__ __forceinline__ double raised_to(double max, double z) { return fmax(max, z); }

// The statistics of z[0..classes), the same in every thread of the group. A thread takes kUnroll packets at once.
template <Score kScore, int kGroup, int kUnroll = 4, class T, class Index>
__device__ __forceinline__ RowStats<arithmetic_t<T>> stats_of_group(const T* __restrict__ z, Index classes) {
  using A = arithmetic_t<T>;
  constexpr int kSize = Packet<T>::kSize;
  constexpr Index kStep = kGroup * kSize;
  const bool aligned = is_aligned(z);
  RowStats<A> s;
  for (Index j = threadIdx.x % kGroup * kSize; j < classes; j += kUnroll * kStep) {
    Packet<T> packet[kUnroll];
    load_packets(z, j, kStep, classes, aligned, narrow<T>(-infinity<A>()), packet);
    A max = s.max;
#pragma unroll
    for (int i = 0; i < kUnroll * kSize; ++i) {
      const A z_j = widen(packet[i / kSize].value[i % kSize]);
      if constexpr (kScore == Score::kMargin) s.second = larger(smaller(z_j, max), s.second);
      max = raised_to(max, z_j);
    }
    if (max > s.max) s = raised(s, max);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (j + u * kStep >= classes) break;
#pragma unroll
      for (int i = 0; i < kSize; ++i) add(s, widen(packet[u].value[i]));
    }
  }
  const A max = group_reduce<kGroup>(s.max, Largest{});
  A second = lowest<A>();
  if constexpr (kScore == Score::kMargin) second = group_reduce<kGroup>(s.max == max ? s.second : s.max, Largest{});
  s = raised(s, max);
  s.ties = group_reduce<kGroup>(s.ties, Sum{});
  s.below = group_reduce<kGroup>(s.below, Sum{});
  if constexpr (kScore == Score::kEntropy) s.weighted = group_reduce<kGroup>(s.weighted, Sum{});
  s.second = s.ties > 1 ? max : second;
  return s;
}

// The first place of `value` in a row, but for the place `except`; classes if there is none.
template <int kGroup, class T>
__device__ __forceinline__ int64_t first_place(const T* z, int64_t classes, arithmetic_t<T> value, int64_t except) {
  int64_t place = classes;
  for (int64_t j = threadIdx.x % kGroup; j < classes; j += kGroup)
    if (widen(z[j]) == value && j != except && j < place) place = j;
  return group_reduce<kGroup>(place, Least{});
}

// Whole blocks take rows of any length, groups of lanes those of a few thousand classes.
template <int kGroup>
using IndexInRow = std::conditional_t<(kGroup > kWarp), int64_t, int>;

template <class T, Score kScore, int kThreads, int kGroup>
__global__ void __launch_bounds__(kThreads) row_scores_kernel(RowScores k, arithmetic_t<T> scale) {
  using A = arithmetic_t<T>;
  constexpr int kRows = kThreads / kGroup;
  const T* logits = static_cast<const T*>(k.logits);
  const auto classes = static_cast<IndexInRow<kGroup>>(k.classes);
  for (int64_t first = int64_t{blockIdx.x} * kRows; first < k.rows; first += int64_t{gridDim.x} * kRows) {
    const int64_t mine = first + threadIdx.x / kGroup, row = mine < k.rows ? mine : k.rows - 1;
    const RowStats<A> s = stats_of_group<kScore, kGroup>(logits + row * k.classes, classes);
    if (mine < k.rows && threadIdx.x % kGroup == 0) static_cast<A*>(k.out)[row] = scale * score_of(s, kScore);
  }
}

template <class T, Score kScore, int kThreads, int kGroup>
__global__ void __launch_bounds__(kThreads) row_scores_backward_kernel(RowScoresBackward k, arithmetic_t<T> scale) {
  using A = arithmetic_t<T>;
  using Index = IndexInRow<kGroup>;
  constexpr int kRows = kThreads / kGroup, kSize = Packet<T>::kSize, kUnroll = 2;
  constexpr Index kStep = kGroup * kSize;
  const auto classes = static_cast<Index>(k.classes);
  for (int64_t block = int64_t{blockIdx.x} * kRows; block < k.rows; block += int64_t{gridDim.x} * kRows) {
    const int64_t mine = block + threadIdx.x / kGroup, row = mine < k.rows ? mine : k.rows - 1;
    const T* z = static_cast<const T*>(k.logits) + row * k.classes;
    T* grad_z = static_cast<T*>(k.grad_logits) + row * k.classes;
    const RowStats<A> s = stats_of_group<kScore, kGroup>(z, classes);
    int64_t first = -1, second = -1;
    if constexpr (kScore != Score::kEntropy) first = first_place<kGroup>(z, k.classes, s.max, -1);
    if constexpr (kScore == Score::kMargin) second = first_place<kGroup>(z, k.classes, s.second, first);
    if (mine >= k.rows) continue;  // the last barrier or shuffle of this round is behind
    const A g = scale * static_cast<const A*>(k.grad)[row / k.group];
    const bool aligned = is_aligned(z) && is_aligned(grad_z);
    for (Index begin = threadIdx.x % kGroup * kSize; begin < classes; begin += kUnroll * kStep) {
      Packet<T> packet[kUnroll];
      load_packets(z, begin, kStep, classes, aligned, narrow<T>(A(0)), packet);
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const Index j = begin + u * kStep;
        if (j >= classes) break;
#pragma unroll
        for (int i = 0; i < kSize; ++i) {
          const Role role = j + i == first ? Role::kFirst : (j + i == second ? Role::kSecond : Role::kOther);
          packet[u].value[i] = narrow<T>(g * score_gradient(s, kScore, widen(packet[u].value[i]), role));
        }
        store_packet(grad_z, j, classes, aligned, packet[u]);
      }
    }
  }
}

// Short rows in shared memory, one behind the other. Threads that read a row each, in the largest packets that its
// length allows, meet different banks; where that length is a multiple of 8, because 4 unused elements follow every 32.
constexpr int kGap = 4;

template <int kThreads, int kClasses>
constexpr int kShortTile = kThreads * kClasses / kWarp * (kWarp + kGap);

template <class A>
struct Tile {
  A* memory;
  unsigned gap;

  __device__ __forceinline__ Tile(A* memory, unsigned classes) : memory(memory), gap(classes % 8 == 0 ? kGap : 0) {}
  __device__ __forceinline__ A* at(unsigned i) const { return memory + i + i / kWarp * gap; }
};

// A packet from memory to the tile, and back.
template <class T>
__device__ __forceinline__ void put_packet(const Tile<arithmetic_t<T>>& tile, unsigned i, const Packet<T>& packet) {
  using InTile = Packet<arithmetic_t<T>>;
#pragma unroll
  for (int c = 0; c < Packet<T>::kSize; c += InTile::kSize) {
    InTile wide;
#pragma unroll
    for (int l = 0; l < InTile::kSize; ++l) wide.value[l] = widen(packet.value[c + l]);
    store_aligned(tile.at(i + c), wide);
  }
}

template <class T>
__device__ __forceinline__ Packet<T> taken(const Tile<arithmetic_t<T>>& tile, unsigned i) {
  using InTile = Packet<arithmetic_t<T>>;
  Packet<T> packet;
#pragma unroll
  for (int c = 0; c < Packet<T>::kSize; c += InTile::kSize) {
    const InTile wide = load_aligned(tile.at(i + c));
#pragma unroll
    for (int l = 0; l < InTile::kSize; ++l) packet.value[c + l] = narrow<T>(wide.value[l]);
  }
  return packet;
}

// Rows of `classes` elements, `stride` apart, on their way to shared memory. `ask` has their first packets read into
// registers, where they may be under way while other rows are worked on; `put` waits for them, and reads the rest.
template <int kThreads, class T>
class Rows {
 public:
  __device__ __forceinline__ void ask(const T* rows, unsigned count_of_rows, unsigned classes_of_row, int64_t stride) {
    from = rows;
    classes = classes_of_row;
    between = stride;
    count = count_of_rows * classes;
    packed = stride == classes && is_aligned(from) ? count / kSize * kSize : 0;
#pragma unroll
    for (unsigned u = 0; u < kAtOnce; ++u)
      if (place(u) < packed) packet[u] = load_aligned(from + place(u));
  }

  __device__ __forceinline__ void put(const Tile<arithmetic_t<T>>& tile) const {
#pragma unroll
    for (unsigned u = 0; u < kAtOnce; ++u)
      if (place(u) < packed) put_packet<T>(tile, place(u), packet[u]);
    for (unsigned i = place(kAtOnce); i < packed; i += kStep) put_packet<T>(tile, i, load_aligned(from + i));
    for (unsigned i = packed + threadIdx.x; i < count; i += kThreads)
      *tile.at(i) = widen(from[i / classes * between + i % classes]);
  }

 private:
  static constexpr unsigned kSize = Packet<T>::kSize, kStep = kThreads * kSize, kAtOnce = kSize > 4 ? 2 : 4;

  static __device__ __forceinline__ unsigned place(unsigned u) { return threadIdx.x * kSize + u * kStep; }

  const T* from;
  unsigned classes, count, packed;
  int64_t between;
  Packet<T> packet[kAtOnce] = {};
};

// Consecutive rows from shared memory.
template <int kThreads, class T>
__device__ __forceinline__ void store_rows(const Tile<arithmetic_t<T>>& tile, unsigned count, T* to) {
  constexpr unsigned kSize = Packet<T>::kSize;
  unsigned done = 0;
  if (is_aligned(to)) {
    done = count / kSize * kSize;
    for (unsigned i = threadIdx.x * kSize; i < done; i += kThreads * kSize) store_aligned(to + i, taken<T>(tile, i));
  }
  for (unsigned i = done + threadIdx.x; i < count; i += kThreads) to[i] = narrow<T>(*tile.at(i));
}

// A row of the tile, which one thread has for itself.
template <class A>
struct ShortRow {
  Tile<A> tile;
  unsigned begin, classes;

  __device__ __forceinline__ ShortRow(const Tile<A>& tile, unsigned classes)
      : tile(tile), begin(threadIdx.x * classes), classes(classes) {}

  // visit(z_j, j) in order; what it changes is written back if kWrites. With kMost > 0, the most classes there can be,
  // every j is known to the compiler.
  template <bool kWrites, int kMost = 0, class Visit>
  __device__ __forceinline__ void each(const Visit& visit) const {
    constexpr int kSize = Packet<A>::kSize;
    A* first = tile.memory + begin;
    if (tile.gap > 0)
      in_packets<kWrites, kMost, kSize>([this](unsigned j) { return tile.at(begin + j); }, visit);
    else if (kSize > 2 && classes % kSize == 0)
      in_packets<kWrites, kMost, kSize>([first](unsigned j) { return first + j; }, visit);
    else if (classes % 2 == 0)
      in_packets<kWrites, kMost, 2>([first](unsigned j) { return first + j; }, visit);
    else
      in_packets<kWrites, kMost, 1>([first](unsigned j) { return first + j; }, visit);
  }

 private:
  template <bool kWrites, int kMost, int kCount, class At, class Visit>
  __device__ __forceinline__ void in_packets(const At& at, const Visit& visit) const {
    if constexpr (kMost > 0) {
#pragma unroll
      for (unsigned j = 0; j < kMost; j += kCount)
        if (j < classes) one_packet<kWrites, kCount>(at(j), j, visit);
    } else {
      for (unsigned j = 0; j < classes; j += kCount) one_packet<kWrites, kCount>(at(j), j, visit);
    }
  }

  template <bool kWrites, int kCount, class Visit>
  static __device__ __forceinline__ void one_packet(A* place, unsigned j, const Visit& visit) {
    auto packet = load_aligned<A, kCount>(place);
#pragma unroll
    for (int l = 0; l < kCount; ++l) visit(packet.value[l], j + l);
    if constexpr (kWrites) store_aligned(place, packet);
  }
};

// The statistics of a row. With kKeeps its exponentials take the place of its logits.
template <Score kScore, bool kKeeps = false, class A>
__device__ __forceinline__ RowStats<A> stats_of_short_row(const ShortRow<A>& row) {
  RowStats<A> s;
  row.template each<false>([&](A z, unsigned) {
    if constexpr (kScore == Score::kMargin) s.second = larger(smaller(z, s.max), s.second);
    s.max = raised_to(s.max, z);
  });
  row.template each<kKeeps>([&](A& z, unsigned) {
    const A e = add(s, z);
    if constexpr (kKeeps) z = e;
  });
  return s;
}

// How many of `most` rows from `first` on there are.
__device__ __forceinline__ unsigned rows_here(int64_t first, int64_t rows, int most) {
  return static_cast<unsigned>(first >= rows ? 0 : rows - first < most ? rows - first : most);
}

template <class T, Score kScore, int kThreads>
__global__ void __launch_bounds__(kThreads) short_row_scores_kernel(RowScores k, arithmetic_t<T> scale) {
  using A = arithmetic_t<T>;
  SHARED_ARRAY(A, memory, (kShortTile<kThreads, kShortRow>));
  const auto classes = static_cast<unsigned>(k.classes);
  const Tile<A> tile(memory, classes);
  const ShortRow<A> mine(tile, classes);
  Rows<kThreads, T> rows_ahead;
  const auto ask = [&](int64_t first) {
    rows_ahead.ask(static_cast<const T*>(k.logits) + first * classes, rows_here(first, k.rows, kThreads), classes,
                   classes);
  };
  const int64_t step = int64_t{gridDim.x} * kThreads;
  ask(int64_t{blockIdx.x} * kThreads);
  for (int64_t first = int64_t{blockIdx.x} * kThreads; first < k.rows; first += step) {
    const unsigned rows = rows_here(first, k.rows, kThreads);
    rows_ahead.put(tile);
    __syncthreads();
    ask(first + step);
    if (threadIdx.x < rows)
      static_cast<A*>(k.out)[first + threadIdx.x] = scale * score_of(stats_of_short_row<kScore>(mine), kScore);
    __syncthreads();  // the tile is free for the next rows
  }
}

template <class T, Score kScore, int kThreads>
__global__ void __launch_bounds__(kThreads)
    short_row_scores_backward_kernel(RowScoresBackward k, arithmetic_t<T> scale) {
  using A = arithmetic_t<T>;
  SHARED_ARRAY(A, memory, (kShortTile<kThreads, kShortRow>));
  const auto classes = static_cast<unsigned>(k.classes);
  const Tile<A> tile(memory, classes);
  const ShortRow<A> mine(tile, classes);
  Rows<kThreads, T> rows_ahead;
  const auto ask = [&](int64_t first) {
    rows_ahead.ask(static_cast<const T*>(k.logits) + first * classes, rows_here(first, k.rows, kThreads), classes,
                   classes);
  };
  const int64_t step = int64_t{gridDim.x} * kThreads;
  ask(int64_t{blockIdx.x} * kThreads);
  for (int64_t first = int64_t{blockIdx.x} * kThreads; first < k.rows; first += step) {
    const unsigned rows = rows_here(first, k.rows, kThreads);
    rows_ahead.put(tile);
    __syncthreads();
    ask(first + step);
    if (threadIdx.x < rows) {
      const RowStats<A> s = stats_of_short_row<kScore>(mine);
      const A g = scale * static_cast<const A*>(k.grad)[(first + threadIdx.x) / k.group];
      bool found_first = false, found_second = false;
      mine.template each<true>([&](A& z, unsigned) {
        Role role = Role::kOther;
        if (kScore != Score::kEntropy && z == s.max && !found_first) {
          role = Role::kFirst;
          found_first = true;
        } else if (kScore == Score::kMargin && z == s.second && !found_second) {
          role = Role::kSecond;
          found_second = true;
        }
        z = g * score_gradient(s, kScore, z, role);
      });
    }
    __syncthreads();
    store_rows<kThreads>(tile, rows * classes, static_cast<T*>(k.grad_logits) + first * classes);
    __syncthreads();
  }
}

template <class T>
__device__ __forceinline__ const T* pass_rows(const Bald& k, int64_t pass, int64_t row) {
  return static_cast<const T*>(k.logits) + pass * k.pass_stride + row * k.row_stride;
}

// The same rows pass after pass, the next pass on its way while one is worked on.
template <int kThreads, class T>
class PassesOfRows {
 public:
  __device__ __forceinline__ PassesOfRows(const Bald& k, int64_t first, unsigned rows)
      : k(k), first(first), rows(rows) {
    ask();
  }

  // Every thread of the block must call it; the tile is filled when it returns.
  __device__ __forceinline__ void put_next(const Tile<arithmetic_t<T>>& tile) {
    ahead.put(tile);
    __syncthreads();
    if (++pass < k.passes) ask();
  }

 private:
  __device__ __forceinline__ void ask() {
    ahead.ask(pass_rows<T>(k, pass, first), rows, static_cast<unsigned>(k.classes), k.row_stride);
  }

  const Bald& k;
  int64_t first, pass = 0;
  unsigned rows;
  Rows<kThreads, T> ahead;
};

// Adds the probabilities of a row, weighted by `share`, to `mean`, and returns its entropy. Its exponentials take the
// place of its logits.
template <int kClasses, class A>
__device__ __forceinline__ A add_short_row(const ShortRow<A>& row, A share, A (&mean)[kClasses]) {
  const RowStats<A> s = stats_of_short_row<Score::kEntropy, true>(row);
  const A weight = share / sum_of(s);
  row.template each<false, kClasses>([&](A e, unsigned j) { mean[j] += weight * e; });
  return score_of(s, Score::kEntropy);
}

// BALD of short rows: a thread an instance, its mean probabilities in registers.
template <class T, int kThreads, int kClasses>
__global__ void __launch_bounds__(kThreads) short_bald_kernel(Bald k, arithmetic_t<T> scale) {
  using A = arithmetic_t<T>;
  SHARED_ARRAY(A, memory, (kShortTile<kThreads, kClasses>));
  const auto classes = static_cast<unsigned>(k.classes);
  const Tile<A> tile(memory, classes);
  const ShortRow<A> mine(tile, classes);
  const A share = A(1) / static_cast<A>(k.passes);
  for (int64_t first = int64_t{blockIdx.x} * kThreads; first < k.rows; first += int64_t{gridDim.x} * kThreads) {
    const unsigned rows = rows_here(first, k.rows, kThreads);
    A mean[kClasses] = {}, value = 0;
    PassesOfRows<kThreads, T> passes(k, first, rows);
    for (int64_t pass = 0; pass < k.passes; ++pass) {
      passes.put_next(tile);
      if (threadIdx.x < rows) value -= share * add_short_row(mine, share, mean);
      __syncthreads();
    }
#pragma unroll
    for (int j = 0; j < kClasses; ++j) value -= mean[j] * log_of_probability(mean[j]);
    if (threadIdx.x < rows) static_cast<A*>(k.out)[first + threadIdx.x] = scale * value;
  }
}

template <class T, int kThreads, int kClasses>
__global__ void __launch_bounds__(kThreads) short_bald_backward_kernel(BaldBackward k, arithmetic_t<T> scale) {
  using A = arithmetic_t<T>;
  SHARED_ARRAY(A, memory, (kShortTile<kThreads, kClasses>));
  const Bald& f = k.forward;
  const auto classes = static_cast<unsigned>(f.classes);
  const Tile<A> tile(memory, classes);
  const ShortRow<A> mine(tile, classes);
  const A share = A(1) / static_cast<A>(f.passes);
  for (int64_t first = int64_t{blockIdx.x} * kThreads; first < f.rows; first += int64_t{gridDim.x} * kThreads) {
    const unsigned rows = rows_here(first, f.rows, kThreads);
    A mean[kClasses] = {};
    PassesOfRows<kThreads, T> passes(f, first, rows);
    for (int64_t pass = 0; pass < f.passes; ++pass) {
      passes.put_next(tile);
      if (threadIdx.x < rows) add_short_row(mine, share, mean);
      __syncthreads();
    }
#pragma unroll
    for (int j = 0; j < kClasses; ++j) mean[j] = log_of_probability(mean[j]);
    PassesOfRows<kThreads, T> again(f, first, rows);
    for (int64_t pass = 0; pass < f.passes; ++pass) {
      again.put_next(tile);
      if (threadIdx.x < rows) {
        const RowStats<A> s = stats_of_short_row<Score::kEntropy>(mine);
        const A inverse = 1 / sum_of(s);
        const A g = scale * share * static_cast<const A*>(k.grad)[first + threadIdx.x];
        A cross = 0;
        mine.template each<false, kClasses>(
            [&](A z, unsigned j) { cross += exp_negative(below_max(z, s.max)) * mean[j]; });
        const A offset = (cross - s.weighted) * inverse;
        mine.template each<true, kClasses>([&](A& z, unsigned j) {
          const A d = below_max(z, s.max);
          z = g * inverse * exp_negative(d) * (d - mean[j] + offset);
        });
      }
      __syncthreads();
      store_rows<kThreads>(tile, rows * classes, static_cast<T*>(k.grad_logits) + (pass * f.rows + first) * classes);
      __syncthreads();
    }
  }
}

constexpr int kUnrollOfBald = 2;  // its means need registers

// The mean probabilities of one instance, shared out over the threads of a group: kItems of them in the registers of
// each thread, as the packets fall.
template <class A, int kItems>
struct Means {
  A value[kItems] = {};
};

// visit(means.value[i], z_j, j) for the elements of a thread.
template <int kGroup, int kItems, class T, class Visit>
__device__ __forceinline__ void for_items(const T* z, int64_t classes, Means<arithmetic_t<T>, kItems>& means,
                                          const Visit& visit) {
  using A = arithmetic_t<T>;
  constexpr int kSize = Packet<T>::kSize;
  const bool aligned = is_aligned(z);
#pragma unroll
  for (int q = 0; q < kItems / kSize; ++q) {
    const int64_t j = (q * kGroup + threadIdx.x % kGroup) * kSize;
    if (j >= classes) continue;
    const Packet<T> packet = load_packet(z, j, classes, aligned, narrow<T>(-infinity<A>()));
#pragma unroll
    for (int i = 0; i < kSize; ++i) visit(means.value[q * kSize + i], widen(packet.value[i]), j + i);
  }
}

// Sum over passes of p / T in registers, and the mean entropy.
template <int kGroup, int kItems, class T>
__device__ __forceinline__ arithmetic_t<T> mean_of_group(const Bald& k, int64_t row,
                                                         Means<arithmetic_t<T>, kItems>& means) {
  using A = arithmetic_t<T>;
  const A share = A(1) / static_cast<A>(k.passes);
  A entropy = 0;
  for (int64_t pass = 0; pass < k.passes; ++pass) {
    const T* z = pass_rows<T>(k, pass, row);
    const RowStats<A> s = stats_of_group<Score::kEntropy, kGroup, kUnrollOfBald>(z, k.classes);
    const A weight = share / sum_of(s);
    entropy += share * score_of(s, Score::kEntropy);
    for_items<kGroup>(z, k.classes, means,
                      [&](A& mean, A z_j, int64_t) { mean += weight * exp_negative(below_max(z_j, s.max)); });
  }
  return entropy;
}

template <class T, int kThreads, int kGroup, int kItems>
__global__ void __launch_bounds__(kThreads) bald_kernel(Bald k, arithmetic_t<T> scale) {
  using A = arithmetic_t<T>;
  constexpr int kRows = kThreads / kGroup;
  for (int64_t first = int64_t{blockIdx.x} * kRows; first < k.rows; first += int64_t{gridDim.x} * kRows) {
    const int64_t mine = first + threadIdx.x / kGroup, row = mine < k.rows ? mine : k.rows - 1;
    Means<A, kItems> means;
    const A entropy = mean_of_group<kGroup, kItems, T>(k, row, means);
    A of_mean = 0;
#pragma unroll
    for (int i = 0; i < kItems; ++i) of_mean -= means.value[i] * log_of_probability(means.value[i]);
    of_mean = group_reduce<kGroup>(of_mean, Sum{});
    if (mine < k.rows && threadIdx.x % kGroup == 0) static_cast<A*>(k.out)[row] = scale * (of_mean - entropy);
  }
}

template <class T, int kThreads, int kGroup, int kItems>
__global__ void __launch_bounds__(kThreads) bald_backward_kernel(BaldBackward k, arithmetic_t<T> scale) {
  using A = arithmetic_t<T>;
  constexpr int kRows = kThreads / kGroup;
  const Bald& f = k.forward;
  for (int64_t first = int64_t{blockIdx.x} * kRows; first < f.rows; first += int64_t{gridDim.x} * kRows) {
    const int64_t mine = first + threadIdx.x / kGroup, row = mine < f.rows ? mine : f.rows - 1;
    Means<A, kItems> means;
    mean_of_group<kGroup, kItems, T>(f, row, means);
#pragma unroll
    for (int i = 0; i < kItems; ++i) means.value[i] = log_of_probability(means.value[i]);
    for (int64_t pass = 0; pass < f.passes; ++pass) {
      const T* z = pass_rows<T>(f, pass, row);
      T* grad_z = static_cast<T*>(k.grad_logits) + (pass * f.rows + row) * f.classes;
      const RowStats<A> s = stats_of_group<Score::kEntropy, kGroup, kUnrollOfBald>(z, f.classes);
      A cross = 0;
      for_items<kGroup>(z, f.classes, means,
                        [&](A& mean, A z_j, int64_t) { cross += exp_negative(below_max(z_j, s.max)) * mean; });
      cross = group_reduce<kGroup>(cross, Sum{});
      const A inverse = 1 / sum_of(s), offset = (cross - s.weighted) * inverse;
      const A g = scale / static_cast<A>(f.passes) * static_cast<const A*>(k.grad)[row] * inverse;
      for_items<kGroup>(z, f.classes, means, [&](A& mean, A z_j, int64_t j) {
        const A d = below_max(z_j, s.max);
        if (mine < f.rows && j < f.classes) grad_z[j] = narrow<T>(g * exp_negative(d) * (d - mean + offset));
      });
    }
  }
}

// BALD of rows too long for registers: the means of an instance are in global memory, each of them read and written by
// one thread.
template <class T, int kThreads>
__device__ __forceinline__ arithmetic_t<T> mean_of_long_row(const Bald& k, int64_t row, arithmetic_t<T>* mean) {
  using A = arithmetic_t<T>;
  const A share = A(1) / static_cast<A>(k.passes);
  A entropy = 0;
  for (int64_t pass = 0; pass < k.passes; ++pass) {
    const T* z = pass_rows<T>(k, pass, row);
    const RowStats<A> s = stats_of_group<Score::kEntropy, kThreads, kUnrollOfBald>(z, k.classes);
    const A weight = share / sum_of(s);
    entropy += share * score_of(s, Score::kEntropy);
    for (int64_t j = threadIdx.x; j < k.classes; j += kThreads)
      mean[j] = (pass == 0 ? A(0) : mean[j]) + weight * exp_negative(below_max(widen(z[j]), s.max));
  }
  return entropy;
}

template <class T, int kThreads>
__global__ void __launch_bounds__(kThreads) long_bald_kernel(Bald k, arithmetic_t<T> scale) {
  using A = arithmetic_t<T>;
  for (int64_t row = blockIdx.x; row < k.rows; row += gridDim.x) {
    A* mean = static_cast<A*>(k.mean) + row * k.classes;
    const A entropy = mean_of_long_row<T, kThreads>(k, row, mean);
    A of_mean = 0;
    for (int64_t j = threadIdx.x; j < k.classes; j += kThreads) of_mean -= mean[j] * log_of_probability(mean[j]);
    of_mean = group_reduce<kThreads>(of_mean, Sum{});
    if (threadIdx.x == 0) static_cast<A*>(k.out)[row] = scale * (of_mean - entropy);
  }
}

template <class T, int kThreads>
__global__ void __launch_bounds__(kThreads) long_bald_backward_kernel(BaldBackward k, arithmetic_t<T> scale) {
  using A = arithmetic_t<T>;
  const Bald& f = k.forward;
  for (int64_t row = blockIdx.x; row < f.rows; row += gridDim.x) {
    A* mean = static_cast<A*>(f.mean) + row * f.classes;
    mean_of_long_row<T, kThreads>(f, row, mean);
    for (int64_t j = threadIdx.x; j < f.classes; j += kThreads) mean[j] = log_of_probability(mean[j]);
    for (int64_t pass = 0; pass < f.passes; ++pass) {
      const T* z = pass_rows<T>(f, pass, row);
      T* grad_z = static_cast<T*>(k.grad_logits) + (pass * f.rows + row) * f.classes;
      const RowStats<A> s = stats_of_group<Score::kEntropy, kThreads, kUnrollOfBald>(z, f.classes);
      A cross = 0;
      for (int64_t j = threadIdx.x; j < f.classes; j += kThreads)
        cross += exp_negative(below_max(widen(z[j]), s.max)) * mean[j];
      cross = group_reduce<kThreads>(cross, Sum{});
      const A inverse = 1 / sum_of(s), offset = (cross - s.weighted) * inverse;
      const A g = scale / static_cast<A>(f.passes) * static_cast<const A*>(k.grad)[row] * inverse;
      for (int64_t j = threadIdx.x; j < f.classes; j += kThreads) {
        const A d = below_max(widen(z[j]), s.max);
        grad_z[j] = narrow<T>(g * exp_negative(d) * (d - mean[j] + offset));
      }
    }
  }
}

}  // namespace lada::cuda
