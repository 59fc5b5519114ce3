"""Pools of a labelling project: ids, files that cannot be decoded, and names that try to reach outside."""

from __future__ import annotations

import io
import json
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from labelling import lada
from lada_al.errors import UsageError
from lada_al.label import begin, project
from lada_al.label.images import Images, decode
from lada_al.pools import Limits, UnreadableError, open_pool
from PIL import Image
from pooling import ODD_NAMES, POOLS, badly_tagged, contents, oddly_named, pixels, tiff
from tiny import write_parquet


def write(path: Path, size: tuple[int, int] = (12, 9), mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, 100).save(path)


def decoded(stored: bytes) -> Image.Image:
    return decode(stored, Limits())


def opened(path: Path, **options: bool) -> Images:
    return Images(open_pool(path, **options))


@pytest.mark.parametrize("kind", POOLS)
def test_ids_and_images_are_those_of_the_pool_that_is_scored(kind: str, tmp_path: Path) -> None:
    path = POOLS[kind](tmp_path, 20)
    pool = opened(path)
    scored = contents(open_pool(path))
    assert pool.ids() == [str(id_) for id_ in scored]
    for place, (id_, stored) in reversed(list(enumerate(scored.items()))):
        assert pool.place(str(id_)) == place
        assert pool.image(str(id_)).tobytes() == stored
    for ask in (pool.image, pool.location, pool.file, pool.place):
        with pytest.raises(KeyError):
            ask("../x")


def test_several_threads_may_ask(tmp_path: Path) -> None:
    pool = opened(POOLS["parquet file"](tmp_path, 40))
    ids = random.Random(1).sample(pool.ids() * 5, 200)
    alone = {id_: pool.image(id_).tobytes() for id_ in pool.ids()}
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda id_: pool.image(id_).tobytes(), ids)) == [alone[id_] for id_ in ids]


class TestFolder:
    def test_ids_are_paths_below_it(self, tmp_path: Path) -> None:
        for name in ("b.png", "a/2.jpg", "a/1.PNG", "c/d/e.webp", ".hidden.png", ".git/x.png", "notes.txt"):
            if name.endswith("txt"):
                (tmp_path / name).write_text("x")
            else:
                write(tmp_path / name)
        pool = opened(tmp_path)
        assert sorted(pool.ids()) == ["a/1.PNG", "a/2.jpg", "b.png", "c/d/e.webp"]
        assert pool.image("a/2.jpg").size == (12, 9)
        assert pool.location("b.png") == str(tmp_path / "b.png")

    @pytest.mark.parametrize(
        "id_", ["../secret.png", "/etc/passwd", "a/../b.png", "./b.png", "B.png", "", "link/x.png"]
    )
    def test_only_what_it_holds_has_an_id(self, id_: str, tmp_path: Path) -> None:
        write(tmp_path / "secret.png")
        write(tmp_path / "pool" / "b.png")
        (tmp_path / "pool" / "link").symlink_to(tmp_path)
        pool = opened(tmp_path / "pool")
        for ask in (pool.image, pool.location, pool.file):
            with pytest.raises(KeyError):
                ask(id_)

    def test_links_that_lead_outside_are_not_read(self, tmp_path: Path) -> None:
        write(tmp_path / "secret.png")
        write(tmp_path / "pool" / "b.png")
        (tmp_path / "pool" / "out.png").symlink_to(tmp_path / "secret.png")
        (tmp_path / "pool" / "in.png").symlink_to(tmp_path / "pool" / "b.png")
        (tmp_path / "pool" / "broken.png").symlink_to(tmp_path / "pool" / "nothing.png")
        pool = opened(tmp_path / "pool")
        assert pool.image("in.png").size == (12, 9)
        for id_, reason in (("out.png", "outside of the pool's folder"), ("broken.png", "No such file")):
            with pytest.raises(UnreadableError, match=reason):
                pool.image(id_)

    def test_any_name_of_a_file_is_part_of_it(self, tmp_path: Path) -> None:
        pool = opened(oddly_named(tmp_path))
        assert sorted(pool.ids()) == sorted(ODD_NAMES.values())
        for (name, id_), image in zip(ODD_NAMES.items(), pixels(len(ODD_NAMES)), strict=True):
            assert pool.image(id_).tobytes() == image.tobytes()
            assert pool.location(id_) == f"{tmp_path}/odd/{id_}"
            assert pool.file(id_) == os.fsencode(name)


