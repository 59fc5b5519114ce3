"""What every op of lada_ext is, in plain torch: the specification that tests and benchmarks compare with.

Any floating dtype, any device, differentiable; clear before fast. Use float64 to compare.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812


def entropy(logits: Tensor, base: float = 2.0) -> Tensor:
    """-sum_c p_c log p_c, where a class of probability zero adds zero."""
    log_p = logits.log_softmax(-1)
    p = log_p.exp()
    return -(p * log_p.masked_fill(p == 0, 0.0)).sum(-1) / math.log(base)


def variation_ratio(logits: Tensor) -> Tensor:
    """1 - max_c p_c."""
    return 1 - logits.softmax(-1).max(-1).values


def margin(logits: Tensor) -> Tensor:
    """1 - (p_1 - p_2) of the two likeliest classes; p_2 is 0 where there is one class."""
    p = logits.softmax(-1)
    best = p.sort(stable=True, dim=-1, descending=True).values[..., :2]  # at ties the first class is first
    return 1 - best[..., 0] + best[..., 1:].sum(-1)


def bald(logits: Tensor, base: float = 2.0) -> Tensor:
    """H(mean_t p_t) - mean_t H(p_t) over the passes t, the first axis: the mutual information of class and weights."""
    log_mean = logits.log_softmax(-1).logsumexp(0) - math.log(len(logits))
    return entropy(log_mean, base) - entropy(logits, base).mean(0)


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest and their indices, best first; equal scores in the order of their indices, NaN as -inf."""
    order = scores.masked_fill(scores.isnan(), -math.inf).argsort(descending=True, stable=True)[:k]
    return scores[order], order


def pair_score(logits_a: Tensor, logits_b: Tensor, mixed: Tensor, gamma: float = 1.0, score: str = "entropy") -> Tensor:
    """Eq. 13: f_acq(a) + f_acq(b) + gamma * mean_n f_acq(mixed_n)."""
    f_acq = {"entropy": entropy, "variation_ratio": variation_ratio}[score]
    return f_acq(logits_a) + f_acq(logits_b) + gamma * f_acq(mixed).mean(-1)


def indexed_pair_score(own: Tensor, pairs: Tensor, mixed: Tensor, gamma: float = 1.0, score: str = "entropy") -> Tensor:
    """Eq. 13, where own = f_acq of the whole pool."""
    f_acq = {"entropy": entropy, "variation_ratio": variation_ratio}[score]
    return own[pairs].sum(-1) + gamma * f_acq(mixed).mean(-1)


def mixed_pair_score(
    logits: Tensor,
    pairs: Tensor,
    tau: Tensor,
    n: int,
    key: Tensor,
    gamma: float = 1.0,
    score: str = "entropy",
    index: Tensor | None = None,
    bits: int = 64,
) -> Tensor:
    """Eq. 13 where mixing is followed by a linear layer alone, so that logits mix as features do."""
    a, b = logits[pairs].unbind(1)
    lam = beta_sample(tau, n, key, index, bits=bits)[..., None].to(logits.dtype)
    least = torch.finfo(logits.dtype).tiny  # 0 times a logit of -inf would be NaN
    mixed = lam.clamp(min=least) * a[:, None] + (1 - lam).clamp(min=least) * b[:, None]
    return pair_score(a, b, mixed, gamma, score)


def top_pairs(
    logits: Tensor,
    k: int,
    nodes: Tensor,
    weights: Tensor,
    gamma: float = 1.0,
    score: str = "entropy",
    disjoint: bool = False,
) -> tuple[Tensor, Tensor]:
    """The k best of all pairs i < j by Eq. 13 with the mean over lam by quadrature; ties by i, then j; NaN last."""
    f_acq = {"entropy": entropy, "variation_ratio": variation_ratio}[score]
    pairs = torch.combinations(torch.arange(len(logits), device=logits.device))
    a, b = logits[pairs].unbind(1)
    lam = nodes.to(logits)[:, None]
    mixed = f_acq(lam * a[:, None] + (1 - lam) * b[:, None]) @ weights.to(logits)
    scores = f_acq(a) + f_acq(b) + gamma * mixed
    best, order = top_k(scores, len(scores))
    if disjoint:
        free, chosen = set(range(len(logits))), []
        for place, pair in enumerate(pairs[order].tolist()):
            if free.issuperset(pair):
                free -= set(pair)
                chosen.append(place)
        best, order = best[chosen], order[chosen]
    return best[:k], pairs[order[:k]]


