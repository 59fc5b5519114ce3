"""Label Studio: a batch as tasks with predictions, and its JSON annotations as answers.

The formats are those of its documentation ("Import pre-annotated data", "Label Studio JSON format of annotated tasks").
The labelling interface that fits is

    <View>
      <Image name="image" value="$image"/>
      <Choices name="choice" toName="image" choice="single"> <Choice value="..."/> for each class </Choices>
    </View>

which `interface` writes. In its Data Manager, tasks sort by `prediction score`: that is the score of the query, so
descending order is the order to label in; `rank` in the data sorts the same, ascending.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from lada_al.errors import UsageError
from lada_al.files import write_text
from lada_al.label.images import Images
from lada_al.label.query import data_uri
from lada_al.label.store import Query, QueryItem, Vote
from lada_al.pools.decode import UnreadableError

LONGEST_SIDE = 1024
CONTROL, OBJECT = "choice", "image"


def write_tasks(path: Path, query: Query, items: list[QueryItem], images: Images, prefix: str | None = None) -> int:
    """Tasks of a batch. Images are inside the file, or at `prefix` and their path where Label Studio finds them.

    Returns how many items have no task, because their images cannot be read or, with `prefix`, are no files.
    """
    tasks = [_task(query, item, _url(images, item.ranked.id, prefix)) for item in items]
    whole = [task for task in tasks if task is not None]
    text = json.dumps(whole, indent=1, ensure_ascii=False)
    write_text(path, text)
    return len(tasks) - len(whole)


def interface(classes: list[str]) -> str:
    """The labelling interface of the project's classes."""
    choices = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in classes)
    return (
        f'<View>\n  <Image name="{OBJECT}" value="$image"/>\n'
        f'  <Choices name="{CONTROL}" toName="{OBJECT}" choice="single">\n{choices}\n  </Choices>\n</View>\n'
    )


def read(text: str, refused: list[str]) -> list[tuple[str, Vote]]:
    """Answers of a JSON export, with their places; what is not understood is added to `refused`.

    Raises:
        UsageError: the text is not a list of annotated tasks.
    """
    try:
        tasks = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"not JSON: {error}") from error
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise UsageError("expected Label Studio's export format JSON: a list of tasks")
    if tasks and not any("annotations" in task for task in tasks):
        raise UsageError("the tasks have no annotations; export in the format JSON, not JSON_MIN")
    answers = []
    for number, task in enumerate(tasks, start=1):
        place = f"task {task.get('id', number)}"
        item = _of(task, "data", dict).get("lada_id")
        if not isinstance(item, str):
            refused.append(f"{place}: its data has no lada_id, so it is not a task of `lada query`")
            continue
        for annotation in _of(task, "annotations", list):
            try:
                answers.append((place, _vote(item, annotation)))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                refused.append(f"{place}: {_reason(error)}")
    return answers


def _vote(item: str, annotation: dict[str, Any]) -> Vote:
    who = annotation.get("completed_by")
    if isinstance(who, dict):
        who = who.get("email") or who["id"]
    if not isinstance(who, str | int):
        raise ValueError("completed_by names nobody")
    at = annotation.get("updated_at") or annotation.get("created_at")
    if not isinstance(at, str | None):
        raise ValueError("updated_at is no time")
    name = f"label-studio:{who}"
    if annotation.get("was_cancelled"):
        return Vote(item, None, name, at)
    chosen = [
        label for result in annotation["result"] if result["type"] == "choices" for label in result["value"]["choices"]
    ]
    if len(chosen) != 1 or not isinstance(chosen[0], str):
        raise ValueError(f"expected one choice, got {len(chosen)}")
    return Vote(item, chosen[0], name, at)


def _reason(error: Exception) -> str:
    return str(error) if type(error) is ValueError else f"an annotation is not in Label Studio's format ({error!r})"


def _of(task: dict[str, Any], key: str, kind: type) -> Any:
    value = task.get(key)
    return value if isinstance(value, kind) else kind()


def _task(query: Query, item: QueryItem, url: str | None) -> dict[str, Any] | None:
    if url is None:
        return None
    id_, score, why, predicted, entropy, _ = item.ranked
    data = {"image": url, "lada_id": id_, "batch": query.id, "rank": item.rank + 1, "why": why}
    data |= {name: value for name, value in (("score", score), ("entropy", entropy)) if value is not None}
    task: dict[str, Any] = {"data": data}
    if predicted is not None:
        prediction: dict[str, Any] = {
            "model_version": f"lada {query.method}, batch {query.id}",
            "result": [
                {
                    "id": f"lada-{item.number}",
                    "type": "choices",
                    "from_name": CONTROL,
                    "to_name": OBJECT,
                    "value": {"choices": [predicted]},
                }
            ],
        }
        if score is not None:
            prediction["score"] = score
        task["predictions"] = [prediction]
    return task


def _url(images: Images, id_: str, prefix: str | None) -> str | None:
    try:
        if prefix is not None:
            path = images.file(id_)
            return None if path is None else prefix + quote(path)
        return data_uri(images.image(id_), LONGEST_SIDE)
    except (UnreadableError, KeyError):
        return None
