"""Batches that go out and labels that come back: CSV, HTML, Label Studio, and every bad line there is."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
from labelling import CLASSES, begin, fill_in, lada, read_csv, truth, write_pool
from lada_al.errors import UsageError
from lada_al.label import project as projects
from lada_al.label import query as queries
from lada_al.label.rank import Ranker
from lada_al.label.store import Ranked, Store
from lada_al.pools.decode import UnreadableError
from lada_al.score import run as scoring
from PIL import Image
from pooling import ODD_NAMES, POOLS, oddly_named


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pool(tmp_path_factory.mktemp("pool"), 40)


@pytest.fixture
def project(pool: Path, tmp_path: Path) -> Path:
    """A project with one batch of 8 images, which is in batch.csv."""
    begin(tmp_path, pool, method="entropy")
    code, out, err = lada("query", "--project", tmp_path, "--out", tmp_path / "batch.csv", "--count", 8)
    assert code == 0, err
    assert "batch 1: 8 images" in out
    return tmp_path


def ingest(project: Path, text: str, name: str = "labels.csv", **options: str) -> tuple[int, str, str]:
    path = project / name
    path.write_text(text)
    return lada("ingest", path, "--project", project, *(f"--{key}={value}" for key, value in options.items()))


def journal(project: Path) -> dict[str, str]:
    with Store(project / "labels.sqlite") as store:
        return store.labels()


def ids_of(project: Path) -> list[str]:
    return [row["id"] for row in read_csv(project / "batch.csv")]


class TestQuery:
    def test_the_first_batch_is_drawn_and_the_second_is_ranked(self, project: Path, pool: Path) -> None:
        first = read_csv(project / "batch.csv")
        assert list(first[0]) == ["id", "path", "score", "why", "predicted", "entropy", "label"]
        assert {row["why"] for row in first} == {"at random: there are no labels yet"}
        assert all(Path(row["path"]).is_file() and Path(row["path"]).is_relative_to(pool) for row in first)
        fill_in(project / "batch.csv", project / "labels.csv")
        assert lada("ingest", project / "labels.csv", "--project", project)[0] == 0
        assert lada("query", "--project", project, "--out", project / "second.csv", "--count", 6)[0] == 0
        second = read_csv(project / "second.csv")
        assert len(second) == 6
        assert not {row["id"] for row in second} & {row["id"] for row in first}
        for row in second:
            assert row["predicted"] in CLASSES
            assert 0 < float(row["entropy"]) < 3.33
            assert float(row["score"]) == pytest.approx(float(row["entropy"]))
            assert re.fullmatch(r"entropy: entropy \d\.\d\d bits", row["why"])
        scores = [float(row["score"]) for row in second]
        assert scores == sorted(scores, reverse=True)

    @pytest.mark.parametrize("method", ["random", "var-ratio", "lada-ent-mix", "lada-ent-stn", "ent+manifold-mixup"])
    def test_every_kind_of_method_goes_through_two_ranked_batches(
        self, method: str, pool: Path, tmp_path: Path
    ) -> None:
        begin(tmp_path, pool, method=method)
        asked: list[str] = []
        for batch in range(3):
            path = tmp_path / f"{batch}.csv"
            code, _, err = lada("query", "--project", tmp_path, "--out", path, "--count", 10 if batch == 0 else 4)
            assert code == 0, err
            asked += [row["id"] for row in read_csv(path)]
            fill_in(path, tmp_path / "labels.csv")
            assert lada("ingest", tmp_path / "labels.csv", "--project", tmp_path)[0] == 0
        assert len(set(asked)) == len(asked) == 18
        rows = read_csv(tmp_path / "2.csv")
        if method == "lada-ent-mix":
            assert f"mixtures with {rows[1]['id']}" in rows[0]["why"]
            assert f"mixtures with {rows[0]['id']}" in rows[1]["why"]
            assert rows[0]["score"] == rows[1]["score"]

    def test_virtual_instances_of_the_last_batch_are_trained_on(
        self, pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Pairs of which only one image came back are left out (Eq. 14 needs both labels)."""
        from lada_al.events import Bought
        from lada_al.train import Learner

        begin(tmp_path, pool, method="lada-ent-mix")
        fits: list[Bought] = []
        fit = Learner.fit
        monkeypatch.setattr(
            Learner, "fit", lambda self, pool, bought, *rest: fits.append(bought) or fit(self, pool, bought, *rest)
        )
        for batch, kept in enumerate([slice(None), slice(0, 3), slice(None)]):
            path = tmp_path / f"{batch}.csv"
            lada("query", "--project", tmp_path, "--out", path, "--count", 10 if batch == 0 else 6)
            fill_in(path, tmp_path / "labels.csv", only=kept)
            lada("ingest", tmp_path / "labels.csv", "--project", tmp_path)
        assert [len(bought.ids) for bought in fits] == [0, 2]
        labels, ids = journal(tmp_path), [row["id"] for row in read_csv(tmp_path / "1.csv")][:2]
        assert [str(label) for label in fits[1].labels] == [truth(id_) for id_ in ids] == [labels[id_] for id_ in ids]
        assert fits[1].k in (1, 2)
        assert len(fits[1].tau) == 1

    def test_a_network_that_diverges_asks_for_nothing(self, pool: Path, tmp_path: Path) -> None:
        begin(tmp_path, pool, method="entropy", settings={"lr": 1e30})
        assert lada("query", "--project", tmp_path, "--out", tmp_path / "batch.csv", "--count", 8)[0] == 0
        fill_in(tmp_path / "batch.csv", tmp_path / "labels.csv")
        assert lada("ingest", tmp_path / "labels.csv", "--project", tmp_path)[0] == 0
        code, _, err = lada("query", "--project", tmp_path, "--out", tmp_path / "second.csv")
        assert code == 2
        assert err.startswith("lada: lr: expected a rate at which training converges, got 1e+30, and a loss of ")
        with Store(tmp_path / "labels.sqlite") as store:
            assert len(store.queries()) == 1

    def test_a_ranking_is_a_function_of_labels_and_seed(self, project: Path, pool: Path, tmp_path: Path) -> None:
        fill_in(project / "batch.csv", project / "labels.csv")
        outcomes = []
        for seed in (1, 1, 2):
            folder = tmp_path / f"again-{len(outcomes)}"
            begin(folder, pool, method="lada-ent-mix", seed=seed)
            lada("ingest", project / "labels.csv", "--project", folder)
            lada("query", "--project", folder, "--out", folder / "batch.csv", "--count", 4)
            outcomes.append((folder / "batch.csv").read_text())
        assert outcomes[0] == outcomes[1] != outcomes[2]

    def test_images_are_read_in_the_order_of_the_pool_and_no_more_than_are_used(
        self, pool: Path, tmp_path: Path
    ) -> None:
        """In another order, a Parquet pool reads a row group for each."""
        project = begin(tmp_path, pool, method="random", settings={"candidates": 12})
        images, read = project.images(), []
        place = {id_: i for i, id_ in enumerate(images.ids())}
        decode = images.image

        def image(id_: str) -> Image.Image:
            read.append(place[id_])
            if place[id_] % 3 == 0:
                raise UnreadableError("damaged")
            return decode(id_)

        images.image = image
        drawn = [item.id for item in Ranker(project, 0, set())(images, {}, 4)]
        assert len(drawn) == 4
        assert read[:4] == sorted(read[:4])
        assert {place[id_] for id_ in drawn} == {i for i in read if i % 3}  # what could be read, and no more
        read.clear()
        labelled = {id_: truth(id_) for id_ in images.ids()[1:30:6]}
        Ranker(project, 1, set())(images, labelled, 4)
        assert read[: len(labelled)] == [place[id_] for id_ in labelled]
        candidates = read[len(labelled) :][:12]
        assert candidates == sorted(candidates)
        assert len(set(read)) == len(read) < 40

    def test_the_whole_pool_can_be_asked_for_and_then_no_more(self, pool: Path, tmp_path: Path) -> None:
        begin(tmp_path, pool, method="lada-ent-mix")
        odd = sorted(path.relative_to(pool).as_posix() for path in pool.rglob("*.png"))[7]
        assert ingest(tmp_path, f"id,label\n{odd},{truth(odd)}\n")[0] == 0
        code, _, err = lada("query", "--project", tmp_path, "--out", tmp_path / "x", "--count", 11)
        assert (code, err) == (2, "lada: --count: lada-ent-mix asks for pairs, so it must be even, got 11\n")
        sizes = []
        for batch, count in enumerate([10, 20, 20, 20]):
            path = tmp_path / f"{batch}.csv"
            code, _, err = lada("query", "--project", tmp_path, "--out", path, "--count", count)
            assert code == 0, err
            sizes.append(len(read_csv(path)))
            fill_in(path, tmp_path / "labels.csv")
            lada("ingest", tmp_path / "labels.csv", "--project", tmp_path)
        assert sizes == [10, 20, 8, 1]
        code, _, err = lada("query", "--project", tmp_path, "--out", tmp_path / "end.csv")
        assert (code, err) == (2, "lada: all 40 images of the pool are labelled, asked for or unreadable\n")

    def test_files_of_a_batch_are_not_overwritten_and_can_be_written_again(self, project: Path) -> None:
        before = (project / "batch.csv").read_bytes()
        code, _, err = lada("query", "--project", project, "--out", project / "batch.csv")
        assert code == 2
        assert "batch.csv exists and may hold labels" in err
        assert lada("query", "--project", project, "--out", project / "again.csv", "--again", 1)[0] == 0
        assert (project / "again.csv").read_bytes() == before
        assert (project / "again.html").read_bytes() == (project / "batch.html").read_bytes()
        code, _, err = lada("query", "--project", project, "--out", project / "b.csv", "--again", 9)
        assert (code, "there is no batch 9" in err) == (2, True)
        code, out, _ = lada("query", "--project", project, "--out", project / "next.csv", "--count", 2)
        assert "8 images of earlier batches without an answer yet" in out
        with Store(project / "labels.sqlite") as store:
            assert len(store.queries()) == 2

    def test_images_that_cannot_be_read_are_counted_and_listed(self, tmp_path: Path) -> None:
        pool = write_pool(tmp_path / "pool", 20)
        for i in range(5):
            (pool / f"broken-{i}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        begin(tmp_path / "project", pool, method="entropy")
        code, out, _ = lada("query", "--project", tmp_path / "project", "--out", tmp_path / "batch.csv", "--count", 30)
        assert code == 0
        assert f"5 images could not be read: see {tmp_path / 'project' / 'unreadable.csv'}\n" in out
        assert "fewer than the 30 images that were asked for: the pool is nearly used up\n" in out
        assert len(read_csv(tmp_path / "batch.csv")) == 20
        listed = read_csv(tmp_path / "project" / "unreadable.csv")
        assert [row["id"] for row in listed] == [f"broken-{i}.png" for i in range(5)]
        assert all(row["reason"] for row in listed)

    def test_unreadable_images_of_earlier_batches_stay_listed(self, tmp_path: Path) -> None:
        path = tmp_path / "unreadable.csv"
        queries._write_unreadable(path, {"b\u2028.png": 'cut, "short"', "=a.png": "no bytes"})
        queries._write_unreadable(path, {"c.png": "no bytes", "=a.png": "no bytes"})
        found = [(row["id"], row["reason"]) for row in read_csv(path)]
        assert found == [("'=a.png", "no bytes"), ("b\u2028.png", 'cut, "short"'), ("c.png", "no bytes")]

    def test_the_page_of_a_batch_escapes_and_shows(self, tmp_path: Path) -> None:
        pool = tmp_path / "pool"
        pool.mkdir()
        name = "<img src=x onerror=alert(1)>.png"
        Image.new("L", (300, 200)).save(pool / name)
        begin(tmp_path, pool, method="entropy", classes=["cat", "<script>alert(1)</script>"])
        with Store(tmp_path / "labels.sqlite") as store:
            store.add_query("entropy", 1, 0, 0, [Ranked(name, 1.0, "<b>why</b>", "<script>alert(1)</script>", 1.0)])
        assert lada("query", "--project", tmp_path, "--out", tmp_path / "b.csv", "--again", 1)[0] == 0
        html = (tmp_path / "b.html").read_text()
        assert "<script" not in html
        assert "<img src=x" not in html
        assert "<b>why" not in html
        assert "&lt;script&gt;alert(1)" in html
        assert 'src="data:image/png;base64,' in html
        assert "http://" not in html.replace("http-equiv", "")

    def test_a_large_batch_keeps_no_pixels_and_has_a_page_of_its_first_images(
        self, pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(queries, "SHOWN", 5)
        monkeypatch.delattr("lada_al.label.rank._pixels")  # a batch that is drawn at random is read to be seen alone
        begin(tmp_path, pool, method="entropy")
        code, _, err = lada("query", "--project", tmp_path, "--out", tmp_path / "batch.csv", "--count", 12)
        assert code == 0, err
        ids = [row["id"] for row in read_csv(tmp_path / "batch.csv")]
        html = (tmp_path / "batch.html").read_text()
        assert [id_ in html for id_ in ids] == [True] * 5 + [False] * 7
        assert "12 images asked for" in html
        assert "Here are the first 5; the CSV file lists all." in html

    def test_labelled_images_that_left_the_pool_are_counted(self, tmp_path: Path) -> None:
        pool = write_pool(tmp_path / "pool", 20)
        begin(tmp_path, pool, method="entropy")
        lada("query", "--project", tmp_path, "--out", tmp_path / "batch.csv", "--count", 8)
        fill_in(tmp_path / "batch.csv", tmp_path / "labels.csv")
        assert lada("ingest", tmp_path / "labels.csv", "--project", tmp_path)[0] == 0
        for id_ in ids_of(tmp_path)[:3]:
            (pool / id_).unlink()
        code, out, err = lada("query", "--project", tmp_path, "--out", tmp_path / "second.csv", "--count", 4)
        assert code == 0, err
        assert "3 labels not used for the ranking: of images no longer in the pool\n" in out
        code, out, _ = lada("query", "--project", tmp_path, "--out", tmp_path / "third.csv", "--again", 2)
        assert (code, "no longer" in out) == (0, False)

    def test_a_batch_is_written_again_though_some_of_it_left_the_pool(self, tmp_path: Path) -> None:
        pool = write_pool(tmp_path / "pool", 20)
        begin(tmp_path, pool, method="entropy")
        lada("query", "--project", tmp_path, "--out", tmp_path / "batch.csv", "--count", 8)
        gone, *others = ids_of(tmp_path)
        (pool / gone).unlink()
        options = ["--again", 1, "--label-studio", tmp_path / "tasks.json"]
        code, out, err = lada("query", "--project", tmp_path, "--out", tmp_path / "again.csv", *options)
        assert code == 0, err
        assert f"1 image left out of {tmp_path / 'tasks.json'}: unreadable\n" in out
        first, *rest = read_csv(tmp_path / "again.csv")
        assert (first["id"], first["path"]) == (gone, "")
        assert first["why"] == "no longer in the pool; at random: there are no labels yet"
        assert rest == read_csv(tmp_path / "batch.csv")[1:]
        assert "cannot be shown" in (tmp_path / "again.html").read_text()
        tasks = json.loads((tmp_path / "tasks.json").read_text())
        assert [task["data"]["lada_id"] for task in tasks] == others

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--out", "."], "--out: expected the name of a file, got '.'"),
            (["--out", ""], "--out: expected the name of a file, got '.'"),
            (["--out", "/"], "--out: expected the name of a file, got '/'"),
            (
                ["--out", "new.csv", "--again", 1, "--count", 20],
                "--count: --again writes a batch as it was asked for; give one of them",
            ),
            (
                ["--out", "new.csv", "--again", 1, "--from", "top.csv"],
                "--from: --again writes a batch as it was asked for; give one of them",
            ),
            (
                ["--out", "new.csv", "--image-prefix", "/images/"],
                "--image-prefix is for tasks of --label-studio, which is not given",
            ),
        ],
    )
    def test_options_that_would_do_nothing_are_refused(
        self, options: list[Any], message: str, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(project)
        assert lada("query", "--project", project, *options) == (2, "", f"lada: {message}\n")
        with Store(project / "labels.sqlite") as store:
            assert len(store.queries()) == 1

    def test_a_batch_whose_files_cannot_be_written_is_named(self, project: Path) -> None:
        name = "x" * 245 + ".csv"  # by itself not too long, but with .tmp it is
        code, _, err = lada("query", "--project", project, "--out", project / name)
        assert code == 1
        assert re.search(r"File name too long: .*; batch 2 is entered: `lada query --again 2` writes it\n$", err)
        assert lada("query", "--project", project, "--out", project / "2.csv", "--again", 2)[0] == 0
        assert len(read_csv(project / "2.csv")) == 20

    @pytest.mark.parametrize(("seed", "code"), [(2**63 - 1, 0), (2**63, 2)])
    def test_seeds_that_the_journal_cannot_hold_are_refused(
        self, seed: int, code: int, pool: Path, tmp_path: Path
    ) -> None:
        options = ["--pool", pool, "--classes", "a,b", "--project", tmp_path, "--seed", seed, "--method", "entropy"]
        found, _, err = lada("init", *options)
        assert found == code, err
        assert ("seed: Input should be less than 9223372036854775808" in err) == bool(code)
        if code == 0:
            assert lada("query", "--project", tmp_path, "--out", tmp_path / "b.csv", "--count", 2)[0] == 0

    def test_cells_that_a_spreadsheet_would_run_are_made_text_and_come_back(self, tmp_path: Path) -> None:
        pool = tmp_path / "pool"
        pool.mkdir()
        for name in ("=1+1.png", "'=1+1.png", "@x.png", "-2.png", "plain.png", "'x'.png"):
            Image.new("L", (20, 20)).save(pool / name)
        begin(tmp_path, pool, method="entropy", classes=["-", "+"])
        assert lada("query", "--project", tmp_path, "--out", tmp_path / "b.csv")[0] == 0
        ids = {row["id"] for row in read_csv(tmp_path / "b.csv")}
        assert ids == {"'=1+1.png", "''=1+1.png", "'@x.png", "'-2.png", "plain.png", "'x'.png"}
        code, out, _ = ingest(tmp_path, "id,label\n'=1+1.png,'-\n''=1+1.png,+\n@x.png,+\n'x'.png,-\n")
        assert code == 0, out
        assert journal(tmp_path) == {"=1+1.png": "-", "'=1+1.png": "+", "@x.png": "+", "'x'.png": "-"}

    def test_a_name_that_begins_with_a_quote_is_taken_as_it_is(self, tmp_path: Path) -> None:
        (tmp_path / "pool").mkdir()
        Image.new("L", (20, 20)).save(tmp_path / "pool" / "'=x.png")
        begin(tmp_path, tmp_path / "pool", method="entropy")
        assert ingest(tmp_path, "id,label\n'=x.png,3\n")[0] == 0
        assert journal(tmp_path) == {"'=x.png": "3"}


class TestList:
    """`lada query --from`, with what `lada score` and people write."""

    def test_the_top_of_a_scoring_becomes_a_batch(self, project: Path, pool: Path, tmp_path: Path) -> None:
        asked = ids_of(project)
        others = [id_ for id_ in projects.read(project).images().ids() if id_ not in asked][:4]
        rows = [[id_, 2.5 - i, 0.5, None, None] for i, id_ in enumerate([others[2], asked[0], *others[:2], others[2]])]
        scoring.write_csv(tmp_path / "top.csv", scoring.COLUMNS, rows)
        options = ["--from", tmp_path / "top.csv", "--out", tmp_path / "second.csv"]
        code, out, err = lada("query", "--project", project, *options)
        assert code == 0, err
        assert "1 image of the list left out: labelled or asked for already\n" in out
        assert "batch 2: 3 images" in out
        second = read_csv(tmp_path / "second.csv")
        assert [row["id"] for row in second] == [others[2], *others[:2]]
        assert [row["score"] for row in second] == ["2.5", "0.5", "'-0.5"]
        assert [row["why"] for row in second] == [f"place {i} in top.csv" for i in (1, 3, 4)]
        assert {(row["entropy"], row["predicted"]) for row in second} == {("0.5", "")}
        code, _, err = lada("query", "--project", project, *options[:3], tmp_path / "third.csv")
        assert code == 2
        assert err == f"lada: --from: all 4 images that {tmp_path / 'top.csv'} lists are labelled or asked for\n"
        fill_in(tmp_path / "second.csv", tmp_path / "labels.csv")
        assert lada("ingest", tmp_path / "labels.csv", "--project", project)[0] == 0
        assert lada("query", "--project", project, "--out", tmp_path / "third.csv", "--count", 2)[0] == 0

    def test_ids_of_a_column_are_the_same_for_scoring_and_labelling(self, tmp_path: Path) -> None:
        begin(tmp_path, POOLS["parquet folder"](tmp_path, 9), classes=["a", "b"])
        scoring.write_csv(tmp_path / "top.csv", scoring.COLUMNS, [[f"x{i}", i, i, None, None] for i in (5, 2)])
        options = ["--from", tmp_path / "top.csv", "--out", tmp_path / "batch.csv"]
        code, _, err = lada("query", "--project", tmp_path, *options)
        assert code == 0, err
        assert ids_of(tmp_path) == ["x5", "x2"]
        assert ingest(tmp_path, "id,label\nx5,a\nx8,b\n")[0] == 0
        assert journal(tmp_path) == {"x5": "a", "x8": "b"}

    def test_any_list_of_ids_will_do_and_count_cuts_it(self, tmp_path: Path) -> None:
        (tmp_path / "pool").mkdir()
        for name in ("=1.png", "a.png", "b.png"):
            Image.new("L", (20, 20)).save(tmp_path / "pool" / name)
        begin(tmp_path, tmp_path / "pool")
        (tmp_path / "list").write_text("ID;mine\nb.png;x\n'=1.png\na.png;y\n")
        code, _, err = lada(
            "query", "--project", tmp_path, "--from", tmp_path / "list", "--out", tmp_path / "batch.csv", "--count", 2
        )
        assert code == 0, err
        assert ids_of(tmp_path) == ["b.png", "'=1.png"]
        assert "2 images asked for by the list list on" in (tmp_path / "batch.html").read_text()

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("id\nx.png\n{a}\ny.png\n", ", line 2: the pool has no image 'x.png', nor those of 1 other lines"),
            ("id\n../x.png\n", ", line 2: the pool has no image '../x.png'"),
            ("id,score\n{a},high\n", ", line 2: score must be a finite number, got 'high'"),
            ("id,entropy\n{a},nan\n", ", line 2: entropy must be a finite number, got 'nan'"),
            ("id\n", " lists no images"),
            ("", ": expected a header with a column id, got ''"),
            ("id,id\n{a},{a}\n", ": expected one column id, got 2"),
        ],
    )
    def test_lists_that_do_not_fit_are_refused(self, text: str, message: str, project: Path) -> None:
        path = project / "top.csv"
        path.write_text(text.replace("{a}", ids_of(project)[0]))
        code, out, err = lada("query", "--project", project, "--from", path, "--out", project / "x.csv")
        assert (code, out) == (2, "")
        assert err.removeprefix("lada: ").removeprefix("--from: ") == f"{path}{message}\n"
        with Store(project / "labels.sqlite") as store:
            assert len(store.queries()) == 1


