// CPU backend of the selections: lazy and exact.
//
// The weight of a row is kept as it was when the row was last looked at; centres chosen since can only lower it. A pick
// starts from a floor that the best row is guessed to reach. Rows whose old weight is below it are not touched; the
// others are brought up to date, the most promising first, and only as far as they stay above what another row has
// reached. If none reaches the floor, it is lowered. So a pick reads about a hundred rows, each against all the centres
// it has missed, instead of the whole pool against one.
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

constexpr int kGroup = 4;          // centres that share the loads of a row
constexpr int64_t kBlock = 256;    // rows whose weights are looked through at once
constexpr int64_t kStage = 64;     // centres that stay in cache while several rows meet them
constexpr size_t kFirstBatch = 8;  // rows brought up to date before the floor is raised for the first time
constexpr int64_t kRelated = 32;   // numbers a row that distances between centres may take
template <class A>
constexpr A kSmallestStep = A(1e-4);

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

// Terms of a sum, of scalars or vectors; by reference, since plain x86-64 has no registers to return the latter in.
struct Product {
  template <class V>
  LADA_HD void operator()(const V& a, const V& b, V& sum) const {
    sum += a * b;
  }
};

struct SquaredDifference {
  template <class V>
  LADA_HD void operator()(const V& a, const V& b, V& sum) const {
    const V difference = a - b;
    sum += difference * difference;
  }
};

// sums[i] = sum_j term(x_j, y[i]_j), in one order whatever the group.
template <class A, class X, class Y, class Term>
LADA_HD void sums_over(const X* x, const Y* const (&y)[kGroup], int64_t width, A (&sums)[kGroup], const Term& term) {
  using V = typename Vector<A>::type;
  constexpr int kSize = Vector<A>::kSize;
  V even[kGroup], odd[kGroup];
#pragma GCC unroll 4
  for (int i = 0; i < kGroup; ++i) even[i] = odd[i] = V{};
  int64_t j = 0;
  for (; j + 2 * kSize <= width; j += 2 * kSize) {
    V x0, x1, y0, y1;
    load<A>(x + j, x0);
    load<A>(x + j + kSize, x1);
#pragma GCC unroll 4
    for (int i = 0; i < kGroup; ++i) {
      load<A>(y[i] + j, y0);
      load<A>(y[i] + j + kSize, y1);
      term(x0, y0, even[i]);
      term(x1, y1, odd[i]);
    }
  }
  for (int i = 0; i < kGroup; ++i) {
    A rest = 0;
    for (int64_t tail = j; tail < width; ++tail)
      term(static_cast<A>(widen(x[tail])), static_cast<A>(widen(y[i][tail])), rest);
    const V both = even[i] + odd[i];
    for (int lane = 0; lane < kSize; ++lane) rest += both[lane];
    sums[i] = rest;
  }
}

template <class T>
LADA_HD const T* row_of(const void* matrix, int64_t row, int64_t width) {
  return static_cast<const T*>(matrix) + row * width;
}

template <class T>
LADA_HD const T* features_of_centre(const Selection& k, int64_t centre) {
  return centre < k.center_count ? row_of<T>(k.centers, centre, k.width)
                                 : row_of<T>(k.features, k.picked[centre - k.center_count], k.width);
}

// Squared distances from a point to a group of centres, for k-center.
template <class T>
LADA_HD void distances_from(const Selection& k, const T* point, const int64_t (&centres)[kGroup],
                            arithmetic_t<T> (&distances)[kGroup]) {
  const T* near[kGroup];
  for (int i = 0; i < kGroup; ++i) near[i] = features_of_centre<T>(k, centres[i]);
  sums_over(point, near, k.width, distances, SquaredDifference());
}

// The same for BADGE, from a row.
template <class T>
LADA_HD void embedding_distances(const Selection& k, int64_t row, const int64_t (&centres)[kGroup],
                                 arithmetic_t<T> (&distances)[kGroup]) {
  using A = arithmetic_t<T>;
  const A* lengths = static_cast<const A*>(k.lengths);
  const T* near[kGroup];
  const A* residuals[kGroup];
  for (int i = 0; i < kGroup; ++i) {
    near[i] = row_of<T>(k.features, k.picked[centres[i]], k.width);
    residuals[i] = row_of<A>(k.residuals, k.picked[centres[i]], k.classes);
  }
  A features_dot[kGroup], residuals_dot[kGroup];
  sums_over(row_of<T>(k.features, row, k.width), near, k.width, features_dot, Product());
  sums_over(row_of<A>(k.residuals, row, k.classes), residuals, k.classes, residuals_dot, Product());
  for (int i = 0; i < kGroup; ++i)
    distances[i] = embedding_distance(lengths[row], lengths[k.picked[centres[i]]], residuals_dot[i], features_dot[i]);
}

