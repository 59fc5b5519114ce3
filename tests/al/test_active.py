"""ActiveLearner: ask, tell, fit, save and load, on a user's own network and pool."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lada_al import ActiveLearner
from lada_al.errors import UsageError
from lada_al.models import small
from lada_al.pools import ImageSpec
from PIL import Image
from pooling import pixels, png
from torch import nn

SPEC = ImageSpec(1, 20, 20, (0.3,), (0.3,))
CLASSES = ["bars", "noise"]
SETTINGS: dict[str, Any] = {
    "classes": CLASSES, "spec": SPEC, "device": "cpu", "threads": 1, "epochs": 8, "candidates": 24, "samples": 2,
    "policy_epochs": 1, "lr": 3e-3,
}  # fmt: skip


class Images(torch.utils.data.Dataset[tuple[np.ndarray, str]]):
    """Images of which the even ones show bars, and one that cannot be read."""

    BROKEN = 7

    def __len__(self) -> int:
        return 60

    def __getitem__(self, i: int) -> tuple[np.ndarray, str]:
        pixels = np.random.default_rng(i).integers(0, 120, (20, 20), dtype=np.uint8)
        if i % 2 == 0:
            pixels[:, ::3] = 255
        return (pixels.astype(np.float32) if i == self.BROKEN else pixels), f"image {i}"


def truth(ids: list[Any]) -> list[str]:
    return [CLASSES[int(id_.split()[1]) % 2] for id_ in ids]


def network() -> nn.Module:
    torch.manual_seed(0)
    return small(1, (20, 20), 2)


def foreign_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU()),
        nn.Flatten(),
        nn.Linear(8 * 100, 2),
    )


def perceptron() -> nn.Module:
    """Without feature maps: only its images have layers that a policy can be learned for."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(400, 16), nn.ReLU(), nn.Linear(16, 2))


def convolutional() -> nn.Module:
    """Without a linear layer."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


def shrinking() -> nn.Module:
    """With maps of 5 x 5 at layer 1 and of 3 x 3 at layer 2."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 6, 4, stride=4), nn.ReLU()),
        nn.Sequential(nn.Conv2d(6, 6, 3), nn.ReLU()),
        nn.Sequential(nn.Conv2d(6, 6, 3), nn.ReLU()),
        nn.Flatten(),
        nn.Linear(6, 2),
    )


def learner(method: str = "lada-ent-mix", net: nn.Module | None = None, **settings: Any) -> ActiveLearner:
    return ActiveLearner(net or network(), Images(), method=method, **{**SETTINGS, **settings})


@pytest.mark.parametrize(
    ("method", "net"),
    [
        ("lada-ent-mix", network),
        ("lada-ent-mix", foreign_network),
        ("lada-ent-stn", network),
        ("coreset", foreign_network),
        ("entropy", perceptron),
        ("lada-ent-stn", perceptron),
        ("random", network),
    ],
)
def test_labels_make_a_classifier(method: str, net: Any) -> None:
    active = learner(method, net())
    for _ in range(4):
        ids = active.ask(6)
        assert len(set(ids)) == 6
        assert not set(ids) & set(active.labels)
        active.tell(ids, truth(ids))
    assert len(active.labels) == 24
    rest = [f"image {i}" for i in range(60) if i != Images.BROKEN]
    right = np.mean([p == t for p, t in zip(active.fit().predict(rest), truth(rest), strict=True)])
    assert right > 0.85
    assert active.predict_proba(rest[:3]).sum(1).tolist() == pytest.approx([1, 1, 1])
    assert active.predict([*rest[:3], rest[1]])[1:4:2] == 2 * active.predict(rest[1:2])
    assert active.predict([]) == []


def test_asking_twice_gives_the_same_and_labels_move_it_on() -> None:
    active = learner()
    first = active.ask(8)
    assert active.ask(8) == first
    assert active.ask(4) == first[:4]
    active.tell(first[:8], truth(first))
    second = active.ask(8)
    assert active.ask(8) == second
    assert not set(first) & set(second)