class TestParquet:
    def test_rows_of_files_and_row_groups(self, tmp_path: Path) -> None:
        write_parquet(tmp_path / "a.parquet", 5, seed=1)
        table = pq.read_table(tmp_path / "a.parquet")
        pq.write_table(table, tmp_path / "b.parquet", row_group_size=2)
        pool = opened(tmp_path)
        assert pool.ids() == [f"{name}.parquet#{row}" for name in "ab" for row in range(5)]
        for row in range(5):
            data = table["image"][row]["bytes"].as_py()
            image = np.asarray(pool.image(f"b.parquet#{row}"))
            assert np.array_equal(image, np.asarray(Image.open(io.BytesIO(data))))
        assert opened(tmp_path / "a.parquet").ids() == pool.ids()[:5]
        assert pool.location("b.parquet#3") == f"{tmp_path / 'b.parquet'}#3"
        assert pool.file("b.parquet#3") is None

    @pytest.mark.parametrize(
        "id_", ["a.parquet#5", "a.parquet#-1", "a.parquet#01", "a.parquet#²", "../a.parquet#1", "#1", ""]
    )
    def test_only_what_it_holds_has_an_id(self, id_: str, tmp_path: Path) -> None:
        write_parquet(tmp_path / "a.parquet", 5, seed=1)
        with pytest.raises(KeyError):
            opened(tmp_path).image(id_)

    def test_bytes_a_path_or_neither(self, tmp_path: Path) -> None:
        file = io.BytesIO()
        Image.new("RGB", (5, 4)).save(file, "PNG")
        write(tmp_path / "b.png")
        rows = [{"bytes": file.getvalue(), "path": None}, {"bytes": None, "path": "b.png"}, None]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        pq.write_table(pa.table({"image": pa.array(rows, kind)}), tmp_path / "a.parquet")
        pool = opened(tmp_path / "a.parquet")
        assert pool.image("a.parquet#0").size == (5, 4)
        assert pool.image("a.parquet#1").size == (12, 9)
        with pytest.raises(UnreadableError, match="there are no bytes"):
            pool.image("a.parquet#2")

    def test_places_are_found_though_a_column_says_the_ids(self, tmp_path: Path) -> None:
        path = POOLS["parquet folder"](tmp_path, 20)
        pool = opened(path)
        assert pool.ids()[:2] == ["x0", "x1"]
        assert pool.location("x8") == f"{path}/1.parquet#1"
        rows = opened(path, own_ids=False)
        assert rows.ids()[7:9] == ["1.parquet#0", "1.parquet#1"]
        assert rows.image("1.parquet#1").tobytes() == pool.image("x8").tobytes()


class TestDecode:
    def test_modes_and_the_right_way_up(self) -> None:
        for mode, wanted in (("1", "L"), ("L", "L"), ("LA", "L"), ("P", "RGB"), ("RGBA", "RGB"), ("I;16", "L")):
            file = io.BytesIO()
            Image.new(mode, (4, 3)).save(file, "PNG")
            assert decoded(file.getvalue()).mode == wanted, mode
        file = io.BytesIO()
        Image.fromarray(np.full((2, 2), 65535, np.uint16)).save(file, "PNG")
        assert np.asarray(decoded(file.getvalue())).tolist() == [[255, 255]] * 2
        turned = Image.Exif()
        turned[0x0112] = 6
        file = io.BytesIO()
        Image.new("L", (4, 3)).save(file, "JPEG", exif=turned)
        assert decoded(file.getvalue()).size == (3, 4)

    def test_less_usual_files(self) -> None:
        assert decoded(tiff("La")).mode == "L"
        assert decoded(tiff("LAB")).mode == "RGB"
        assert decoded(badly_tagged()).size == (8, 16)
        with pytest.raises(UnreadableError, match="floating pixels"):
            decoded(tiff("F"))

    @pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"<svg/>"])
    def test_what_is_no_image(self, content: bytes) -> None:
        with pytest.raises(UnreadableError):
            decoded(content)

    def test_a_file_cut_short(self) -> None:
        file = io.BytesIO()
        Image.effect_noise((50, 50), 50).save(file, "PNG")
        with pytest.raises(UnreadableError):
            decoded(file.getvalue()[:-500])

    def test_sizes_are_limited(self, tmp_path: Path) -> None:
        file = io.BytesIO()
        Image.new("1", (8000, 8000)).save(file, "PNG")
        assert len(file.getvalue()) < 20_000  # a decompression bomb
        with pytest.raises(UnreadableError, match="8000 x 8000 pixels, more than 50000000"):
            decoded(file.getvalue())
        (tmp_path / "a.png").write_bytes(file.getvalue())
        pool = Images(open_pool(tmp_path, limits=Limits(bytes=len(file.getvalue()) - 1)))
        with pytest.raises(UnreadableError, match="bytes, more than"):
            pool.image("a.png")