def philox(key: Tensor, counter: list[Tensor]) -> list[Tensor]:
    """Philox4x32-10: four int64 tensors holding 32 random bits each."""
    mask = 0xFFFFFFFF
    k0, k1 = key[0] & mask, (key[0] >> 32) & mask
    c0, c1, c2, c3 = counter
    for _ in range(10):
        product0, product1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1 = ((product1 >> 32) & mask) ^ c1 ^ k0, product1 & mask
        c2, c3 = ((product0 >> 32) & mask) ^ c3 ^ k1, product0 & mask
        k0, k1 = (k0 + 0x9E3779B9) & mask, (k1 + 0xBB67AE85) & mask
    return [c0, c1, c2, c3]


def beta_uniforms(key: Tensor, index: Tensor, n: int, bits: int = 64) -> tuple[Tensor, Tensor]:
    """-log U and cos 2 pi V, (P, n) in float64, for pair `index` and sample 0..n-1. float32 ops use 32 of the bits."""
    mask = 0xFFFFFFFF
    sample = torch.arange(n, device=key.device).expand(len(index), n)
    pair = index[:, None].expand_as(sample)
    stream = (key[1] & mask).expand_as(sample)
    words = philox(key, [sample, pair & mask, (pair >> 32) & mask, stream])

    def real(high: Tensor, low: Tensor) -> Tensor:
        return (high.double() + 0.5) / 2**32 if bits == 32 else (high.double() + (low.double() + 0.5) / 2**32) / 2**32

    u, one_minus_u = real(words[0], words[1]), real(words[0] ^ mask, words[1] ^ mask)
    minus_log_u = torch.where(u < 0.5, -u.log(), -torch.log1p(-one_minus_u))
    sign = 1.0 - 2.0 * (words[2] >> 31)
    cosine = torch.sin(math.pi * real(words[2] & (mask >> 1), words[3]))
    return minus_log_u, sign * cosine


def beta_logit(tau: Tensor, minus_log_u: Tensor, cosine: Tensor) -> Tensor:
    """x = 2 asinh(sqrt(U^(-1/tau) - 1) cos 2 pi V), the logit of a draw from Beta(tau, tau) (Bailey, 1994)."""
    z = minus_log_u / tau
    moderate = 2 * torch.asinh(z.clamp(max=60).expm1().sqrt() * cosine)
    extreme = (z + 2 * torch.log(2 * cosine.abs())) * cosine.sign()
    return torch.where(z < 60, moderate, extreme)


def beta_sample(
    tau: Tensor,
    n: int,
    key: Tensor,
    index: Tensor | None = None,
    *,
    grad: str = "implicit",
    log_tau: bool = False,
    bits: int = 64,
) -> Tensor:
    """lam = sigmoid(x) for `n` draws of each pair, with the implicit or the pathwise gradient to tau."""
    tau = tau.exp() if log_tau else tau
    index = torch.arange(len(tau), device=tau.device) if index is None else index
    tau = tau[:, None]
    minus_log_u, cosine = beta_uniforms(key, index, n, bits)
    x = beta_logit(tau.detach(), minus_log_u, cosine)
    if grad == "implicit":
        slope = beta_logit_grad(x, tau.detach().expand_as(x)).to(tau.dtype)
    else:  # dx/dtau at fixed U and V
        z = minus_log_u / tau.detach()
        slope = -torch.tanh(x / 2) * z / -torch.expm1(-z) / tau.detach()
    return _WithSlope.apply(tau.expand_as(x), x, slope).sigmoid()


