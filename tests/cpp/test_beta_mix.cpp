// Philox's known answers, the corners of the Beta sampler, and its gradient formulas against one another.
#include <initializer_list>

#include "beta_mix/formula.h"
#include "check.h"
#include "common/philox_lanes.h"

namespace {

void test_philox_known_answers() {  // Random123, kat_vectors
  const lada::Philox4 zero = lada::philox(0, {{0, 0, 0, 0}});
  CHECK(zero.word[0] == 0x6627e8d5 && zero.word[1] == 0xe169c58d);
  CHECK(zero.word[2] == 0xbc57ac4c && zero.word[3] == 0x9b00dbd8);
  const lada::Philox4 pi = lada::philox(0x299f31d0a4093822, {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}});
  CHECK(pi.word[0] == 0xd16cfe09 && pi.word[1] == 0x94fdcceb);
  CHECK(pi.word[2] == 0x5001e420 && pi.word[3] == 0x24126ea1);
}

using PhiloxOfLanes = void (*)(uint64_t, uint32_t, lada::cpu::PhiloxLanes&);

void test_philox_lanes(PhiloxOfLanes philox_lanes) {
  constexpr uint64_t kKey = 0x299f31d0a4093822;
  constexpr uint32_t kStream = 0xfffffffe;
  lada::cpu::PhiloxLanes lanes;
  for (int i = 0; i < lada::cpu::kLanes; ++i) {
    lanes.sample[i] = 0xffffffffu - 3 * i;
    lanes.index[i] = 0x9e3779b97f4a7c15u * i;
  }
  philox_lanes(kKey, kStream, lanes);
  for (int i = 0; i < lada::cpu::kLanes; ++i) {
    const auto low = static_cast<uint32_t>(lanes.index[i]), high = static_cast<uint32_t>(lanes.index[i] >> 32);
    const lada::Philox4 expected = lada::philox(kKey, {{static_cast<uint32_t>(lanes.sample[i]), low, high, kStream}});
    for (int j = 0; j < 4; ++j) CHECK(lanes.words(i).word[j] == expected.word[j]);
  }
}

void test_philox_of_every_instruction_set() {
  test_philox_lanes(lada::cpu::philox_lanes);
  test_philox_lanes(lada::cpu::philox_lanes_anywhere);
#ifdef LADA_PHILOX_VECTORS
  if (__builtin_cpu_supports("avx2")) test_philox_lanes(lada::cpu::avx2::philox_lanes);
  if (__builtin_cpu_supports("avx512f")) test_philox_lanes(lada::cpu::avx512::philox_lanes);
#endif
}

template <class A>
void test_corners(double epsilon) {
  const uint32_t words[] = {0, 1, 2, 0x7fffffff, 0x80000000, 0x80000001, 0xfffffffe, 0xffffffff};
  for (double exponent = -44; exponent <= 38; exponent += 2)
    for (uint32_t u : words)
      for (uint32_t v : words) {
        const A tau = static_cast<A>(std::pow(10.0, exponent));
        if (!(tau > 0)) continue;
        lada::BetaUniforms<A> uniform;
        lada::uniforms({{u, u, v, v}}, uniform);
        const lada::BetaDraw<A> draw = lada::beta_from_uniforms(uniform, lada::valid_tau(tau));
        CHECK(std::isfinite(draw.logit) && draw.lam >= 0 && draw.lam <= 1);
        CHECK_NEAR(static_cast<double>(draw.lam) + draw.mu, 1.0, epsilon);
        CHECK((draw.logit >= 0) == (draw.lam >= draw.mu) || std::abs(draw.lam - draw.mu) < epsilon);
        CHECK(std::isfinite(lada::beta_logit_gradient(draw.logit, tau)));
        CHECK(std::abs(lada::beta_lam_gradient_log_tau(draw, tau, false)) <= A(0.22401));
        CHECK(std::isfinite(lada::beta_lam_gradient_log_tau(draw, tau, true)));
      }
}

template <class A>
void test_gradient_joins_at_three(double tolerance) {
  for (double tau = 1e-4; tau < 1e4; tau *= 3) {
    const A inside = lada::beta_logit_gradient(std::nextafter(A(3), A(0)), static_cast<A>(tau));
    const A outside = lada::beta_logit_gradient(std::nextafter(A(3), A(4)), static_cast<A>(tau));
    CHECK_NEAR(inside / outside, 1.0, tolerance);
  }
}

void test_invalid_tau() {
  const int64_t key[2] = {0, 0};
  for (float tau : {0.0f, -1.0f, lada::not_a_number<float>()}) {
    CHECK(std::isnan(lada::beta_draw(key, 0, 0, tau).lam));
    CHECK(std::isnan(lada::beta_logit_gradient(1.0f, tau)));
  }
}

}  // namespace

int main() {
  test_philox_known_answers();
  test_philox_of_every_instruction_set();
  test_corners<float>(1.3e-7);
  test_corners<double>(2.3e-16);
  test_gradient_joins_at_three<float>(1e-6);
  test_gradient_joins_at_three<double>(1e-10);
  test_invalid_tau();
  return finish();
}
