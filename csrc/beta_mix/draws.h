// Draws of many samples at once on the CPU. They are made in blocks of kLanes, through stages that each fit a
// compiler's vectors; a block is always computed whole, so a draw's last bit does not depend on its neighbours.
#pragma once
#include <algorithm>
#include <vector>

#include "../common/cpu.h"
#include "../common/philox_lanes.h"
#include "beta_mix.h"
#include "formula.h"

namespace lada::cpu {

constexpr int64_t kCostOfDraw = 64;  // a few nanoseconds in vectors, in elements read or written

template <class A>
A gradient_of_pair(const BetaSource& source, int64_t pair, A to_log_tau) {
  const A tau = tau_of_given(static_cast<const A*>(source.tau)[pair], source.log_tau);
  return gradient_to_given(to_log_tau, tau, source.log_tau);
}

template <class A>
struct DrawLanes {
  alignas(64) A tau[kLanes], exponential[kLanes], cosine[kLanes];  // a valid_tau; the cosine with its sign
  alignas(64) A lam[kLanes], mu[kLanes], logit[kLanes], stretch[kLanes], slope[kLanes];
};

template <class A>
LADA_CLONES void uniform_lanes(const PhiloxLanes& words, DrawLanes<A>& lanes) {
  for (int i = 0; i < kLanes; ++i) {
    BetaUniforms<A> u;
    uniforms(words.words(i), u);
    lanes.exponential[i] = u.exponential;
    lanes.cosine[i] = u.negative ? -u.cosine : u.cosine;
  }
}

template <class A>
LADA_HD BetaDraw<A> draw_of_lane(const DrawLanes<A>& lanes, int i) {
  const A cosine = lanes.cosine[i];
  return beta_from_uniforms(BetaUniforms<A>{lanes.exponential[i], std::abs(cosine), cosine < 0}, lanes.tau[i]);
}

template <class A>
LADA_CLONES void lam_lanes(DrawLanes<A>& lanes) {
  for (int i = 0; i < kLanes; ++i) {
    const BetaDraw<A> draw = draw_of_lane(lanes, i);
    lanes.lam[i] = draw.lam;
    lanes.mu[i] = draw.mu;
  }
}

template <bool kPathwise, class A>
LADA_CLONES void whole_lanes(DrawLanes<A>& lanes) {
  for (int i = 0; i < kLanes; ++i) {
    const BetaDraw<A> draw = draw_of_lane(lanes, i);
    lanes.lam[i] = draw.lam;
    lanes.mu[i] = draw.mu;
    lanes.logit[i] = draw.logit;
    if constexpr (kPathwise) lanes.stretch[i] = draw.stretch;
  }
}

template <class A>
LADA_CLONES void logit_gradient_lanes(const A* x, const A* tau, A* out) {
  for (int i = 0; i < kLanes; ++i) out[i] = beta_logit_slope(x[i], SlopeOfTau<A>(tau[i]));
}

// dlam / dlog tau of all lanes; needs whole_lanes.
template <class A>
void slope_lanes(DrawLanes<A>& lanes, bool pathwise) {
  if (!pathwise) logit_gradient_lanes(lanes.logit, lanes.tau, lanes.slope);
  for (int i = 0; i < kLanes; ++i) {
    const BetaDraw<A> draw = {lanes.logit[i], lanes.lam[i], lanes.mu[i], pathwise ? lanes.stretch[i] : A(0)};
    const A of_logit = pathwise ? beta_logit_gradient_pathwise(draw) : lanes.slope[i];
    lanes.slope[i] = beta_lam_gradient(draw, of_logit);
  }
}

// The counters and the tau of the rows [first, first + count) of (pairs x samples), and then of the last row again.
template <class A>
LADA_CLONES void counter_lanes(const BetaSource& source, int64_t first, int64_t count, PhiloxLanes& words, A* tau) {
  const int64_t first_pair = first / source.samples, first_sample = first % source.samples;
  const double inverse = 1.0 / static_cast<double>(source.samples), begin = static_cast<double>(first_sample) + 0.5;
  int32_t pair[kLanes];  // counted from first_pair; half a sample is far more than the product's rounding
  for (int i = 0; i < kLanes; ++i)
    pair[i] = static_cast<int32_t>((begin + std::min(i, static_cast<int>(count) - 1)) * inverse);
  A tau_of_pair[kLanes];
  for (int p = 0; p <= pair[kLanes - 1]; ++p)
    tau_of_pair[p] = valid_tau(tau_of_given(static_cast<const A*>(source.tau)[first_pair + p], source.log_tau));
  for (int i = 0; i < kLanes; ++i) {
    words.sample[i] = static_cast<uint64_t>(first_sample + i - pair[i] * source.samples);
    words.index[i] = static_cast<uint64_t>(first_pair + pair[i]);
    tau[i] = tau_of_pair[pair[i]];
  }
  if (!source.index) return;
  for (uint64_t& index : words.index) index = static_cast<uint64_t>(source.index[index]);
}

enum class Want { kLam, kSlope };

// Draws the rows [first, first + count) of (pairs x samples), count <= kLanes.
template <class A>
void draw_lanes(const BetaSource& source, int64_t first, int64_t count, Want want, DrawLanes<A>& lanes) {
  PhiloxLanes words;
  counter_lanes(source, first, count, words, lanes.tau);
  philox_lanes(static_cast<uint64_t>(source.key[0]), static_cast<uint32_t>(static_cast<uint64_t>(source.key[1])),
               words);
  uniform_lanes(words, lanes);
  if (want == Want::kLam) return lam_lanes(lanes);
  source.pathwise ? whole_lanes<true>(lanes) : whole_lanes<false>(lanes);
  slope_lanes(lanes, source.pathwise);
}

// lam, mu = 1 - lam and, if wanted, slope = dlam / dlog tau of consecutive rows.
template <class A>
struct Draws {
  std::vector<A> lam, mu, slope;

