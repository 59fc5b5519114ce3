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

template <class A>
struct DrawLanes {
  alignas(64) A tau[kLanes], exponential[kLanes], cosine[kLanes];  // cosine with its sign
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

template <class A>
LADA_CLONES void whole_lanes(DrawLanes<A>& lanes) {
  for (int i = 0; i < kLanes; ++i) {
    const BetaDraw<A> draw = draw_of_lane(lanes, i);
    lanes.lam[i] = draw.lam;
    lanes.mu[i] = draw.mu;
    lanes.logit[i] = draw.logit;
    lanes.stretch[i] = draw.stretch;
  }
}

template <class A>
LADA_CLONES void logit_gradient_lanes(const A* x, const A* tau, A* out) {
  for (int i = 0; i < kLanes; ++i) out[i] = beta_logit_gradient_log_tau(x[i], tau[i]);
}

// dlam / dlog tau of all lanes; needs whole_lanes.
template <class A>
void slope_lanes(DrawLanes<A>& lanes, bool pathwise) {
  if (!pathwise) logit_gradient_lanes(lanes.logit, lanes.tau, lanes.slope);
  for (int i = 0; i < kLanes; ++i) {
    const BetaDraw<A> draw = {lanes.logit[i], lanes.lam[i], lanes.mu[i], lanes.stretch[i]};
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
    tau_of_pair[p] = tau_of_given(static_cast<const A*>(source.tau)[first_pair + p], source.log_tau);
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
  whole_lanes(lanes);
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

}  // namespace lada::cpu
