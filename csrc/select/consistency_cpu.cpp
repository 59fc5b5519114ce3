// CPU loops of the consistency score, in the lanes of scores/lanes.h: each view of some rows is read once, and only the
// moments of their classes are kept. The backward pass reads the views again for the gradient.
#include <vector>

#include "../scores/lanes.h"
#include "consistency.h"

namespace lada::cpu {
namespace {

constexpr int64_t kCostOfExp = 4;

// Adds a view's probabilities p to their mean, and to the sum of squared deviations from it (Welford, 1962).
template <class A>
LADA_HD void add_value(A p, A weight, A& mean, A& squares) {
  const A change = p - mean;
  mean += change * weight;
  squares += change * (p - mean);
}

template <class T>
const T* view_rows(const void* logits, int64_t view, int64_t row, int64_t rows, int64_t classes) {
  return static_cast<const T*>(logits) + (view * rows + row) * classes;
}

// Replaces a tile of logits by their probabilities.
template <class A>
LADA_HD void softmax_tile(A* tile, int64_t classes) {
  const LaneStats<A> s = stats_of_tile<Score::kVariationRatio>(tile, classes, tile);
  Lane<A> inverse;
  LADA_SIMD for (int l = 0; l < kRowLanes<A>; ++l) inverse[l] = 1 / (s.ties[l] + s.below[l]);
  for (int64_t j = 0; j < classes; ++j) {
    LADA_SIMD for (int l = 0; l < kRowLanes<A>; ++l) tile[j * kRowLanes<A> + l] *= inverse[l];
  }
}

template <class A>
LADA_CLONES void add_view(A* tile, int64_t classes, A weight, A* mean, A* squares) {
  softmax_tile(tile, classes);
  LADA_SIMD for (int64_t i = 0; i < classes * kRowLanes<A>; ++i) add_value(tile[i], weight, mean[i], squares[i]);
}

// Replaces a tile of logits of one view by factor * p_j (e_j - sum_i p_i e_i), e = p - mean.
template <class A>
LADA_CLONES void gradient_of_view(A* tile, int64_t classes, const A* mean, const Lane<A>& factor) {
  softmax_tile(tile, classes);
  Lane<A> pull{};
  for (int64_t j = 0; j < classes; ++j) {
    LADA_SIMD for (int l = 0; l < kRowLanes<A>; ++l) {
      const int64_t i = j * kRowLanes<A> + l;
      pull[l] += tile[i] * (tile[i] - mean[i]);
    }
  }
  for (int64_t j = 0; j < classes; ++j) {
    LADA_SIMD for (int l = 0; l < kRowLanes<A>; ++l) {
      const int64_t i = j * kRowLanes<A> + l;
      tile[i] = factor[l] * tile[i] * (tile[i] - mean[i] - pull[l]);
    }
  }
}

template <class A>
LADA_CLONES void add_classes(const A* tile, int64_t classes, Lane<A>& sum) {
  for (int64_t j = 0; j < classes; ++j) {
    LADA_SIMD for (int l = 0; l < kRowLanes<A>; ++l) sum[l] += tile[j * kRowLanes<A> + l];
  }
}

// The same of one long row: probabilities, moments, gradient, sum.
template <class A>
LADA_CLONES void softmax_row(const A* z, int64_t classes, A* p) {
  const RowStats<A> s = stats_of_row<Score::kVariationRatio>(z, classes);
  const A inverse = 1 / sum_of(s), max = s.max;
  LADA_SIMD for (int64_t j = 0; j < classes; ++j) p[j] = exp_negative(below_max(z[j], max)) * inverse;
}

template <class A>
LADA_CLONES void add_row(const A* p, int64_t classes, A weight, A* mean, A* squares) {
  LADA_SIMD for (int64_t j = 0; j < classes; ++j) add_value(p[j], weight, mean[j], squares[j]);
}

template <class A>
LADA_CLONES void gradient_of_row(A* p, int64_t classes, const A* mean, A factor) {
  const A pull = sum_of_terms<A>(classes, [=](int64_t j) LADA_TERM { return p[j] * (p[j] - mean[j]); });
  LADA_SIMD for (int64_t j = 0; j < classes; ++j) p[j] = factor * p[j] * (p[j] - mean[j] - pull);
}

template <class A>
LADA_CLONES A sum_of_row(const A* values, int64_t classes) {
  return sum_of_terms<A>(classes, [=](int64_t j) LADA_TERM { return values[j]; });
}

// The moments over all views of some rows, which are few enough for the lanes, or one.
template <class T>
class Views {
 public:
  using A = arithmetic_t<T>;
  Views(const void* logits, int64_t views, int64_t rows, int64_t classes)
      : views_(views),
        rows_(rows),
        classes_(classes),
        lanes_(classes > kTileClasses ? 1 : kRowLanes<A>),
        logits_(logits),
        wide_(classes),
        tiles_(static_cast<size_t>(3 * size())) {}

