// Launches of the Beta kernels: as many threads a pair as its features can use, and 16-byte accesses where every row
// that is read or written begins at a multiple of 16 bytes.
#include "../common/launch.cuh"
#include "beta_mix_kernels.cuh"

namespace lada::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kFewSamples = 64;  // of a pair, that eight threads draw
constexpr int kSlice = 1 << 13;  // features of a pair that a block mixes

template <int kValue>
using Constant = std::integral_constant<int, kValue>;

// f(Constant<threads a pair>) for rows of this many packets. Where one fits, a group holds all draws of its pair.
template <class F>
void dispatch_group(int64_t packets, int64_t samples, F&& f) {
  if (packets <= 8 && samples <= kDraws<8>) return f(Constant<8>{});
  if (packets <= 2 * kWarp && samples <= kDraws<kWarp>) return f(Constant<kWarp>{});
  return f(Constant<kThreads>{});
}

// f(Constant<elements a packet>)
template <class T, class F>
void dispatch_width(bool in_packets, F&& f) {
  return in_packets ? f(Constant<Packet<T>::kSize>{}) : f(Constant<1>{});
}

// Whether rows at this address, `stride` elements apart, can be read in packets of 16 bytes.
template <class T>
bool fills_packets(const void* rows, int64_t stride) {
  return reinterpret_cast<uintptr_t>(rows) % 16 == 0 && stride % Packet<T>::kSize == 0;
}

template <class T>
bool rows_fill_packets(int64_t features, const Ends& a, const Ends& b) {
  return features % Packet<T>::kSize == 0 && fills_packets<T>(a.data, a.stride) && fills_packets<T>(b.data, b.stride);
}

}  // namespace

void beta_logit_gradient(const BetaLogitGradient& k, void* stream) {
  dispatch_arithmetic(k.dtype, [&](auto tag) {
    using A = typename decltype(tag)::type;
    launch("beta_logit_gradient", beta_logit_gradient_kernel<A, kThreads>, ceil_div(k.count, kThreads), kThreads,
           stream, k);
  });
}

void beta_sample(const BetaSample& k, void* stream) {
  dispatch_arithmetic(k.dtype, [&](auto tag) {
    using A = typename decltype(tag)::type;
    launch("beta_sample", beta_sample_kernel<A, kThreads>, ceil_div(k.source.pairs * k.source.samples, kThreads),
           kThreads, stream, k);
  });
}

void beta_sample_backward(const BetaSampleBackward& k, void* stream) {
  dispatch_arithmetic(k.dtype, [&](auto tag) {
    using A = typename decltype(tag)::type;
    const bool few = k.source.samples <= kFewSamples;
    launch("beta_sample_backward",
           few ? beta_sample_backward_kernel<A, 8, kThreads> : beta_sample_backward_kernel<A, kThreads, kThreads>,
           ceil_div(k.source.pairs, few ? kThreads / 8 : 1), kThreads, stream, k);
  });
}

void beta_mix(const BetaMix& k, void* stream) {
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const bool in_packets = rows_fill_packets<T>(k.features, k.a, k.b) && fills_packets<T>(k.mixed, 0);
    dispatch_width<T>(in_packets, [&](auto width) {
      constexpr int kWidth = decltype(width)::value;
      dispatch_group(ceil_div(k.features, kWidth), k.source.samples, [&](auto group) {
        constexpr int kGroup = decltype(group)::value;
        const int64_t slices = std::max<int64_t>(1, ceil_div(k.features, kSlice));  // lam is written also if D = 0
        launch("beta_mix", beta_mix_kernel<T, kWidth, kGroup, kThreads>,
               ceil_div(k.source.pairs * slices, kThreads / kGroup), kThreads, stream, k, int64_t{kSlice}, slices);
      });
    });
  });
}

void beta_mix_backward(const BetaMixBackward& k, void* stream) {
  dispatch(k.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = arithmetic_t<T>;
    const bool in_packets = rows_fill_packets<T>(k.features, k.a, k.b) && fills_packets<T>(k.grad_mixed, 0) &&
                            fills_packets<T>(k.grad_a, 0) && fills_packets<T>(k.grad_b, 0);
    dispatch_width<T>(in_packets, [&](auto width) {
      constexpr int kWidth = decltype(width)::value;
      dispatch_group(ceil_div(k.features, kWidth), k.source.samples, [&](auto group) {
        constexpr int kGroup = decltype(group)::value;
        const auto kernel = k.grad_a || k.grad_b ? beta_mix_backward_kernel<T, kWidth, kGroup, kThreads, true>
                                                 : beta_mix_backward_kernel<T, kWidth, kGroup, kThreads, false>;
        launch("beta_mix_backward", kernel, ceil_div(k.source.pairs * k.slices, kThreads / kGroup), kThreads, stream,
               k);
        if (k.ends.start)
          launch("shared_rows", shared_rows_kernel<T, kWidth, kGroup, kThreads>,
                 ceil_div(k.a.rows * k.slices, kThreads / kGroup), kThreads, stream, k);
      });
    });
    if (k.grad_tau && k.slices > 1)
      launch("sum_of_slices", sum_of_slices_kernel<A, kThreads>, ceil_div(k.source.pairs, kThreads), kThreads, stream,
             k);
  });
}

}  // namespace lada::cuda
