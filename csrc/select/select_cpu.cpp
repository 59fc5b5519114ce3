// CPU backend of the selections: lazy and exact.
//
// The weight of a row is kept as it was when the row was last looked at; centres chosen since can only lower it. A pick
// starts from a floor that the best row is known, or for BADGE guessed, to reach; rows whose old weight is below it are
// never touched, and the others are brought up to date only as far as they stay above it. So a pick reads some hundred
// rows, each against several centres at once, instead of the whole pool against one.
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <type_traits>
#include <vector>

#include "../common/cpu.h"
#include "select.h"

namespace lada::cpu {
namespace {

constexpr int kGroup = 4;  // centres that share the loads of a row
constexpr int64_t kBlock = 256;
constexpr size_t kProbes = 32;
constexpr size_t kWatched = 256;

// A native vector: the compiler keeps sums in arrays in memory, where each addition waits for the last.
template <class A>
struct Vector {
  static constexpr int kSize = 32 / sizeof(A);
  typedef A type __attribute__((vector_size(32)));
};

template <class A, class T>
LADA_HD void load(const T* from, typename Vector<A>::type& vector) {
  if constexpr (std::is_same_v<A, T>) {
    std::memcpy(&vector, from, sizeof(vector));
  } else {
    A values[Vector<A>::kSize];
    for (int lane = 0; lane < Vector<A>::kSize; ++lane) values[lane] = widen(from[lane]);
    std::memcpy(&vector, values, sizeof(vector));
  }
}

// sums[i] = sum_j term(x_j, y[i]_j), in one order whatever the group.
template <class A, class X, class Y, class Term>
LADA_HD void sums_over(const X* x, const Y* const (&y)[kGroup], int64_t width, A (&sums)[kGroup], const Term& term) {
  using V = typename Vector<A>::type;
  constexpr int kSize = Vector<A>::kSize;
  V even[kGroup] = {}, odd[kGroup] = {};
  int64_t j = 0;
  for (; j + 2 * kSize <= width; j += 2 * kSize) {
    V x0, x1, y0, y1;
    load<A>(x + j, x0);
    load<A>(x + j + kSize, x1);
#pragma GCC unroll 4
    for (int i = 0; i < kGroup; ++i) {
      load<A>(y[i] + j, y0);
      load<A>(y[i] + j + kSize, y1);
      even[i] += term(x0, y0);
      odd[i] += term(x1, y1);
    }
  }
  for (int i = 0; i < kGroup; ++i) {
    A rest = 0;
    for (int64_t tail = j; tail < width; ++tail)
      rest += term(static_cast<A>(widen(x[tail])), static_cast<A>(widen(y[i][tail])));
    const V both = even[i] + odd[i];
    for (int lane = 0; lane < kSize; ++lane) rest += both[lane];
    sums[i] = rest;
  }
}

struct Product {
  template <class V>  // scalar or vector
  LADA_HD V operator()(V a, V b) const {
    return a * b;
  }
};

struct SquaredDifference {
  template <class V>  // scalar or vector
  LADA_HD V operator()(V a, V b) const {
    return (a - b) * (a - b);
  }
};

template <class T>
LADA_HD const T* row_of(const void* matrix, int64_t row, int64_t width) {
  return static_cast<const T*>(matrix) + row * width;
}

template <class T, bool kBadge>
LADA_HD void distances_to(const Selection& k, int64_t row, const int64_t (&centres)[kGroup],
                          arithmetic_t<T> (&distances)[kGroup]) {
  using A = arithmetic_t<T>;
  const T* near[kGroup];
  for (int i = 0; i < kGroup; ++i)
    near[i] = centres[i] < k.center_count ? row_of<T>(k.centers, centres[i], k.width)
                                          : row_of<T>(k.features, k.picked[centres[i] - k.center_count], k.width);
  const T* features = row_of<T>(k.features, row, k.width);
  if constexpr (!kBadge) {
    sums_over(features, near, k.width, distances, SquaredDifference());
  } else {
    const A* lengths = static_cast<const A*>(k.lengths);
    const A* residuals[kGroup];
    for (int i = 0; i < kGroup; ++i) residuals[i] = row_of<A>(k.residuals, k.picked[centres[i]], k.classes);
    A features_dot[kGroup], residuals_dot[kGroup];
    sums_over(features, near, k.width, features_dot, Product());
    sums_over(row_of<A>(k.residuals, row, k.classes), residuals, k.classes, residuals_dot, Product());
    for (int i = 0; i < kGroup; ++i)
      distances[i] = embedding_distance(lengths[row], lengths[k.picked[centres[i]]], residuals_dot[i], features_dot[i]);
  }
}

// Brings a row's weight up to date with the first `count` centres, or until it is below `floor`.
template <class T, bool kBadge>
LADA_HD void refresh(const Selection& k, int64_t row, int64_t count, arithmetic_t<T> floor) {
  using A = arithmetic_t<T>;
  A weight = static_cast<A*>(k.weights)[row];
  int64_t seen = k.seen[row];
  while (seen < count && weight > 0 && weight >= floor) {
    int64_t centres[kGroup];
    A distances[kGroup];
    for (int i = 0; i < kGroup; ++i) centres[i] = std::min(seen + i, count - 1);
    distances_to<T, kBadge>(k, row, centres, distances);
    for (A distance : distances) weight = distance < weight ? distance : weight;
    seen = std::min(seen + kGroup, count);
  }
  static_cast<A*>(k.weights)[row] = weight;
  k.seen[row] = static_cast<int32_t>(seen);
}

template <class A>
struct Visit {
  int64_t row;
  A draw, floor;  // of the weight
};

template <class T, bool kBadge>
LADA_CLONES void refresh_visits(const Selection& k, int64_t count, const Visit<arithmetic_t<T>>* visits, int64_t begin,
                                int64_t end) {
  for (int64_t i = begin; i < end; ++i) refresh<T, kBadge>(k, visits[i].row, count, visits[i].floor);
}

// floors[j] = what the weight of row first + j must reach for its worth to reach `floor`. E >= U saves the logarithm.
template <class A>
LADA_HD void weight_floors(const Selection& k, int64_t pick, A floor, int64_t first, A (&floors)[kBlock]) {
  constexpr A kSlack = A(0.9999);  // for the rounding of E and of worth
  for (int64_t four = 0; four < kBlock / 4; ++four) {
    const Philox4 random = philox_of_four(k.key, pick, first / 4 + four);
    for (int word = 0; word < 4; ++word) floors[4 * four + word] = floor * kSlack * uniform_of(random.word[word], A());
  }
}

// The rows of a block whose weight reaches the floor, as offsets into it; returns how many.
template <class A, bool kBadge>
LADA_HD int64_t rows_above(const Selection& k, int64_t pick, A floor, int64_t block, uint8_t* offsets) {
  const int64_t first = block * kBlock, size = std::min(kBlock, k.rows - first);
  const A* weights = static_cast<const A*>(k.weights) + first;
  A floors[kBlock];
  if (kBadge && floor > 0)
    weight_floors(k, pick, floor, first, floors);
  else
    std::fill_n(floors, kBlock, floor);
  int above = 0;
  for (int64_t j = 0; j < size; ++j) above += weights[j] >= floors[j];
  if (above == 0) return 0;
  int64_t count = 0;
  for (int64_t j = 0; j < size; ++j)
    if (weights[j] >= floors[j]) offsets[count++] = static_cast<uint8_t>(j);
  return count;
}

template <class A, bool kBadge>
LADA_CLONES void scan_blocks(const Selection& k, int64_t pick, A floor, uint8_t* offsets, int16_t* counts,
                             int64_t begin, int64_t end) {
  for (int64_t block = begin; block < end; ++block)
    counts[block] = static_cast<int16_t>(rows_above<A, kBadge>(k, pick, floor, block, offsets + block * kBlock));
}

template <class A>
LADA_CLONES A sum_of_weights(const A* weights, int64_t rows) {
  constexpr int kLanes = 16;
  A lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= rows; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += std::max(weights[i + lane], A(0));
  for (; i < rows; ++i) lanes[0] += std::max(weights[i], A(0));
  return std::accumulate(lanes, lanes + kLanes, A(0));
}

template <class T, bool kBadge>
class Search {
  using A = arithmetic_t<T>;

