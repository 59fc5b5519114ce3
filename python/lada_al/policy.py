"""Learning of the policy, Section 3.2: f_integ = f_acq o f_aug is maximised over the parameters of tau = pi_phi(x).

The composition is written as such. The classifier is frozen; gradients reach the policy alone. Where virtual instances
are mixtures of the same pairs again and again, what the classifier says of them is read off curves.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import lada_ext
from lada_al import affine_tail
from lada_al.curves import Curves
from lada_al.ranks import ours
from lada_al.round import Round
from lada_al.view import View

CACHED = 1 << 20  # floats
LEAST_UNITS = 10  # of a policy's step at a time: smaller batches do not use the CPU well


def f_integ(views: list[View], tau: Tensor, key: Tensor, now: Round, curves: Curves | None = None) -> Tensor:
    """f_acq(f_aug(x; tau); f_theta), Eq. 3 and 6: (P, N) or (B,) scores of virtual instances; read off the pairs'
    curves, where there are."""
    if curves is not None and not curves.of_logits:
        return _at_draws(curves, views, tau, key, now).squeeze(2)
    if curves is not None:
        return now.f_acq.score(read_off(curves, views, tau, key, now))
    assert now.f_aug is not None
    return now.f_acq.score(now.f_aug(*views, tau=tau, key=key, samples=now.config.samples))


def read_off(curves: Curves, views: list[View], tau: Tensor, key: Tensor, now: Round) -> View:
    """What f_aug would make of the pairs, as far as curves of their logits know it."""
    net = views[0].net
    return View(net, net.depth, hidden=_at_draws(curves, views, tau, key, now), leading=2)


def _at_draws(curves: Curves, views: list[View], tau: Tensor, key: Tensor, now: Round) -> Tensor:
    """(P, N, V) at the lam that f_aug would draw."""
    return curves.at(lada_ext.beta_sample(tau, now.config.samples, key, index=views[0].ids))


@torch.enable_grad()
def learn_policy(policy: nn.Module, views: list[View], now: Round, curves: Curves | None = None) -> Tensor | None:
    """Maximises the mean of f_integ over the policy's parameters (Eq. 4, 7, 11).

    Returns:
        tau of the epoch of least loss, recorded before each step, if the configuration asks for it; else None: tau* is
        then what the learned policy says (Eq. 12).
    """
    config, device = now.config, views[0].device
    optimizer = torch.optim.Adam(policy.parameters(), lr=config.policy_lr, fused=True)
    least_loss, recorded = float("inf"), None
    for epoch in now.meter.track("policy", range(config.policy_epochs)):
        order = torch.randperm(len(views[0]), generator=now.keys.generator("policy batches", now.number, epoch))
        key = now.keys.key("policy samples", now.number, epoch, device)
        losses, taus = [], []
        for batch in order.to(device).split(config.policy_batch):
            mine = batch[ours().part(len(batch))]
            part = [view[mine] for view in views]
            tau = policy(*part)
            loss, gradient = _policy_loss(part, tau.detach(), key, now, None if curves is None else curves[mine])
            optimizer.zero_grad()
            tau.backward(gradient / len(batch))
            ours().sum_gradients(policy.parameters())
            optimizer.step()
            losses.append(loss)
            taus.append(ours().whole(tau.detach()))
        mean_loss = float(ours().sum(torch.stack(losses).sum())) / len(order)
        if config.tau_star == "best epoch" and mean_loss < least_loss:
            least_loss, recorded = mean_loss, torch.cat(taus)[order.argsort().to(device)]
    return recorded


def _policy_loss(
    views: list[View], tau: Tensor, key: Tensor, now: Round, curves: Curves | None
) -> tuple[Tensor, Tensor]:
    """The sum over the units of -f_integ, and its gradient to tau; a few units at a time where the cache is small."""
    tau = tau.requires_grad_()
    if curves is not None:
        loss = -mean_of_draws(f_integ(views, tau, key, now, curves)).sum()
        loss.backward()
        return loss.detach(), _gradient_of(tau)
    total, most = torch.zeros((), device=tau.device), units_at_a_time(views, now, now.config.samples, most=len(tau))
    for start in range(0, len(tau), most):
        span = slice(start, start + most)
        loss = -mean_of_draws(f_integ([view[span] for view in views], tau[span], key, now)).sum()
        loss.backward()
        total += loss.detach()
    return total, _gradient_of(tau)


def _gradient_of(tau: Tensor) -> Tensor:
    """Of tau that the score may not depend on, as of no units."""
    return torch.zeros_like(tau) if tau.grad is None else tau.grad


def tau_of(policy: nn.Module, views: list[View], now: Round) -> Tensor:
    """tau of all units by the policy as it is (Eq. 12), as many at a time as in its learning."""
    parts = zip(*(view.split(now.config.policy_batch) for view in views), strict=True)
    return torch.cat([policy(*part) for part in parts])


def reads_curves(now: Round) -> bool:
    """Whether a policy is learned on curves: its virtual instances are mixtures by lam, and nodes were asked for."""
    chosen, config = now.config.chosen, now.config
    mixes = chosen.augmentation is not None and chosen.augmentation.mixes_by_beta
    return chosen.learn and mixes and config.curve > 0 and not config.plain


@torch.no_grad()
def curves_of(views: list[View], now: Round) -> Curves:
    """The logits of each pair's mixtures at evenly spaced lam, or their f_acq where that sees more than logits, or some
    are infinite. The ends are those of the pair itself; where mixing is mixing logits, nothing else is needed."""
    f_aug = now.f_aug
    assert f_aug is not None
    of_logits = now.config.chosen.acquisition.fused is not None and all(v.logits.isfinite().all() for v in views)
    a, b = (view[ours().part(len(views[0]))] for view in views)
    nodes = 2 if of_logits and a.net.mixes_logits(a.k) else now.config.curve
    lam = torch.linspace(0, 1, nodes, device=a.device)[1:-1]

    def value(view: View) -> Tensor:
        return view.logits if of_logits else now.f_acq.score(view)[..., None]

    between = []
    most = units_at_a_time([a, b], now, nodes, most=now.config.scoring_batch // nodes)
    for part in now.meter.track("curves", torch.arange(len(a), device=lam.device).split(most)):
        between.append(value(f_aug.at(a[part], b[part], lam.expand(len(part), -1))))
    values = torch.cat([value(b)[:, None], torch.cat(between), value(a)[:, None]], 1)
    return Curves.through(ours().whole(values), of_logits=of_logits)


def units_at_a_time(views: list[View], now: Round, draws: int, most: int) -> int:
    """On a CPU so many that the features of their virtual instances, `draws` a unit, stay in its cache; else `most`."""
    first, net = views[0], views[0].net
    if first.device.type != "cpu" or now.f_aug is None or not now.f_aug.uses_hidden:
        return max(1, most)
    reach = net.mixing_reach(first.k)
    mixed = first[:1].at(reach)
    if affine_tail.behind_relu(net, reach, mixed.shape[1:]) is not None:
        return max(1, most)  # their features are never in memory
    return min(max(1, most), max(LEAST_UNITS, CACHED // max(1, mixed.numel() * draws)))


def mean_of_draws(scores: Tensor) -> Tensor:
    """(P, N) to (P,); (B,) stays."""
    return scores.flatten(1).mean(1) if scores.dim() > 1 else scores
