// Device code of Eq. 13.
//
// A row's score needs its exponentials and little else, so while rows are short the lanes of a warp are shared out by
// rows, not by classes: of the N mixtures and two ends of a pair each is one lane's, and 8 lanes make a pair. They read
// the same two rows of logits, which a warp does at once. Rows of more than kShortPairRow classes are taken by a whole
// warp, one after another.
#pragma once
#include "../beta_mix/formula.h"
#include "../scores/scores_kernels.cuh"
#include "pair_score.h"

namespace lada::cuda {

constexpr int kShortPairRow = 64;

// The lanes of a pair: kTasks rows at a time, kClasses lanes for each.
template <int kTasksAtOnce, int kLanesOfRow>
struct PairLanes {
  static constexpr int kTasks = kTasksAtOnce, kClasses = kLanesOfRow, kLanes = kTasks * kClasses;
  static __device__ __forceinline__ int task() { return threadIdx.x % kLanes / kClasses; }
  static __device__ __forceinline__ int in_row() { return threadIdx.x % kClasses; }
};
using ByRow = PairLanes<8, 1>;
using ByClass = PairLanes<1, kWarp>;

// `value` of each task summed, the same in all lanes of the pair.
template <class L, class A>
__device__ __forceinline__ A sum_of_tasks(A value) {
  if constexpr (L::kTasks > 1) value = group_reduce<L::kTasks>(value, Sum{});
  return value;
}

template <class A>
__device__ __forceinline__ A own_scores(const void* own, const int64_t* ends, int64_t rows) {
  if (!is_row(ends[0], rows) || !is_row(ends[1], rows)) return not_a_number<A>();
  return static_cast<const A*>(own)[ends[0]] + static_cast<const A*>(own)[ends[1]];
}

// Given mixtures: the tasks are their rows and, unless `own` has their scores, the two ends.
template <class T, Score kScore, int kThreads, class L>
__global__ void __launch_bounds__(kThreads)
    pair_scores_kernel(PairScores k, arithmetic_t<T> scale, arithmetic_t<T> share) {
  using A = arithmetic_t<T>;
  constexpr int kPairs = kThreads / L::kLanes;
  const int64_t tasks = k.samples + (k.own ? 0 : 2);
  for (int64_t first = int64_t{blockIdx.x} * kPairs; first < k.pairs; first += int64_t{gridDim.x} * kPairs) {
    const int64_t mine = first + threadIdx.x / L::kLanes, pair = mine < k.pairs ? mine : k.pairs - 1;
    A sum = 0;
    for (int64_t begin = 0; begin < tasks; begin += L::kTasks) {
      const int64_t task = begin + L::task(), sample = task < k.samples ? task : 0;
      const T* row = static_cast<const T*>(k.mixed) + (pair * k.samples + sample) * k.classes;
      if (!k.own && task == k.samples) row = static_cast<const T*>(k.logits_a) + pair * k.classes;
      if (!k.own && task == k.samples + 1) row = static_cast<const T*>(k.logits_b) + pair * k.classes;
      const A score = score_of(stats_of_group<kScore, L::kClasses>(row, k.classes), kScore);
      if (task < tasks) sum += (task < k.samples ? share : A(1)) * score;
    }
    sum = scale * sum_of_tasks<L>(sum);
    if (mine < k.pairs && threadIdx.x % L::kLanes == 0)
      static_cast<A*>(k.out)[pair] = sum + (k.own ? own_scores<A>(k.own, k.ends + 2 * pair, k.rows) : A(0));
  }
}

// The two rows of a pair; row 0 for both if it names one that does not exist.
template <class T>
struct PairRows {
  const T *a, *b;
  bool known;