class TestIngest:
    def test_partial_batches_and_files_that_are_taken_twice(self, project: Path) -> None:
        fill_in(project / "batch.csv", project / "labels.csv", only=slice(0, 3))
        code, out, _ = lada("ingest", project / "labels.csv", "--project", project)
        assert code == 0
        assert "3 labels taken, 0 known already, 5 lines without one" in out
        fill_in(project / "batch.csv", project / "labels.csv")
        code, out, _ = lada("ingest", project / "labels.csv", "--project", project)
        assert "5 labels taken, 3 known already, 0 lines without one" in out
        code, out, _ = lada("ingest", project / "labels.csv", "--project", project)
        assert "0 labels taken, 8 known already, 0 lines without one" in out
        assert journal(project) == {id_: truth(id_) for id_ in ids_of(project)}
        with Store(project / "labels.sqlite") as store:
            assert store.last_label() == 8

    def test_labels_of_images_that_were_not_asked_for_are_welcome(self, project: Path) -> None:
        asked = set(ids_of(project))
        with Store(project / "labels.sqlite") as store:
            other = next(id_ for id_ in projects.read(project).images().ids() if id_ not in asked)
            assert ingest(project, f"id,label\n{other},3\n")[0] == 0
            assert store.labels() == {other: "3"}

    def test_labels_of_images_that_left_the_pool_are_taken(self, tmp_path: Path) -> None:
        pool = write_pool(tmp_path / "pool", 20)
        begin(tmp_path, pool, method="entropy")
        lada("query", "--project", tmp_path, "--out", tmp_path / "batch.csv", "--count", 4)
        fill_in(tmp_path / "batch.csv", tmp_path / "labels.csv")
        (pool / "part-0").rename(tmp_path / "elsewhere")
        code, out, _ = lada("ingest", tmp_path / "labels.csv", "--project", tmp_path)
        assert code == 0, out
        assert journal(tmp_path) == {id_: truth(id_) for id_ in ids_of(tmp_path)}

    def test_a_journal_that_another_process_holds_is_said(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("lada_al.label.store.SECONDS_TO_WAIT", 0.0)
        other = sqlite3.connect(project / "labels.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        text = f"id,label\n{ids_of(project)[0]},3\n"
        assert ingest(project, text) == (1, "", f"lada: {project / 'labels.sqlite'}: database is locked\n")
        other.close()
        assert ingest(project, text)[0] == 0

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("nothing.png,3", "line 3: the pool has no image 'nothing.png'"),
            ("../../etc/passwd,3", "line 3: the pool has no image '../../etc/passwd'"),
            (",3", "line 3: the pool has no image ''"),
            ("x" * 200 + ",3", "line 3: the pool has no image '" + "x" * 80 + "...'"),
            ("{b},cat", "line 3: 'cat' is no class of the project (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)"),
            ("{b},3,a\x1b[2Jb", "line 3: who must be a name of at most 100 characters, got 'a\ufffd[2Jb'"),
            ("{b},3,ana,yesterday", "line 3: at must be a time like 2026-01-31T12:00:00Z, got 'yesterday'"),
            ("{a},4", "line 3: '{a}' is '4' here and '3' in line 2; neither is taken"),
        ],
    )
    def test_bad_lines_are_refused_one_by_one(self, line: str, message: str, project: Path) -> None:
        a, b, c = ids_of(project)[:3]
        text = f"id,label,who,at\n{a},3,me,\n{line},me,\n{c},5,me,\n".replace(",a\x1b[2Jb,me,", ",a\x1b[2Jb,")
        text = text.replace("{a}", a).replace("{b}", b).replace("yesterday,me,", "yesterday")
        code, out, _ = ingest(project, text)
        assert code == 1
        assert "refused: 1\n" in out
        assert "  " + message.replace("{a}", a) in out.splitlines()
        kept = {c: "5"} if "neither" in message else {a: "3", c: "5"}
        assert journal(project) == kept

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "expected a header with the columns id and label, got ''"),
            (b"name,class\na,b\n", "expected a header with the columns id and label, got 'name,class'"),
            (b"id,label\n\xff\xfe,3\n", "is not UTF-8"),
            (b'id,label\n"a"b,3\n', "line 2: "),
            (b'sep=,\n\nid,label\n"a"b,3\n', "line 4: "),
            (b"id,label,Label\na,3,4\n", "labels.csv: expected one column label, got 2"),
            (b"id,label, ID\na,3,4\n", "labels.csv: expected one column id, got 2"),
            (b"sep=|\nid|label\na|3\n", "expected a header with the columns id and label, got 'id|label'"),
            (b'id,label\n"' + b"a" * 200_000 + b'",3\n', "field larger than field limit"),
        ],
    )
    def test_files_that_cannot_be_used_are_refused_whole(self, content: bytes, message: str, project: Path) -> None:
        (project / "labels.csv").write_bytes(content)
        code, out, err = lada("ingest", project / "labels.csv", "--project", project)
        assert (code, out) == (2, "")
        assert message in err
        assert len(err.splitlines()) == 1
        assert journal(project) == {}

    def test_missing_and_huge_files(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert "cannot be read" in lada("ingest", project / "none.csv", "--project", project)[2]
        monkeypatch.setattr("lada_al.label.sheet.MAX_BYTES", 5)
        assert "has 8 bytes, more than 5" in ingest(project, "id,label")[2]
        assert "holds no project.json" in lada("ingest", project / "labels.csv", "--project", project / "x")[2]
        assert "--who: expected a name of 1 to 100" in ingest(project, "id,label", who="x" * 101)[2]

    def test_what_spreadsheets_make_of_csv_is_read(self, project: Path) -> None:
        a, b = ids_of(project)[:2]
        (project / "excel.csv").write_bytes(f'\ufeffid;path;label\r\n"{a}";;3\r\n{b};; 4 \r\n;;\r\n'.encode())
        code, out, _ = lada("ingest", project / "excel.csv", "--project", project)
        assert code == 0, out
        assert journal(project) == {a: "3", b: "4"}

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("\n \r\n,,\nid,label\n{a},3\n{b},cat\n", 6),
            ("sep=;\nid;label\n{a};3\n{b};cat\n", 4),
            ('"SEP=,"\r\n\r\nid,label\r\n{a},3\r\n{b},cat\r\n', 5),
            ("sep=\t\rid\tlabel\r{a}\t3\r{b}\tcat\r", 4),
            ("ID,Label\n{a},3\n{b},cat\n", 3),
            ('id, label ," WHO"\n{a},3,ana\n{b},cat,ana\n', 3),
            ("label,note,id\n3,,{a}\n4\ncat,,{b}\n", 4),
            ("id,label\n{a},3,,\n\n{b},cat\n", 4),
        ],
    )
    def test_headers_are_found_and_lines_counted(self, text: str, line: int, project: Path) -> None:
        a, b = ids_of(project)[:2]
        (project / "labels.csv").write_bytes(text.format(a=a, b=b).encode())
        code, out, err = lada("ingest", project / "labels.csv", "--project", project)
        assert code == 1, err
        assert f"  line {line}: 'cat' is no class of the project (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)" in out.splitlines()
        assert journal(project) == {a: "3"}

    @pytest.mark.parametrize("cells", ["3,4", "3,,4", ",3"])
    def test_cells_that_the_header_does_not_name_are_refused(self, cells: str, project: Path) -> None:
        """A comma too many may have moved the label."""
        a, b = ids_of(project)[:2]
        code, out, _ = ingest(project, f"id,label\n{a},{cells}\n{b},5\n")
        assert code == 1
        assert f"  line 2: it has {2 + cells.count(',')} cells, and the header 2" in out.splitlines()
        assert journal(project) == {b: "5"}

    def test_second_opinions_corrections_and_disputes(self, project: Path) -> None:
        a = ids_of(project)[0]
        assert ingest(project, f"id,label\n{a},3\n", who="ana")[0] == 0
        code, out, _ = ingest(project, f"id,label\n{a},5\n", who="bob")
        assert code == 0
        assert f"  {a} (ana: '3', bob: '5')" in out.splitlines()
        assert "in dispute, and without a label" in out
        assert journal(project) == {}
        code, out, _ = ingest(project, f"id,label,who\n{a},5,eve\n", who="me")
        assert f"  {a} stays '5' (ana: '3', bob: '5', eve: '5')" in out.splitlines()
        code, out, _ = ingest(project, f"id,label\n{a},5\n", who="ana")
        assert f"  {a}: ana said '3', now '5'" in out.splitlines()
        assert journal(project) == {a: "5"}
        with Store(project / "labels.sqlite") as store:
            assert store.last_label() == 4

    def test_a_file_that_is_taken_again_does_not_take_back_a_correction(self, project: Path) -> None:
        a = ids_of(project)[0]
        first = f"id,label\n{a},3\n"
        assert ingest(project, first, who="ana")[0] == 0
        assert ingest(project, f"id,label\n{a},5\n", who="ana")[0] == 0
        code, out, _ = ingest(project, first, who="ana")
        assert code == 1
        assert re.search(rf"line 2: ana said '5' of '{a}' at .*, after '3'; to go back, give a later time", out)
        assert journal(project) == {a: "5"}
        code, out, _ = ingest(project, f"id,label,at\n{a},3,2020-01-31T12:00:00Z\n", who="ana")
        assert code == 1
        assert journal(project) == {a: "5"}
        code, out, _ = ingest(project, f"id,label,at\n{a},3,2999-01-31T12:00:00\n", who="ana")
        assert code == 0
        assert journal(project) == {a: "3"}

    def test_a_batch_does_not_overwrite_itself(self, project: Path) -> None:
        for name, more in (("q.html", []), ("q.csv", ["--label-studio", project / "q.csv"])):
            code, _, err = lada("query", "--project", project, "--out", project / name, *more)
            assert code == 2
            assert "must be different files" in err
        with Store(project / "labels.sqlite") as store:
            assert len(store.pending()) == 8