 public:
  Search(const Selection& k, int threads)
      : k_(k),
        threads_(threads),
        weights_(static_cast<A*>(k.weights)),
        lengths_(static_cast<const A*>(k.lengths)),
        offsets_(k.rows),
        counts_((k.rows + kBlock - 1) / kBlock) {
    for (int64_t row = 0; row < k.rows; ++row)
      weights_[row] = std::isfinite(lengths_[row]) ? infinity<A>() : Weight<A>::kInvalid;
    std::fill_n(k.seen, k.rows, 0);
    const int64_t stride = std::max<int64_t>(1, k.rows / static_cast<int64_t>(2 * kProbes));
    for (int64_t row = 0; row < k.rows; row += stride) probes_.push_back(row);
  }

  void run() {
    for (int64_t pick = 0; pick < k_.picks; ++pick) {
      const int64_t row = k_.center_count + pick == 0 ? longest() : best(pick);
      k_.picked[pick] = row;
      weights_[row] = Weight<A>::picked();
      choose_probes();
    }
  }

 private:
  int64_t longest() const {
    Candidate<A> best;
    for (int64_t row = 0; row < k_.rows; ++row) {
      const A worth = weights_[row] == Weight<A>::kInvalid ? Weight<A>::kInvalid : lengths_[row];
      const Candidate<A> candidate = {worth, 0, row};
      if (beats(candidate, best)) best = candidate;
    }
    return best.row;
  }

