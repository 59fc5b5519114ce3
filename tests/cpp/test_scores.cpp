// Online row statistics: any split of a row gives the same scores, and invalid rows give NaN.
#include <vector>

#include "check.h"
#include "scores/formula.h"

using lada::Role;
using lada::RowStats;
using lada::Score;

namespace {

RowStats<double> stats_of(const std::vector<double>& row, size_t begin, size_t end) {
  RowStats<double> stats;
  for (size_t j = begin; j < end; ++j) {
    stats.second = lada::larger(stats.second, lada::smaller(stats.max, row[j]));
    stats.max = lada::larger(stats.max, row[j]);
  }
  for (size_t j = begin; j < end; ++j) add(stats, row[j]);
  return stats;
}

double entropy_by_definition(const std::vector<double>& row) {
  double sum = 0, entropy = 0;
  for (double z : row) sum += std::exp(z);
  for (double z : row) entropy -= std::exp(z) / sum * (z - std::log(sum));
  return entropy;
}

void test_every_split() {
  const std::vector<double> row = {0.3, -1.2, 2.5, 2.5, -0.7, 1.1};
  const RowStats<double> whole = stats_of(row, 0, row.size());
  CHECK_NEAR(score_of(whole, Score::kEntropy), entropy_by_definition(row), 1e-14);
  for (size_t cut = 0; cut <= row.size(); ++cut) {
    const RowStats<double> left = stats_of(row, 0, cut), right = stats_of(row, cut, row.size());
    for (const auto& merged : {merge(left, right), merge(right, left)}) {
      CHECK(merged.max == 2.5 && merged.second == 2.5 && merged.ties == 2);
      CHECK_NEAR(merged.below, whole.below, 1e-14);
      CHECK_NEAR(merged.weighted, whole.weighted, 1e-14);
    }
  }
}

void test_gradients_by_finite_differences() {
  std::vector<double> row = {0.3, -1.2, 2.5, 1.0};
  for (Score score : {Score::kEntropy, Score::kVariationRatio, Score::kMargin}) {
    const RowStats<double> stats = stats_of(row, 0, row.size());
    for (size_t j = 0; j < row.size(); ++j) {
      const double step = 1e-6, kept = row[j];
      row[j] = kept + step;
      const double above = score_of(stats_of(row, 0, row.size()), score);
      row[j] = kept - step;
      const double below = score_of(stats_of(row, 0, row.size()), score);
      row[j] = kept;
      const Role role = j == 2 ? Role::kFirst : j == 3 ? Role::kSecond : Role::kOther;
      CHECK_NEAR(score_gradient(stats, score, row[j], role), (above - below) / (2 * step), 1e-9);
    }
  }
}

void test_special_rows() {
  const double infinite = lada::infinity<double>(), nan = lada::not_a_number<double>();
  CHECK(score_of(stats_of({-infinite, 1.0, -infinite}, 0, 3), Score::kEntropy) == 0);
  CHECK(score_gradient(stats_of({-infinite, 1.0}, 0, 2), Score::kEntropy, -infinite, Role::kOther) == 0);
  for (const std::vector<double>& row :
       {std::vector<double>{-infinite, -infinite}, {0.0, nan}, {nan, 0.0}, {0.0, infinite}, {infinite, infinite}}) {
    CHECK(std::isnan(score_of(stats_of(row, 0, 2), Score::kEntropy)));
    CHECK(std::isnan(score_of(stats_of(row, 0, 2), Score::kVariationRatio)));
    CHECK(std::isnan(score_of(merge(stats_of(row, 0, 1), stats_of(row, 1, 2)), Score::kEntropy)));
  }
  CHECK(std::isnan(score_of(RowStats<double>{}, Score::kEntropy)));
}

}  // namespace

int main() {
  test_every_split();
  test_gradients_by_finite_differences();
  test_special_rows();
  return finish();
}
