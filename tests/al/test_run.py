"""Whole runs: every method from end to end, and runs that are killed at every moment there is."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lada_al import Bought, Config, Trained, all_methods, run_experiment
from lada_al.data import Dataset
from lada_al.errors import UsageError
from lada_al.events import Event, to_json
from lada_al.files import write_atomically, write_text
from lada_al.report import page
from lada_al.report.read import read_run
from lada_al.run import checkpoint, experiment, folder, journal
from lada_al.run.folder import read_config
from PIL import Image
from tiny import TINY_SETTINGS, write_parquet


def outcome(folder: Path) -> list[dict[str, Any]]:
    """The journal without times."""
    events = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    return [{key: value for key, value in event.items() if key != "seconds"} for event in events]


def finish(config: Config, folder: Path, resume: bool = False) -> list[dict[str, Any]]:
    for _ in run_experiment(config, folder, resume=resume):
        pass
    return outcome(folder)


def with_changes(config: Config, **changes: Any) -> Config:
    return Config(**{**config.model_dump(), **changes})


@pytest.mark.parametrize("name", all_methods())
def test_every_method_from_end_to_end(name: str, tiny: Dataset, tiny_config: Config, tmp_path: Path) -> None:
    events = list(run_experiment(with_changes(tiny_config, method=name), str(tmp_path)))
    assert [type(event) for event in events] == [Bought, Trained] * 3
    assert [event.round for event in events] == [0, 0, 1, 1, 2, 2]
    bought = [event for event in events if isinstance(event, Bought)]
    ids = [i for event in bought for i in event.ids]
    assert len(set(ids)) == len(ids) == 6 + 4 + 4
    assert [label for event in bought for label in event.labels] == tiny.train_labels[ids].tolist()
    for event in events:
        if isinstance(event, Trained):
            assert event.labelled == 6 + 4 * event.round
            assert 0 <= event.accuracy <= 1
            assert set(event.seconds) == {"train", "evaluate"}
    method = all_methods()[name]
    for event in bought[1:]:
        assert event.entropy is not None
        assert len(event.entropy) == 4
        assert (event.tau is not None) == method.look_ahead
        assert ("policy" in event.seconds) == method.look_ahead
        augmented = method.augmentation is not None and method.augmentation.look_ahead
        assert (event.virtual_entropy is not None) == augmented
        strip = np.asarray(Image.open(tmp_path / "acquired" / f"{event.round:04d}.png"))
        assert np.array_equal(strip[:, 20:40], tiny.train_images[event.ids[1], 0].numpy())
    assert [json.loads(line) for line in (tmp_path / "rounds.jsonl").read_text().splitlines()] == [
        json.loads(json.dumps(to_json(event))) for event in events
    ]
    assert Config.model_validate_json((tmp_path / "config.json").read_text()).method == name


@pytest.mark.parametrize("preset", ["clean", "paper", "official"])
@pytest.mark.parametrize("name", ["lada-ent-mix", "lada-var-stn"])
def test_presets_run_and_repeat(preset: str, name: str, tiny_config: Config, tmp_path: Path) -> None:
    config = Config(**{**TINY_SETTINGS, "data": tiny_config.data, "method": name, "preset": preset})
    first = finish(config, tmp_path / "first")
    assert first == finish(config, tmp_path / "second")
    assert first != finish(with_changes(config, seed=2), tmp_path / "third")


def test_resnet18_runs(tiny_config: Config, tmp_path: Path) -> None:
    config = with_changes(tiny_config, model="resnet18", rounds=1, epochs=1, candidates=8, policy_epochs=1)
    assert len(finish(config, tmp_path)) == 4


def test_a_plain_loop_from_python_needs_no_files(tiny: Dataset, tiny_config: Config) -> None:
    from lada_al import active_learning
    from lada_al.keys import Keys
    from lada_al.loop import HeldOut, balanced_choice
    from lada_al.models import small
    from lada_al.pool import Pool, simulated_oracle
    from lada_al.train import Learner

    config = with_changes(tiny_config, method="entropy")
    pool = Pool(tiny, torch.device("cpu"))
    net = small(1, (20, 20), 3)
    learner = Learner(net, config.chosen.acquisition.make(config, tiny.task, net), None, config)
    test = HeldOut(pool.normalised(tiny.test_images), tiny.test_labels)
    first = balanced_choice(tiny.train_labels, 3, 6, torch.Generator())
    events = list(active_learning(learner, pool, simulated_oracle(tiny), test, config, Keys(1), first))
    assert len(events) == 6
    assert len(pool.labelled) == 14


def test_a_data_set_of_ones_own(tmp_path: Path) -> None:
    """Folders of images of any size; stripes and spots are told apart."""
    draw = np.random.default_rng(0).integers
    for part, count in (("train", 20), ("test", 8)):
        for name in ("bars", "spots"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = draw(60, size=(30, 24 + i % 3), dtype=np.uint8)
                pixels[:, ::4] += 180 if name == "bars" else 0
                pixels[10:20, 8:16] += 100 if name == "spots" else 0
                Image.fromarray(pixels).save(tmp_path / part / name / f"{i}.png")
    settings = {**TINY_SETTINGS, "dataset": "own", "data": str(tmp_path), "image_size": 20, "epochs": 15, "lr": 5e-3}
    events = list(run_experiment(Config(**settings), tmp_path / "out"))
    last = events[-1]
    assert isinstance(last, Trained)
    assert last.accuracy > 0.9
    assert "own" in page.write(tmp_path / "out").read_text()


def test_images_that_are_too_small_for_a_network_are_refused_before_any_work(tmp_path: Path) -> None:
    images, labels = np.zeros((90, 16, 16), np.uint8), np.arange(90) % 3
    np.savez(tmp_path / "own.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    settings = {**TINY_SETTINGS, "dataset": "own", "data": str(tmp_path / "own.npz"), "method": "lada-ent-stn"}
    with pytest.raises(UsageError, match="LocalisationNet: images must be at least 18 x 18, got 16 x 16"):
        experiment.check(Config(**settings), tmp_path / "out", resume=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["random", "lada-ent-mix"])
def test_a_run_that_diverges_is_ended_and_leaves_no_checkpoint(name: str, tiny_config: Config, tmp_path: Path) -> None:
    events: list[Event] = []
    with pytest.raises(
        UsageError, match=r"^lr: expected a rate at which training converges, got 1e\+30, and a loss of"
    ):
        events.extend(run_experiment(with_changes(tiny_config, method=name, lr=1e30), tmp_path / "out"))
    assert not (tmp_path / "out" / "checkpoint.pt").exists()
    assert [type(event) for event in journal.read(tmp_path / "out" / "rounds.jsonl")] == [Bought]


def test_image_size_and_white_are_for_own_images() -> None:
    with pytest.raises(ValueError, match="image_size is for data set own; images of mnist5k are of one size"):
        Config(image_size=32)
    with pytest.raises(ValueError, match="white is for data set own; images of mnist5k have 8 bits"):
        Config(white=4095)


@pytest.fixture(scope="module", params=["lada-ent-mix", "lada-ent-stn", "lada-ll4al-adamixup", "bgadl"])
def unbroken(
    request: pytest.FixtureRequest, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Config, Any]:
    """A configuration, and the outcome of a run that nothing disturbs. Weights and optimiser go from round to round."""
    settings = {**TINY_SETTINGS, "restart_weights": False, "keep_optimizer": True}
    config = Config(**settings, data=str(tiny_folder), method=request.param)
    return config, finish(config, tmp_path_factory.mktemp("unbroken") / "run")


def abandon(events: Iterator[Event], after: int) -> None:
    """Lets a run go when it has yielded `after` events, as a kill between two commits does."""
    for _ in range(after):
        next(events)
    events.close()  # type: ignore[attr-defined]


class TestResume:
    @pytest.mark.parametrize("after", range(7))
    def test_after_any_number_of_events(self, after: int, unbroken: tuple[Config, Any], tmp_path: Path) -> None:
        config, expected = unbroken
        if after:
            abandon(run_experiment(config, tmp_path / "run"), after)
        assert finish(config, tmp_path / "run", resume=True) == expected

    @pytest.mark.parametrize("round_", [0, 1, 2])
    def test_between_checkpoint_and_journal(
        self, round_: int, unbroken: tuple[Config, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config, expected = unbroken
        append = journal.Journal.append

        def die(self: journal.Journal, event: Event) -> None:
            if isinstance(event, Trained) and event.round == round_:
                raise KeyboardInterrupt
            append(self, event)

        with monkeypatch.context() as patch:
            patch.setattr(journal.Journal, "append", die)
            with pytest.raises(KeyboardInterrupt):
                finish(config, tmp_path / "run")
        assert checkpoint.load(tmp_path / "run" / "checkpoint.pt", torch.device("cpu")).trained.round == round_
        assert finish(config, tmp_path / "run", resume=True) == expected

    @pytest.mark.parametrize("after", [1, 2, 4])
    @pytest.mark.parametrize("tail", [b"{", b'{"event": "bought", "round": 1, "ids": [1, 2', b"\xff\xfe"])
    def test_with_a_torn_last_line(self, tail: bytes, after: int, unbroken: tuple[Config, Any], tmp_path: Path) -> None:
        config, expected = unbroken
        abandon(run_experiment(config, tmp_path / "run"), after)
        with (tmp_path / "run" / "rounds.jsonl").open("ab") as file:
            file.write(tail)
        assert finish(config, tmp_path / "run", resume=True) == expected

    @pytest.mark.parametrize("kept", [0, 1, 3, 4])
    def test_a_journal_that_lost_lines_is_refused(self, kept: int, tiny_config: Config, tmp_path: Path) -> None:
        """What the checkpoint was trained on would be bought again."""
        whole = finish(tiny_config, tmp_path)
        path = tmp_path / "rounds.jsonl"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[:kept]))
        with pytest.raises(UsageError, match=r"rounds.jsonl lacks rounds that checkpoint.pt was trained on"):
            finish(tiny_config, tmp_path, resume=True)
        path.write_text("".join(lines))
        assert finish(tiny_config, tmp_path, resume=True) == whole

    def test_other_images_are_refused(self, tiny_config: Config, tmp_path: Path) -> None:
        finish(tiny_config, tmp_path / "run")
        before = (tmp_path / "run" / "config.json").read_text()
        write_parquet(tmp_path / "train.parquet", 60, seed=1)
        write_parquet(tmp_path / "test.parquet", 30, seed=2)
        with pytest.raises(UsageError, match=r"was begun with other data: pool was 90, now 60"):
            finish(with_changes(tiny_config, data=str(tmp_path)), tmp_path / "run", resume=True)
        assert (tmp_path / "run" / "config.json").read_text() == before

    @pytest.mark.parametrize("damage", ["missing", "cut", "nonsense"])
    def test_a_lost_checkpoint_costs_time_but_no_label(
        self, damage: str, unbroken: tuple[Config, Any], tmp_path: Path
    ) -> None:
        config, expected = unbroken
        abandon(run_experiment(config, tmp_path / "run"), 5)
        path = tmp_path / "run" / "checkpoint.pt"
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:1000] if damage == "cut" else b"nonsense")
        assert finish(config, tmp_path / "run", resume=True) == expected

    def test_a_finished_run_stays_as_it_is(self, unbroken: tuple[Config, Any], tmp_path: Path) -> None:
        config, expected = unbroken
        finish(config, tmp_path / "run")
        before = (tmp_path / "run" / "rounds.jsonl").read_bytes()
        assert finish(config, tmp_path / "run", resume=True) == expected
        assert (tmp_path / "run" / "rounds.jsonl").read_bytes() == before

    def test_more_rounds_may_be_asked_for(self, unbroken: tuple[Config, Any], tmp_path: Path) -> None:
        config, expected = unbroken
        finish(with_changes(config, rounds=1), tmp_path / "run")
        assert finish(config, tmp_path / "run", resume=True) == expected

    def test_kill_9(self, unbroken: tuple[Config, Any], tmp_path: Path) -> None:
        """A real process, killed three times while it works, then left to finish."""
        config, expected = unbroken
        out = tmp_path / "run"
        path = tmp_path / "config.json"
        path.write_text(config.model_dump_json())
        program = (
            "import sys, pathlib, lada_al\n"
            "config = lada_al.Config.model_validate_json(pathlib.Path(sys.argv[1]).read_text())\n"
            "for _ in lada_al.run_experiment(config, pathlib.Path(sys.argv[2]), resume=True): pass\n"
        )
        for lines in (1, 2, 4):
            process = subprocess.Popen([sys.executable, "-c", program, str(path), str(out)])
            deadline = time.monotonic() + 60
            while lines_of(out) < lines and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert lines_of(out) >= 4
        assert finish(config, out, resume=True) == expected

    @pytest.mark.parametrize("resume", [False, True])
    @pytest.mark.parametrize("first_lost", ["config.json", "about.json"])
    def test_before_anything_is_bought(
        self,
        unbroken: tuple[Config, Any],
        first_lost: str,
        resume: bool,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        config, expected = unbroken

        def killed(path: Path, text: str) -> None:
            if path.name == first_lost:
                path.with_name(f".{path.name}.1.tmp").write_text(text[:9])
                raise SystemExit
            write_text(path, text)

        with monkeypatch.context() as patch:
            patch.setattr(folder, "write_text", killed)
            with pytest.raises(SystemExit):
                next(run_experiment(config, tmp_path))
        assert {path.name for path in tmp_path.iterdir()} >= {"rounds.jsonl", f".{first_lost}.1.tmp"}
        if first_lost == "about.json" and not resume:  # then there is a run to go on with
            with pytest.raises(UsageError, match="add --resume"):
                finish(config, tmp_path)
        else:
            assert finish(config, tmp_path, resume=resume) == expected


def lines_of(out: Path) -> int:
    path = out / "rounds.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


class TestFolder:
    def test_a_full_folder_is_refused(self, tiny_config: Config, tmp_path: Path) -> None:
        (tmp_path / "precious.txt").write_text("mine")
        with pytest.raises(UsageError, match="is not empty; add --resume"):
            next(run_experiment(tiny_config, tmp_path))
        with pytest.raises(UsageError, match=r"holds no config\.json, so it is not the folder of a run"):
            next(run_experiment(tiny_config, tmp_path, resume=True))
        assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]
        with pytest.raises(UsageError, match="is not a folder"):
            next(run_experiment(tiny_config, tmp_path / "precious.txt"))

    def test_other_settings_are_refused(self, tiny_config: Config, tmp_path: Path) -> None:
        abandon(run_experiment(tiny_config, tmp_path), 1)
        with pytest.raises(UsageError, match=r"begun with other settings: seed was 1 and is 2"):
            next(run_experiment(with_changes(tiny_config, seed=2), tmp_path, resume=True))

    def test_two_processes_cannot_write_one_journal(self, tiny_config: Config, tmp_path: Path) -> None:
        events = run_experiment(tiny_config, tmp_path)
        next(events)
        with pytest.raises(UsageError, match="is being written by another process"):
            next(run_experiment(tiny_config, tmp_path, resume=True))
        events.close()  # type: ignore[attr-defined]
        assert len(finish(tiny_config, tmp_path, resume=True)) == 6

    def test_a_damaged_journal_is_named_by_its_line(self, tiny_config: Config, tmp_path: Path) -> None:
        abandon(run_experiment(tiny_config, tmp_path), 3)
        lines = (tmp_path / "rounds.jsonl").read_text().splitlines(keepends=True)
        (tmp_path / "rounds.jsonl").write_text(lines[0] + "garbage\n" + lines[2])
        with pytest.raises(UsageError, match=r"rounds\.jsonl, line 2: not an event of a run"):
            next(run_experiment(tiny_config, tmp_path, resume=True))

    @pytest.mark.parametrize(
        ("file", "content", "message"),
        [
            ("about.json", b"{", "about.json is damaged: Expecting"),
            ("about.json", b"[]", "about.json is damaged: expected a JSON object, got list"),
            ("config.json", b"{", "config.json is not the configuration of a run: Invalid JSON: [^{]*$"),
            ("config.json", b"[]", "config.json is not the configuration of a run: Input should be an object, got"),
            ("config.json", b"\xff", "config.json is not the configuration of a run: "),
            ("config.json", b'{"epochs": 0}', "of a run: epochs: Input should be greater than or equal to 1, got 0$"),
            ("config.json", b'{"dataset": []}', r"of a run: dataset: Input should be a valid string, got \[\]$"),
            ("rounds.jsonl", b"\xff\n", r"rounds.jsonl, line 1: not an event of a run \("),
        ],
    )
    def test_a_damaged_file_is_named(
        self, file: str, content: bytes, message: str, tiny_config: Config, tmp_path: Path
    ) -> None:
        abandon(run_experiment(tiny_config, tmp_path), 2)
        (tmp_path / file).write_bytes(content)
        for use in (lambda: finish(tiny_config, tmp_path, resume=True), lambda: read_run(tmp_path)):
            with pytest.raises(UsageError, match=message) as caught:
                use()
            assert "\n" not in str(caught.value)

    def test_a_report_names_what_is_damaged(self, tiny_config: Config, tmp_path: Path) -> None:
        finish(tiny_config, tmp_path)
        run = read_run(tmp_path)
        assert run is not None
        np.savez(tmp_path / "other.npz", real=np.zeros(3))
        cut = (tmp_path / "latent.npz").read_bytes()[:-100]
        for content in (b"garbage", b"", b"PK\x03\x04", cut, (tmp_path / "other.npz").read_bytes()):
            (tmp_path / "latent.npz").write_bytes(content)
            with pytest.raises(
                UsageError, match=r"latent\.npz is damaged; without it, lada run --resume makes it anew: "
            ):
                run.latent()
        (tmp_path / "about.json").write_text("{}")
        with pytest.raises(UsageError, match=r"about\.json is damaged: classes must be a list of names, got None"):
            read_run(tmp_path)

    @pytest.mark.parametrize("payload", [[1], {"trained": 5}])
    def test_a_foreign_checkpoint_is_as_none(self, payload: object, tmp_path: Path) -> None:
        torch.save(payload, tmp_path / "checkpoint.pt")
        assert checkpoint.load(tmp_path / "checkpoint.pt", torch.device("cpu")) is None

    def test_a_full_disk_is_said_as_the_system_says_it(self, tmp_path: Path) -> None:
        small = resource.RLIMIT_FSIZE
        before, handler = resource.getrlimit(small), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(small, (10_000, before[1]))
        try:
            with pytest.raises(OSError, match="File too large"):
                checkpoint.save(tmp_path / "checkpoint.pt", Trained(0, 2, 0.5, 1.0, {}), {"w": torch.zeros(9_000)})
        finally:
            resource.setrlimit(small, before)
            signal.signal(signal.SIGXFSZ, handler)
        assert not list(tmp_path.iterdir())

    def test_a_folder_whose_first_write_was_cut_short_counts_as_empty(
        self, tiny_config: Config, tmp_path: Path
    ) -> None:
        (tmp_path / ".config.json.123.tmp").write_text("{")
        assert len(finish(tiny_config, tmp_path)) == 6

    def test_atomic_write_leaves_the_old_file_if_it_fails(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_text("old")

        def fail(file: Any) -> None:
            file.write(b"half")
            raise OSError("disk full")

        with pytest.raises(OSError, match="disk full"):
            write_atomically(path, fail)
        assert path.read_text() == "old"
        assert os.listdir(tmp_path) == ["file"]


class TestConfig:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"method": "lada-foo"}, "unknown method 'lada-foo'; the nearest are lada-"),
            ({"dataset": "imagenet"}, "unknown data set 'imagenet'; choose one of mnist5k"),
            ({"model": "vgg"}, "unknown model 'vgg'; choose one of small, resnet18"),
            ({"preset": "mine"}, "preset: Input should be 'clean', 'paper' or 'official'"),
            ({"query": 3}, "lada-ent-mix buys pairs, so query must be even, got 3"),
            ({"query": 3, "method": "ent+manifold-mixup"}, "buys pairs, so query must be even"),
            ({"candidates": 3}, r"candidates must be at least query \(4\), got 3"),
            ({"rounds": -1}, "rounds: Input should be greater than or equal to 0, got -1"),
            ({"lr": float("nan")}, "lr: Input should be"),
            ({"fixed_tau": 0}, "fixed_tau: Input should be greater than 0, got 0"),
            ({"layers": ()}, "layers: "),
            ({"bald_samples": 1}, "bald_samples: Input should be greater than or equal to 2, got 1"),
            ({"cal_views": 1}, "cal_views: Input should be greater than or equal to 2, got 1"),
            ({"pairs": "some"}, "pairs: Input should be 'random' or 'all'"),
            ({"pairs": "all", "method": "lada-vaal-mix"}, "pairs=all works for entropy or var-ratio with mix, got"),
            ({"pairs": "all", "method": "lada-ent-adamixup"}, "pairs=all works for entropy or var-ratio with mix"),
            ({"colour": "red"}, "colour is no setting here"),
        ],
    )
    def test_bad_values_are_refused_in_one_line(
        self, changes: dict[str, Any], message: str, tiny_config: Config
    ) -> None:
        from lada_al.errors import one_line
        from pydantic import ValidationError

        with pytest.raises(ValidationError) as caught:
            with_changes(tiny_config, **changes)
        line = one_line(caught.value)
        assert "\n" not in line
        assert re.search(message, line), line

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"initial": 2}, "initial must give each of the 3 classes a label, got 2"),
            ({"rounds": 22}, r"initial \+ rounds \* query = 94 labels, but the pool of fashion has 90 images"),
            ({"layers": (1, 4)}, r"layers must lie below 3, from where model small has no feature maps, got \(1, 4\)"),
            (
                {"method": "lada-ent-mix-fixed", "layers": (1, 4)},
                r"layers must lie below 4, behind which model small has no more layers, got \(1, 4\)",
            ),
            (
                {"pairs": "all", "layers": (1, 2)},
                r"pairs=all needs layers where mixing features is mixing logits, in model small 2 or 3, got \(1, 2\)",
            ),
            ({"device": "cuda:99"}, "device 'cuda:99' cannot be used"),
            ({"device": "toaster"}, "device 'toaster' cannot be used"),
            ({"device": "meta"}, "device 'meta' cannot be used: it holds no numbers"),
        ],
    )
    def test_what_does_not_fit_the_data_is_refused_before_any_work(
        self, changes: dict[str, Any], message: str, tiny_config: Config, tmp_path: Path
    ) -> None:
        with pytest.raises(UsageError, match=message):
            next(run_experiment(with_changes(tiny_config, **changes), tmp_path / "out"))
        assert not (tmp_path / "out").exists()

    def test_budgets_and_presets_fill_in_what_is_not_given(self) -> None:
        assert Config(dataset="cifar100").initial == 1000
        assert Config(dataset="cifar100", initial=300).initial == 300
        assert Config(preset="official").stale_gradient
        assert not Config(preset="official", stale_gradient=False).stale_gradient
        assert Config(preset="official", dataset="cifar100").restart_weights
        assert not Config(preset="official", dataset="cifar10").restart_weights

    def test_gamma_is_the_papers(self) -> None:
        gamma = lambda **values: Config(**values).look_ahead_weight  # noqa: E731
        assert gamma(dataset="cifar10", method="lada-ent-stn") == 0.3
        assert gamma(dataset="cifar10", method="lada-ent-stn-fixed") == 0.3
        assert gamma(dataset="cifar10", method="lada-ent-mix") == 1
        assert gamma(dataset="fashion", method="lada-ent-stn") == 1
        assert gamma(dataset="cifar10", method="lada-ent-stn", gamma=0.8) == 0.8


def test_experiment_reads_what_it_wrote(tiny_config: Config, tmp_path: Path) -> None:
    finish(tiny_config, tmp_path)
    assert read_config(tmp_path) == tiny_config
    about = json.loads((tmp_path / "about.json").read_text())
    assert about["classes"][0] == "bars"
    assert about["torch"] == torch.__version__
