"""The page in real headless Chromium: 20 images are labelled, an answer is undone, the page is loaded again, the server
is killed and started again, and nothing is lost. Skipped where there is no Chromium or no playwright."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from labelling import begin, lada, truth, write_pool
from lada_al.label.store import Ranked, Store, Vote
from lada_al.report import page as report
from PIL import Image
from test_report import made_up

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on PATH")
expect = playwright.expect

PHONE = {"width": 375, "height": 667}
DESK = {"width": 1000, "height": 760}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that must not complain of anything."""
    complaints: list[str] = []
    page = browser.new_page(viewport=DESK)
    page.set_default_timeout(20_000)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    # Chromium intercepts from here on: if a test is the first to ask for it, a request right behind may get through.
    page.route("**/nothing", lambda route: route.continue_())
    yield page
    page.close()
    assert [text for text in complaints if not re.search("net::ERR_|404|503", text)] == []


class Server:
    """`lada label` in a process of its own."""

    def __init__(self, project: Path, *options: str) -> None:
        command = [sys.executable, "-m", "lada_al", "label", "--project", str(project), "--who", "ana", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        address = re.fullmatch(r"open (http://127\.0\.0\.1:(\d+)/[\w-]{32}/)\n", said)
        assert address is not None, said
        self.address, self.port = address[1], address[2]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def start(*arguments: Any) -> Server:
        started.append(Server(*arguments))
        return started[-1]

    yield start
    for server in started:
        server.kill()


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pool(tmp_path_factory.mktemp("pool"), 40)


@pytest.fixture
def project(pool: Path, tmp_path: Path) -> Path:
    begin(tmp_path / "project", pool, method="entropy")
    code, _, err = lada("query", "--project", tmp_path / "project", "--out", tmp_path / "batch.csv", "--count", 20)
    assert code == 0, err
    return tmp_path / "project"


def labels(project: Path) -> dict[str, str]:
    with Store(project / "labels.sqlite") as store:
        return store.labels()


def shown(page: Any) -> str:
    """The id of the image that the page shows."""
    return str(page.locator("#name").inner_text()).split(" · ")[0]


def done(page: Any, text: str) -> None:
    expect(page.locator("#count")).to_have_text(text)


def test_twenty_images_undo_reload_kill_resume(page: Any, start: Callable[..., Server], project: Path) -> None:
    server = start(project)
    page.goto(server.address)
    done(page, "0 of 20 done")
    for number in range(1, 9):  # by keys
        page.keyboard.press(truth(shown(page)))
        done(page, f"{number} of 20 done")
    assert all(label == truth(id_) for id_, label in labels(project).items())
    assert len(labels(project)) == 8

    undone = shown(page)
    page.keyboard.press("0" if truth(undone) != "0" else "1")  # a slip
    done(page, "9 of 20 done")
    page.keyboard.press("u")
    done(page, "8 of 20 done")
    assert shown(page) == undone
    assert undone not in labels(project)

    page.reload()
    done(page, "8 of 20 done")
    assert shown(page) == undone
    for number in range(9, 15):  # by buttons
        page.get_by_role("button", name=truth(shown(page)), exact=False).first.click()
        done(page, f"{number} of 20 done")
    skipped = shown(page)
    page.keyboard.press("s")
    done(page, "15 of 20 done, 1 skipped")

    server.kill()
    waiting = shown(page)
    page.keyboard.press(truth(waiting))
    expect(page.locator("#alarm")).to_contain_text("Not saved: lada label does not answer")
    done(page, "15 of 20 done, 1 skipped")
    assert len(labels(project)) == 14

    again = start(project, "--port", server.port)
    assert again.address != server.address  # the token is new
    page.goto(again.address)
    done(page, "15 of 20 done, 1 skipped")
    assert shown(page) == waiting
    page.set_viewport_size(PHONE)
    for number in range(16, 21):
        page.keyboard.press(truth(shown(page)))
        done(page, f"{number} of 20 done, 1 skipped")
    expect(page.locator("#said")).to_have_text("All done. Thank you!")
    expect(page.locator("#skip")).to_be_disabled()

    found = labels(project)
    assert len(found) == 19
    assert skipped not in found
    assert all(label == truth(id_) for id_, label in found.items())
    with Store(project / "labels.sqlite") as store:
        assert store.last_label() == 22  # 19 labels, a skip, a slip and its undoing


def test_the_last_image_is_on_one_page_until_somebody_wants_it_too(
    browser: Any, page: Any, start: Callable[..., Server], project: Path
) -> None:
    with Store(project / "labels.sqlite") as store:
        *before, last = store.pending()
        store.record([Vote(item.ranked.id, "1", "cara") for item in before], "csv")
    ana, ben = start(project), start(project, "--who", "ben")
    page.goto(ana.address)
    expect(page.locator("#name")).to_contain_text(last.ranked.id)
    other = browser.new_page()
    other.goto(ben.address)
    expect(other.locator("#said")).to_have_text("The last image is on the pages of others, who may be at it.")
    expect(other.locator("#classes button").first).to_be_disabled()
    other.get_by_role("button", name="Show me one").click()
    expect(other.locator("#name")).to_contain_text(last.ranked.id)
    other.reload()
    expect(other.locator("#share")).to_be_visible()
    page.keyboard.press("7")
    expect(page.locator("#said")).to_have_text("All done. Thank you!")
    expect(other.locator("#said")).to_have_text("All done. Thank you!")  # it looks again by itself
    assert lada("query", "--project", project, "--out", project / "next.csv", "--count", 2)[0] == 0
    expect(other.locator("#name")).to_contain_text("batch 2")
    other.close()
    assert labels(project)[last.ranked.id] == "7"


def test_an_answer_that_was_not_acknowledged_is_sent_again_and_counts_once(
    page: Any, start: Callable[..., Server], project: Path
) -> None:
    """The server writes the label, but the connection breaks before it says so."""
    page.goto(start(project).address)
    done(page, "0 of 20 done")
    first = shown(page)
    lost = []

    def lose_the_answer(route: Any) -> None:
        if lost:
            route.continue_()
        else:
            lost.append(route.fetch())
            route.abort()

    page.route("**/label", lose_the_answer)
    page.keyboard.press(truth(first))
    expect(page.locator("#alarm")).to_contain_text("Not saved")
    done(page, "0 of 20 done")
    page.keyboard.press("0")  # any key sends the same again
    done(page, "1 of 20 done")
    assert labels(project) == {first: truth(first)}
    with Store(project / "labels.sqlite") as store:
        assert store.last_label() == 1


def test_an_answer_that_cannot_be_written_now_is_kept(page: Any, start: Callable[..., Server], project: Path) -> None:
    page.goto(start(project).address)
    done(page, "0 of 20 done")
    first = shown(page)
    refusal = {"status": 503, "content_type": "text/plain", "body": "labels.sqlite: database or disk is full"}
    page.route("**/label", lambda route: route.fulfill(**refusal))
    page.keyboard.press(truth(first))
    expect(page.locator("#alarm")).to_have_text(
        "Not saved: labels.sqlite: database or disk is full. Your answer is kept; press any class to send it again."
    )
    page.unroute("**/label")
    page.keyboard.press("0")
    done(page, "1 of 20 done")
    expect(page.locator("#alarm")).to_be_hidden()
    assert labels(project) == {first: truth(first)}


def test_a_state_that_cannot_be_read_is_said(page: Any, start: Callable[..., Server], project: Path) -> None:
    page.route("**/state", lambda route: route.fulfill(status=503, body="labels.sqlite: disk I/O error"))
    page.goto(start(project).address)
    expect(page.locator("#alarm")).to_have_text("Nothing to show: labels.sqlite: disk I/O error. Load the page again.")


def test_it_fits_a_phone(page: Any, start: Callable[..., Server], project: Path) -> None:
    page.set_viewport_size(PHONE)
    page.goto(start(project).address)
    done(page, "0 of 20 done")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert page.evaluate("document.documentElement.scrollHeight") <= PHONE["height"]
    for button in page.locator("button:visible").all():
        box = button.bounding_box()
        assert box["height"] >= 44
        assert box["x"] + box["width"] <= PHONE["width"]
        assert box["y"] + box["height"] <= PHONE["height"]
    image = page.locator("#image").bounding_box()
    assert min(image["width"], image["height"]) >= 200


def test_a_report_fits_a_phone(page: Any) -> None:
    """Its tables, which are wider, scroll by themselves."""
    runs = [made_up(name, [0.2, 0.4], seed=seed) for name in ("random", "lada-ent-mix-fixed") for seed in (1, 2)]
    page.set_viewport_size(PHONE)
    page.set_content(report.render(runs, [report._section("mnist5k", runs, whole=True)], whole=True))
    assert page.locator("table").first.evaluate("table => table.scrollWidth") > PHONE["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_names_are_text_and_broken_images_can_be_skipped(
    page: Any, start: Callable[..., Server], tmp_path: Path
) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    name = "<img src=x onerror=alert(1)>.png"
    for path in (name, "broken.png"):
        Image.new("L", (20, 20)).save(pool / path)
    begin(tmp_path, pool, method="entropy", classes=["<script>alert(2)</script>", "s", "7", "dog"])
    with Store(tmp_path / "labels.sqlite") as store:
        store.add_query("entropy", 1, 0, 0, [Ranked(id_, None, "why", None, None) for id_ in (name, "broken.png")])
    (pool / "broken.png").write_text("no image")
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.goto(start(tmp_path).address)
    done(page, "0 of 2 done")
    assert shown(page) == name
    keys = page.locator("#classes kbd").all_inner_texts()
    assert keys == ["1", "2", "7", "3"]  # "7" is its own key; "s" cannot be, because it skips
    page.keyboard.press("1")
    done(page, "1 of 2 done")
    assert labels(tmp_path) == {name: "<script>alert(2)</script>"}
    expect(page.locator("#said")).to_have_text("This image cannot be shown. Skip it.")
    page.keyboard.press("s")
    done(page, "2 of 2 done, 1 skipped")
    assert dialogs == []
    assert page.locator("script").count() == 1


def test_other_pages_cannot_use_it(browser: Any, start: Callable[..., Server], project: Path, tmp_path: Path) -> None:
    """A stranger's page in the same browser, even one that knows the address, can neither read nor write."""
    address = start(project).address
    stranger = tmp_path / "stranger.html"
    stranger.write_text("<title>stranger</title>")
    attempt = """async ([address, mode]) => {
        const body = JSON.stringify({number: 1, label: "3", nonce: "0".repeat(32)});
        const options = mode === "read" ? {} : {method: "POST", body, headers: {"Content-Type": "application/json"}};
        if (mode === "blind") Object.assign(options, {mode: "no-cors", headers: {}});
        try { return (await fetch(address.startsWith("data:") ? address : address + (mode === "read" ? "state" : "label"), options)).type; }
        catch (error) { return "refused"; }
    }"""
    other = browser.new_page()
    other.goto(stranger.as_uri())
    assert other.evaluate(attempt, ["data:,", "read"]) in ("basic", "cors")  # fetch itself works there
    outcomes = {mode: other.evaluate(attempt, [address, mode]) for mode in ("read", "write", "blind")}
    other.close()
    assert outcomes == dict.fromkeys(("read", "write", "blind"), "refused")
    assert labels(project) == {}