// What the triangle inequality needs to rule out a centre for a row: the row's nearest centre (its owner), and squared
// distances between the first `size` centres. From d(centre, owner) >= 2 d(row, owner) follows d(row, centre) >=
// d(row, owner); `slack` is more than all rounding in these distances, so that ruling out changes no result.
template <class A>
struct Triangle {
  int32_t* owners;
  A* between;  // (size, size), row: owner, column: a later centre
  int64_t size;
  A slack;

  LADA_HD bool rules_out(int64_t centre, int64_t owner, A weight) const {
    return owner < size && centre < size && between[owner * size + centre] >= slack * 4 * weight;
  }
};

// The distances of one centre to those before it.
template <class T>
LADA_CLONES void relate_centre(const Selection& k, int64_t centre, const Triangle<arithmetic_t<T>>& triangle) {
  for (int64_t first = 0; first < centre; first += kGroup) {
    int64_t others[kGroup];
    arithmetic_t<T> distances[kGroup];
    for (int i = 0; i < kGroup; ++i) others[i] = std::min(first + i, centre - 1);
    distances_from(k, features_of_centre<T>(k, centre), others, distances);
    for (int i = 0; i < kGroup; ++i) triangle.between[others[i] * triangle.size + centre] = distances[i];
  }
}

// Brings a row's weight up to date with the first `count` centres, or until it is below `floor`.
template <class T, bool kBadge>
LADA_HD void refresh(const Selection& k, const Triangle<arithmetic_t<T>>& triangle, int64_t row, int64_t count,
                     arithmetic_t<T> floor) {
  using A = arithmetic_t<T>;
  A weight = static_cast<A*>(k.weights)[row];
  int64_t seen = k.seen[row];
  while (seen < count && weight > 0 && weight >= floor) {
    int64_t centres[kGroup];
    A distances[kGroup];
    int found = 0;
    for (; seen < count && found < kGroup; ++seen)
      if (kBadge || !triangle.rules_out(seen, triangle.owners[row], weight)) centres[found++] = seen;
    if (found == 0) break;
    for (int i = found; i < kGroup; ++i) centres[i] = centres[found - 1];
    if constexpr (kBadge)
      embedding_distances<T>(k, row, centres, distances);
    else
      distances_from(k, row_of<T>(k.features, row, k.width), centres, distances);
    for (int i = 0; i < found; ++i) {
      if (!(distances[i] < weight)) continue;
      weight = distances[i];
      if (!kBadge) triangle.owners[row] = static_cast<int32_t>(centres[i]);
    }
  }
  static_cast<A*>(k.weights)[row] = weight;
  k.seen[row] = static_cast<int32_t>(seen);
}

// Keeps a floor of the weight below where the rounding of E and of worth could matter.
template <class A>
constexpr A kSlack = A(0.9999);

template <class A>
struct Visit {
  int64_t row;
  A draw, worth;  // an upper bound, until the row is brought up to date
  A floor;        // of the weight
};

template <class T, bool kBadge>
LADA_CLONES void refresh_visits(const Selection& k, const Triangle<arithmetic_t<T>>& triangle, int64_t count,
                                const Visit<arithmetic_t<T>>* visits, int64_t begin, int64_t end) {
  for (int64_t stage = kStage; stage < count + kStage; stage += kStage)
    for (int64_t i = begin; i < end; ++i)
      refresh<T, kBadge>(k, triangle, visits[i].row, std::min(stage, count), visits[i].floor);
}