def test_a_label_is_corrected_and_the_network_learns_it_anew(tmp_path: Path) -> None:
    def told(ids: list[Any], labels: list[str]) -> ActiveLearner:
        active = learner("entropy")
        active.tell(ids, labels)
        return active

    right = learner("entropy").ask(6)
    wrong = [CLASSES[1 - CLASSES.index(label)] for label in truth(right)]
    active, other = told(right, [wrong[0], *truth(right)[1:]]), told(right, truth(right))
    asked = active.ask(4)
    with pytest.raises(UsageError, match="is labelled .* already, got '[a-z]+'$"):
        active.tell([right[0], right[0]], [wrong[0], truth(right)[0]], replace=True)
    active.tell(right[:1], truth(right)[:1], replace=True)
    active.save(tmp_path / "learner.pt")
    loaded = ActiveLearner.load(tmp_path / "learner.pt", network(), Images(), device="cpu")
    assert active.labels == loaded.labels == other.labels
    expected = other.fit().predict_proba(asked)
    assert active.ask(4) == loaded.ask(4)
    for one in (active, loaded):
        assert torch.equal(one.predict_proba(asked), expected)


def test_why_nothing_can_be_read_is_told() -> None:
    floating = [(np.zeros((20, 20), np.float32), i) for i in range(4)]
    active = ActiveLearner(network(), floating, method="random", **SETTINGS)
    with pytest.raises(UsageError, match=r"at most 0, .* got 2; \d cannot be read: expected uint8 pixels, got float32"):
        active.ask(2)


def test_classes_may_be_numbers_and_labels_come_in_any_order() -> None:
    active = learner("entropy")
    ids = active.ask(6)
    active.tell(ids[3:], np.array([CLASSES.index(name) for name in truth(ids[3:])]))
    active.tell(ids[:3], truth(ids[:3]))
    assert active.labels == dict(zip(ids[3:] + ids[:3], truth(ids[3:] + ids[:3]), strict=True))


class Numbered(Images):
    """The same with numbers as ids."""

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:  # type: ignore[override]
        return super().__getitem__(i)[0], i


class NumPyNamed(Images):
    def __getitem__(self, i: int) -> tuple[np.ndarray, np.str_]:
        pixels, name = super().__getitem__(i)
        return pixels, np.str_(name)


@pytest.mark.parametrize("images", [Numbered, NumPyNamed])
def test_ids_and_classes_of_numpy_are_saved_as_the_pools_own(images: type[Images], tmp_path: Path) -> None:
    active = ActiveLearner(network(), images(), **{**SETTINGS, "classes": np.array(CLASSES)}, method="entropy")
    ids = np.array(active.ask(6))
    active.tell(ids, np.arange(6) % 2)
    active.save(tmp_path / "learner.pt")
    loaded = ActiveLearner.load(tmp_path / "learner.pt", network(), images(), spec=SPEC, device="cpu")
    assert loaded.labels == active.labels == dict(zip(ids.tolist(), CLASSES * 3, strict=True))
    assert loaded.predict(ids) == active.predict(ids.tolist())


def test_a_seed_is_what_a_configuration_makes_of_it() -> None:
    assert learner(seed=1.0).ask(8) == learner(seed=1).ask(8) != learner(seed=2).ask(8)


def test_labelled_images_that_are_gone_are_named_when_it_fits(tmp_path: Path) -> None:
    for i in range(12):
        Image.fromarray(Images()[i][0].astype(np.uint8)).save(tmp_path / f"{i}.png")
    active = ActiveLearner(network(), tmp_path, **SETTINGS, method="entropy")
    ids = active.ask(6)
    active.tell(ids, CLASSES * 3)
    for id_ in ids:
        (tmp_path / str(id_)).unlink()
    for step in (active.fit, lambda: active.ask(2)):
        with pytest.raises(UsageError, match=r"classes, got \[\]; 6 labelled images cannot be read"):
            step()


@pytest.mark.parametrize("method", ["lada-ent-mix", "lada-ent-stn", "ll4al"])
def test_saved_and_loaded_it_goes_on_as_if_it_had_not_stopped(method: str, tmp_path: Path) -> None:
    active = learner(method)
    for _ in range(2):
        ids = active.ask(6)
        active.tell(ids, truth(ids))
    asked = active.ask(6)
    active.save(tmp_path / "learner.pt")
    loaded = ActiveLearner.load(tmp_path / "learner.pt", network(), Images(), device="cpu")
    assert loaded.spec == SPEC
    assert loaded.labels == active.labels
    assert loaded.ask(6) == asked
    for one in (active, loaded):
        one.tell(asked, truth(asked))
    assert loaded.ask(6) == active.ask(6)
    assert torch.equal(loaded.predict_proba(asked), active.predict_proba(asked))


def test_what_cannot_be_read_is_left_out_and_named() -> None:
    active = learner("random", candidates=60)
    with pytest.raises(UsageError, match="n must be at most 59, .* got 60"):
        active.ask(60)
    assert active.unreadable == {"image 7": "expected uint8 pixels, got float32"}
    assert len(active.ask(58)) == 58


