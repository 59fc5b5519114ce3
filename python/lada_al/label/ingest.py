"""`lada ingest`: takes labels back from a CSV file or a Label Studio export, and says what it did with every line.

What can be taken is taken, in one transaction; what cannot is refused line by line, with the reason. Nothing in the
journal is overwritten: a second opinion is a second row, and a file that is taken twice adds nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from lada_al.errors import UsageError
from lada_al.files import plain
from lada_al.label import label_studio, sheet
from lada_al.label import project as projects
from lada_al.label.store import JOURNAL, MAX_WHO, Store, Vote, is_name

COLUMNS = ["id", "label", "who", "at"]


@dataclass(frozen=True)
class Answer:
    """A label or, where `vote.label` is None, a skip, and where in the file it stands."""

    place: str
    vote: Vote


@dataclass
class Report:
    """What became of a file."""

    labels: int = 0
    skips: int = 0
    repeated: int = 0
    """Answers that the same person had given already."""
    empty: int = 0
    """Lines without a label yet."""
    refused: list[str] = field(default_factory=list)
    corrected: list[str] = field(default_factory=list)
    """What a person now says otherwise than before."""
    disputed: list[str] = field(default_factory=list)
    """Items of this file that have no label, because people disagree."""
    outvoted: list[str] = field(default_factory=list)


def ingest(folder: Path, file: Path, who: str) -> Report:
    """Enters the labels of a file in a project's journal. `who` gave those for which the file names nobody.

    Raises:
        UsageError: the project or the file as a whole cannot be used.
    """
    project = projects.read(folder)
    report = Report()
    with Store(folder / JOURNAL) as store:
        known = {*project.images().ids(), *store.asked()}  # what was asked for may have left the pool since
        if file.suffix.lower() == ".json":
            source, answers = "label-studio", _read_json(file, report)
        else:
            source, answers = "csv", _read_csv(file, who, known, report)
        answers = [answer for answer in answers if _usable(answer, known, project.classes, report)]
        answers = _without_contradictions(answers, report)
        past = Past(store)
        new = [answer.vote for answer in answers if _is_new(answer, past, report)]
        store.record(new, source)
        report.skips = sum(vote.label is None for vote in new)
        report.labels = len(new) - report.skips
        verdicts = store.verdicts()
    for item in dict.fromkeys(vote.item for vote in new):
        verdict = verdicts[item]
        says = ", ".join(f"{vote.who}: {_quoted(vote.label)}" for vote in verdict.votes)
        if verdict.disputed:
            report.disputed.append(f"{item} ({says})")
        elif len({vote.label for vote in verdict.votes if vote.label is not None}) > 1:
            report.outvoted.append(f"{item} stays '{verdict.label}' ({says})")
    return report


def _read_json(file: Path, report: Report) -> list[Answer]:
    text = sheet.content(file)
    try:
        return [Answer(place, vote) for place, vote in label_studio.read(text, report.refused)]
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from error


def _read_csv(file: Path, who: str, known: set[str], report: Report) -> list[Answer]:
    """Answers of a CSV file with the columns id and label, and perhaps who and at; others are not looked at."""
    answers = []
    for line, names, row in sheet.rows(file, ["id", "label"], COLUMNS):
        place = f"line {line}"
        if any(cell.strip() for cell in row[len(names) :]):
            report.refused.append(f"{place}: it has {len(row)} cells, and the header {len(names)}")
            continue
        cells = dict(zip(names, row, strict=False))
        label = cells.get("label", "").strip()
        if not label:
            report.empty += 1
            continue
        id_ = sheet.known_id(cells.get("id", ""), known)
        person = cells.get("who", "").strip() or who
        at = cells.get("at", "").strip() or None
        answers.append(Answer(place, Vote(id_, plain(label), plain(person), at)))
    return answers


def _usable(answer: Answer, known: set[str], classes: list[str], report: Report) -> bool:
    """Whether an answer can be taken; if not, the reason is noted."""
    vote = answer.vote
    if vote.item not in known:
        reason = f"the pool has no image '{_short(vote.item)}'"
    elif vote.label is not None and vote.label not in classes:
        reason = f"'{_short(vote.label)}' is no class of the project ({', '.join(classes[:20])})"
    elif not is_name(vote.who):
        reason = f"who must be a name of at most {MAX_WHO} characters, got '{_short(vote.who)}'"
    elif vote.at is not None and not _is_time(vote.at):
        reason = f"at must be a time like 2026-01-31T12:00:00Z, got '{_short(vote.at)}'"
    else:
        return True
    report.refused.append(f"{answer.place}: {reason}")
    return False


def _without_contradictions(answers: list[Answer], report: Report) -> list[Answer]:
    """Leaves out items for which one person gives two labels in one file: neither is better than the other."""
    first: dict[tuple[str, str], Answer] = {}
    contradicted = set()
    for answer in answers:
        key = (answer.vote.item, answer.vote.who)
        before = first.setdefault(key, answer)
        if before.vote.label != answer.vote.label:
            contradicted.add(key)
            report.refused.append(
                f"{answer.place}: '{answer.vote.item}' is {_quoted(answer.vote.label)} here and "
                f"{_quoted(before.vote.label)} in {before.place}; neither is taken"
            )
    return [answer for answer in answers if (answer.vote.item, answer.vote.who) not in contradicted]


class Past:
    """What the journal holds of each person's word on each item: the last, and whatever was said before."""

    def __init__(self, store: Store) -> None:
        self.last: dict[tuple[str, str], tuple[str | None, str]] = {}
        self.ever: set[tuple[str, str, str | None]] = set()
        for item, who, label, at in store.said():
            self.last[item, who] = label, at
            self.ever.add((item, who, label))

    def is_later(self, vote: Vote) -> bool:
        """Whether the vote is known to have come after the last one; without a time, if it says something new."""
        if vote.at is None:
            return (vote.item, vote.who, vote.label) not in self.ever
        return _time(vote.at) > _time(self.last[vote.item, vote.who][1])


def _is_new(answer: Answer, past: Past, report: Report) -> bool:
    """Whether this becomes the person's word; notes it as such if so. A file that is taken again must not take back
    what was corrected since."""
    vote = answer.vote
    key = (vote.item, vote.who)
    if key in past.last:
        label, at = past.last[key]
        if label == vote.label:
            report.repeated += 1
            return False
        if not past.is_later(vote):
            report.refused.append(
                f"{answer.place}: {vote.who} said {_quoted(label)} of '{vote.item}' at {at}, after "
                f"{_quoted(vote.label)}; to go back, give a later time in the column at, or label it on the page"
            )
            return False
        report.corrected.append(f"{vote.item}: {vote.who} said {_quoted(label)}, now {_quoted(vote.label)}")
    past.last[key] = vote.label, vote.at or ""  # its time is not asked for: a file gives one label for an item
    return True


def count_labels(labels: Iterable[str], classes: list[str]) -> str:
    """How many labels each class has, in a line."""
    counts = Counter(labels)
    return ", ".join(f"{name} {counts[name]}" for name in classes)


def _time(text: str) -> datetime:
    """A time without a zone is UTC."""
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _quoted(label: str | None) -> str:
    return "skipped" if label is None else f"'{label}'"


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}..."
