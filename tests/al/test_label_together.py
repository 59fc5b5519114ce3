"""Several people who label at once, each with a `lada label` of their own: they see different images, and a label that
was acknowledged is in the file labels.sqlite itself, whoever has it open."""

from __future__ import annotations

import errno
import fcntl
import shutil
from pathlib import Path

import pytest
from labelling import Page, begin, lada, truth, write_pool
from lada_al.label.claims import Claims
from lada_al.label.store import Store

COUNT = 7


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pool(tmp_path_factory.mktemp("pool"), 20)


@pytest.fixture
def project(pool: Path, tmp_path: Path) -> Path:
    begin(tmp_path / "project", pool, method="entropy")
    options = ["--out", tmp_path / "batch.csv", "--count", COUNT]
    assert lada("query", "--project", tmp_path / "project", *options)[0] == 0
    return tmp_path / "project"


def test_two_people_see_different_images_and_all_are_labelled(project: Path) -> None:
    with Page(project, "--who", "ana") as ana, Page(project, "--who", "ben") as ben:
        pages = [ana, ben]
        shown = [page.state() for page in pages]
        for turn in range(COUNT - 2):
            page, state, other = pages[turn % 2], shown[turn % 2], shown[1 - turn % 2]
            assert state["item"]["number"] != other["item"]["number"]
            now = shown[turn % 2] = page.label(state["item"]["number"], truth(state["item"]["id"]))
            assert now["next"] not in (now["item"]["number"], other["item"]["number"])
        state = ana.label(shown[0]["item"]["number"], "3")
        assert (state["item"], state["elsewhere"]) == (None, 1)
        last = shown[1]["item"]["number"]
        assert ana.state("shared")["item"]["number"] == last  # who asks for it sees it too, and nobody else
        assert ana.state()["item"] is None
        assert ben.label(last, "3")["item"] is None
        assert ana.state()["elsewhere"] == 0
        shutil.copy(project / "labels.sqlite", project / "copy.sqlite")
    with Store(project / "copy.sqlite") as copy:
        assert len(copy.labels()) == COUNT
    with Store(project / "labels.sqlite") as store:
        assert len(store.labels()) == COUNT
        assert store.last_label() == COUNT


def test_what_a_killed_page_showed_is_shown_to_others(project: Path) -> None:
    with Page(project) as first, Page(project) as second:
        assert first.state()["item"]["number"] == 1
        assert second.state()["item"]["number"] == 2
    with Page(project) as third:
        assert third.state()["item"]["number"] == 1


def test_on_a_disk_without_locks_every_image_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lockf(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", lockf)
    with Claims(tmp_path / "pages.lock") as claims:
        assert claims.take(1)
        assert claims.is_free(2)
        assert claims.take(2)
