// BADGE's factorised distance against the outer products, its residual, and the exponential race.
#include <vector>

#include "check.h"
#include "select/formula.h"

using lada::Candidate;

namespace {

using Row = std::vector<float>;

float dot(const Row& a, const Row& b) {
  float sum = 0;
  for (size_t j = 0; j < a.size(); ++j) sum += a[j] * b[j];
  return sum;
}

float factorised(const Row& q, const Row& h, const Row& r, const Row& g) {
  using lada::embedding_length;
  return lada::embedding_distance(embedding_length(dot(q, q), dot(h, h)), embedding_length(dot(r, r), dot(g, g)),
                                  dot(q, r), dot(h, g));
}

void test_distance_of_outer_products() {
  const Row q = {0.3f, -0.9f, 0.6f}, h = {1.7f, -0.4f}, r = {-0.5f, 0.1f, 0.4f}, g = {0.2f, 2.1f};
  double expected = 0;
  for (size_t c = 0; c < q.size(); ++c)
    for (size_t j = 0; j < h.size(); ++j) expected += std::pow(double(q[c]) * h[j] - double(r[c]) * g[j], 2);
  CHECK_NEAR(factorised(q, h, r, g), expected, 1e-5);
  CHECK(factorised(q, h, q, h) == 0);
  CHECK(factorised(r, g, r, g) == 0);
  CHECK(lada::embedding_distance(1.0f, 1.0f, 1.0f, 1.0001f) == 0);  // clamped
  CHECK(std::isnan(lada::embedding_distance(NAN, 1.0f, 0.0f, 0.0f)));
}

void test_residual_of_an_almost_certain_row() {
  const double rest = 2e-20;
  const lada::Residual<double> residual = {5.0, rest, 1};
  CHECK_NEAR(residual(5.0, 1) / -rest, 1, 1e-12);
  CHECK_NEAR(residual(5.0 + std::log(1e-20), 0) / 1e-20, 1, 1e-12);
  CHECK(std::isnan(lada::Residual<double>{NAN, 0, 0}(0.0, 0)));
  CHECK(std::isnan(lada::Residual<double>{-INFINITY, 0, 0}(0.0, 0)));
}

void test_order_of_candidates() {
  const Candidate<float> none, low = {1, 0.5f, 7}, high = {2, 0.9f, 9}, lucky = {1, 0.4f, 8}, later = {1, 0.5f, 8};
  CHECK(beats(low, none) && !beats(none, low));
  CHECK(beats(high, low) && !beats(low, high));
  CHECK(beats(lucky, low) && !beats(low, lucky));
  CHECK(beats(low, later) && !beats(later, low) && !beats(low, low));
  const Candidate<float> picked = {lada::Weight<float>::picked(), 0, 3}, unknown = {NAN, 0, 2};
  CHECK(!beats(picked, none) && !beats(unknown, low));
}

// Row i wins the race weight_i / E_i with probability weight_i / sum of weights.
void test_the_race() {
  const int64_t key[2] = {1234, 5};
  const std::vector<double> weights = {1, 0, 2, 5, 2};
  std::vector<int> wins(weights.size());
  constexpr int kRaces = 20000;
  for (int64_t pick = 1; pick <= kRaces; ++pick) {
    Candidate<double> best;
    for (size_t i = 0; i < weights.size(); ++i) {
      const auto row = static_cast<int64_t>(i);
      const double draw = lada::draw_of<double>(key, pick, row);
      const float uniform = lada::uniform_of<float>(lada::philox_of_four(key, pick, row / 4).word[row % 4]);
      CHECK_NEAR(lada::draw_of<float>(key, pick, row) / draw, 1, 1e-6);
      CHECK(draw >= 0.999999 * static_cast<double>(uniform) && uniform > 0 && uniform <= 1);
      const Candidate<double> candidate = {weights[i] / draw, draw, row};
      if (beats(candidate, best)) best = candidate;
    }
    ++wins[static_cast<size_t>(best.row)];
  }
  for (size_t i = 0; i < weights.size(); ++i) CHECK_NEAR(wins[i] / double(kRaces), weights[i] / 10, 0.015);
}

}  // namespace

int main() {
  test_distance_of_outer_products();
  test_residual_of_an_almost_certain_row();
  test_order_of_candidates();
  test_the_race();
  return finish();
}
