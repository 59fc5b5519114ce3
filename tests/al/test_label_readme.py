"""The README's section on people who label runs as it stands there, on a folder of images made from mnist5k."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from labelling import Page, fill_in, lada, read_csv, truth, write_pool
from lada_al.label.store import Store

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "README.md").read_text().split("## Your images, labelled by people")[1]
COMMANDS = re.findall(r"^lada (.*)$", re.findall(r"```sh\n(.*?)```", SECTION, re.DOTALL)[0], re.MULTILINE)
INGESTED = 8  # of the second batch by spreadsheet; the rest comes from Label Studio


def label_in_the_page(count: int) -> None:
    """Starts `lada label` and answers as its page does."""
    with Page(Path()) as page:
        state = page.state()
        for _ in range(count):
            state = page.label(state["item"]["number"], truth(state["item"]["id"]))
        assert state["item"] is None


def annotate(tasks: Path, export: Path) -> None:
    """What Label Studio exports when the tasks that are left are annotated."""
    exported = []
    for task in json.loads(tasks.read_text())[INGESTED:]:
        choice = {
            "type": "choices",
            "from_name": "choice",
            "to_name": "image",
            "value": {"choices": [truth(task["data"]["lada_id"])]},
        }
        annotation = {
            "result": [choice],
            "completed_by": 1,
            "was_cancelled": False,
            "updated_at": "2026-01-31T12:00:00Z",
        }
        exported.append({**task, "annotations": [annotation]})
    export.write_text(json.dumps(exported))


def test_the_workflow_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "python"), prepend=":")
    write_pool(tmp_path / "photos", 200)
    done = []
    for line in COMMANDS:
        command, *arguments = shlex.split(line, comments=True)
        if arguments == ["second.csv"]:
            rows = Path("second.csv").read_text()
            fill_in(Path("second.csv"), Path("second.csv"), only=slice(0, INGESTED))
            assert rows != Path("second.csv").read_text()
        if arguments == ["export.json"]:
            annotate(Path("second.json"), Path("export.json"))
        if command == "label":
            label_in_the_page(count=20)
        else:
            code, out, err = lada(command, *arguments)
            assert code == 0, (line, out, err)
        done.append(command)
    assert done == ["init", "query", "label", "query", "ingest", "ingest", "query"]
    with Store(tmp_path / "labels.sqlite") as store:
        labels = store.labels()
        assert [query.labels_seen for query in store.queries()] == [0, 20, 40]
    assert len(labels) == 40
    assert all(label == truth(id_) for id_, label in labels.items())
    third = [row["id"] for row in read_csv(tmp_path / "third.csv")]
    assert len(third) == 20
    assert not set(third) & set(labels)


def test_every_command_and_option_is_in_the_docs() -> None:
    docs = "".join(path.read_text() for path in [ROOT / "README.md", ROOT / "docs" / "labelling.md"])
    for command in ("init", "query", "ingest", "label"):
        assert f"lada {command}" in docs
    for option in ("--again", "--from", "--label-studio", "--image-prefix", "--review", "--who", "--port", "--project"):
        assert option in docs
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", docs):
        assert (ROOT / "docs" / picture).is_file()