  void draw(const BetaSource& source, int64_t first, int64_t count, Want want) {
    for (auto* values : {&lam, &mu, &slope}) values->resize(static_cast<size_t>(count));
    DrawLanes<A> lanes;
    for (int64_t done = 0; done < count; done += kLanes) {
      const int64_t size = std::min<int64_t>(kLanes, count - done);
      draw_lanes(source, first + done, size, want, lanes);
      std::copy_n(lanes.lam, size, lam.begin() + done);
      std::copy_n(lanes.mu, size, mu.begin() + done);
      if (want == Want::kSlope) std::copy_n(lanes.slope, size, slope.begin() + done);
    }
  }
};

struct CountRows {
  template <class... Rows>
  LADA_HD auto operator()(Rows...) const {
    return std::integral_constant<int, sizeof...(Rows)>{};
  }
};

// SlopeOfTau of kLanes pairs as polynomials in the draw, lowest power first.
template <class A>
struct SlopeLanes {
  static constexpr int kRows = decltype(beta_centre_rows(A(0), CountRows{}))::value;
  static constexpr int kTerms = BetaLimits<A>::kTailTerms + 1;
  alignas(64) A row[kRows][kLanes], d_of_tau[kLanes], factor[kTerms][kLanes], rest[kTerms][kLanes];

  struct Lane {
    const SlopeLanes& lanes;
    int i;

