// The gradients of the rows of a pool from those of pairs. A thread adds up what belongs to a range of rows of its own,
// in the order of the pairs, so sums do not depend on the number of threads and nothing is sorted.
#include <memory>
#include <vector>

#include "pair_score.h"
#include "tiles.h"

namespace lada::cpu {
namespace {

// The slots whose ends are rows [begin, end), ascending. Without a branch, since which rows are met is random.
struct SlotsOfRows {
  std::unique_ptr<int64_t[]> slots;
  int64_t count = 0;

  SlotsOfRows(const int64_t* ends, int64_t all, int64_t begin, int64_t end)
      : slots(new int64_t[static_cast<size_t>(all) + 1]) {
    const auto rows = static_cast<uint64_t>(end - begin);
    for (int64_t s = 0; s < all; ++s) {
      slots[static_cast<size_t>(count)] = s;
      count += static_cast<uint64_t>(ends[s] - begin) < rows ? 1 : 0;
    }
  }
};

// What the pairs of a range of rows add up to, row by row.
template <class A>
struct RowSums {
  A* gradients;
  std::vector<A> factor;      // of the gradient of the row's own score
  std::vector<uint8_t> used;  // whether the row is in a pair

  RowSums(A* gradients, int64_t rows)
      : gradients(gradients), factor(static_cast<size_t>(rows)), used(static_cast<size_t>(rows)) {}
};

template <class A>
LADA_CLONES void add_slots(const GatherPairGradients& k, const int64_t* slots, int64_t count, int64_t begin,
                           RowSums<A>& sums) {
  const A *grad = static_cast<const A*>(k.grad), *contributions = static_cast<const A*>(k.contributions);
  A *factor = sums.factor.data(), *gradients = sums.gradients, scale = static_cast<A>(k.scale);
  uint8_t* used = sums.used.data();
  const int64_t *ends = k.ends, pairs = k.pairs, classes = k.classes;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t s = slots[i], row = ends[s] - begin;
    factor[row] += scale * grad[s / 2];
    used[row] = 1;
    const A* part = contributions + (s % 2 * pairs + s / 2) * classes;
    A* sum = gradients + row * classes;
    LADA_SIMD for (int64_t j = 0; j < classes; ++j) sum[j] += part[j];
  }
}

template <class A>
LADA_CLONES void add_rows(const A* parts, const int64_t* rows, int64_t count, int64_t classes, A* sums) {
  for (int64_t l = 0; l < count; ++l) {
    A* sum = sums + rows[l] * classes;
    LADA_SIMD for (int64_t j = 0; j < classes; ++j) sum[j] += parts[l * classes + j];
  }
}

// Adds the gradients of the own scores of the rows that are in a pair, each times the sum of its pairs' gradients.
// Others keep zero, even if they hold NaN.
template <Score kScore, class T, class A>
void add_own_gradients(const GatherPairGradients& k, int64_t begin, int64_t end, RowSums<A>& sums) {
  const T* logits = static_cast<const T*>(k.logits) + begin * k.classes;
  Workspace<A> work(3, k.classes);
  int64_t rows[kRowLanes<A> + 1], count = 0;
  const auto add_tile = [&] {
    Lane<A> factor;
    for (int l = 0; l < kRowLanes<A>; ++l)
      factor[l] = sums.factor[static_cast<size_t>(rows[std::min<int64_t>(l, count - 1)])];
    gather_tile(logits, rows, 1, count, k.classes, work.tile(0));
    own_gradients<kScore>(work.tile(0), work.tile(1), k.classes, factor);
    store_rows(work.tile(0), k.classes, work.tile(2), count);
    add_rows(work.tile(2), rows, count, k.classes, sums.gradients);
    count = 0;
  };
  for (int64_t row = 0; row < end - begin; ++row) {
    rows[count] = row;
    count += sums.used[static_cast<size_t>(row)];
    if (count == kRowLanes<A>) add_tile();
  }
  if (count > 0) add_tile();
}

template <class T, Score kScore>
void gather_rows(const GatherPairGradients& k, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  const int64_t size = (end - begin) * k.classes;
  T* out = static_cast<T*>(k.grad_logits) + begin * k.classes;
  std::vector<A> wide(std::is_same_v<T, A> ? 0 : static_cast<size_t>(size));
  A* gradients = wide.data();
  if constexpr (std::is_same_v<T, A>) std::fill_n(gradients = out, size, A(0));
  RowSums<A> sums(gradients, end - begin);
  const SlotsOfRows slots(k.ends, 2 * k.pairs, begin, end);
  add_slots(k, slots.slots.get(), slots.count, begin, sums);
  if (!ends_by_pair(k.rows, k.pairs)) add_own_gradients<kScore, T>(k, begin, end, sums);
  if constexpr (!std::is_same_v<T, A>) narrow_row(gradients, size, out);
}

}  // namespace

void gather_pair_gradients(const GatherPairGradients& k, int threads) {
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    dispatch_pair_score(k.score, [&](auto score) {
      parallel_for(k.rows, k.classes * kCostOfExp, threads,
                   [&](int64_t begin, int64_t end) { gather_rows<T, decltype(score)::value>(k, begin, end); });
    });
  });
}

}  // namespace lada::cpu
