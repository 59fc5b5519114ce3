"""The heart of the paper: scores of real and virtual instances together, and the policy that makes the latter.

f_integ = f_acq o f_aug (Section 3.1) is written as that composition. The classifier is frozen here: gradients reach the
policy alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import lada_ext
from lada_al import affine_tail, diverse
from lada_al.acquire import Acquisition, Occasion, top
from lada_al.augment import Augmentation
from lada_al.curves import Curves
from lada_al.events import Bought
from lada_al.folding import folded
from lada_al.keys import Keys
from lada_al.models import SplitModel, frozen
from lada_al.pool import Oracle, Pool
from lada_al.ranks import ours
from lada_al.run.config import Config
from lada_al.timing import Clock, Meter
from lada_al.view import View

CACHED = 1 << 20  # floats
LEAST_UNITS = 10  # of a policy's step at a time: smaller batches do not use the CPU well


@dataclass(frozen=True)
class Round:
    """What the steps of one acquisition share."""

    number: int
    config: Config
    keys: Keys
    f_acq: Acquisition
    f_aug: Augmentation | None
    meter: Meter
    clock: Clock

    @property
    def query(self) -> int:
        return self.config.labels_of(self.number)


def acquire(net: SplitModel, pool: Pool, oracle: Oracle, now: Round) -> Bought:
    """Chooses and buys the round's labels (Algorithm 1, lines 2 to 7)."""
    ids = pool.candidates(now.config.candidates, now.keys.generator("candidates", now.number))
    k = draw_layer(now)
    occasion = Occasion(net, pool, now.config, now.keys, now.number, k)
    with frozen(net, now.f_acq.trained), torch.no_grad():
        view = View(_evaluated(net, now), k, image=pool.pixels(ids), ids=ids)
        with now.clock("prepare"):
            now.f_acq.prepare(occasion)
        choice = look_ahead(view, now) if now.config.chosen.look_ahead else choose(view, now, occasion)
        entropy = lada_ext.entropy(view[choice.positions].logits)
    bought = ids[choice.positions]
    return Bought(
        round=now.number,
        ids=bought.tolist(),
        labels=oracle(bought).tolist(),
        scores=_listed(choice.scores),
        entropy=_listed(entropy),
        k=view.k,
        tau=_listed(choice.tau),
        virtual_entropy=_listed(choice.virtual_entropy),
        candidates=choice.statistics,
        seconds=now.clock.seconds,
    )


def _evaluated(net: SplitModel, now: Round) -> SplitModel:
    """The frozen network, or for learning a policy one that gives the same faster."""
    return folded(net) if now.config.chosen.learn and not now.config.plain else net


def draw_layer(now: Round) -> int:
    """The random layer k (line 3); 0 for augmentations that act on images."""
    if now.f_aug is None or not now.f_aug.uses_hidden:
        return 0
    layers, generator = now.config.layers, now.keys.generator("layer", now.number)
    return layers[int(torch.randint(len(layers), (), generator=generator))]


@dataclass(frozen=True)
class Choice:
    """Positions in the candidates' view, in the order of Bought.ids, and what they were chosen for."""

    positions: Tensor
    scores: Tensor | None = None
    tau: Tensor | None = None
    virtual_entropy: Tensor | None = None
    statistics: dict[str, float] = field(default_factory=dict)


def choose(view: View, now: Round, occasion: Occasion) -> Choice:
    """Acquisition alone; what was chosen is put in random order, so that a pipeline's pairs are random."""
    with now.clock("score"):
        if now.config.chosen.acquisition.scores:
            scores = _scored(view, now)
            positions = top(scores, now.query)
        else:
            scores, positions = None, now.f_acq.pick(view, now.query, occasion)
        if now.f_aug is not None:
            shuffle = torch.randperm(len(positions), generator=now.keys.generator("virtual pairs", now.number))
            positions = positions[shuffle.to(positions.device)]
    return Choice(
        positions,
        scores=None if scores is None else scores[positions],
        virtual_entropy=_entropy_in_pipeline(view[positions], now),
        statistics={} if scores is None else _statistics(entropy=lada_ext.entropy(view.logits)),
    )


