"""`lada score`: the same results whatever the settings, exact top k, and nothing lost to a kill."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from labelling import lada, read_csv
from lada_al.keys import Keys
from lada_al.load_model import load_model
from lada_al.models import small
from lada_al.pools import open_pool
from lada_al.score.images import ImageScores
from lada_al.score.top import Top
from PIL import Image
from pooling import POOLS, folder, name, npz, pixels

import lada_ext

COUNT = 150
CODE = """
import torch
from lada_al.models import small
from lada_al.pools import ImageSpec

def net():
    torch.manual_seed(0)
    return small(1, (12, 12), 5), ImageSpec(1, 12, 12, (0.5,), (0.5,))
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "scored_net.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{Path(__file__).parents[2] / 'python'}", prepend=":")
    return tmp_path


def write_net(path: Path, output: str) -> None:
    """A module whose factory `odd` makes a network that returns this expression of its logits h and images x."""
    forward = f"def forward(self, x):\n        h = net()[0](x)\n        return {output}"
    odd = f"class Odd(torch.nn.Flatten):\n    {forward}\n\n\ndef odd():\n    return Odd(), net()[1]\n"
    path.write_text(f"{CODE}\n\n{odd}")
    sys.modules.pop(path.stem, None)


def score(out: Path, *more: object, pool: Path) -> dict[object, float | None]:
    arguments = ["--pool", pool, "--model", "scored_net:net", "--out", out, "--top", 20, "--device", "cpu", *more]
    code, _, err = lada("score", *arguments)
    assert code == 0, err
    table = pq.read_table(out / "scores")
    return dict(zip(table["id"].to_pylist(), table["score"].to_pylist(), strict=True))


def test_the_exact_top_k_in_any_parts_and_order() -> None:
    random = np.random.default_rng(0)
    scores = random.integers(0, 40, 3000).astype(np.float32)
    scores[random.integers(0, 3000, 50)] = np.nan
    expected = sorted(np.flatnonzero(~np.isnan(scores)).tolist(), key=lambda i: (-scores[i], i))
    for k in (1, 17, 2999, 5000):
        top = Top(k)
        for part in random.permutation(np.array_split(np.arange(3000), 30)):
            top.add(scores[part], part)
        assert top.positions.tolist() == expected[:k]
        assert top.scores.tolist() == scores[expected[:k]].tolist()


class TestOtherPools:
    @pytest.mark.parametrize("kind", POOLS)
    def test_a_scoring_is_not_gone_on_with_over_another_pool(self, kind: str, here: Path) -> None:
        (here / "one").mkdir()
        (here / "other").mkdir()
        one, other = POOLS[kind](here / "one", 10), POOLS[kind](here / "other", 10)
        score(here / "out", pool=one)
        arguments = ["--model", "scored_net:net", "--out", here / "out", "--device", "cpu", "--resume"]
        code, _, err = lada("score", "--pool", other, *arguments)
        assert code == 2
        assert "was begun with another pool" in err

    def test_what_a_refused_try_listed_is_forgotten(self, here: Path) -> None:
        (here / "empty").mkdir()
        arguments = ["--model", "scored_net:net", "--out", here / "out", "--device", "cpu"]
        assert lada("score", "--pool", here / "empty", *arguments)[0] == 2
        assert lada("score", "--pool", POOLS["tar"](here, 10), *arguments[:-1], "cuda:99")[0] == 2
        (here / "pool").mkdir()
        assert len(score(here / "out", pool=folder(here / "pool", 12))) == 12


