// Launches of the affine_sample kernels.
#include "../common/launch.cuh"
#include "affine_sample_kernels.cuh"

namespace lada::cuda {
namespace {

constexpr int kThreads = 256;

// Calls f(Tag<type of the image>, Tag<type of the result>).
template <class F>
void dispatch_types(const AffineInputs& in, F&& f) {
  if (in.of_bytes) return f(Tag<uint8_t>{}, Tag<float>{});
  dispatch(in.dtype, [&](auto tag) { f(tag, tag); });
}

// Elements from the first to the last of one image.
int64_t extent(const Strides& s, int64_t channels, int64_t height, int64_t width) {
  return 1 + s.channel * (channels - 1) + s.row * (height - 1) + s.column * (width - 1);
}

// Calls f(number of taps along an axis, as a type, Tag<type of indices>): the ordinary case has a version of its own,
// bilinear with all of `count` threads and the offsets within an image, up to `longest`, in 32 bits.
template <class F>
void dispatch_version(const AffineInputs& in, int64_t count, int64_t longest, F&& f) {
  const AffineGeometry& g = in.geometry;
  const int64_t image = extent(in.image_strides, in.channels, g.height, g.width);
  if (g.interpolation == Interpolation::kBilinear && fits_int32(std::max({count, longest, image})))
    return f(std::integral_constant<int, 2>{}, Tag<int32_t>{});
  f(std::integral_constant<int, kAnyTaps>{}, Tag<int64_t>{});
}

// Where channels lie side by side, small groups of them go to neighbouring threads.
ChannelGroups groups_of(int64_t channels, const Strides& strides, int64_t size) {
  const bool last = strides.channel == 1 && strides.column != 1;
  if (last) size = std::min<int64_t>(size, 4);
  return {static_cast<int32_t>(size), static_cast<int32_t>(ceil_div(channels, size)), last};
}

// Enough blocks for a large device; one a transform where that is enough, so that no second launch sums the parts.
Parts parts_of(const AffineInputs& in) {
  constexpr int64_t kPixels = 1024, kBlocks = 4096;
  const int64_t transforms = std::max<int64_t>(1, in.images * in.transforms);
  const int64_t of_channels = std::max<int64_t>(1, ceil_div(in.channels, kMostChannels / 2));
  const int64_t most = std::max<int64_t>(1, kBlocks / (transforms * of_channels));
  const int64_t of_pixels = std::clamp<int64_t>(in.geometry.out_height * in.geometry.out_width / kPixels, 1, most);
  return {static_cast<int32_t>(of_pixels), static_cast<int32_t>(of_channels)};
}

}  // namespace

void plan_affine_sample_backward(const AffineSamplePlanning& k, void*) {
  k.plan->parts = parts_of(k.in).count();
  k.plan->scatter = !k.deterministic;
}

void affine_sample(const AffineSample& k, void* stream) {
  const AffineInputs& in = k.in;
  const AffineGeometry& g = in.geometry;
  const ChannelGroups groups = groups_of(in.channels, k.out_strides, 16);
  const int64_t count = in.images * in.transforms * groups.count * g.out_height * g.out_width;
  const int64_t longest = extent(k.out_strides, in.channels, g.out_height, g.out_width);
  dispatch_types(in, [&](auto in_tag, auto out_tag) {
    using In = typename decltype(in_tag)::type;
    using Out = typename decltype(out_tag)::type;
    dispatch_version(in, count, longest, [&](auto taps, auto index) {
      launch("affine_sample", affine_sample_kernel<In, Out, taps(), typename decltype(index)::type, kThreads>,
             ceil_div(count, kThreads), kThreads, stream, k, frame_of<arithmetic_t<Out>>(g), groups,
             taps_along_axis(g.interpolation));
    });
  });
}

void affine_sample_backward(const AffineSampleBackward& k, void* stream) {
  const AffineInputs& in = k.in;
  const AffineGeometry& g = in.geometry;
  const Parts parts = parts_of(in);
  const int taps_at_run_time = taps_along_axis(g.interpolation);
  const bool scatter = k.grad_image && k.plan.scatter, gather = k.grad_image && !scatter;
  const int64_t transforms = in.images * in.transforms, blocks = transforms * parts.count();
  const ChannelGroups groups = groups_of(in.channels, k.grad_image_strides, kGroup);
  const int64_t gathered = in.images * groups.count * g.height * g.width;
  const int64_t longest =
      std::max({g.out_height * g.out_width, extent(k.grad_strides, in.channels, g.out_height, g.out_width),
                extent(k.grad_image_strides, in.channels, g.height, g.width)});
  dispatch_types(in, [&](auto in_tag, auto out_tag) {
    using In = typename decltype(in_tag)::type;
    using Out = typename decltype(out_tag)::type;
    using A = arithmetic_t<Out>;
    const Frame<A> frame = frame_of<A>(g);
    dispatch_version(in, std::max(6 * blocks, gathered), longest, [&](auto taps, auto index) {
      using Index = typename decltype(index)::type;
      if (scatter || k.grad_theta)
        launch("affine_sample_backward", affine_sample_backward_kernel<In, Out, taps(), Index, kThreads>, blocks,
               kThreads, stream, k, frame, parts, scatter, taps_at_run_time);
      if constexpr (std::is_same_v<In, Out>)
        if (gather)
          launch("affine_sample_gather", affine_sample_gather_kernel<Out, taps(), Index, kThreads>,
                 ceil_div(gathered, kThreads), kThreads, stream, k, frame, groups, taps_at_run_time);
    });
    if (k.grad_theta && parts.count() != 1)
      launch("affine_sample_sum", affine_sample_sum_kernel<A, kThreads>, ceil_div(transforms * 6, kThreads / kWarp),
             kThreads, stream, static_cast<const A*>(k.partial), static_cast<A*>(k.grad_theta), transforms,
             k.plan.parts);
  });
}

}  // namespace lada::cuda
