// CPU loops of the consistency score: each row of logits is read once, and only the moments of its classes are kept.
#include <vector>

#include "../common/cpu.h"
#include "consistency.h"

namespace lada::cpu {
namespace {

template <class T>
LADA_HD Softmax<arithmetic_t<T>> softmax_of(const T* z, int64_t classes) {
  using A = arithmetic_t<T>;
  A max = -infinity<A>(), sum = 0;
  for (int64_t c = 0; c < classes; ++c) max = widen(z[c]) > max ? widen(z[c]) : max;
  for (int64_t c = 0; c < classes; ++c) sum += std::exp(widen(z[c]) - max);
  return {max, sum};
}

template <class T>
LADA_CLONES void score_rows(const Consistency& k, Moments<arithmetic_t<T>>* moments, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  for (int64_t row = begin; row < end; ++row) {
    std::fill_n(moments, k.classes, Moments<A>());
    for (int64_t view = 0; view < k.views; ++view) {
      const T* z = static_cast<const T*>(k.logits) + (view * k.rows + row) * k.classes;
      const Softmax<A> softmax = softmax_of(z, k.classes);
      for (int64_t c = 0; c < k.classes; ++c) moments[c].push(softmax(widen(z[c])), view + 1);
    }
    A squares = 0;
    for (int64_t c = 0; c < k.classes; ++c) squares += moments[c].squares;
    static_cast<A*>(k.out)[row] = squares / static_cast<A>(k.views);
  }
}

template <class T>
LADA_CLONES void score_rows_backward(const ConsistencyBackward& k, arithmetic_t<T>* p, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  for (int64_t row = begin; row < end; ++row) {
    A* mean = static_cast<A*>(k.means) + row * k.classes;
    std::fill_n(mean, k.classes, A(0));
    for (int64_t view = 0; view < k.views; ++view) {
      const T* z = static_cast<const T*>(k.logits) + (view * k.rows + row) * k.classes;
      const Softmax<A> softmax = softmax_of(z, k.classes);
      for (int64_t c = 0; c < k.classes; ++c) mean[c] += (softmax(widen(z[c])) - mean[c]) / static_cast<A>(view + 1);
    }
    const A scale = 2 * static_cast<const A*>(k.grad)[row] / static_cast<A>(k.views);
    for (int64_t view = 0; view < k.views; ++view) {
      const int64_t at = (view * k.rows + row) * k.classes;
      const T* z = static_cast<const T*>(k.logits) + at;
      const Softmax<A> softmax = softmax_of(z, k.classes);
      A pull = 0;
      for (int64_t c = 0; c < k.classes; ++c) {
        p[c] = softmax(widen(z[c]));
        pull += p[c] * (p[c] - mean[c]);
      }
      T* grad_z = static_cast<T*>(k.grad_logits) + at;
      for (int64_t c = 0; c < k.classes; ++c) grad_z[c] = static_cast<T>(scale * p[c] * (p[c] - mean[c] - pull));
    }
  }
}

}  // namespace

void consistency(const Consistency& k, int threads) {
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    parallel_for(k.rows, 8 * k.views * k.classes, threads, [&](int64_t begin, int64_t end) {
      std::vector<Moments<arithmetic_t<T>>> moments(k.classes);
      score_rows<T>(k, moments.data(), begin, end);
    });
  });
}

void consistency_backward(const ConsistencyBackward& k, int threads) {
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    parallel_for(k.rows, 16 * k.views * k.classes, threads, [&](int64_t begin, int64_t end) {
      std::vector<arithmetic_t<T>> p(k.classes);
      score_rows_backward<T>(k, p.data(), begin, end);
    });
  });
}

}  // namespace lada::cpu