class TestLabelStudio:
    """Files in the format of its documentation: "Label Studio JSON format of annotated tasks"."""

    def tasks(self, project: Path) -> list[dict[str, Any]]:
        path = project / "tasks.json"
        if not path.exists():
            out = project / "with-tasks.csv"
            assert lada("query", "--project", project, "--out", out, "--again", 1, "--label-studio", path)[0] == 0
        return json.loads(path.read_text())

    def annotated(self, task: dict[str, Any], label: str, **changes: Any) -> dict[str, Any]:
        annotation = {
            "id": 1001,
            "result": [
                {
                    "from_name": "choice",
                    "id": "Dx_aB91ISN",
                    "source": "$image",
                    "to_name": "image",
                    "type": "choices",
                    "value": {"choices": [label]},
                    "origin": "manual",
                }
            ],
            "was_cancelled": False,
            "ground_truth": False,
            "created_at": "2021-03-09T22:16:08.728353Z",
            "updated_at": "2021-03-09T22:16:08.728378Z",
            "lead_time": 4.288,
            "result_count": 0,
            "task": 1,
            "completed_by": 10,
        }
        return {
            "id": 1,
            "created_at": "2021-03-09T21:52:49.513742Z",
            "updated_at": "2021-03-09T22:16:08.746926Z",
            "project": 83,
            "drafts": [],
            "predictions": [],
            **task,
            "annotations": [{**annotation, **changes}],
        }

    def test_tasks_have_predictions_and_a_score_to_sort_by(self, project: Path) -> None:
        with Store(project / "labels.sqlite") as store:
            taken = ids_of(project)
            a, b = [id_ for id_ in projects.read(project).images().ids() if id_ not in taken][:2]
            store.add_query("entropy", 1, 1, 0, [Ranked(a, 2.5, "w", "3", 2.5), Ranked(b, 1.5, "w", "4", 1.5)])
        path = project / "two.json"
        code, out, _ = lada(
            "query", "--project", project, "--out", project / "two.csv", "--again", 2, "--label-studio", path
        )
        assert code == 0
        assert '<Choices name="choice" toName="image" choice="single">' in out
        assert '<Choice value="9"/>' in out
        tasks = json.loads(path.read_text())
        assert [task["data"]["lada_id"] for task in tasks] == [a, b]
        assert all(set(task) == {"data", "predictions"} for task in tasks)
        predictions = [task["predictions"] for task in tasks]
        assert [len(p) for p in predictions] == [1, 1]
        assert [p[0]["score"] for p in predictions] == [2.5, 1.5]
        result = predictions[0][0]["result"][0]
        assert (result["type"], result["from_name"], result["to_name"]) == ("choices", "choice", "image")
        assert result["value"] == {"choices": ["3"]}
        assert len({p[0]["result"][0]["id"] for p in predictions}) == 2
        assert tasks[0]["data"]["image"].startswith("data:image/png;base64,")

    def test_images_may_stay_where_they_are(self, project: Path) -> None:
        path, prefix = project / "t.json", "/data/local-files/?d=digits/"
        lada(
            "query",
            "--project",
            project,
            "--out",
            project / "t.csv",
            "--again",
            1,
            "--label-studio",
            path,
            "--image-prefix",
            prefix,
        )
        task = json.loads(path.read_text())[0]
        assert task["data"]["image"] == prefix + ids_of(project)[0]
        assert "predictions" not in task  # the first batch is drawn at random

    def test_addresses_are_those_of_files_whatever_their_names(self, tmp_path: Path) -> None:
        begin(tmp_path, oddly_named(tmp_path), method="random")
        out = ["--out", tmp_path / "b.csv", "--label-studio", tmp_path / "t.json", "--image-prefix", "http://x/?d="]
        assert lada("query", "--project", tmp_path, *out)[0] == 0
        tasks = [task["data"] for task in json.loads((tmp_path / "t.json").read_text())]
        found = {os.fsdecode(unquote_to_bytes(t["image"].removeprefix("http://x/?d="))): t["lada_id"] for t in tasks}
        assert found == ODD_NAMES

    def test_images_that_are_no_files_have_no_addresses(self, tmp_path: Path) -> None:
        begin(tmp_path, POOLS["parquet file"](tmp_path, 5))
        out = ["--out", tmp_path / "b.csv", "--label-studio", tmp_path / "t.json", "--image-prefix", "/"]
        code, _, err = lada("query", "--project", tmp_path, *out)
        assert code == 2
        assert err.startswith(f"lada: --image-prefix: the images of {tmp_path}/images.parquet are no files")
        assert not (tmp_path / "labels.sqlite").exists()

    def test_annotations_come_back(self, project: Path) -> None:
        tasks = self.tasks(project)
        ids = [task["data"]["lada_id"] for task in tasks]
        export = [
            self.annotated(tasks[0], "3"),
            self.annotated(
                tasks[1], "4", completed_by={"id": 2, "email": "ana@example.com", "first_name": "", "last_name": ""}
            ),
            self.annotated(tasks[2], "4", was_cancelled=True, result=[]),
            {**tasks[3], "id": 9, "annotations": []},
        ]
        code, out, _ = ingest(project, json.dumps(export), "export.json")
        assert code == 0, out
        assert "2 labels and 1 skip taken, 0 known already" in out
        assert journal(project) == {ids[0]: "3", ids[1]: "4"}
        with Store(project / "labels.sqlite") as store:
            verdicts = store.verdicts()
        (vote,) = verdicts[ids[0]].votes
        assert (vote.who, vote.at) == ("label-studio:10", "2021-03-09T22:16:08.728378Z")
        assert verdicts[ids[1]].votes[0].who == "label-studio:ana@example.com"
        assert verdicts[ids[2]].votes[0].label is None
        assert "0 labels taken, 3 known already" in ingest(project, json.dumps(export), "export.json")[1]

    def test_several_annotators_vote(self, project: Path) -> None:
        task = self.tasks(project)[0]
        export = self.annotated(task, "3")
        export["annotations"] += [{**export["annotations"][0], "completed_by": who} for who in (11, 12)]
        assert ingest(project, json.dumps([export]), "export.json")[0] == 0
        with Store(project / "labels.sqlite") as store:
            assert len(store.verdicts()[task["data"]["lada_id"]].votes) == 3

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"completed_by": None}, "task 1: completed_by names nobody"),
            ({"completed_by": {}}, "task 1: an annotation is not in Label Studio's format (KeyError('id'))"),
            ({"result": []}, "task 1: expected one choice, got 0"),
            ({"result": None}, "task 1: an annotation is not in Label Studio's format"),
            ({"result": [{"type": "choices", "value": {"choices": ["3", "4"]}}]}, "task 1: expected one choice, got 2"),
            ({"result": [{"type": "rectanglelabels", "value": {}}]}, "task 1: expected one choice, got 0"),
            (
                {"result": [{"type": "choices", "value": {"choices": ["cat"]}}]},
                "task 1: 'cat' is no class of the project",
            ),
            ({"updated_at": 5}, "task 1: updated_at is no time"),
            ({"updated_at": "soon"}, "task 1: at must be a time"),
        ],
    )
    def test_bad_annotations_are_refused_one_by_one(self, changes: dict, message: str, project: Path) -> None:
        tasks = self.tasks(project)
        export = [self.annotated(tasks[0], "3", **changes), {**self.annotated(tasks[1], "4"), "id": 2}]
        code, out, _ = ingest(project, json.dumps(export), "export.json")
        assert code == 1
        assert message in out
        assert journal(project) == {tasks[1]["data"]["lada_id"]: "4"}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "not JSON"),
            ("[" * 100_000, "not JSON"),
            ("{}", "expected Label Studio's export format JSON: a list of tasks"),
            ("[1]", "expected Label Studio's export format JSON: a list of tasks"),
            ('[{"image": "x", "choice": "3", "annotator": 1}]', "export in the format JSON, not JSON_MIN"),
        ],
    )
    def test_other_files_are_refused_whole(self, text: str, message: str, project: Path) -> None:
        code, out, err = ingest(project, text, "export.json")
        assert (code, out) == (2, "")
        assert err.startswith(f"lada: {project / 'export.json'}: ")
        assert message in err

    def test_tasks_of_others_are_named(self, project: Path) -> None:
        export = [self.annotated({"data": {"image": "x"}}, "3"), {"id": 5, "data": None, "annotations": {}}]
        code, out, _ = ingest(project, json.dumps(export), "export.json")
        assert code == 1
        assert "task 1: its data has no lada_id" in out
        assert "task 5: its data has no lada_id" in out


def test_bad_folders_are_refused_before_anything_is_asked(project: Path) -> None:
    code, _, err = lada("query", "--project", project, "--out", project / "none" / "b.csv")
    assert (code, "there is no folder" in err) == (2, True)
    with Store(project / "labels.sqlite") as store:
        assert len(store.queries()) == 1
    with pytest.raises(UsageError):
        queries.again(project, 7)