    template <int kCount>
    LADA_HD A polynomial(const A (&coefficients)[kCount][kLanes], A x) const {
      A sum = coefficients[kCount - 1][i];
      for (int k = kCount - 2; k >= 0; --k) sum = coefficients[k][i] + x * sum;
      return sum;
    }
    LADA_HD A centre(A u) const { return polynomial(lanes.row, u); }
    LADA_HD A d() const { return lanes.d_of_tau[i]; }
    LADA_HD TailSums<A> tail(A a) const { return {polynomial(lanes.factor, a), polynomial(lanes.rest, a)}; }
  };
};

template <class A>
LADA_CLONES void slope_of_tau_lanes(const A* tau, SlopeLanes<A>& lanes) {
  for (int i = 0; i < kLanes; ++i) {
    const SlopeOfTau<A> of_tau(tau[i]);
    beta_centre_rows(of_tau.s, [&](auto... rows) __attribute__((always_inline)) {
      int r = 0;
      ((lanes.row[r++][i] = rows), ...);
      return r;
    });
    lanes.d_of_tau[i] = of_tau.d();
    A weight = 1;
    for (int k = 0; k < SlopeLanes<A>::kTerms; ++k) {
      if (k > 0) weight *= A(2 * k - 1) / A(2 * k);
      const A inverse = 1 / (of_tau.tau + k);
      lanes.factor[k][i] = weight * of_tau.tau * inverse;
      lanes.rest[k][i] = weight * k * inverse * inverse;
    }
  }
}

template <class A>
LADA_CLONES void slope_lanes_of_pairs(const SlopeLanes<A>& of_tau, DrawLanes<A>& lanes) {
  for (int i = 0; i < kLanes; ++i) {
    const BetaDraw<A> draw = {lanes.logit[i], lanes.lam[i], lanes.mu[i], A(0)};
    lanes.slope[i] = beta_lam_gradient(draw, beta_logit_slope(draw.logit, typename SlopeLanes<A>::Lane{of_tau, i}));
  }
}

// The index and the tau of the pairs [first, first + count), and then of the last of them again.
template <class A>
LADA_CLONES void pair_lanes(const BetaSource& source, int64_t first, int64_t count, PhiloxLanes& words, A* tau) {
  const A* given = static_cast<const A*>(source.tau) + first;
  for (int i = 0; i < count; ++i) tau[i] = tau_of_given(given[i], source.log_tau);
  for (auto i = static_cast<int>(count); i < kLanes; ++i) tau[i] = tau[count - 1];
  for (int i = 0; i < kLanes; ++i) tau[i] = valid_tau(tau[i]);
  for (int i = 0; i < kLanes; ++i)
    words.index[i] = static_cast<uint64_t>(first + std::min(i, static_cast<int>(count) - 1));
  if (!source.index) return;
  for (uint64_t& index : words.index) index = static_cast<uint64_t>(source.index[index]);
}

template <class A>
LADA_CLONES void number_lanes(int64_t sample, PhiloxLanes& words) {
  for (uint64_t& counter : words.sample) counter = static_cast<uint64_t>(sample);
}

// Draws of kLanes pairs, one sample after the other. What comes of a pair alone is made once for all its samples.
template <class A>
class DrawsOfPairs {
 public:
  // The pairs [first, first + count), count <= kLanes, and then the last of them again. Their slopes are implicit.
  void take(const BetaSource& source, int64_t first, int64_t count, Want want) {
    key_ = static_cast<uint64_t>(source.key[0]);
    stream_ = static_cast<uint32_t>(static_cast<uint64_t>(source.key[1]));
    want_ = want;
    pair_lanes(source, first, count, words_, lanes.tau);
    if (want == Want::kSlope) slope_of_tau_lanes(lanes.tau, of_tau_);
  }

  void draw(int64_t sample) {
    number_lanes<A>(sample, words_);
    philox_lanes(key_, stream_, words_);
    uniform_lanes(words_, lanes);
    if (want_ == Want::kLam) return lam_lanes(lanes);
    whole_lanes<false>(lanes);
    slope_lanes_of_pairs(of_tau_, lanes);
  }

  DrawLanes<A> lanes;

 private:
  uint64_t key_;
  uint32_t stream_;
  Want want_;
  PhiloxLanes words_;
  SlopeLanes<A> of_tau_;
};

}  // namespace lada::cpu