  __device__ __forceinline__ PairRows(const MixedPairScores& k, int64_t pair) {
    const int64_t i = k.ends[2 * pair], j = k.ends[2 * pair + 1];
    known = is_row(i, k.rows) && is_row(j, k.rows);
    a = static_cast<const T*>(k.logits) + (known ? i : 0) * k.classes;
    b = static_cast<const T*>(k.logits) + (known ? j : 0) * k.classes;
  }
};

// A logit of a mixture, rounded in the same way in every pass over the row: one pass looks for the maximum that another
// has found.
template <class A>
__device__ __forceinline__ A mixed(A lam, A a, A mu, A b) {
  return std::fma(lam, a, mu * b);
}

template <class T>
__device__ __forceinline__ arithmetic_t<T> mixed_logit(const T* a, const T* b, arithmetic_t<T> lam, arithmetic_t<T> mu,
                                                       int j) {
  return mixed(lam, widen(a[j]), mu, widen(b[j]));
}

// The statistics of lam a + mu b, the same in all lanes of the row.
template <Score kScore, int kLanesOfRow, class T>
__device__ __forceinline__ RowStats<arithmetic_t<T>> mixture_stats(const T* __restrict__ a, const T* __restrict__ b,
                                                                   arithmetic_t<T> lam, arithmetic_t<T> mu,
                                                                   int classes) {
  using A = arithmetic_t<T>;
  const int first = threadIdx.x % kLanesOfRow;
  RowStats<A> s;
  for (int j = first; j < classes; j += kLanesOfRow) s.max = raised_to(s.max, mixed_logit(a, b, lam, mu, j));
  s.max = group_reduce<kLanesOfRow>(s.max, Largest{});
  for (int j = first; j < classes; j += kLanesOfRow) add(s, mixed_logit(a, b, lam, mu, j));
  s.ties = group_reduce<kLanesOfRow>(s.ties, Sum{});
  s.below = group_reduce<kLanesOfRow>(s.below, Sum{});
  if constexpr (kScore == Score::kEntropy) s.weighted = group_reduce<kLanesOfRow>(s.weighted, Sum{});
  return s;
}

// Mixtures of logits: the tasks are the N samples, each drawn where it is used, and the two ends.
template <class T, Score kScore, int kThreads, class L>
__global__ void __launch_bounds__(kThreads)
    mixed_pair_scores_kernel(MixedPairScores k, arithmetic_t<T> scale, arithmetic_t<T> share) {
  using A = arithmetic_t<T>;
  constexpr int kPairs = kThreads / L::kLanes;
  const int64_t pairs = k.source.pairs, samples = k.source.samples;
  for (int64_t first = int64_t{blockIdx.x} * kPairs; first < pairs; first += int64_t{gridDim.x} * kPairs) {
    const int64_t mine = first + threadIdx.x / L::kLanes, pair = mine < pairs ? mine : pairs - 1;
    const PairRows<T> rows(k, pair);
    const int classes = static_cast<int>(k.classes);
    A sum = 0;
    for (int64_t begin = 0; begin < samples + 2; begin += L::kTasks) {
      const int64_t task = begin + L::task();
      const T *a = rows.a, *b = rows.b;
      A lam = A(0.5), mu = A(0.5), weight = task < samples + 2 ? A(1) : A(0);
      if (task < samples) {
        const A tau = static_cast<const A*>(k.source.tau)[pair];
        const BetaDraw<A> draw = beta_draw(k.source.key, k.source.index_of(pair), task, tau);
        lam = positive_weight(draw.lam);
        mu = positive_weight(draw.mu);
        weight = share;
      } else {  // half of an end and half of it again
        (task == samples ? b : a) = task == samples ? a : b;
      }
      const A score = score_of(mixture_stats<kScore, L::kClasses>(a, b, lam, mu, classes), kScore);
      if (task < samples + 2) sum += weight * score;
    }
    sum = scale * sum_of_tasks<L>(sum);
    if (mine < pairs && threadIdx.x % L::kLanes == 0)
      static_cast<A*>(k.out)[pair] = rows.known ? sum : not_a_number<A>();
  }
}

// The first class whose mixed logit is `value`.
template <int kLanesOfRow, class T>
__device__ __forceinline__ int first_of_mixture(const T* a, const T* b, arithmetic_t<T> lam, arithmetic_t<T> mu,
                                                int classes, arithmetic_t<T> value) {
  int place = classes;
  for (int j = threadIdx.x % kLanesOfRow; j < classes; j += kLanesOfRow)
    if (mixed_logit(a, b, lam, mu, j) == value && j < place) place = j;
  return group_reduce<kLanesOfRow>(place, Least{});
}

template <class T, Score kScore, int kThreads, class L>
__global__ void __launch_bounds__(kThreads)
    mixed_pair_scores_backward_kernel(MixedPairScoresBackward k, arithmetic_t<T> share) {
  using A = arithmetic_t<T>;
  constexpr int kPairs = kThreads / L::kLanes;
  const MixedPairScores& f = k.forward;
  const int64_t pairs = f.source.pairs, samples = f.source.samples;
  const int classes = static_cast<int>(f.classes);
  for (int64_t first = int64_t{blockIdx.x} * kPairs; first < pairs; first += int64_t{gridDim.x} * kPairs) {
    const int64_t mine = first + threadIdx.x / L::kLanes, pair = mine < pairs ? mine : pairs - 1;
    const PairRows<T> rows(f, pair);
    for (int64_t begin = 0; begin < samples; begin += L::kTasks) {
      const int64_t task = begin + L::task(), sample = task < samples ? task : 0;
      const BetaDraw<A> draw =
          beta_draw(f.source.key, f.source.index_of(pair), sample, static_cast<const A*>(f.source.tau)[pair]);
      const A lam = positive_weight(draw.lam), mu = positive_weight(draw.mu);
      const A weight = task < samples ? share * static_cast<const A*>(k.grad)[pair] : A(0);
      const RowStats<A> s = mixture_stats<kScore, L::kClasses>(rows.a, rows.b, lam, mu, classes);
      int place = -1;
      if constexpr (kScore != Score::kEntropy)
        place = first_of_mixture<L::kClasses>(rows.a, rows.b, lam, mu, classes, s.max);
      A to_lam = 0;
      for (int j = L::in_row(); j < classes; j += L::kClasses) {
        const A a = widen(rows.a[j]), b = widen(rows.b[j]), z = mixed(lam, a, mu, b);
        const Role role = j == place ? Role::kFirst : Role::kOther;
        const A gradient = weight == 0 ? A(0) : weight * score_gradient(s, kScore, z, role);
        to_lam += slope_to_lam(gradient, a, b);
        if (k.contributions == nullptr) continue;  // in all threads alike
        const A of_a = sum_of_tasks<L>(lam * gradient), of_b = sum_of_tasks<L>(mu * gradient);
        if (mine >= pairs || L::task() != 0) continue;
        A* to_a = static_cast<A*>(k.contributions) + pair * classes + j;
        A* to_b = to_a + pairs * classes;
        *to_a = begin == 0 ? of_a : *to_a + of_a;
        *to_b = begin == 0 ? of_b : *to_b + of_b;
      }
      to_lam = group_reduce<L::kClasses>(to_lam, Sum{});
      if (k.grad_lam && mine < pairs && task < samples && L::in_row() == 0)
        static_cast<A*>(k.grad_lam)[pair * samples + task] = rows.known ? to_lam : not_a_number<A>();
    }
  }
}

// A warp a row: its own gradient and the contributions of its pairs, in the order of the pairs.
template <class T, Score kScore, int kThreads>
__global__ void __launch_bounds__(kThreads) gather_pair_gradients_kernel(GatherPairGradients k, arithmetic_t<T> scale) {
  using A = arithmetic_t<T>;
  constexpr int kRows = kThreads / kWarp;
  for (int64_t first = int64_t{blockIdx.x} * kRows; first < k.rows; first += int64_t{gridDim.x} * kRows) {
    const int64_t mine = first + threadIdx.x / kWarp, row = mine < k.rows ? mine : k.rows - 1;
    const T* z = static_cast<const T*>(k.logits) + row * k.classes;
    const RowStats<A> s = stats_of_group<kScore, kWarp>(z, k.classes);
    int64_t place = -1;
    if constexpr (kScore != Score::kEntropy) place = first_place<kWarp>(z, k.classes, s.max, -1);
    if (mine >= k.rows) continue;
    const int64_t begin = k.begin[row], end = k.begin[row + 1];
    A factor = 0;
    for (int64_t i = begin; i < end; ++i) factor += static_cast<const A*>(k.grad)[k.slots[i] / 2];
    for (int64_t j = threadIdx.x % kWarp; j < k.classes; j += kWarp) {
      const Role role = j == place ? Role::kFirst : Role::kOther;
      A sum = scale * factor * score_gradient(s, kScore, widen(z[j]), role);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t slot = k.slots[i];
        sum += static_cast<const A*>(k.contributions)[(slot % 2 * k.pairs + slot / 2) * k.classes + j];
      }
      static_cast<T*>(k.grad_logits)[row * k.classes + j] = narrow<T>(begin < end ? sum : A(0));
    }
  }
}