class _WithSlope(torch.autograd.Function):
    """x, whose derivative to tau is `slope`; that has none of its own."""

    generate_vmap_rule = True

    @staticmethod
    def forward(tau: Tensor, x: Tensor, slope: Tensor) -> Tensor:
        del tau, slope
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        del output
        ctx.save_for_backward(inputs[2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad * ctx.saved_tensors[0], None, None


def mixtures(a: Tensor, b: Tensor, lam: Tensor) -> Tensor:
    """Eq. 10 with given lam (P, N): lam a + (1 - lam) b."""
    weight = lam.reshape(*lam.shape, *[1] * (a.dim() - 1)).to(a.dtype)
    return weight * a[:, None] + (1 - weight) * b[:, None]


def beta_mix(
    a: Tensor, b: Tensor, tau: Tensor, n: int, key: Tensor, index: Tensor | None = None, **options: Any
) -> tuple[Tensor, Tensor]:
    """Eq. 10 with lam ~ Beta(tau, tau)."""
    lam = beta_sample(tau, n, key, index, **options)
    return mixtures(a, b, lam), lam


def beta_mix_pairs(
    h: Tensor, pairs: Tensor, tau: Tensor, n: int, key: Tensor, index: Tensor | None = None, **options: Any
) -> tuple[Tensor, Tensor]:
    """Eq. 10 between rows of h."""
    return beta_mix(h[pairs[:, 0]], h[pairs[:, 1]], tau, n, key, index, **options)


def relu_mix_logits(a: Tensor, b: Tensor, lam: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """relu of Eq. 10's mixtures, through an affine map."""
    return F.linear(mixtures(a, b, lam).relu(), weight, bias)


def conv_relu_pool(
    image: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    padding: int = 0,
    pool: str = "max",
    pairs: Tensor | None = None,
) -> Tensor:
    """The greatest, or the mean, of each 2 x 2 rectified results of a convolution, of images or of pairs of them."""
    if pairs is not None:
        image = torch.cat([image[pairs[:, 0]], image[pairs[:, 1]]], 1)
    rectified = F.conv2d(image, weight, bias, padding=padding).relu()
    return F.max_pool2d(rectified, 2) if pool == "max" else F.avg_pool2d(rectified, 2)


def mix_labels(y_a: Tensor, y_b: Tensor, lam: Tensor, num_classes: int) -> Tensor:
    """lam [c = y_a] + (1 - lam) [c = y_b]."""
    shape = (-1, *[1] * (lam.dim() - 1), num_classes)
    one_a, one_b = (F.one_hot(y, num_classes).to(lam.dtype).reshape(shape) for y in (y_a, y_b))
    return lam[..., None] * one_a + (1 - lam[..., None]) * one_b


def soft_cross_entropy(logits: Tensor, y_a: Tensor, y_b: Tensor, lam: Tensor, reduction: str = "mean") -> Tensor:
    """The second term of Eq. 14: -sum_c target_c log p_c, where a class of weight zero adds nothing."""
    target = mix_labels(y_a, y_b, lam, logits.shape[-1])
    log_p = logits.log_softmax(-1)
    loss = -(target * log_p.masked_fill((target == 0) & log_p.isneginf(), 0.0)).sum(-1)
    return {"none": loss, "mean": loss.mean(), "sum": loss.sum()}[reduction]


def beta_logit_grad(x: Tensor, tau: Tensor) -> Tensor:
    """dx/dtau at a fixed value of the CDF, by quadrature in float64.

    With c = psi(tau + 1/2) - psi(tau) and f(s) = (cosh(x/2) / cosh(s/2))^(2 tau) (c - 2 log cosh(s/2)), it is
    -int_0^x f = int_x^inf f for x > 0. The first is used below the zero of f and the second above it: f has one sign
    there, so nothing cancels.
    """
    x, tau = x.double()[..., None], tau.double()[..., None]
    size, c = x.abs(), _digamma_half_step(tau)

    def f(s: Tensor, rise: Tensor) -> Tensor:
        """Of log cosh(s/2) - log cosh(x/2), which needs all its digits where tau is large."""
        return torch.exp(-2 * tau * rise) * (c - 2 * _log_cosh(s / 2))

    zero = c + 2 * torch.log1p(torch.sqrt(-torch.expm1(-c)))  # 2 arccosh(exp(c / 2))
    nodes, weights = _gauss_legendre(64, x)
    bend, end = size.clamp(max=20), torch.minimum(size, zero)
    below = torch.zeros_like(x)
    for low, high in ((torch.zeros_like(x), torch.minimum(bend, end)), (torch.minimum(bend, end), end)):
        s = low + (high - low) * nodes
        rise = _log_cosh(s / 2) - _log_cosh(size / 2)
        below = below - ((high - low) * weights * f(s, rise)).sum(-1, keepdim=True)
    v = torch.arange(-5.0, 5.0, 1 / 32, dtype=torch.float64, device=x.device)
    scale = 1 / (tau * torch.tanh(size / 2)).clamp(min=1e-300)
    step = scale * torch.exp(v - torch.exp(-v))
    rise = _log_cosh_rise(size / 2, step / 2)
    above = (f(size + step, rise) * step * (1 + torch.exp(-v)) / 32).sum(-1, keepdim=True)
    return (x.sign() * torch.where(size <= zero, below, above)).squeeze(-1)


def _digamma_half_step(tau: Tensor) -> Tensor:
    """psi(tau + 1/2) - psi(tau)."""
    series = (1 + (1 - 1 / (8 * tau**2)) / (4 * tau)) / (2 * tau)
    return torch.where(tau > 500, series, torch.digamma(tau + 0.5) - torch.digamma(tau))


def _log_cosh(y: Tensor) -> Tensor:
    small = torch.log1p(2 * torch.sinh(y.clamp(max=1) / 2) ** 2)
    return torch.where(y < 1, small, y + torch.log1p(torch.exp(-2 * y)) - math.log(2))


def _log_cosh_rise(y: Tensor, step: Tensor) -> Tensor:
    """log cosh(y + step) - log cosh(y), of positive numbers."""
    small = step.clamp(max=1)
    near = torch.log1p(2 * torch.sinh(small / 2) ** 2 + torch.sinh(small) * torch.tanh(y))
    return torch.where(step < 1, near, _log_cosh(y + step) - _log_cosh(y))


def _gauss_legendre(count: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights on (0, 1), from the eigenvectors of the Jacobi matrix (Golub and Welsch)."""
    k = torch.arange(1, count, dtype=torch.float64)
    off_diagonal = k / torch.sqrt(4 * k**2 - 1)
    nodes, vectors = torch.linalg.eigh(torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1))
    return ((nodes + 1) / 2).to(like.device), (vectors[0] ** 2).to(like.device)


def affine_sample(
    image: Tensor,
    theta: Tensor,
    size: tuple[int, int] | None = None,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    normalize: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """F.grid_sample of F.affine_grid; each image is repeated for its K maps, bytes are divided by 255."""
    image = image.to(theta.dtype) / 255 if image.dtype == torch.uint8 else image
    if normalize is not None:
        mean, std = (torch.as_tensor(t, dtype=image.dtype, device=image.device)[:, None, None] for t in normalize)
        image = (image - mean) / std
    height, width = image.shape[-2:] if size is None else size
    shape = (*theta.shape[:-2], image.shape[1], height, width)
    if math.prod(shape) == 0:
        return image.new_zeros(shape)  # torch refuses empty grids
    repeats = theta.shape[1] if theta.dim() == 4 else 1
    images = image.repeat_interleave(repeats, 0)
    grid = F.affine_grid(theta.reshape(-1, 2, 3).to(image.dtype), [*images.shape[:2], height, width], align_corners)
    out = F.grid_sample(images, grid, mode, padding_mode, align_corners)
    return out.reshape(shape)


def take_images(
    images: Tensor,
    index: Tensor,
    key: Tensor | None = None,
    *,
    padding: int = 0,
    mirror: bool = False,
    normalize: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Rows of a uint8 pool, normalised in float64; with a key, windows of the padded images, perhaps mirrored."""
    height, width = images.shape[-2:]
    taken = images[index]
    if key is not None:
        mask = 0xFFFFFFFF
        counter = [torch.zeros_like(index), index & mask, (index >> 32) & mask, (key[1] & mask).expand_as(index)]
        down, right, side, _ = philox(key, counter)
        padded = F.pad(taken, [padding] * 4)
        windows = []
        for image, top, left, turn in zip(
            padded, *((w * (2 * padding + 1) >> 32) for w in (down, right)), side, strict=True
        ):
            window = image[:, top : top + height, left : left + width]
            windows.append(window.flip(-1) if mirror and turn >= 2**31 else window)
        taken = torch.stack(windows) if windows else taken
    values = taken.double() / 255
    if normalize is None:
        return values
    mean, std = (torch.as_tensor(t, dtype=values.dtype, device=values.device)[:, None, None] for t in normalize)
    return (values - mean) / std


def k_center_greedy(features: Tensor, centers: Tensor, k: int) -> Tensor:
    """k times the row farthest from all centers and earlier picks; without any, the row of greatest norm."""
    picks: list[int] = []
    nearest = torch.cdist(features, centers).amin(1) if len(centers) else features.norm(dim=1)
    while len(picks) < k:
        picks.append(int(nearest.argmax()))
        distance = (features - features[picks[-1]]).norm(dim=1)
        nearest = torch.minimum(nearest, distance) if len(centers) + len(picks) > 1 else distance
        nearest[picks] = -1
    return torch.tensor(picks, dtype=torch.int64, device=features.device)


def badge_embedding(features: Tensor, logits: Tensor) -> Tensor:
    """The gradient of the loss to the last layer's weights, were the predicted class the label: (M, C * D)."""
    p = logits.softmax(-1)
    residual = p - F.one_hot(p.argmax(-1), p.shape[-1])
    return (residual[:, :, None] * features[:, None]).flatten(1)


def exponential_draws(key: Tensor, pick: int, rows: int) -> Tensor:
    """E ~ Exp(1) for every row in the race of one pick, (rows,) in float64; four rows share a call of the generator."""
    four = torch.arange((rows + 3) // 4, device=key.device)
    counter = [torch.full_like(four, pick), four, four >> 32, (key[1] & 0xFFFFFFFF).expand_as(four)]
    words = torch.stack(philox(key, counter), -1).flatten()[:rows]
    return -torch.log1p(-(words.double() + 0.5) / 2**32)


def badge_select(features: Tensor, logits: Tensor, k: int, key: Tensor) -> Tensor:
    """k-means++ over `badge_embedding`: the longest, then D^2 sampling as the winner of the race distance^2 / E."""
    g = badge_embedding(features, logits)
    picks: list[int] = []
    weight = g.square().sum(1)
    while len(picks) < k:
        draw = exponential_draws(key, len(picks), len(g))
        alive = torch.ones(len(g), dtype=torch.bool, device=g.device)
        alive[picks] = False
        worth = weight if not picks else torch.where((weight[alive] > 0).any(), weight, torch.ones_like(weight)) / draw
        picks.append(int(worth.masked_fill(~alive, -1).argmax()))
        distance = (g - g[picks[-1]]).square().sum(1)
        weight = torch.minimum(weight, distance) if len(picks) > 1 else distance
    return torch.tensor(picks, dtype=torch.int64, device=g.device)


def consistency_variance(logits: Tensor) -> Tensor:
    """sum_c Var_v p_c over the views v, logits (V, M, C); the variance of all views there are, divided by V."""
    p = logits.softmax(-1)
    return (p - p.mean(0)).square().mean(0).sum(-1)
