// The search of top_pairs on the CPU.
//
// Blocks of kBlock rows i meet tiles of kRowLanes rows j > i. Only a pair whose estimate (estimates.h), with room for
// its error, could still enter the k best is scored as the definition says. Rows are sorted by their own scores, so a
// block ends at the first tile whose bound is too low, and the search ends at the first block that has no such tile.
#include <numeric>

#include "estimates.h"

namespace lada::cpu {
namespace {

// sum_n weight_n value_n: the one function that forms this sum, for scores and for their bound.
template <class A>
LADA_CLONES A weighted_sum(const A* weight, const A* value, int64_t count) {
  A sum = 0;
  for (int64_t n = 0; n < count; ++n) sum = add_weighted(sum, weight[n], value[n]);
  return sum;
}

// Whether a pair of a row with any row of a tile may score at least `least`.
template <class A>
LADA_CLONES bool may_reach(const Lane<A>& own, const Lane<A>& estimates, A of_row, A least) {
  int found = 0;
#pragma omp simd reduction(| : found)
  for (int l = 0; l < kRowLanes<A>; ++l) found |= own[l] + of_row + estimates[l] < least ? 0 : 1;
  return found != 0;
}

// f of all mixtures of two rows, a node a lane.
template <Score kScore, class A>
LADA_CLONES void score_nodes(const PairScan& k, int64_t i, int64_t j, A most, A* tile, A* values) {
  constexpr int kWidth = kRowLanes<A>;
  const A *lam = static_cast<const A*>(k.lam), *mu = static_cast<const A*>(k.mu);
  const A* logits = static_cast<const A*>(k.logits);
  for (int64_t begin = 0; begin < k.samples; begin += kWidth) {
    Lane<A> of_i, of_j;
    for (int l = 0; l < kWidth; ++l) {
      const int64_t n = std::min(begin + l, k.samples - 1);
      of_i[l] = lam[n];
      of_j[l] = mu[n];
    }
    for (int64_t c = 0; c < k.classes; ++c) {
      const A z_i = logits[c * k.rows + i], z_j = logits[c * k.rows + j];
      LADA_SIMD for (int l = 0; l < kWidth; ++l) tile[c * kWidth + l] = of_i[l] * z_i + of_j[l] * z_j;
    }
    const Lane<A> scores = scores_of_tile<kScore>(stats_of_tile<kScore>(tile, k.classes));
    for (int64_t n = begin; n < std::min(begin + kWidth, k.samples); ++n) {
      values[n] = bounded(scores[static_cast<int>(n - begin)], most);
    }
  }
}

template <Score kScore, class A>
A largest_score(int64_t classes) {
  RowStats<A> uniform;
  uniform.max = uniform.second = 0;
  uniform.ties = static_cast<A>(classes);
  return score_of(uniform, kScore);
}

// The search of one thread: every `step`-th block from `part` on, and the best it has found.
template <Score kScore, class A>
class Search {
 public:
  Search(const PairScan& scan, int64_t which, int64_t of)
      : k_(scan),
        part_(which),
        step_(of),
        most_(largest_score<kScore, A>(scan.classes)),
        threshold_{static_cast<A>(scan.threshold.score), scan.threshold.first, scan.threshold.second},
        block_(scan.samples * scan.classes * kBlock),
        tile_(scan.samples * scan.classes * kRowLanes<A>),
        values_(static_cast<size_t>(scan.samples)),
        mixed_(static_cast<size_t>(scan.classes * kRowLanes<A>)) {
    const A* weight = static_cast<const A*>(scan.weight);
    for (int64_t n = 0; n < scan.samples; ++n) values_[static_cast<size_t>(n)] = weight[n] > 0 ? most_ : A(0);
    bound_ = weighted_sum(weight, values_.data(), scan.samples);
    room_ = A(0);
    const A room = static_cast<A>(room_of_estimate<A>(scan.classes));
    for (int64_t n = 0; n < scan.samples; ++n) room_ += room * std::abs(weight[n]);
  }

  void run() {
    for (int64_t first = part_ * kBlock; first < k_.rows; first += step_ * kBlock) {
      if (hopeless(first, first + 1)) return;
      search_block(first);
    }
  }

  std::vector<RankedPair<A>> held;
  int64_t evaluated = 0;

 private:
  static bool before(const RankedPair<A>& a, const RankedPair<A>& b) { return a.before(b); }

  A own(int64_t i) const { return static_cast<const A*>(k_.own)[i]; }

  // Whether no pair of row i with a row from j on can enter.
  bool hopeless(int64_t i, int64_t j) const {
    if (!k_.prune || j >= k_.rows) return j >= k_.rows;
    return is_hopeless((own(i) + own(j)) + bound_, k_.least_index[i], threshold_);
  }