def test_more_than_the_pool_has_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    active = learner("random")
    monkeypatch.setattr(active.source, "read", None)
    active.tell(["image 1"], [0])
    with pytest.raises(UsageError, match="n must be at most 59, the unlabelled images of the pool, got 1000000000"):
        active.ask(10**9)


def test_an_image_that_cannot_be_read_costs_no_other() -> None:
    active = learner("entropy")
    first = active.ask(30)
    active.tell(first, truth(first))
    assert len(active.ask(29)) == 29


def test_a_folder_and_a_color_network(tmp_path: Path) -> None:
    for i in range(20):
        Image.fromarray(Images()[i][0].astype(np.uint8)).save(tmp_path / f"{i}.png")
    torch.manual_seed(0)
    active = ActiveLearner(
        small(3, (16, 20), 2), tmp_path, method="lada-var-mix", **SETTINGS | {"spec": ImageSpec(3, 16, 20)}
    )
    ids = active.ask(6)
    active.tell(ids, [int(str(id_).removesuffix(".png")) % 2 for id_ in ids])
    assert len(active.ask(4)) == 4


def test_one_pass_over_a_parquet_file_reads_the_row_groups_of_what_is_asked_for(
    tmp_path: Path, row_groups_read: list[int]
) -> None:
    pq.write_table(pa.table({"image": [png(image) for image in pixels(200)]}), tmp_path / "a.parquet", row_group_size=4)
    asked = ActiveLearner(network(), tmp_path / "a.parquet", method="random", **SETTINGS).ask(12)
    assert row_groups_read == sorted({int(str(id_).rpartition("#")[2]) // 4 for id_ in asked})
    assert len(row_groups_read) < 13


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"method": "no-such"}, "unknown method"),
        ({"classes": ["one"]}, "classes must be at least two different names"),
        ({"classes": [1, 2]}, r"classes must be at least two different names, each a text, got \[1, 2\]"),
        ({"classes": "ab"}, "classes must be at least two different names, each a text, got 'ab'"),
        ({"classes": 2}, "classes must be at least two different names, each a text, got 2"),
        ({"spec": (1, 20, 20)}, r"spec must be an ImageSpec, got \(1, 20, 20\)"),
        ({"spec": ImageSpec()}, r"^model: cannot be run on images of shape \(3, 224, 224\): "),
        (
            {"spec": ImageSpec(), "model": foreign_network()},
            r"^model: cannot be run on images of shape \(3, 224, 224\): ",
        ),
        ({"model": None}, "^model: expected a module of torch, got NoneType$"),
        ({"device": "meta"}, "^device 'meta' cannot be used: it holds no numbers"),
        ({"classes": ["a", "b", "c"]}, "the network has 2 outputs, got 3 names"),
        ({"layers": (9,)}, "layers must lie below 3, from where your model has no feature maps"),
        (
            {"model": perceptron(), "layers": (1, 2)},
            r"layers must lie below 1, from where your model has no feature maps, got .*; e.g. layers=\(0,\), the images$",
        ),
        *(
            (
                {"model": convolutional(), "method": method},
                rf"^method {re.escape(method)} needs a network that ends with a linear layer, got your model, whose last "
                r"cut is at features of shape \(6, 20, 20\)$",
            )
            for method in ("bald", "coreset", "badge", "ent+adamixup")
        ),
        *(
            (
                {"model": shrinking(), "method": method},
                rf"^layers: the policy network of {re.escape(method)} looks at maps of 4 x 4 or more, those of layer 2 of "
                r"your model are 3 x 3$",
            )
            for method in ("lada-ent-mix", "ent+adamixup")
        ),
        ({"epochs": 0}, "^ActiveLearner: epochs: Input should be greater than or equal to 1, got 0$"),
        ({"epoch": 1}, "^ActiveLearner: epoch is no setting here$"),
        ({"schedule": (4, 4), "rounds": 2}, "^ActiveLearner: (schedule|rounds) is for experiments on a data set; "),
        ({"dataset": "cifar100"}, "^ActiveLearner: dataset is for experiments on a data set; "),
        ({"headline": "best"}, "^ActiveLearner: headline is for experiments on a data set; it means nothing where you"),
        ({"pool": 5}, "pool: expected a path"),
    ],
)
def test_bad_arguments(wrong: dict[str, Any], message: str) -> None:
    arguments = {"model": network(), "pool": Images(), **SETTINGS, **wrong}
    with pytest.raises(UsageError, match=message):
        ActiveLearner(**arguments)