def _scored(view: View, now: Round) -> Tensor:
    """f_acq of every candidate; their logits are kept."""
    parts = [(now.f_acq.score(part), part.logits) for part in view.split(now.config.scoring_batch)]
    scores, logits = zip(*parts, strict=True)
    view.remember(view.net.depth, torch.cat(logits))
    return torch.cat(scores)


def _entropy_in_pipeline(bought: View, now: Round) -> Tensor | None:
    """Mean entropy of what a pipeline will make of each bought unit, to compare with look-ahead."""
    kind = now.config.chosen.augmentation
    if now.f_aug is None or kind is None or not kind.look_ahead:
        return None
    views = _members(bought, kind.arity)
    key = now.keys.key("score samples", now.number, device=bought.image.device)
    tau = now.f_aug.policy(*views, learn=False)(*views)
    virtual = now.f_aug(*views, tau=tau, key=key, samples=now.config.samples)
    return _mean_of_draws(lada_ext.entropy(virtual.logits))


def look_ahead(view: View, now: Round) -> Choice:
    """The best units, pairs or images, by Eq. 5 or 13, under a policy that is learned first if the method says so."""
    f_aug = now.f_aug
    assert f_aug is not None
    with now.clock("features"):
        view.computed(now.config.scoring_batch)
    with now.clock("match"):
        members = match(view, now)
    views = [view[positions] for positions in members]
    with now.keys.scope("policy weights", now.number):
        policy = f_aug.policy(*views, learn=now.config.chosen.learn)
    with now.clock("policy"):
        tau = learn_policy(policy, views, now) if now.config.chosen.learn else None
    with now.clock("score"):
        tau = policy(*views) if tau is None else tau
        scores, virtual_entropy = unit_scores(views, tau, now)
        best = _best(scores, views, now.query // f_aug.arity, now.config)
    return Choice(
        positions=members[:, best].t().flatten(),
        scores=scores[best].repeat_interleave(f_aug.arity),
        tau=tau[best],
        virtual_entropy=virtual_entropy[best],
        statistics=_statistics(entropy=lada_ext.entropy(view.logits), virtual_entropy=virtual_entropy, tau=tau),
    )


def _best(scores: Tensor, views: list[View], n: int, config: Config) -> Tensor:
    """Positions of the n units to buy: the highest scores (line 6), or of high ones those unlike each other."""
    if config.selection == "diverse":
        return diverse.pick(scores, views, n, config.scoring_batch)
    return top(scores, n)


def match(view: View, now: Round) -> Tensor:
    """The candidates' positions in units, (arity, units), one unit a column.

    The candidates come in random order, so a random matching, the paper's, takes them as they come. The best of all
    pairs are sought under the fixed policy: as many as are chosen from, or where a policy is to be learned a whole
    matching.
    """
    config, f_aug = now.config, now.f_aug
    assert f_aug is not None
    if not config.seeks_pairs:
        units = len(view) // f_aug.arity
        return torch.arange(f_aug.arity * units, device=view.hidden.device).view(f_aug.arity, units)
    score = config.chosen.acquisition.fused
    assert score is not None
    whole, wanted = len(view) // 2, now.query // 2 * (diverse.SHORTLIST if config.selection == "diverse" else 1)
    count = whole if config.chosen.learn else min(whole, wanted)
    best = lada_ext.top_pairs(
        view.logits, count, config.fixed_tau, gamma=config.look_ahead_weight, score=score, disjoint=True
    )
    return best.pairs.t()


def f_integ(views: list[View], tau: Tensor, key: Tensor, now: Round, curves: Curves | None = None) -> Tensor:
    """f_acq(f_aug(x; tau); f_theta), Eq. 3 and 6: (P, N) or (B,) scores of virtual instances; read off the pairs'
    curves, where there are."""
    if curves is not None:
        return curves.at(lada_ext.beta_sample(tau, now.config.samples, key, index=views[0].ids))
    assert now.f_aug is not None
    return now.f_acq.score(now.f_aug(*views, tau=tau, key=key, samples=now.config.samples))


@torch.enable_grad()
def learn_policy(policy: nn.Module, views: list[View], now: Round) -> Tensor | None:
    """Maximises the mean of f_integ over the policy's parameters (Eq. 4, 7, 11).

    Returns:
        tau of the epoch of least loss, recorded before each step, if the configuration asks for it; else None: tau* is
        then what the learned policy says (Eq. 12).
    """
    config, device = now.config, views[0].hidden.device
    optimizer = torch.optim.Adam(policy.parameters(), lr=config.policy_lr, fused=True)
    least_loss, recorded = float("inf"), None
    curves = _curves(views, now) if _reads_curves(now) else None
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
    tau, total = tau.requires_grad_(), torch.zeros((), device=tau.device)
    together = _units_at_a_time(views, now) if curves is None else max(1, len(tau))
    for start in range(0, len(tau), together):
        span = slice(start, start + together)
        part = None if curves is None else curves[span]
        loss = -_mean_of_draws(f_integ([view[span] for view in views], tau[span], key, now, part)).sum()
        loss.backward()
        total += loss.detach()
    return total, torch.zeros_like(tau) if tau.grad is None else tau.grad


def _reads_curves(now: Round) -> bool:
    """Whether the policy is learned on curves: its virtual instances are mixtures by lam, and nodes were asked for."""
    kind = now.config.chosen.augmentation
    return now.config.curve > 0 and not now.config.plain and kind is not None and kind.mixes_by_beta


@torch.no_grad()
def _curves(views: list[View], now: Round) -> Curves:
    """f_acq of each pair's mixtures at evenly spaced lam. Its ends are f_acq of the pair itself."""
    config, f_aug = now.config, now.f_aug
    assert f_aug is not None
    a, b = (view[ours().part(len(views[0]))] for view in views)
    lam = torch.linspace(0, 1, config.curve, device=a.hidden.device)[1:-1]
    batch = max(1, config.scoring_batch // config.curve)
    between = []
    for part in now.meter.track("curves", torch.arange(len(a), device=lam.device).split(batch)):
        mixtures = f_aug.at(a[part], b[part], lam.expand(len(part), -1))
        between.append(now.f_acq.score(mixtures))
    scores = torch.cat([now.f_acq.score(b)[:, None], torch.cat(between), now.f_acq.score(a)[:, None]], 1)
    return Curves.through(ours().whole(scores))


def _units_at_a_time(views: list[View], now: Round) -> int:
    """On a CPU so many that the features of their virtual instances, forward and backward, stay in its cache."""
    first, net = views[0], views[0].net
    if first.hidden.device.type != "cpu" or now.f_aug is None or not now.f_aug.uses_hidden:
        return max(1, len(first))
    reach = net.mixing_reach(first.k)
    mixed = first.at(reach)
    if affine_tail.behind_relu(net, reach, mixed.shape[1:]) is not None:
        return max(1, len(first))  # their features are never in memory
    return max(LEAST_UNITS, CACHED // max(1, mixed[:1].numel() * now.config.samples))


def unit_scores(views: list[View], tau: Tensor, now: Round) -> tuple[Tensor, Tensor]:
    """Eq. 5 or 13 for each unit, and the mean entropy of its virtual instances in bits; both (P,)."""
    config, f_aug = now.config, now.f_aug
    assert f_aug is not None
    key = now.keys.key("score samples", now.number, device=tau.device)
    scores, entropies = [], []
    batch = max(1, config.scoring_batch // config.samples)
    for part in now.meter.track("score", torch.arange(len(tau), device=tau.device).split(batch)):
        score, entropy = _scores_of([view[part] for view in views], tau[part], key, now)
        scores.append(score)
        entropies.append(entropy)
    return torch.cat(scores), torch.cat(entropies)


def _scores_of(real: list[View], tau: Tensor, key: Tensor, now: Round) -> tuple[Tensor, Tensor]:
    """`unit_scores` by the fewest ops: from the logits of the ends, from those of the mixtures, or composed."""
    config, f_aug = now.config, now.f_aug
    assert f_aug is not None
    fused = None if config.plain else config.chosen.acquisition.fused
    gamma, samples = config.look_ahead_weight, config.samples
    if fused and f_aug.arity == 2:
        a, b = real
        score = f_aug.pair_scores(a, b, tau, key, samples, gamma, fused)
        in_bits = score
        if score is not None and (fused, gamma) != ("entropy", 1.0):
            in_bits = f_aug.pair_scores(a, b, tau, key, samples, 1.0, "entropy")
        if score is not None and in_bits is not None:
            entropy = in_bits - lada_ext.entropy(a.logits) - lada_ext.entropy(b.logits)
            return score, entropy.clamp_min(0)  # which rounding may leave below
    virtual = f_aug(*real, tau=tau, key=key, samples=samples)
    entropy = _mean_of_draws(lada_ext.entropy(virtual.logits))
    if fused and f_aug.arity == 2:
        return lada_ext.pair_score(a.logits, b.logits, virtual.logits, gamma, fused), entropy
    return composed_score(now.f_acq, real, virtual, gamma), entropy


def composed_score(f_acq: Acquisition, real: list[View], virtual: View, gamma: float) -> Tensor:
    """Eq. 2, 5 and 13 for any acquisition function: sum over the real instances + gamma * mean over the virtual."""
    plain = torch.stack([f_acq.score(view) for view in real]).sum(0)
    return plain + gamma * _mean_of_draws(f_acq.score(virtual))


@dataclass(frozen=True)
class Origins:
    """What the virtual instances of a purchase are made of, all of it on the pool's device."""

    ids: Tensor
    image: Tensor
    target: Tensor
    k: int
    tau: Tensor | None
    whole: int
    """Instances of the whole purchase, of which this may be a part."""

    @classmethod
    def of(cls, pool: Pool, bought: Bought, whole: int | None = None) -> Origins:
        ids = torch.tensor(bought.ids, device=pool.device)
        tau = None if bought.tau is None else torch.tensor(bought.tau, device=pool.device)
        return cls(ids, pool.pixels(ids), pool.targets(ids), bought.k, tau, len(ids) if whole is None else whole)

    @property
    def share(self) -> float:
        return len(self.ids) / self.whole


def virtual_view(net: SplitModel, f_aug: Augmentation, origins: Origins, key: Tensor) -> View:
    """X_M (line 9): one virtual instance of each bought unit, with its label, for training."""
    view = View(net, origins.k, image=origins.image, ids=origins.ids, target=origins.target)
    views = _members(view.computed(len(view), origins.k), f_aug.arity)
    tau = origins.tau
    if tau is None or f_aug.trained is not None:
        tau = f_aug.policy(*views, learn=False)(*views)
    return f_aug(*views, tau=tau, key=key)


def _members(view: View, arity: int) -> list[View]:
    """The first instances of the units, which follow one another in a view of images; and the second ones, of pairs."""
    return [view[torch.arange(i, len(view), arity, device=view.image.device)] for i in range(arity)]


def _mean_of_draws(scores: Tensor) -> Tensor:
    """(P, N) to (P,); (B,) stays."""
    return scores.flatten(1).mean(1) if scores.dim() > 1 else scores


def _statistics(**values: Tensor) -> dict[str, float]:
    summary = {}
    for name, value in values.items():
        summary[f"{name} mean"] = float(value.mean())
        summary[f"{name} deviation"] = float(value.std(correction=0))
        summary[f"{name} least"] = float(value.min())
        summary[f"{name} greatest"] = float(value.max())
    return summary


def _listed(values: Tensor | None) -> list[Any] | None:
    return None if values is None else values.tolist()