  int64_t best(int64_t pick) {
    const int64_t count = k_.center_count + pick;
    A floor = kBadge ? guessed_floor() : reached_floor(count);
    for (;;) {
      const Candidate<A> found = best_above(pick, count, floor);
      if (found.row >= 0 && found.worth >= floor) return found.row;
      floor = floor > std::numeric_limits<A>::min() ? floor / 8 : Weight<A>::lowest();
    }
  }

  // k-center: the greatest weight among a few rows that are likely to be the best.
  A reached_floor(int64_t count) {
    visits_.clear();
    for (int64_t row : probes_) visits_.push_back({row, 0, Weight<A>::lowest()});
    refresh_all(count);
    A floor = Weight<A>::lowest();
    for (int64_t row : probes_) floor = std::max(floor, weights_[row]);
    return floor;
  }

  // BADGE: the winning worth of an exponential race is sum of weights / Exp(1), so it is hardly ever below this.
  A guessed_floor() const {
    const A sum = sum_of_weights(weights_, k_.rows);
    return std::isfinite(sum) ? sum / 8 : Weight<A>::lowest();
  }

  // The best row if its worth reaches the floor; else a row of smaller worth, or none.
  Candidate<A> best_above(int64_t pick, int64_t count, A floor) {
    const A watched = kBadge ? floor : floor - margin_ * std::abs(floor);
    parallel_for(static_cast<int64_t>(counts_.size()), kBlock, threads_, [&](int64_t begin, int64_t end) {
      scan_blocks<A, kBadge>(k_, pick, watched, offsets_.data(), counts_.data(), begin, end);
    });
    visits_.clear();
    for (size_t block = 0; block < counts_.size(); ++block)
      for (int64_t i = 0; i < counts_[block]; ++i) visit(block * kBlock + offsets_[block * kBlock + i], pick, floor);
    refresh_all(count);
    Candidate<A> best;
    for (const Visit<A>& v : visits_) {
      const A weight = weights_[v.row];
      const bool stale = k_.seen[v.row] < count && weight > 0;
      const Candidate<A> candidate = {kBadge ? weight / v.draw : weight, v.draw, v.row};
      if (!stale && beats(candidate, best)) best = candidate;
    }
    return best;
  }