// floors[j] = what the weight of row first + j must reach for its worth to reach `floor`. E >= U saves the logarithm.
template <class A>
LADA_HD void weight_floors(const Selection& k, int64_t pick, A floor, int64_t first, A (&floors)[kBlock]) {
  for (int64_t four = 0; four < kBlock / 4; ++four) {
    const Philox4 random = philox_of_four(k.key, pick, first / 4 + four);
    for (int word = 0; word < 4; ++word) floors[4 * four + word] = kSlack<A> * floor * uniform_of<A>(random.word[word]);
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
    if (!kBadge) relate_centers();
  }

  void run() {
    for (int64_t pick = 0; pick < k_.picks; ++pick) {
      const int64_t row = k_.center_count + pick == 0 ? longest() : best(pick);
      k_.picked[pick] = row;
      weights_[row] = Weight<A>::picked();
      if (kBadge) continue;
      if (k_.center_count + pick < triangle_.size) relate_centre<T>(k_, k_.center_count + pick, triangle_);
    }
  }

 private:
  void relate_centers() {
    const auto affordable = static_cast<int64_t>(std::sqrt(static_cast<double>(kRelated * k_.rows)));
    const int64_t size = std::min(k_.center_count + k_.picks, affordable);
    owners_.assign(k_.rows, std::numeric_limits<int32_t>::max());
    between_.resize(size * size);
    const A slack = 1 + std::numeric_limits<A>::epsilon() * static_cast<A>(k_.width + 64);
    triangle_ = {owners_.data(), between_.data(), size, slack};
    parallel_for(std::min(k_.center_count, size), k_.width, threads_, [&](int64_t begin, int64_t end) {
      for (int64_t centre = begin; centre < end; ++centre) relate_centre<T>(k_, centre, triangle_);
    });
  }

  int64_t longest() const {
    Candidate<A> best;
    for (int64_t row = 0; row < k_.rows; ++row) {
      const A worth = weights_[row] == Weight<A>::kInvalid ? Weight<A>::kInvalid : lengths_[row];
      const Candidate<A> candidate = {worth, 0, row};
      if (beats(candidate, best)) best = candidate;
    }
    return best.row;
  }

  // A floor is a guess: rows above it are brought up to date, and where none of them reaches it, it is lowered.
  int64_t best(int64_t pick) {
    const int64_t count = k_.center_count + pick;
    A step = step_;
    for (A floor = first_floor();; step *= 2) {
      const Candidate<A> found = best_above(pick, count, floor);
      if (found.row >= 0 && found.worth >= floor) {
        step_ = step > step_ ? A(1.5) * step_ : std::max(A(0.9) * step_, kSmallestStep<A>);
        last_ = found.worth;
        return found.row;
      }
      floor = lowered(floor, step);
    }
  }

  // k-center: worth only falls, so a little below that of the last pick. BADGE: the winning worth of an exponential
  // race is the sum of the weights / Exp(1), so it is hardly ever below this.
  A first_floor() const {
    const A guess = kBadge ? sum_of_weights(weights_, k_.rows) / 8 : last_ * (1 - step_);
    return std::isfinite(guess) ? guess : Weight<A>::lowest();
  }

  static A lowered(A floor, A step) {
    if (!(floor > std::numeric_limits<A>::min())) return Weight<A>::lowest();
    return kBadge ? floor / 8 : floor * (1 - std::min(step, A(0.5)));
  }

  // The best row if its worth reaches the floor; else a row of smaller worth, or none.
  Candidate<A> best_above(int64_t pick, int64_t count, A floor) {
    find_visits(pick, floor);
    std::sort(visits_.begin(), visits_.end(), [](const Visit<A>& a, const Visit<A>& b) { return a.worth > b.worth; });
    Candidate<A> best;
    size_t batch = kFirstBatch;
    for (size_t begin = 0; begin < visits_.size() && visits_[begin].worth >= floor; batch *= 2) {
      const size_t end = std::min(begin + batch, visits_.size());
      for (size_t i = begin; i < end; ++i) visits_[i].floor = weight_floor(visits_[i].draw, floor);
      refresh_visited(begin, end, count);
      for (; begin < end; ++begin) {
        const Visit<A>& v = visits_[begin];
        const A weight = weights_[v.row];
        const Candidate<A> candidate = {kBadge ? weight / v.draw : weight, v.draw, v.row};
        const bool fresh = k_.seen[v.row] == count || !(weight > 0);
        if (fresh && beats(candidate, best)) best = candidate;
      }
      floor = std::max(floor, best.worth);
    }
    return best;
  }

  void find_visits(int64_t pick, A floor) {
    parallel_for(static_cast<int64_t>(counts_.size()), kBlock, threads_, [&](int64_t begin, int64_t end) {
      scan_blocks<A, kBadge>(k_, pick, floor, offsets_.data(), counts_.data(), begin, end);
    });
    visits_.clear();
    for (size_t block = 0; block < counts_.size(); ++block)
      for (int64_t i = 0; i < counts_[block]; ++i) {
        const int64_t row = static_cast<int64_t>(block) * kBlock + offsets_[block * kBlock + i];
        const A draw = kBadge ? draw_of<A>(k_.key, pick, row) : A(0);
        visits_.push_back({row, draw, kBadge ? weights_[row] / draw : weights_[row], 0});
      }
  }

  // Where the worth of a row is sure to be below `floor`.
  static A weight_floor(A draw, A floor) {
    if (!kBadge) return floor;
    return floor > 0 ? kSlack<A> * floor * draw : Weight<A>::lowest();
  }

  void refresh_visited(size_t begin, size_t end, int64_t count) {
    const Visit<A>* first = visits_.data() + begin;
    parallel_for(static_cast<int64_t>(end - begin), 4 * k_.width, threads_,
                 [&](int64_t from, int64_t to) { refresh_visits<T, kBadge>(k_, triangle_, count, first, from, to); });
  }

  const Selection& k_;
  const int threads_;
  A* const weights_;
  const A* const lengths_;
  Triangle<A> triangle_ = {};
  std::vector<int32_t> owners_;
  std::vector<A> between_;
  std::vector<uint8_t> offsets_;
  std::vector<int16_t> counts_;
  std::vector<Visit<A>> visits_;
  A last_ = infinity<A>();  // worth of the last pick
  A step_ = A(0.01);        // by which the next is guessed to be less
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
