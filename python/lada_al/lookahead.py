"""The heart of the paper: scores of real and virtual instances together, and the policy that makes the latter.

f_integ = f_acq o f_aug (Section 3.1) is written as that composition. The classifier is frozen here: gradients reach the
policy alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import lada_ext
from lada_al import diverse
from lada_al.acquire import Acquisition, Occasion, top
from lada_al.curves import Curves
from lada_al.device import at_a_time
from lada_al.errors import UsageError
from lada_al.events import Bought
from lada_al.folding import folded
from lada_al.models import SplitModel, frozen
from lada_al.policy import curves_of, learn_policy, mean_of_draws, read_off, reads_curves, tau_of, units_at_a_time
from lada_al.pool import Oracle, Pool
from lada_al.round import Round
from lada_al.run.config import Config
from lada_al.view import View
from lada_al.virtual import members_of

FEWEST_FINALISTS = 50  # pairs that the classifier scores in any case: they show how far curves may be trusted
MARGIN = 2.0


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
    batch = at_a_time(now.config.scoring_batch, view.device)
    parts = [(now.f_acq.score(part), part.logits) for part in view.split(batch)]
    scores, logits = zip(*parts, strict=True)
    view.remember(view.net.depth, torch.cat(logits))
    return torch.cat(scores)


def _entropy_in_pipeline(bought: View, now: Round) -> Tensor | None:
    """Mean entropy of what a pipeline will make of each bought unit, to compare with look-ahead."""
    kind = now.config.chosen.augmentation
    if now.f_aug is None or kind is None or not kind.look_ahead:
        return None
    views = members_of(bought, kind.arity)
    key = now.keys.key("score samples", now.number, device=bought.device)
    tau = now.f_aug.policy(*views, learn=False)(*views)
    virtual = now.f_aug(*views, tau=tau, key=key, samples=now.config.samples)
    return mean_of_draws(lada_ext.entropy(virtual.logits))


def look_ahead(view: View, now: Round) -> Choice:
    """The best units, pairs or images, by Eq. 5 or 13, under a policy that is learned first if the method says so."""
    f_aug = now.f_aug
    assert f_aug is not None
    with now.clock("features"):
        view.computed(now.config.scoring_batch)
        if now.config.chosen.learn:
            _refuse_nan(view)
    with now.clock("match"):
        members = match(view, now)
    views = [view[positions] for positions in members]
    with now.keys.scope("policy weights", now.number):
        policy = f_aug.policy(*views, learn=now.config.chosen.learn)
    with now.clock("policy"):
        curves = curves_of(views, now) if reads_curves(now) else None
        tau = learn_policy(policy, views, now, curves) if now.config.chosen.learn else None
    with now.clock("score"):
        tau = tau_of(policy, views, now) if tau is None else tau
        scores, virtual_entropy = _scores_to_buy_by(views, tau, now, curves)
        best = _best(scores, views, now.query // f_aug.arity, now.config)
    return Choice(
        positions=members[:, best].t().flatten(),
        scores=scores[best].repeat_interleave(f_aug.arity),
        tau=tau[best],
        virtual_entropy=virtual_entropy[best],
        statistics=_statistics(entropy=lada_ext.entropy(view.logits), virtual_entropy=virtual_entropy, tau=tau),
    )


def _refuse_nan(view: View) -> None:
    """One candidate without logits would make the policy NaN for all."""
    lacks = view.logits.isnan().any(1)
    if lacks.any():
        first = int(lacks.nonzero()[0]) if view.ids is None else int(view.ids[lacks][0])
        count = f"{int(lacks.sum())} of {len(view)} candidates"
        raise UsageError(f"the network gives NaN for {count}, first image {first}: no policy is learned")


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
        return torch.arange(f_aug.arity * units, device=view.device).view(f_aug.arity, units)
    score = config.chosen.acquisition.fused
    assert score is not None
    whole = len(view) // 2
    count = whole if config.chosen.learn else min(whole, now.shortlist)
    best = lada_ext.top_pairs(
        view.logits, count, config.fixed_tau, gamma=config.look_ahead_weight, score=score, disjoint=True
    )
    return best.pairs.t()


def unit_scores(views: list[View], tau: Tensor, now: Round) -> tuple[Tensor, Tensor]:
    """Eq. 5 or 13 for each unit, and the mean entropy of its virtual instances in bits; both (P,)."""
    config = now.config
    key = now.keys.key("score samples", now.number, device=tau.device)
    scores, entropies = [], []
    batch = units_at_a_time(views, now, config.samples, most=config.scoring_batch // config.samples)
    for part in now.meter.track("score", torch.arange(len(tau), device=tau.device).split(batch)):
        score, entropy = _scores_of([view[part] for view in views], tau[part], key, now)
        scores.append(score)
        entropies.append(entropy)
    return torch.cat(scores), torch.cat(entropies)


def _scores_to_buy_by(views: list[View], tau: Tensor, now: Round, curves: Curves | None) -> tuple[Tensor, Tensor]:
    """`unit_scores`, or where there are curves of logits, these for the units that come into question.

    All are read off the curves first. Then the classifier scores them, best first, until what is left lies below those
    to be bought by MARGIN times the largest error that a curve was found to have.
    """
    if curves is None or not curves.of_logits or views[0].net.mixes_logits(views[0].k):
        return unit_scores(views, tau, now)
    scores, entropies = _scores_by_curves(views, tau, now, curves)
    order, error = (-scores).argsort(stable=True), scores.new_zeros(())  # NaN last
    wanted = min(now.shortlist, len(order))
    step = max(2 * wanted, FEWEST_FINALISTS)
    for start in range(0, len(order), step):
        part = order[start : start + step]
        read = scores[part]
        scores[part], entropies[part] = unit_scores([view[part] for view in views], tau[part], now)
        error = torch.maximum(error, (scores[part] - read).abs().max())
        worst = scores[order[: start + step]].topk(wanted).values[-1:]
        if (scores[order[start + step :][:1]] + MARGIN * error < worst).any():
            break
    return scores, entropies


def _scores_by_curves(views: list[View], tau: Tensor, now: Round, curves: Curves) -> tuple[Tensor, Tensor]:
    key = now.keys.key("score samples", now.number, device=tau.device)
    parts = []
    for start in range(0, len(tau), now.config.scoring_batch):
        span = slice(start, start + now.config.scoring_batch)
        real = [view[span] for view in views]
        parts.append(_scores_with(real, read_off(curves[span], real, tau[span], key, now), now))
    scores, entropies = zip(*parts, strict=True)
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
    return _scores_with(real, f_aug(*real, tau=tau, key=key, samples=samples), now)


def _scores_with(real: list[View], virtual: View, now: Round) -> tuple[Tensor, Tensor]:
    """`unit_scores` by these virtual instances."""
    config, fused = now.config, now.config.chosen.acquisition.fused
    entropy = mean_of_draws(lada_ext.entropy(virtual.logits))
    if fused and len(real) == 2 and not config.plain:
        a, b = real
        return lada_ext.pair_score(a.logits, b.logits, virtual.logits, config.look_ahead_weight, fused), entropy
    return composed_score(now.f_acq, real, virtual, config.look_ahead_weight), entropy


def composed_score(f_acq: Acquisition, real: list[View], virtual: View, gamma: float) -> Tensor:
    """Eq. 2, 5 and 13 for any acquisition function: sum over the real instances + gamma * mean over the virtual."""
    plain = torch.stack([f_acq.score(view) for view in real]).sum(0)
    return plain + gamma * mean_of_draws(f_acq.score(virtual))


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