class TestProject:
    def test_what_is_created_is_read_again(self, tmp_path: Path) -> None:
        for i in range(3):
            write(tmp_path / "pool" / f"{i}.png", (20, 24))
        made = begin.create(tmp_path, tmp_path / "pool", ["cat", "<b>dog</b>"], None, seed=7)
        assert made == project.read(tmp_path)
        assert (made.kind, made.size, made.channels, made.seed) == ("folder", (24, 20), 1, 7)
        with pytest.raises(UsageError, match=r"project\.json exists; a project is begun once"):
            begin.create(tmp_path, tmp_path / "pool", ["cat", "dog"], None)

    @pytest.mark.parametrize("kind", POOLS)
    def test_any_pool_that_can_be_scored_will_do(self, kind: str, tmp_path: Path) -> None:
        made = begin.create(tmp_path / "new", POOLS[kind](tmp_path, 20), ["cat", "dog"], None)
        assert (made.size, made.channels) == ((12, 12), 1)
        assert len(project.read(tmp_path / "new").images().ids()) == 20

    def test_what_is_no_pool(self, tmp_path: Path) -> None:
        (tmp_path / "x.txt").touch()
        for path, message in (
            (tmp_path / "nowhere", "pool: there is no"),
            (tmp_path / "x.txt", "is of no known kind"),
            (tmp_path, "holds no image files"),
        ):
            with pytest.raises(UsageError, match=message):
                begin.create(tmp_path / "new", path, ["cat", "dog"], None)

    def test_projects_begun_before_ids_were_the_pools_own_keep_file_and_row(self, tmp_path: Path) -> None:
        begin.create(tmp_path, POOLS["parquet folder"](tmp_path, 20), ["cat", "dog"], None)
        path = tmp_path / "project.json"
        about = json.loads(path.read_text())
        assert about.pop("ids") == "own"
        path.write_text(json.dumps(about))
        assert project.read(tmp_path).images().ids()[:2] == ["0.parquet#0", "0.parquet#1"]

    def test_a_project_keeps_its_kind_of_pool(self, tmp_path: Path) -> None:
        write(tmp_path / "pool" / "a.png", (20, 24))
        made = begin.create(tmp_path, tmp_path / "pool", ["cat", "dog"], None)
        write_parquet(tmp_path / "pool" / "later.parquet", 3, seed=1)
        assert made.images().ids() == ["a.png"]

    def test_images_of_several_sizes_are_scaled(self, tmp_path: Path) -> None:
        write(tmp_path / "pool" / "a.png", (20, 24), "RGB")
        write(tmp_path / "pool" / "b.png", (30, 24))
        (tmp_path / "pool" / "broken.png").write_text("x")
        made = begin.create(tmp_path / "one", tmp_path / "pool", ["cat", "dog"], None)
        assert (made.size, made.channels) == ((64, 64), 3)
        assert begin.create(tmp_path / "two", tmp_path / "pool", ["cat", "dog"], 32).size == (32, 32)

    def test_files_that_cannot_be_read_are_passed_over(self, tmp_path: Path) -> None:
        write(tmp_path / "pool" / "good.png", (20, 24))
        for i in range(70):
            (tmp_path / "pool" / f"!{i}.png").touch()
        assert begin.create(tmp_path / "new", tmp_path / "pool", ["cat", "dog"], None).size == (24, 20)
        (tmp_path / "pool" / "good.png").unlink()
        with pytest.raises(UsageError, match="--pool: none of the 70 images can be decoded"):
            begin.create(tmp_path / "none", tmp_path / "pool", ["cat", "dog"], None)

    def test_the_kind_of_a_pool_is_what_it_is_for_scoring(self, tmp_path: Path) -> None:
        (tmp_path / "deep" / "below").mkdir(parents=True)
        write_parquet(tmp_path / "deep" / "below" / "a.parquet", 3, seed=1)
        assert begin.create(tmp_path / "one", tmp_path / "deep", ["cat", "dog"], None).kind == "parquet"
        write(tmp_path / "pool" / "a.png", (20, 24))
        write_parquet(tmp_path / "pool" / ".hidden.parquet", 3, seed=1)
        assert begin.create(tmp_path / "two", tmp_path / "pool", ["cat", "dog"], None).kind == "folder"
        (tmp_path / "pool" / ".hidden.parquet").rename(tmp_path / "pool" / "seen.parquet")
        message = r"^--pool: .*pool holds image files \(a.png\) and Parquet files \(seen.parquet\)"
        with pytest.raises(UsageError, match=message):
            begin.create(tmp_path / "three", tmp_path / "pool", ["cat", "dog"], None)

    @pytest.mark.parametrize(
        ("given", "names"),
        [("cat, dog", ["cat", "dog"]), ('cat, "dog, small","say ""hi"""', ["cat", "dog, small", 'say "hi"'])],
    )
    def test_class_names_are_a_list_as_csv_writes_it(self, given: str, names: list[str], tmp_path: Path) -> None:
        write(tmp_path / "pool" / "a.png", (20, 20))
        code, out, err = lada("init", "--project", tmp_path, "--pool", tmp_path / "pool", "--classes", given)
        assert code == 0, err
        assert out == f"{tmp_path / 'project.json'}: 1 image, {len(names)} classes, seen as 20 x 20\n"
        assert project.read(tmp_path).classes == names

    def test_a_pool_that_was_moved_is_told(self, tmp_path: Path) -> None:
        write(tmp_path / "pool" / "a.png", (20, 20))
        begun = begin.create(tmp_path, tmp_path / "pool", ["cat", "dog"], None)
        (tmp_path / "pool").rename(tmp_path / "moved")
        with pytest.raises(UsageError, match=r"pool: there is no .*pool any more; project.json says where it is"):
            begun.images()

    @pytest.mark.parametrize("given", ['cat,"dog', 'cat,"do"g', "cat\ndog"])
    def test_class_names_that_are_no_list_are_refused(self, given: str, tmp_path: Path) -> None:
        write(tmp_path / "pool" / "a.png", (20, 20))
        code, _, err = lada("init", "--project", tmp_path, "--pool", tmp_path / "pool", "--classes", given)
        assert (code, err[:23]) == (2, "lada: --classes: expect")
        assert not (tmp_path / "project.json").exists()

    def test_twelve_bits_in_files_of_sixteen_are_told_and_taken(self, tmp_path: Path) -> None:
        (tmp_path / "pool").mkdir()
        Image.fromarray(np.full((20, 20), 2048, np.uint16)).save(tmp_path / "pool" / "a.png")
        arguments = ["init", "--pool", tmp_path / "pool", "--classes", "a,b", "--project"]
        code, out, err = lada(*arguments, tmp_path / "dark")
        assert code == 0, err
        assert "no pixel above 8 of 255" in out
        code, out, err = lada(*arguments, tmp_path / "bright", "--white", 4095)
        assert code == 0, err
        assert "255" not in out
        assert np.unique(project.read(tmp_path / "bright").images().image("a.png")) == [128]
        code, _, err = lada(*arguments, tmp_path / "wrong", "--white", 65536)
        assert (code, err) == (2, "lada: white must be from 1 to 65535, got 65536\n")

    def test_small_images_are_scaled_up_to_what_a_network_takes(self, tmp_path: Path) -> None:
        write(tmp_path / "pool" / "a.png", (4, 12))
        assert begin.create(tmp_path, tmp_path / "pool", ["cat", "dog"], None).size == (12, 8)

    @pytest.mark.parametrize(
        ("classes", "options", "message"),
        [
            (["cat"], {}, "classes must be at least two names, got ['cat']"),
            (["cat", "cat"], {}, "classes must differ, got cat, cat"),
            (["cat", ""], {}, "classes must be names of 1 to 100 characters"),
            (["cat", "do\x1bg"], {}, "classes must be names of 1 to 100 characters"),
            (["cat", "dog"], {"method": "lada-foo"}, "unknown method 'lada-foo'"),
            (["cat", "dog"], {"model": "vgg"}, "unknown model 'vgg'"),
            (["cat", "dog"], {"seed": -1}, "seed: Input should be greater than or equal to 0"),
            (["cat", "dog"], {"settings": {"epochs": "few"}}, "epochs: Input should be a valid integer"),
            (["cat", "dog"], {"settings": {"rounds": 3}}, "'rounds' is no setting of a ranking"),
            (["cat", "dog"], {"settings": {"preset": "paper"}}, "restart_weights must be true"),
            (
                ["cat", "dog"],
                {"settings": {"layers": (1, 9)}},
                "layers must lie below 3, from where model small has no feature maps, got (1, 9)",
            ),
            (
                ["cat", "dog"],
                {"settings": {"pairs": "all"}},
                "pairs=all needs layers where mixing features is mixing logits",
            ),
        ],
    )
    def test_bad_ones_write_nothing(self, classes: list[str], options: dict, message: str, tmp_path: Path) -> None:
        from lada_al.errors import one_line
        from pydantic import ValidationError

        write(tmp_path / "pool" / "a.png", (20, 20))
        with pytest.raises((UsageError, ValidationError)) as caught:
            begin.create(tmp_path / "new", tmp_path / "pool", classes, None, **options)
        error = caught.value
        assert message in (one_line(error) if isinstance(error, ValidationError) else str(error))
        assert not (tmp_path / "new").exists()

    def test_a_damaged_or_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="`lada init` begins a project"):
            project.read(tmp_path)
        (tmp_path / "project.json").write_text('{"pool": ')
        with pytest.raises(UsageError, match=r"project\.json: .*Invalid JSON"):
            project.read(tmp_path)
