// Estimates of the mixtures' part of Eq. 13 for many pairs, without an exponential for a pair.
//
// With x_n = lam_n (z_i - max z_i), a_n = exp(x_n), and y_n, b_n likewise from mu_n and z_j, the mixture of node n has
// the exponentials e = a_n b_n and the exponents x_n + y_n. So the tables of kBlock rows i and of kRowLanes rows j,
// made once, serve all their pairs: a class costs each of them two additions, a product, and a multiplication and
// addition in one. kRows rows i share what is loaded for the rows j.
#pragma once
#include <cstring>
#include <limits>
#include <vector>

#include "../scores/lanes.h"
#include "pair_score.h"

namespace lada::cpu {

constexpr int kBlock = 64, kRows = 4;

// Sums below this are too small to tell.
constexpr double kLeastSum = 1e-30;

// More than the error of an estimate, in nats: the logarithm's, and rounding of the sums. Each may be off by half a
// unit in its last place for each class, all to one side where logits are equal, and the quotient of the two is up
// to 70.
template <class A>
constexpr double room_of_estimate(int64_t classes) {
  return 1e-3 + 70 * static_cast<double>(classes) * static_cast<double>(std::numeric_limits<A>::epsilon());
}

// log(x) for normal x > 0, with an error below 1e-4.
template <class A>
LADA_HD A log_estimate(A x) {
  using E = Elementary<A>;
  using Bits = typename E::Bits;
  constexpr Bits kFraction = (Bits(1) << E::kMantissa) - 1, kBias = E::kOne >> E::kMantissa;
  const Bits bits = bits_as<Bits>(x) - E::kRootHalf + E::kOne;
  const A k = E::exponent(bits >> E::kMantissa) - static_cast<A>(kBias);
  const A f = bits_as<A>((bits & kFraction) + E::kRootHalf) - 1;
  return k * A(0.693147180559945309) + f * horner(f, A(0.9993523), A(-0.5024653), A(0.3587102), A(-0.2284819));
}

// For node n, class c and each row: the exponent weight_n (z - max z) and its exponential.
template <class A>
struct Tables {
  std::vector<A> exponent, exponential;

  explicit Tables(int64_t size) : exponent(static_cast<size_t>(size)), exponential(static_cast<size_t>(size)) {}
};

// Tables of the rows [first, first + count), at most `width` of them; logits are stored class by class.
template <class A>
LADA_CLONES void fill_tables(const A* logits, int64_t classes, int64_t stride, int64_t first, int64_t count,
                             const A* weight, int64_t nodes, int width, Tables<A>& tables) {
  for (int64_t begin = 0; begin < count; begin += kRowLanes<A>) {
    const int64_t here = std::min<int64_t>(kRowLanes<A>, count - begin);
    Lane<A> max, z{};
    for (int l = 0; l < kRowLanes<A>; ++l) max[l] = lowest<A>();
    const auto load = [&](int64_t c) { std::copy_n(logits + c * stride + first + begin, here, z.value); };
    for (int64_t c = 0; c < classes; ++c) {
      load(c);
      LADA_SIMD for (int l = 0; l < kRowLanes<A>; ++l) max[l] = larger(z[l], max[l]);
    }
    for (int64_t c = 0; c < classes; ++c) {
      load(c);
      for (int64_t n = 0; n < nodes; ++n) {
        A* exponent = tables.exponent.data() + (n * classes + c) * width + begin;
        A* exponential = tables.exponential.data() + (n * classes + c) * width + begin;
        const A of_node = weight[n];
        LADA_SIMD for (int l = 0; l < kRowLanes<A>; ++l) {
          exponent[l] = larger(of_node * (z[l] - max[l]), exp_floor<A>());
          exponential[l] = exp_negative(exponent[l]);
        }
      }
    }
  }
}

// Sums over the classes of one node: of e, and of e (x + y) for the entropy; or the largest e.
template <class A>
struct ProductSums {
  Lane<A> sum[kRows], second[kRows];
};

template <Score kScore, class A>
LADA_HD void sum_products(const A* a, const A* x, const A* b, const A* y, int64_t classes, ProductSums<A>& out) {
  typedef A Vector __attribute__((vector_size(64)));
  constexpr int kVectors = sizeof(Lane<A>) / sizeof(Vector), kSize = sizeof(Vector) / sizeof(A);
  Vector sum[kRows][kVectors] = {}, second[kRows][kVectors] = {};
  for (int64_t c = 0; c < classes; ++c) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      const int64_t place = c * kRowLanes<A> + v * kSize;
      Vector of_b, of_y;
      std::memcpy(&of_b, b + place, sizeof of_b);
      std::memcpy(&of_y, y + place, sizeof of_y);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const Vector e = a[c * kBlock + r] * of_b;
        sum[r][v] += e;
        if constexpr (kScore == Score::kEntropy)
          second[r][v] += e * (x[c * kBlock + r] + of_y);
        else
          second[r][v] = e > second[r][v] ? e : second[r][v];
      }
    }
  }
  std::memcpy(out.sum, sum, sizeof sum);
  std::memcpy(out.second, second, sizeof second);
}

// Estimates of sum_n weight_n f(mixture n) of the rows i, ..., i + kRows - 1 of a block with all rows of a tile. A
// mixture whose sums are too small to tell counts as if it scored best.
template <Score kScore, class A>
LADA_CLONES void estimate(const PairScan& k, const Tables<A>& block, int64_t i, const Tables<A>& tile, A most,
                          Lane<A> (&out)[kRows]) {
  constexpr int kWidth = kRowLanes<A>;
  const A* weight = static_cast<const A*>(k.weight);
  const A least = opaque(A(kLeastSum)), zero = opaque(A(0));
  ProductSums<A> s;
  for (Lane<A>& lane : out)
    for (int l = 0; l < kWidth; ++l) lane[l] = zero;
  for (int64_t n = 0; n < k.samples; ++n) {
    const int64_t of_block = n * k.classes * kBlock + i, of_tile = n * k.classes * kWidth;
    sum_products<kScore>(block.exponential.data() + of_block, block.exponent.data() + of_block,
                         tile.exponential.data() + of_tile, tile.exponent.data() + of_tile, k.classes, s);
    const A of_n = weight[n], unknown = of_n > 0 ? most : A(0);
    for (int r = 0; r < kRows; ++r) {
      LADA_SIMD for (int l = 0; l < kWidth; ++l) {
        const A sum = larger(s.sum[r][l], least), ratio = s.second[r][l] / sum;
        const A value = smaller(most, larger(zero, kScore == Score::kEntropy ? log_estimate(sum) - ratio : 1 - ratio));
        out[r][l] += of_n * (s.sum[r][l] > least ? value : unknown);
      }
    }
  }
}

}  // namespace lada::cpu