class TestImages:
    @pytest.mark.parametrize("kind", POOLS)
    def test_scores_are_those_of_the_network_and_the_top_is_their_best(self, kind: str, here: Path) -> None:
        pool = POOLS[kind](here, 40)
        scores = score(here / "out", "--workers", 0, pool=pool)
        torch.manual_seed(0)
        net = small(1, (12, 12), 5).eval()
        with torch.no_grad():
            image = (torch.from_numpy(pixels(40))[:, None].float() / 255 - 0.5) / 0.5
            expected = lada_ext.entropy(net(image))
        torch.testing.assert_close(torch.tensor(sorted(scores.values())), expected.sort().values)
        best = sorted(scores.values(), reverse=True)[:20]
        rows = read_csv(here / "out" / "top.csv")
        assert [float(row["score"]) for row in rows] == best
        assert all(scores[int(row["id"]) if kind == "npy" else row["id"]] == float(row["score"]) for row in rows)

    def test_no_setting_changes_a_bit(self, here: Path) -> None:
        pool = folder(here, COUNT)
        first = score(here / "a", "--workers", 0, "--batch", 32, pool=pool)
        second = score(here / "b", "--workers", 2, "--batch", 70, "--shard", 64, pool=pool)
        third = score(here / "c", "--workers", 1, "--batch", 1, "--shard", 33, pool=pool)
        assert first == second == third
        assert len(list((here / "b" / "scores").iterdir())) == 3
        assert len({(here / run / "top.csv").read_bytes() for run in "abc"}) == 1

    def test_no_setting_changes_a_bit_of_look_ahead(self, here: Path) -> None:
        """Pairs stay within 32 positions; one image cannot be read, so one is left to be its own partner."""
        pool = folder(here, COUNT)
        (pool / name(40)).write_bytes(b"")
        method = ["--method", "lada-ent-mix-fixed"]
        score(here / "a", "--workers", 0, "--batch", 32, *method, pool=pool)
        score(here / "b", "--workers", 2, "--batch", 70, "--shard", 64, *method, pool=pool)
        rows = pq.read_table(here / "a" / "scores")
        assert rows.equals(pq.read_table(here / "b" / "scores"))
        assert (here / "a" / "top.csv").read_bytes() == (here / "b" / "top.csv").read_bytes()
        partner = {row["id"]: row["partner"] for row in rows.to_pylist()}
        assert partner.pop(name(40)) is None
        assert all(partner[partner[id_]] == id_ for id_ in partner)
        assert sum(partner[id_] == id_ for id_ in partner) == 1
        step = {id_: position // 32 for position, id_ in enumerate(rows["id"].to_pylist())}
        assert all(step[id_] == step[partner[id_]] for id_ in partner)

    def test_what_cannot_be_read_is_skipped_counted_and_listed(self, here: Path) -> None:
        pool = folder(here, 40)
        whole = score(here / "whole", pool=pool)
        (pool / name(3)).write_bytes(b"no image")
        (pool / name(8)).write_bytes(b"")
        code, out, _ = lada("score", "--pool", pool, "--model", "scored_net:net", "--out", here / "out")
        assert code == 0
        assert "2 cannot be read" in out
        rows = read_csv(here / "out" / "unreadable.csv")
        assert {row["id"] for row in rows} == {name(3), name(8)}
        assert all(row["reason"] for row in rows)
        table = pq.read_table(here / "out" / "scores").to_pylist()
        left = {row["id"]: row["score"] for row in table if row["error"] is None}
        assert left == {id_: value for id_, value in whole.items() if id_ not in (name(3), name(8))}
        assert not {row["id"] for row in read_csv(here / "out" / "top.csv")} & {name(3), name(8)}

    def test_white_is_part_of_what_is_scored(self, here: Path) -> None:
        pool, plain = here / "deep", here / "plain"
        for kind, folder_of in ((np.uint16(16), pool), (np.uint8(1), plain)):
            folder_of.mkdir()
            for i, image in enumerate(pixels(3)):
                Image.fromarray(image * kind).save(folder_of / f"{i}.png")
        options = ["--model", "scored_net:net", "--device", "cpu", "--workers", 0, "--out"]
        assert lada("score", "--pool", pool, *options, here / "deep-out", "--white", 4095)[0] == 0
        assert lada("score", "--pool", plain, *options, here / "out")[0] == 0
        assert (here / "deep-out" / "top.csv").read_text() == (here / "out" / "top.csv").read_text()
        code, _, err = lada("score", "--pool", pool, *options, here / "deep-out", "--resume")
        assert (code, err) == (2, f"lada: --resume: {here / 'deep-out'} was begun with another white\n")

    def test_progress_is_told_of_each_batch(self, here: Path) -> None:
        scorer = ImageScores(
            open_pool(folder(here, 80)), load_model("scored_net:net"), "entropy", torch.device("cpu"), 32, 0
        )
        told: list[int] = []
        tables = scorer.shards([(0, 64), (64, 80)], told.append)
        assert len(next(tables)) == 64
        assert told == [32, 32]
        assert len(next(tables)) == 16
        assert told == [32, 32, 16]

    def test_where_nothing_has_a_score_it_fails(self, here: Path) -> None:
        pool = folder(here, 3)
        for i in range(3):
            (pool / name(i)).write_bytes(b"no image")
        code, _, err = lada("score", "--pool", pool, "--model", "scored_net:net", "--out", here / "out")
        assert (code, err) == (1, "lada: none of the 3 items has a score\n")
        assert len(read_csv(here / "out" / "unreadable.csv")) == 3
        np.save(here / "nan.npy", np.full((3, 2), np.nan, np.float32))
        code, _, err = lada("score", "--embeddings", here / "nan.npy", "--out", here / "nan")
        assert (code, err) == (1, "lada: none of the 3 items has a score\n")

    def test_a_kill_loses_nothing_and_no_finished_shard_is_scored_again(self, here: Path) -> None:
        pool = npz(here, 4000)
        whole = score(here / "whole", "--shard", 64, pool=pool)
        arguments = ["--pool", pool, "--model", "scored_net:net", "--top", 20, "--device", "cpu", "--shard", 64]
        command = [sys.executable, "-m", "lada_al", "score", "--out", here / "out", "--workers", 0, *arguments]
        with subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 100
            while len(list((here / "out").glob("scores/part-*"))) < 5 and time.monotonic() < deadline:
                time.sleep(0.001)
            process.kill()
        done = {path: path.stat().st_mtime_ns for path in (here / "out").glob("scores/part-*")}
        assert 5 <= len(done) < 63
        again = score(here / "out", "--shard", 64, "--resume", pool=pool)
        assert again == whole
        assert {path: path.stat().st_mtime_ns for path in done} == done
        assert (here / "out" / "top.csv").read_bytes() == (here / "whole" / "top.csv").read_bytes()

    def test_two_processes_find_what_one_does(self, here: Path) -> None:
        pool = folder(here, COUNT)
        (pool / name(5)).write_bytes(b"")
        score(here / "one", "--shard", 32, pool=pool)
        arguments = ["--pool", pool, "--model", "scored_net:net", "--top", 20, "--device", "cpu", "--shard", 32]
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", "lada_al"]
        command = [sys.executable, *launcher, "score", "--out", here / "two", "--workers", 0, *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([str(p) for p in command], capture_output=True, text=True, timeout=300, env=environment)
        assert done.returncode == 0, done.stderr
        for file in ("top.csv", "unreadable.csv", "score.json"):
            assert (here / "one" / file).read_bytes() == (here / "two" / file).read_bytes()
        assert pq.read_table(here / "one" / "scores").equals(pq.read_table(here / "two" / "scores"))


class TestCachedLogits:
    @pytest.mark.parametrize("method", ["entropy", "var-ratio"])
    def test_are_scored_without_a_network(self, method: str, tmp_path: Path) -> None:
        logits = np.random.default_rng(0).normal(size=(5000, 7)).astype(np.float16)
        logits[77] = np.nan
        np.savez(tmp_path / "l.npz", logits=logits, ids=np.array([f"n{i}" for i in range(5000)]))
        code, out, err = lada(
            "score",
            "--embeddings",
            tmp_path / "l.npz",
            "--method",
            method,
            "--top",
            9,
            "--out",
            tmp_path / "out",
            "--shard",
            512,
        )
        assert code == 0, err
        assert "1 without a score" in out
        op = lada_ext.entropy if method == "entropy" else lada_ext.variation_ratio
        expected = op(torch.from_numpy(logits))
        table = pq.read_table(tmp_path / "out" / "scores")
        np.testing.assert_array_equal(table["score"].to_numpy(), expected.numpy())
        best = expected.nan_to_num(-1).argsort(descending=True, stable=True)[:9].tolist()
        assert [row["id"] for row in read_csv(tmp_path / "out" / "top.csv")] == [f"n{i}" for i in best]

    @pytest.mark.parametrize(
        ("method", "score"), [("lada-ent-mix-fixed", "entropy"), ("lada-var-mix-fixed", "variation_ratio")]
    )
    def test_look_ahead_is_eq_13_of_disjoint_pairs(self, method: str, score: str, tmp_path: Path) -> None:
        logits = np.random.default_rng(0).normal(size=(1001, 7)).astype(np.float32)
        logits[77] = np.nan
        np.save(tmp_path / "l.npy", logits)
        arguments = ["--embeddings", tmp_path / "l.npy", "--method", method, "--out", tmp_path / "out", "--shard", 96]
        assert lada("score", *arguments)[0] == 0
        rows = pq.read_table(tmp_path / "out" / "scores").to_pylist()
        assert rows[77]["partner"] is None
        assert math.isnan(rows[77]["score"])
        assert all(row["tau"] == 2.0 for row in rows if row["id"] != 77)
        pairs = [(row["id"], row["partner"]) for row in rows if row["id"] != 77]
        assert {(b, a) for a, b in pairs} == set(pairs)
        a, b = torch.from_numpy(logits[np.array(pairs).T]).double()
        nodes, weights = lada_ext.beta_nodes(2.0, 16)
        op = getattr(lada_ext.reference, score)
        mean = sum(w * op(lam * a + (1 - lam) * b) for lam, w in zip(nodes, weights, strict=True))
        expected = op(a) + op(b) + mean
        got = torch.tensor([row["score"] for row in rows if row["id"] != 77])
        assert ((got - expected).abs().mean() / expected.std()) < 0.1  # five draws of lam against their mean
        assert len({row["score"] for row in rows}) > 400

    def test_parquet_holds_what_arrays_do(self, tmp_path: Path) -> None:
        logits = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
        ids = [f"n{i}" for i in range(200)]
        np.savez(tmp_path / "l.npz", logits=logits, ids=np.array(ids))
        pq.write_table(pa.table({"id": ids, "logits": list(logits)}), tmp_path / "l.parquet")
        for kind in ("npz", "parquet"):
            assert lada("score", "--embeddings", tmp_path / f"l.{kind}", "--out", tmp_path / kind)[0] == 0
        assert pq.read_table(tmp_path / "npz" / "scores").equals(pq.read_table(tmp_path / "parquet" / "scores"))

    @pytest.mark.parametrize("kind", [">f4", ">f8", "longdouble"])
    def test_numbers_of_another_machine_are_taken(self, kind: str, tmp_path: Path) -> None:
        logits = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
        np.savez(tmp_path / "a.npz", logits=logits, ids=np.arange(20))
        np.savez(tmp_path / "b.npz", logits=logits.astype(kind), ids=np.arange(20).astype(">i8"))
        np.save(tmp_path / "c.npy", logits.astype(kind))
        (tmp_path / "c.npy").rename(tmp_path / "c.NPY")
        top = []
        for file in ("a.npz", "b.npz", "c.NPY"):
            out = tmp_path / file.replace(".", "-")
            code, _, err = lada("score", "--embeddings", tmp_path / file, "--out", out)
            assert code == 0, err
            top.append([int(row["id"]) for row in read_csv(out / "top.csv")])
        assert top[0] == top[1] == top[2]


class TestSelections:
    def test_coreset_and_badge_of_cached_features(self, tmp_path: Path) -> None:
        random = np.random.default_rng(0)
        features, labelled = random.normal(size=(300, 8)).astype(np.float32), random.normal(size=(5, 8))
        logits = random.normal(size=(300, 4)).astype(np.float32)
        np.savez(tmp_path / "f.npz", features=features, labelled=labelled, logits=logits)
        rows, centers = torch.from_numpy(features), torch.from_numpy(labelled).float()
        key = Keys(1).key("pick", 0)
        expected = {
            "coreset": lada_ext.k_center_greedy(rows, centers, 20),
            "badge": lada_ext.badge_select(rows, torch.from_numpy(logits), 20, key),
        }
        for method, picks in expected.items():
            out = tmp_path / method
            arguments = ["--embeddings", tmp_path / "f.npz", "--method", method, "--top", 20, "--out", out]
            assert lada("score", *arguments, "--device", "cpu")[0] == 0
            top = read_csv(out / "top.csv")
            assert [int(row["id"]) for row in top] == picks.tolist()
            entropy = lada_ext.entropy(torch.from_numpy(logits))[picks]
            torch.testing.assert_close(torch.tensor([float(row["entropy"]) for row in top]), entropy)
        assert "takes another folder" in lada("score", *arguments)[2]

    @pytest.mark.parametrize(
        ("method", "name", "value"),
        [
            *(("coreset", name, value) for name in ("features", "labelled") for value in (math.nan, math.inf, 1e300)),
            *(("badge", "features", value) for value in (math.nan, math.inf, 1e300)),
            *(("badge", "logits", value) for value in (math.nan, math.inf)),
        ],
    )
    def test_a_row_that_is_not_finite_is_named_and_nothing_is_written(
        self, method: str, name: str, value: float, tmp_path: Path
    ) -> None:
        arrays = {array: np.ones((5, 3)) for array in ("features", "labelled", "logits")}
        arrays[name][2, 1] = value
        np.savez(tmp_path / "f.npz", **arrays)
        arguments = ["score", "--embeddings", tmp_path / "f.npz", "--method", method, "--out", tmp_path / "out"]
        code, _, err = lada(*arguments)
        assert code == 2
        assert f"{name} must have a finite squared norm, got " in err
        assert "in row 2 of" in err
        assert not (tmp_path / "out").exists()

    def test_a_class_may_be_impossible(self, tmp_path: Path) -> None:
        features, logits = np.random.default_rng(0).standard_normal((2, 6, 3))
        logits[2] = -np.inf, 1e300, 0
        np.savez(tmp_path / "f.npz", features=features, logits=logits)
        arguments = ["--embeddings", tmp_path / "f.npz", "--method", "badge", "--top", 6, "--out", tmp_path / "out"]
        assert lada("score", *arguments)[0] == 0
        assert sorted(int(row["id"]) for row in read_csv(tmp_path / "out" / "top.csv")) == list(range(6))


class TestOwnNetworks:
    @pytest.mark.parametrize(
        ("output", "message"),
        [
            ("h.mean(1)", "expected floating logits of shape (batch, classes), got float32 (2,) for a batch of 2"),
            ("h[:, :, None, None]", "got float32 (2, 5, 1, 1) for a batch of 2"),
            ("h.mean(0, keepdim=True)", "got float32 (1, 5) for a batch of 2"),
            ("h.long()", "got int64 (2, 5) for a batch of 2"),
            (
                "h[:, :1]",
                "expected logits of at least 2 classes, got shape (2, 1); of a network with one output z, for",
            ),
            ("h.squeeze()", "got float32 (5,) for a batch of 1"),
            ("h * float('nan')", "its logits of images of noise are NaN, which no score can be made of"),
            ("h @ h", "cannot be run on images of shape (1, 12, 12): mat1 and mat2"),
        ],
    )
    def test_that_return_no_logits_are_refused_before_anything_is_scored(
        self, output: str, message: str, here: Path
    ) -> None:
        write_net(here / "odd_net.py", output)
        arguments = ["--pool", folder(here, 4), "--model", "odd_net:odd", "--out", here / "out", "--device", "cpu"]
        code, _, err = lada("score", *arguments)
        assert code == 2
        assert message in err
        assert not (here / "out" / "score.json").exists()

    @pytest.mark.parametrize("output", ["h[:, :1]", "[][0]"])
    def test_that_fail_on_the_way_name_the_images_of_the_batch(self, output: str, here: Path) -> None:
        write_net(here / "late_net.py", f"{output} if len(x) == 7 else h")
        pool = folder(here, 39)
        arguments = ["--pool", pool, "--model", "late_net:odd", "--out", here / "out", "--workers", 0]
        ids = list(open_pool(pool).ids())[32:]
        message = f"on these 7 images: {', '.join(map(str, ids))}"
        if output == "[][0]":
            with pytest.raises(RuntimeError, match=f"^model: the network failed {message}$") as caught:
                lada("score", *arguments, "--device", "cpu")
            assert isinstance(caught.value.__cause__, IndexError)
        else:
            code, _, err = lada("score", *arguments, "--device", "cpu")
            assert code == 2
            assert message in err

    def test_without_a_spec_are_told_what_they_were_shown(self, here: Path) -> None:
        (here / "bare_net.py").write_text(f"{CODE}\n\ndef bare():\n    return net()[0]\n")
        arguments = ["--pool", folder(here, 4), "--model", "bare_net:bare", "--out", here / "out", "--device", "cpu"]
        code, _, err = lada("score", *arguments)
        assert code == 2
        assert "--model, whose factory may return (module, ImageSpec): cannot be run on images of shape (3, 224" in err

    def test_the_list_of_a_pool_that_is_damaged_is_named(self, here: Path) -> None:
        pool = folder(here, 4)
        score(here / "out", pool=pool)
        (here / "out" / "listing.arrow").write_bytes(b"")
        arguments = ["--pool", pool, "--model", "scored_net:net", "--out", here / "out", "--device", "cpu", "--resume"]
        code, _, err = lada("score", *arguments)
        assert code == 2
        assert f"{here / 'out' / 'listing.arrow'} is damaged; without it, the pool is listed anew: " in err


class TestWrongArguments:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "give --pool and --model, or --embeddings alone"),
            (["--pool", "p"], "give --pool and --model"),
            (["--embeddings", "logits.npy", "--pool", "p"], "or --embeddings alone"),
            (["--embeddings", "absent.npy"], "takes a .npy, .npz or .parquet file that exists"),
            (["--embeddings", "flat.npy"], "expected floating logits of shape (M, C)"),
            (["--embeddings", "sigmoid.npy"], "expected logits of at least 2 classes, got shape (3, 1) in sigmoid.npy"),
            (
                ["--embeddings", "logits.npy", "--method", "vaal"],
                "must be one of entropy, var-ratio, margin, lada-ent-",
            ),
            (["--embeddings", "logits.npy", "--method", "badge"], "expected floating features of shape (M, D), got"),
            (["--embeddings", "uneven.npz", "--method", "badge"], "3 rows of features, but 2 of logits"),
            (
                ["--embeddings", "narrow.npz", "--method", "coreset"],
                "labelled must have 2 columns as features, got (1, 3)",
            ),
            (["--embeddings", "ragged.parquet"], "column logits of ragged.parquet must hold lists of equal length"),
            (["--embeddings", "twice.npz"], "twice.npz: ids must be unique; 'a' comes 2 times"),
            (["--embeddings", "twice.parquet"], "twice.parquet: ids must be unique; 7 comes 2 times"),
            (["--embeddings", "null.parquet"], "null.parquet: 1 ids are null"),
            (["--embeddings", "bytes.parquet"], "ids must be 3 texts or whole numbers, got object of shape (3,)"),
            (["--embeddings", "twice.npz", "--method", "coreset"], "twice.npz: ids must be unique; 'a' comes 2 times"),
            (["--embeddings", "logits.npy", "--out", "full"], "full is not empty and holds no score.json"),
        ],
    )
    def test_are_told_and_nothing_is_written(
        self, arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        np.save("logits.npy", np.zeros((3, 2), np.float32))
        np.save("sigmoid.npy", np.zeros((3, 1), np.float32))
        np.save("flat.npy", np.zeros(3, np.float32))
        np.savez("uneven.npz", features=np.zeros((3, 2)), logits=np.zeros((2, 2)))
        np.savez("narrow.npz", features=np.zeros((3, 2)), labelled=np.zeros((1, 3)))
        pq.write_table(pa.table({"logits": [[0.0], [1.0, 2.0, 3.0]]}), "ragged.parquet")
        np.savez("twice.npz", logits=np.zeros((3, 2)), features=np.zeros((3, 2)), ids=np.array(["a", "b", "a"]))
        for file, ids in {"twice": [7, 1, 7], "null": ["a", None, "b"], "bytes": [b"a", b"b", b"c"]}.items():
            pq.write_table(pa.table({"logits": [[0.0, 1.0]] * 3, "id": ids}), f"{file}.parquet")
        Path("full").mkdir()
        Path("full/file").touch()
        code, _, err = lada("score", "--out", "out", *arguments)
        assert code == 2
        assert message in err
        assert not Path("out").exists()

    def test_another_scoring_is_not_gone_on_with(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", np.zeros((3, 2), np.float32))
        np.save(tmp_path / "b.npy", np.ones((3, 2), np.float32))
        out = tmp_path / "out"
        assert lada("score", "--embeddings", tmp_path / "a.npy", "--out", out)[0] == 0
        assert "add --resume" in lada("score", "--embeddings", tmp_path / "a.npy", "--out", out)[2]
        code, _, err = lada(
            "score", "--embeddings", tmp_path / "b.npy", "--out", out, "--resume", "--method", "var-ratio"
        )
        assert code == 2
        assert "begun with another method, embeddings, fingerprint" in err
        assert json.loads((out / "score.json").read_text())["method"] == "entropy"

    @pytest.mark.parametrize(
        ("file", "content"), [("score.json", b"{"), ("score.json", b"[]"), ("scores/part-000000.parquet", b"{")]
    )
    def test_a_damaged_file_is_named(self, file: str, content: bytes, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", np.zeros((3, 2), np.float32))
        arguments = ["score", "--embeddings", tmp_path / "a.npy", "--out", tmp_path / "out"]
        assert lada(*arguments)[0] == 0
        (tmp_path / "out" / file).write_bytes(content)
        code, _, err = lada(*arguments, "--resume")
        assert code == 2
        assert f"{tmp_path / 'out' / file} is damaged" in err