// top_pairs: one thread a row j, against kScanRows rows i < j. Logits are stored class by class, so that the threads of
// a warp read neighbours. Of up to kScanClasses classes a thread has its own row in registers, and a block the others
// in shared memory; there, too, all the loops over classes are unrolled.
constexpr int kScanRows = 16, kScanClasses = 16;

template <Score kScore, class A>
__device__ __forceinline__ A largest_score(int64_t classes) {
  RowStats<A> uniform;
  uniform.max = uniform.second = 0;
  uniform.ties = static_cast<A>(classes);
  return score_of(uniform, kScore);
}

// The statistics of the mixture of rows i and j.
template <class A>
__device__ __forceinline__ RowStats<A> mixture_in_memory(const PairScan& k, int64_t i, int64_t j, A of_i, A of_j) {
  const A* logits = static_cast<const A*>(k.logits);
  const auto logit = [&](int64_t c) { return mixed(of_i, logits[c * k.rows + i], of_j, logits[c * k.rows + j]); };
  RowStats<A> s;
  for (int64_t c = 0; c < k.classes; ++c) s.max = raised_to(s.max, logit(c));
  for (int64_t c = 0; c < k.classes; ++c) add(s, logit(c));
  return s;
}

template <class A>
__device__ __forceinline__ RowStats<A> mixture_at_hand(const A* row_i, const A (&row_j)[kScanClasses], int classes,
                                                       A of_i, A of_j) {
  RowStats<A> s;
  A z[kScanClasses];
#pragma unroll
  for (int c = 0; c < kScanClasses; c += 2) {
    if (c >= classes) break;
    const auto two = load_aligned<A, 2>(row_i + c);
    z[c] = mixed(of_i, two.value[0], of_j, row_j[c]);
    z[c + 1] = mixed(of_i, two.value[1], of_j, row_j[c + 1]);
    s.max = raised_to(raised_to(s.max, z[c]), z[c + 1]);
  }
#pragma unroll
  for (int c = 0; c < kScanClasses; c += 2) {
    if (c >= classes) break;
    add(s, z[c]);
    add(s, z[c + 1]);
  }
  return s;
}