  void visit(int64_t row, int64_t pick, A floor) {
    if (!kBadge) return visits_.push_back({row, 0, floor});
    const A draw = exponential(uniform_of(philox_of_four(k_.key, pick, row / 4).word[row % 4], A()));
    const A weight_floor = floor > 0 ? floor * draw * A(0.9999) : Weight<A>::lowest();
    if (weights_[row] >= weight_floor) visits_.push_back({row, draw, weight_floor});
  }

  void refresh_all(int64_t count) {
    parallel_for(static_cast<int64_t>(visits_.size()), 4 * k_.width, threads_,
                 [&](int64_t begin, int64_t end) { refresh_visits<T, kBadge>(k_, count, visits_.data(), begin, end); });
  }

  // The heaviest rows that were in question for this pick, or nearly so, are likely to be the next ones.
  void choose_probes() {
    if (kBadge) return;
    margin_ = visits_.size() < kWatched ? std::min(2 * margin_, A(1)) : margin_ / 2;
    probes_.clear();
    for (const Visit<A>& v : visits_) probes_.push_back(v.row);
    if (probes_.size() <= kProbes) return;
    const auto end = probes_.begin() + kProbes;
    std::nth_element(probes_.begin(), end, probes_.end(),
                     [&](int64_t a, int64_t b) { return weights_[a] > weights_[b]; });
    probes_.erase(end, probes_.end());
  }

  const Selection& k_;
  const int threads_;
  A* const weights_;
  const A* const lengths_;
  std::vector<uint8_t> offsets_;
  std::vector<int16_t> counts_;
  std::vector<Visit<A>> visits_;
  std::vector<int64_t> probes_;
  A margin_ = A(0.01);  // how far below the floor a row is watched, relative to the floor
};

template <class T>
LADA_CLONES void measure_rows(const RowLengths& k, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  for (int64_t row = begin; row < end; ++row) {
    const T* x = row_of<T>(k.features, row, k.width);
    const T* const same[kGroup] = {x, x, x, x};
    A sums[kGroup];
    sums_over(x, same, k.width, sums, Product());
    static_cast<A*>(k.lengths)[row] =
        k.factors ? embedding_length(static_cast<const A*>(k.factors)[row], sums[0]) : sums[0];
  }
}

template <class T>
LADA_CLONES void residual_rows(const BadgeResiduals& k, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  for (int64_t row = begin; row < end; ++row) {
    const T* z = row_of<T>(k.logits, row, k.classes);
    A* q = static_cast<A*>(k.residuals) + row * k.classes;
    Residual<A> residual = {widen(z[0]), 0, 0};
    for (int64_t j = 1; j < k.classes; ++j)
      if (widen(z[j]) > residual.max) residual = {widen(z[j]), 0, j};
    for (int64_t j = 0; j < k.classes; ++j)
      if (j != residual.argmax) residual.rest += std::exp(widen(z[j]) - residual.max);
    for (int64_t j = 0; j < k.classes; ++j) q[j] = residual(widen(z[j]), j);
    const A* const same[kGroup] = {q, q, q, q};
    A sums[kGroup];
    sums_over(q, same, k.classes, sums, Product());
    static_cast<A*>(k.lengths)[row] = sums[0];
  }
}

}  // namespace

void badge_residuals(const BadgeResiduals& k, int threads) {
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    parallel_for(k.rows, 8 * k.classes, threads, [&](int64_t begin, int64_t end) { residual_rows<T>(k, begin, end); });
  });
}

void row_lengths(const RowLengths& k, int threads) {
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    parallel_for(k.rows, k.width, threads, [&](int64_t begin, int64_t end) { measure_rows<T>(k, begin, end); });
  });
}

void select_rows(const Selection& k, int threads) {
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    k.residuals ? Search<T, true>(k, threads).run() : Search<T, false>(k, threads).run();
  });
}

}  // namespace lada::cpu
