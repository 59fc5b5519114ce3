// Scalar maths of the greedy selections.
//
// Both pick, k times, the row whose worth is greatest. Its weight is the squared distance to the nearest centre, and
// can only fall as centres are added:
//   k-center   worth = weight
//   BADGE      worth = weight / E, with E ~ Exp(1) drawn afresh for each row and pick: row i wins this exponential race
//              with probability weight_i / sum of weights, which is D^2 sampling
// Worth that was computed before the last centres is an upper bound, so a row whose bound is below the true worth of
// another row need not be touched. A weight of kInvalid (not finite) ranks last, one of kPicked takes no part.
#pragma once
#include "../common/math.h"
#include "../common/philox.h"

namespace lada {

template <class A>
struct Weight {
  static constexpr A kInvalid = -1;
  static LADA_HD A picked() { return -infinity<A>(); }
  static LADA_HD A lowest() { return static_cast<A>(-1e38); }  // below every weight but picked()
};

// A row in the race. Ties go to the smaller draw, so that rows of weight zero are drawn uniformly, then to the lower
// row.
template <class A>
struct Candidate {
  A worth = -infinity<A>(), draw = 0;
  int64_t row = -1;
};

template <class A>
LADA_HD bool beats(const Candidate<A>& a, const Candidate<A>& b) {
  if (a.worth != b.worth) return a.worth > b.worth;
  if (a.draw != b.draw) return a.draw < b.draw;
  return a.worth > -infinity<A>() && b.row > a.row;
}

LADA_HD Philox4 philox_of_four(const int64_t* key, int64_t pick, int64_t four) {
  const auto bits = static_cast<uint64_t>(four);
  return philox(static_cast<uint64_t>(key[0]),
                {{static_cast<uint32_t>(pick), static_cast<uint32_t>(bits), static_cast<uint32_t>(bits >> 32),
                  static_cast<uint32_t>(static_cast<uint64_t>(key[1]))}});
}

// U = (word + 1/2) / 2^32.
template <class A>
LADA_HD A uniform_of(uint32_t word) {
  return (static_cast<A>(word) + A(0.5)) * A(2.3283064365386963e-10);
}

// E = -log(1 - U) ~ Exp(1), relatively exact at both ends; it is at least U.
template <class A>
LADA_HD A exponential_of(uint32_t word) {
  return word < 0x80000000u ? -std::log1p(-uniform_of<A>(word)) : -std::log(uniform_of<A>(~word));
}

// E of a row in the race of one pick; four rows share a call of the generator.
template <class A>
LADA_HD A draw_of(const int64_t* key, int64_t pick, int64_t row) {
  const Philox4 random = philox_of_four(key, pick, row / 4);
  const uint32_t low = row % 2 ? random.word[1] : random.word[0], high = row % 2 ? random.word[3] : random.word[2];
  return exponential_of<A>(row % 4 < 2 ? low : high);  // no index: the words stay in registers
}

// |g_i - g_j|^2 for g = q (x) h, from |g_i|^2, |g_j|^2, q_i.q_j and h_i.h_j; exactly 0 for equal rows, because both
// products are rounded, which the compiler would otherwise fuse away. Rounding below 0 is clamped as its authors do.
template <class A>
LADA_HD A embedding_distance(A length_i, A length_j, A residuals, A features) {
  const A product = std::fma(residuals, features, A(0));
  const A distance = (length_i + length_j) - 2 * product;
  return distance > 0 || !(distance == distance) ? distance : A(0);
}

// |q|^2 |h|^2, rounded as the product above is.
template <class A>
LADA_HD A embedding_length(A residual_length, A feature_length) {
  return std::fma(residual_length, feature_length, A(0));
}

// q = p - onehot(argmax p) of one row of logits, without the cancellation of p_max - 1.
template <class A>
struct Residual {
  A max, rest;  // rest: sum of exp(z_j - max) over all j but the first maximum
  int64_t argmax;

  LADA_HD bool is_valid() const { return max > -infinity<A>() && max < infinity<A>() && rest == rest; }
  LADA_HD A operator()(A z, int64_t j) const {
    if (!is_valid()) return not_a_number<A>();
    return (j == argmax ? -rest : std::exp(z - max)) / (1 + rest);
  }
};

}  // namespace lada