  void search_block(int64_t first) {
    const int64_t last = std::min<int64_t>(first + kBlock, k_.rows);
    fill_tables(static_cast<const A*>(k_.logits), k_.classes, k_.rows, first, last - first,
                static_cast<const A*>(k_.lam), k_.samples, kBlock, block_);
    for (int64_t j = first; j < k_.rows; j += kRowLanes<A>) {
      if (hopeless(first, std::max(j, first + 1))) return;
      fill_tables(static_cast<const A*>(k_.logits), k_.classes, k_.rows, j,
                  std::min<int64_t>(kRowLanes<A>, k_.rows - j), static_cast<const A*>(k_.mu), k_.samples, kRowLanes<A>,
                  tile_);
      for (int l = 0; l < kRowLanes<A>; ++l) own_of_tile_[l] = own(std::min<int64_t>(j + l, k_.rows - 1));
      for (int64_t i = first; i < last; i += kRows)
        if (!search_rows(i - first, i, std::min<int64_t>(i + kRows, last), j)) break;
    }
  }

  // Rows [i, last) of the block with the tile from j on; whether the next ones may still have a pair that can enter.
  bool search_rows(int64_t place, int64_t i, int64_t last, int64_t j) {
    const int64_t end = std::min<int64_t>(j + kRowLanes<A>, k_.rows);
    if (i + 1 >= end) return true;
    if (hopeless(i, std::max(j, i + 1))) return false;
    estimate<kScore>(k_, block_, place, tile_, most_, estimates_);
    for (int64_t row = i; row < last; ++row) {
      const int64_t begin = std::max(j, row + 1);
      if (begin >= end) return true;
      if (hopeless(row, begin)) return false;
      const Lane<A>& estimates = estimates_[row - i];
      evaluated += end - begin;
      if (!may_reach(own_of_tile_, estimates, own(row) + room_, threshold_.score)) continue;
      for (int64_t other = begin; other < end; ++other)
        if (!(own(row) + room_ + own(other) + estimates[static_cast<int>(other - j)] < threshold_.score))
          score_pair(row, other);
    }
    return true;
  }

  void score_pair(int64_t i, int64_t j) {
    score_nodes<kScore>(k_, i, j, most_, mixed_.data(), values_.data());
    const A mixed = weighted_sum(static_cast<const A*>(k_.weight), values_.data(), k_.samples);
    const A score = (own(i) + own(j)) + mixed;
    const int64_t a = k_.index[i], b = k_.index[j];
    const RankedPair<A> pair = {score, std::min(a, b), std::max(a, b)};
    if (std::isnan(score) || !pair.before(threshold_)) return;
    held.push_back(pair);
    std::push_heap(held.begin(), held.end(), before);  // its top is the last in the order
    if (static_cast<int64_t>(held.size()) > k_.k) {
      std::pop_heap(held.begin(), held.end(), before);
      held.pop_back();
    }
    if (static_cast<int64_t>(held.size()) == k_.k && held.front().before(threshold_)) threshold_ = held.front();
  }

  const PairScan& k_;
  int64_t part_, step_;
  A most_, bound_, room_;
  RankedPair<A> threshold_;
  Tables<A> block_, tile_;
  std::vector<A> values_, mixed_;
  Lane<A> own_of_tile_, estimates_[kRows];
};

template <Score kScore, class A>
void scan_pairs(const PairScan& k, int threads) {
  const int64_t blocks = (k.rows + kBlock - 1) / kBlock, parts = std::min<int64_t>(threads, (blocks + 7) / 8);
  std::vector<Search<kScore, A>> searches;
  searches.reserve(static_cast<size_t>(parts));
  for (int64_t part = 0; part < parts; ++part) searches.emplace_back(k, part, parts);
  FirstError error;
#pragma omp parallel for num_threads(static_cast<int>(parts)) schedule(static, 1) if (parts > 1)
  for (int64_t part = 0; part < parts; ++part) error.guard([&] { searches[static_cast<size_t>(part)].run(); });
  error.rethrow();
  for (const auto& search : searches) {
    *k.evaluated += search.evaluated;
    for (const RankedPair<A>& pair : search.held) {
      const int64_t place = (*k.found)++;
      if (place >= k.capacity) continue;
      static_cast<A*>(k.scores)[place] = pair.score;
      k.pairs[2 * place] = pair.first;
      k.pairs[2 * place + 1] = pair.second;
    }
  }
}

}  // namespace

void pair_scan(const PairScan& k, int threads) {
  dispatch_arithmetic(k.dtype, [&](auto tag) {
    using A = typename decltype(tag)::type;
    if (k.score == Score::kEntropy)
      scan_pairs<Score::kEntropy, A>(k, threads);
    else
      scan_pairs<Score::kVariationRatio, A>(k, threads);
  });
}

}  // namespace lada::cpu
