// Launches of the selections: one a pick and one to settle the last, all enqueued at once; the picks stay on the
// device.
#include "../common/launch.cuh"
#include "select_kernels.cuh"

namespace lada::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kRowsPerBlock = kThreads / kWarp;

template <class T, bool kBadge>
void select_with(const Selection& k, void* stream) {
  const int64_t blocks = std::min(ceil_div(k.rows, kThreads), kMaxChampions);
  for (int64_t pick = 0; pick <= k.picks; ++pick)
    launch("select_rows", select_rows_kernel<T, kBadge, kThreads>, blocks, kThreads, stream, k, pick);
}

}  // namespace

void badge_residuals(const BadgeResiduals& k, void* stream) {
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch("badge_residuals", badge_residuals_kernel<T, kThreads>, ceil_div(k.rows, kRowsPerBlock), kThreads, stream,
           k);
  });
}

void row_lengths(const RowLengths& k, void* stream) {
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch("row_lengths", row_lengths_kernel<T, kThreads>, ceil_div(k.rows, kRowsPerBlock), kThreads, stream, k);
  });
}

void select_rows(const Selection& k, void* stream) {
  if (k.picks == 0) return;
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    k.residuals ? select_with<T, true>(k, stream) : select_with<T, false>(k, stream);
  });
}

}  // namespace lada::cuda