@pytest.mark.parametrize("method", ["lada-ent-mix", "ent+adamixup"])
def test_the_smallest_maps_that_a_policy_can_look_at(method: str) -> None:
    net = nn.Sequential(nn.Sequential(nn.Conv2d(1, 6, 5, stride=5), nn.ReLU()), nn.Flatten(), nn.Linear(96, 2))
    active = learner(method, net, layers=(1,))
    assert active.model.shapes(SPEC.shape)[1] == (6, 4, 4)
    for _ in range(2):
        ids = active.ask(4)
        active.tell(ids, CLASSES * 2)
    assert len(active.ask(4)) == 4


@pytest.mark.parametrize("method", ["entropy", "coreset", "lada-ent-mix"])
def test_a_network_that_diverges_chooses_nothing(method: str) -> None:
    active = learner(method, lr=1e30)
    ids = active.ask(4)
    active.tell(ids, CLASSES * 2)
    with pytest.raises(
        UsageError, match=r"^lr: expected a rate at which training converges, got 1e\+30, and a loss of"
    ):
        active.ask(4)


def test_candidates_may_be_fewer_than_an_experiment_would_buy() -> None:
    active = learner(candidates=4)
    for _ in range(2):
        ids = active.ask(2)
        active.tell(ids, truth(ids))
    assert len(active.ask(6)) == 6


def test_bad_answers_take_nothing() -> None:
    active = learner()
    ids = active.ask(4)
    active.tell(ids[:1], truth(ids[:1]))
    before = dict(active.labels)
    other = CLASSES[1 - CLASSES.index(truth(ids[:1])[0])]
    for told, labels, message in (
        (ids[1:3], ["bars"], "1 labels and 2 ids"),
        ([ids[1], "nowhere"], ["bars", "bars"], "tell: the pool has no image 'nowhere'"),
        ([["image 1"]], ["bars"], r"tell: the pool has no image \['image 1'\]"),
        ([ids[1], ids[2]], ["bars", "cat"], "must be one of .* got 'cat'"),
        ([ids[1], ids[2]], ["bars", 2], "or its number, got 2"),
        ([ids[1], ids[0]], ["bars", other], "is labelled .* already, got .*; replace=True corrects labels"),
        ([ids[1], ids[1]], ["bars", "noise"], "is labelled 'bars' already, got 'noise'"),
    ):
        with pytest.raises(UsageError, match=message):
            active.tell(told, labels)
        assert active.labels == before
    with pytest.raises(UsageError, match="at least two classes"):
        active.fit()
    for n, message in (
        (0, "n must be a positive whole number, got 0"),
        (4.0, "n must be a positive whole number, got 4.0"),
        (3, "buys pairs, so n must be even, got 3"),
        (100, "n must be at most"),
    ):
        with pytest.raises(UsageError, match=message):
            active.ask(n)
    with pytest.raises(UsageError, match="'image 7' cannot be read"):
        active.predict(["image 7"])


def test_what_is_no_saved_learner(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"no")
    foreign: list[Any] = [torch.zeros(3), [1], {}, {"state": 5}, {"state": "{}"}, {"state": "[]"}, {"state": "no"}]
    for number, payload in enumerate(foreign):
        torch.save(payload, tmp_path / f"{number}")
    for name in ("a", "missing", *map(str, range(len(foreign)))):
        with pytest.raises(UsageError, match=f"load: .*{name} is not a saved learner: .+") as caught:
            ActiveLearner.load(tmp_path / name, network(), Images(), spec=SPEC)
        assert "\n" not in str(caught.value)
    with pytest.raises(
        UsageError, match="a is not a saved learner: torch finds no weights in it, or more than weights"
    ):
        ActiveLearner.load(tmp_path / "a", network(), Images(), spec=SPEC)
    active = learner("entropy")
    active.save(tmp_path / "b")
    with pytest.raises(UsageError, match="does not fit the model"):
        ActiveLearner.load(tmp_path / "b", foreign_network(), Images(), spec=SPEC, device="cpu")
    with pytest.raises(
        UsageError, match=r"b was saved with spec ImageSpec\(channels=1, .*, got ImageSpec\(channels=3, "
    ):
        ActiveLearner.load(tmp_path / "b", network(), Images(), spec=ImageSpec(), device="cpu")
    torch.save({**torch.load(tmp_path / "b"), "learner": [1]}, tmp_path / "c")
    with pytest.raises(UsageError, match="does not fit the model"):
        ActiveLearner.load(tmp_path / "c", network(), Images(), spec=SPEC, device="cpu")