// sum_n weight_n f(mixture n); stats(lam_n, mu_n) are the statistics of one.
template <Score kScore, class A, class Stats>
__device__ __forceinline__ A score_of_mixtures(const PairScan& k, A most, const Stats& stats) {
  const A *lam = static_cast<const A*>(k.lam), *mu = static_cast<const A*>(k.mu);
  const A* weight = static_cast<const A*>(k.weight);
  A sum = 0;
  for (int64_t n = 0; n < k.samples; ++n)
    sum = add_weighted(sum, weight[n], bounded(score_of(stats(lam[n], mu[n]), kScore), most));
  return sum;
}

template <class A, Score kScore, int kThreads, bool kAtHand>
__global__ void __launch_bounds__(kThreads) pair_scan_kernel(PairScan k, RankedPair<A> threshold) {
  SHARED_ARRAY(A, rows_i, kScanRows * kScanClasses);
  const A *logits = static_cast<const A*>(k.logits), *own = static_cast<const A*>(k.own);
  const int classes = static_cast<int>(k.classes);
  const A *weight = static_cast<const A*>(k.weight), most = largest_score<kScore, A>(k.classes);
  A bound = 0;
  for (int64_t n = 0; n < k.samples; ++n) bound = add_weighted(bound, weight[n], weight[n] > 0 ? most : A(0));
  const auto hopeless = [&](int64_t i, int64_t j) {
    return k.prune && is_hopeless((own[i] + own[j]) + bound, k.least_index[i], threshold);
  };
  const int64_t blocks_i = (k.rows + kScanRows - 1) / kScanRows, blocks_j = (k.rows + kThreads - 1) / kThreads;
  int64_t evaluated = 0;
  for (int64_t task = blockIdx.x; task < blocks_i * blocks_j; task += gridDim.x) {
    const int64_t first = task / blocks_j * kScanRows, begin = task % blocks_j * kThreads, j = begin + threadIdx.x;
    const int64_t nearest = begin > first ? begin : first + 1;
    if (begin + kThreads <= first + 1 || nearest >= k.rows || hopeless(first, nearest)) continue;
    const int64_t last = first + kScanRows < k.rows ? first + kScanRows : k.rows;
    A row_j[kScanClasses];
    if constexpr (kAtHand) {
      const auto logit = [&](int c, int64_t row) {  // classes that there are not have probability zero
        return c < classes && row < k.rows ? logits[c * k.rows + row] : -infinity<A>();
      };
      __syncthreads();  // the readers of the task before are done
      for (int t = threadIdx.x; t < kScanRows * kScanClasses; t += kThreads)
        rows_i[t % kScanRows * kScanClasses + t / kScanRows] = logit(t / kScanRows, first + t % kScanRows);
      __syncthreads();
#pragma unroll
      for (int c = 0; c < kScanClasses; ++c) row_j[c] = logit(c, j);
    }
    for (int64_t i = first; i < last && i < j && j < k.rows; ++i) {
      if (hopeless(i, begin > i ? begin : i + 1)) break;
      const auto stats = [&](A of_i, A of_j) {
        if constexpr (kAtHand)
          return mixture_at_hand(rows_i + (i - first) * kScanClasses, row_j, classes, of_i, of_j);
        else
          return mixture_in_memory(k, i, j, of_i, of_j);
      };
      const A score = (own[i] + own[j]) + score_of_mixtures<kScore>(k, most, stats);
      const int64_t a = k.index[i], b = k.index[j];
      const RankedPair<A> pair = {score, a < b ? a : b, a < b ? b : a};
      ++evaluated;
      if (score != score || !pair.before(threshold)) continue;
      const auto place = static_cast<int64_t>(atomicAdd(reinterpret_cast<unsigned long long*>(k.found), 1ull));
      if (place >= k.capacity) continue;
      static_cast<A*>(k.scores)[place] = pair.score;
      k.pairs[2 * place] = pair.first;
      k.pairs[2 * place + 1] = pair.second;
    }
  }
  evaluated = group_reduce<kThreads>(evaluated, Sum{});
  if (threadIdx.x == 0)
    atomicAdd(reinterpret_cast<unsigned long long*>(k.evaluated), static_cast<unsigned long long>(evaluated));
}

}  // namespace lada::cuda