  int64_t lanes() const { return lanes_; }

  // Takes the moments of `count` rows.
  void take(int64_t row, int64_t count) {
    std::fill(tiles_.begin(), tiles_.end(), A(0));
    for (int64_t view = 0; view < views_; ++view) {
      const A weight = A(1) / static_cast<A>(view + 1);
      const T* z = view_rows<T>(logits_, view, row, rows_, classes_);
      if (lanes_ == 1) {
        softmax_row(wide_.of(z, classes_), classes_, values());
        add_row(values(), classes_, weight, mean(), squared());
      } else {
        load_rows(z, count, classes_, classes_, values());
        add_view(values(), classes_, weight, mean(), squared());
      }
    }
  }

  // sum_c sum_v (p_vc - mean_c)^2 of each of the rows.
  void add_squares(Lane<A>& sum) {
    if (lanes_ == 1)
      sum[0] += sum_of_row(squared(), classes_);
    else
      add_classes(squared(), classes_, sum);
  }

  // Gradients of the rows whose moments were taken: `factor` is 2 / views times the gradient of each row's score.
  void gradients(int64_t row, int64_t count, const Lane<A>& factor, void* grad_logits) {
    for (int64_t view = 0; view < views_; ++view) {
      const T* z = view_rows<T>(logits_, view, row, rows_, classes_);
      T* to = static_cast<T*>(grad_logits) + (z - static_cast<const T*>(logits_));
      if (lanes_ == 1) {
        softmax_row(wide_.of(z, classes_), classes_, values());
        gradient_of_row(values(), classes_, mean(), factor[0]);
        narrow_row(values(), classes_, to);
      } else {
        load_rows(z, count, classes_, classes_, values());
        gradient_of_view(values(), classes_, mean(), factor);
        store_rows(values(), classes_, to, count);
      }
    }
  }

 private:
  int64_t size() const { return classes_ * lanes_; }
  A* values() { return tiles_.data(); }
  A* mean() { return values() + size(); }
  A* squared() { return mean() + size(); }

  int64_t views_, rows_, classes_, lanes_;
  const void* logits_;
  WideRow<T> wide_;
  std::vector<A> tiles_;
};

}  // namespace

void consistency(const Consistency& k, int threads) {
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = arithmetic_t<T>;
    parallel_tiles(k.rows, kRowLanes<A>, k.views * k.classes * kCostOfExp, threads, [&](int64_t begin, int64_t end) {
      Views<T> views(k.logits, k.views, k.rows, k.classes);
      for (int64_t row = begin; row < end; row += views.lanes()) {
        const int64_t count = std::min(views.lanes(), end - row);
        Lane<A> squares{};
        views.take(row, count);
        views.add_squares(squares);
        for (int64_t l = 0; l < count; ++l)
          static_cast<A*>(k.out)[row + l] = squares[static_cast<int>(l)] / static_cast<A>(k.views);
      }
    });
  });
}

void consistency_backward(const ConsistencyBackward& k, int threads) {
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = arithmetic_t<T>;
    parallel_tiles(k.rows, kRowLanes<A>, 2 * k.views * k.classes * kCostOfExp, threads,
                   [&](int64_t begin, int64_t end) {
                     Views<T> views(k.logits, k.views, k.rows, k.classes);
                     for (int64_t row = begin; row < end; row += views.lanes()) {
                       const int64_t count = std::min(views.lanes(), end - row);
                       views.take(row, count);
                       Lane<A> factor{};
                       for (int l = 0; l < count; ++l)
                         factor[l] = 2 * static_cast<const A*>(k.grad)[row + l] / static_cast<A>(k.views);
                       views.gradients(row, count, factor, k.grad_logits);
                     }
                   });
  });
}

}  // namespace lada::cpu
