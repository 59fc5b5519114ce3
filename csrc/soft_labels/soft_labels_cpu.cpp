// CPU loops over mixed labels. A row belongs to one thread.
#include "../common/cpu.h"
#include "soft_labels.h"

namespace lada::cpu {
namespace {

constexpr int64_t kSums = 16;  // independent partial results, so that a loop over classes can run in vectors

template <class A>
struct Softmax {
  A max, sum;
};

template <class T, class A>
LADA_HD Softmax<A> softmax_of_row(const T* z, int64_t classes) {
  A maxima[kSums], sums[kSums] = {}, max = -infinity<A>(), sum = 0;
  std::fill_n(maxima, kSums, max);
  const int64_t whole = classes / kSums * kSums;
  for (int64_t c = 0; c < whole; c += kSums)
    for (int64_t i = 0; i < kSums; ++i) {
      const A value = widen(z[c + i]);
      maxima[i] = value <= maxima[i] ? maxima[i] : value;  // NaN passes into the sum
    }
  for (A value : maxima) max = value > max ? value : max;
  for (int64_t c = whole; c < classes; ++c) max = widen(z[c]) > max ? widen(z[c]) : max;
  for (int64_t c = 0; c < whole; c += kSums)
    for (int64_t i = 0; i < kSums; ++i) sums[i] += exp_below_max(widen(z[c + i]), max);
  for (int64_t c = whole; c < classes; ++c) sums[c - whole] += exp_below_max(widen(z[c]), max);
  for (A value : sums) sum += value;
  return {max, sum};
}

template <class T, class A>
LADA_CLONES void losses(const SoftCrossEntropy& k, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const T* z = static_cast<const T*>(k.logits) + row * k.labels.classes;
    const auto label = k.labels.label<A>(row);
    const Softmax<A> softmax = softmax_of_row<T, A>(z, k.labels.classes);
    static_cast<A*>(k.loss)[row] =
        soft_cross_entropy_of_row(softmax.max, softmax.sum, widen(z[label.a]), widen(z[label.b]), label);
  }
}

template <class T, class A>
LADA_CLONES void gradients(const SoftCrossEntropyBackward& k, int64_t begin, int64_t end) {
  const int64_t classes = k.labels.classes;
  for (int64_t row = begin; row < end; ++row) {
    const T* z = static_cast<const T*>(k.logits) + row * classes;
    const auto label = k.labels.label<A>(row);
    const A g = static_cast<const A*>(k.grad)[row], z_a = widen(z[label.a]), z_b = widen(z[label.b]);
    if (k.grad_lam) static_cast<A*>(k.grad_lam)[row] = label.a == label.b ? g * A(0) : g * (z_b - z_a);
    if (!k.grad_logits) continue;
    const Softmax<A> softmax = softmax_of_row<T, A>(z, classes);
    const A inverse = 1 / softmax.sum, max = softmax.max;
    T* out = static_cast<T*>(k.grad_logits) + row * classes;
    for (int64_t c = 0; c < classes; ++c) out[c] = static_cast<T>(g * (exp_below_max(widen(z[c]), max) * inverse));
    for (const int64_t c : {label.a, label.b})
      out[c] = static_cast<T>(g * soft_cross_entropy_gradient(widen(z[c]), max, inverse, c, label));
  }
}

}  // namespace

void mix_labels(const MixLabels& k, int threads) {
  dispatch_arithmetic(k.dtype, [&](auto tag) {
    using A = typename decltype(tag)::type;
    const int64_t classes = k.labels.classes;
    parallel_for(k.labels.rows, classes, threads, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const auto label = k.labels.label<A>(row);
        A* out = static_cast<A*>(k.out) + row * classes;
        std::fill_n(out, classes, A(0));
        for (const int64_t c : {label.a, label.b}) out[c] = label.weight(c);
      }
    });
  });
}

void mix_labels_backward(const MixLabelsBackward& k, int threads) {
  dispatch_arithmetic(k.dtype, [&](auto tag) {
    using A = typename decltype(tag)::type;
    parallel_for(k.labels.rows, 4, threads, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const auto label = k.labels.label<A>(row);
        const A* g = static_cast<const A*>(k.grad) + row * k.labels.classes;
        static_cast<A*>(k.grad_lam)[row] = g[label.a] - g[label.b];
      }
    });
  });
}

void soft_cross_entropy(const SoftCrossEntropy& k, int threads) {
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    parallel_for(k.labels.rows, 8 * k.labels.classes, threads,
                 [&](int64_t begin, int64_t end) { losses<T, arithmetic_t<T>>(k, begin, end); });
  });
}

void soft_cross_entropy_backward(const SoftCrossEntropyBackward& k, int threads) {
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    parallel_for(k.labels.rows, 8 * k.labels.classes, threads,
                 [&](int64_t begin, int64_t end) { gradients<T, arithmetic_t<T>>(k, begin, end); });
  });
}

}  // namespace lada::cpu
