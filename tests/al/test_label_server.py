"""The page's server: who gets in, what is taken, and what it never does."""

from __future__ import annotations

import asyncio
import io
import json
import re
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from lada_al.errors import UsageError
from lada_al.label import server
from lada_al.label.claims import Claims
from lada_al.label.images import Images
from lada_al.label.store import Ranked, Store, Vote
from lada_al.pools import open_pool
from PIL import Image

TOKEN, ADDRESS = "secret-token", "127.0.0.1:8765"
CLASSES = ["cat", "<script>alert(1)</script>"]


def nonce(number: int) -> str:
    return f"{number:032x}"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "labels.sqlite") as store:
        names = ["a.png", "<b>.png", "broken.png"]
        store.add_query("entropy", 1, 0, 0, [Ranked(name, None, "why", "cat", None) for name in names])
        yield store


@pytest.fixture
def desk(store: Store, tmp_path: Path) -> Iterator[server.Desk]:
    pool = tmp_path / "pool"
    pool.mkdir()
    Image.new("RGB", (2000, 1000), "red").save(pool / "a.png")
    Image.new("L", (20, 20)).save(pool / "<b>.png")
    (pool / "broken.png").write_text("no image")
    with Claims(tmp_path / "pages.lock") as claims:
        yield server.Desk(store, claims, Images(open_pool(pool)), CLASSES, "ana", review=False)


class Client:
    """Asks the page's application in this thread, as a browser that shows the page would."""

    def __init__(self, desk: server.Desk, headers: dict[str, str]) -> None:
        self.app, self.headers = server.make_app(desk, TOKEN, ADDRESS), headers

    def get(self, path: str, **options: Any) -> httpx.Response:
        return asyncio.run(self._ask("GET", path, **options))

    def post(self, path: str, **options: Any) -> httpx.Response:
        return asyncio.run(self._ask("POST", path, **options))

    async def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{ADDRESS}", headers=self.headers) as client:
            return await client.request(method, path, **options)


def client_of(desk: server.Desk) -> Client:
    return Client(desk, {"Origin": f"http://{ADDRESS}"})


@pytest.fixture
def client(desk: server.Desk) -> Client:
    return client_of(desk)


def post(client: Client, what: str, **body: Any) -> Any:
    response = client.post(f"/{TOKEN}/{what}", json=body)
    assert response.status_code == 200, response.text
    return response.json()


class TestLabelling:
    def test_labels_skips_and_undo_are_saved_as_they_are_given(self, client: Client, store: Store) -> None:
        state = client.get(f"/{TOKEN}/state").json()
        assert state["item"] == {"number": 1, "id": "a.png", "batch": 1, "rank": 1}
        assert (state["next"], state["total"], state["left"], state["can_undo"]) == (2, 3, 3, False)
        assert "predicted" not in json.dumps(state)
        state = post(client, "label", number=1, label="cat", nonce=nonce(1))
        assert store.labels() == {"a.png": "cat"}
        assert (state["item"]["number"], state["labelled"], state["can_undo"]) == (2, 1, True)
        state = post(client, "label", number=2, label=None, nonce=nonce(2))
        assert (state["item"]["number"], state["labelled"], state["skipped"]) == (3, 1, 1)
        state = post(client, "undo", nonce=nonce(3))
        assert (state["item"]["number"], state["skipped"]) == (2, 0)
        state = post(client, "undo", nonce=nonce(4))
        assert (state["item"]["number"], state["labelled"], state["can_undo"]) == (1, 0, False)
        assert store.last_label() == 4

    def test_a_request_that_comes_twice_counts_once(self, client: Client, store: Store) -> None:
        for _ in range(2):
            post(client, "label", number=1, label="cat", nonce=nonce(1))
        assert store.last_label() == 1

    def test_what_is_undone_is_shown_again_though_others_have_labelled_it(
        self, desk: server.Desk, store: Store
    ) -> None:
        client = client_of(desk)
        for number, item in enumerate((1, 2)):
            post(client, "label", number=item, label="cat", nonce=nonce(number))
        store.record([Vote("a.png", "cat", "bob"), Vote("<b>.png", "cat", "bob")], "csv")
        assert post(client, "undo", nonce=nonce(3))["item"]["number"] == 2
        for _ in range(2):  # the second time because the answer was lost
            state = post(client, "undo", nonce=nonce(4))
            assert (state["item"]["number"], state["next"], state["can_undo"]) == (1, 2, False)
        assert client.get(f"/{TOKEN}/state").json() == state  # as after a reload
        for item, then in ((1, 2), (2, 3)):
            state = post(client, "label", number=item, label=CLASSES[1], nonce=nonce(10 + item))
            assert state["item"]["number"] == then
        assert [vote.label for vote in store.verdicts()["a.png"].votes] == ["cat", CLASSES[1]]

    def test_review_shows_what_is_not_settled_once(self, desk: server.Desk, store: Store) -> None:
        store.record(
            [Vote("a.png", "cat", "ana"), Vote("a.png", CLASSES[1], "bob"), Vote("<b>.png", None, "ana")], "csv"
        )
        desk.review = True
        client = client_of(desk)
        assert client.get(f"/{TOKEN}/state").json()["item"]["id"] == "a.png"
        state = post(client, "label", number=1, label=CLASSES[1], nonce=nonce(1))
        assert store.labels() == {"a.png": CLASSES[1]}
        assert state["item"]["id"] == "<b>.png"
        state = post(client, "label", number=2, label=None, nonce=nonce(2))
        assert (state["item"], state["left"]) == (None, 0)
        assert post(client, "undo", nonce=nonce(3))["item"]["id"] == "<b>.png"

    def test_a_journal_that_cannot_be_written_is_said(self, client: Client, store: Store) -> None:
        store._connection.execute("PRAGMA busy_timeout = 0")
        other = sqlite3.connect(store.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        body = {"number": 1, "label": "cat", "nonce": nonce(1)}
        response = client.post(f"/{TOKEN}/label", json=body)
        assert (response.status_code, response.text) == (503, f"{store.path}: database is locked")
        other.execute("ROLLBACK")
        assert client.post(f"/{TOKEN}/label", json=body).status_code == 200
        assert store.labels() == {"a.png": "cat"}


class TestImages:
    def test_they_are_drawn_anew_and_not_too_large(self, client: Client) -> None:
        response = client.get(f"/{TOKEN}/image/1")
        assert response.headers["content-type"] == "image/png"
        assert Image.open(io.BytesIO(response.content)).size == (1024, 512)

    @pytest.mark.parametrize(
        "name",
        [
            "3",
            "4",
            "999999999999999999999",
            pytest.param("9" * 5000, id="5000 digits"),
            "٣",
            "-1",
            "a.png",
            "../pool/a.png",
            "%2e%2e/labels.sqlite",
            "1/x",
            "",
        ],
    )
    def test_nothing_else_is_served(self, name: str, client: Client) -> None:
        assert client.get(f"/{TOKEN}/image/{name}").status_code == 404


class TestDoor:
    @pytest.mark.parametrize(
        "path",
        ["/", "/state", "/wrong/state", "/secret-toke/", "/secret-token2/", "//secret-token/", "/ü/", "/image/1"],
    )
    def test_nobody_gets_in_without_the_token(self, path: str, client: Client) -> None:
        response = client.get(path)
        assert (response.status_code, response.text) == (404, "not found")

    @pytest.mark.parametrize(
        "host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "evil.example:8765", "127.0.0.1:8765.evil.example", ""]
    )
    def test_other_hosts_are_refused(self, host: str, client: Client) -> None:
        """As when a stranger's page makes its own name resolve to 127.0.0.1."""
        for path in (f"/{TOKEN}/", f"/{TOKEN}/state"):
            assert client.get(path, headers={"Host": host}).status_code == 421

    def test_localhost_is_this_host(self, client: Client) -> None:
        headers = {"Host": "localhost:8765", "Origin": "http://localhost:8765"}
        assert client.get(f"/{TOKEN}/state", headers=headers).status_code == 200

    @pytest.mark.parametrize(
        "origin", ["http://evil.example", "null", "https://127.0.0.1:8765", "http://127.0.0.1:8766", ""]
    )
    def test_other_pages_are_refused(self, origin: str, client: Client, store: Store) -> None:
        body = {"number": 1, "label": "cat", "nonce": nonce(1)}
        assert client.post(f"/{TOKEN}/label", json=body, headers={"Origin": origin}).status_code == 403
        assert client.get(f"/{TOKEN}/state", headers={"Origin": origin}).status_code == 403
        assert store.last_label() == 0

    def test_writing_needs_an_origin(self, desk: server.Desk, store: Store) -> None:
        client = Client(desk, {})
        assert client.post(f"/{TOKEN}/undo", json={"nonce": nonce(1)}).status_code == 403
        assert client.get(f"/{TOKEN}/").status_code == 200

    def test_reading_does_not_write(self, client: Client) -> None:
        assert client.get(f"/{TOKEN}/label").status_code == 405
        assert client.get(f"/{TOKEN}/undo").status_code == 405

    def test_web_sockets_are_closed(self, client: Client) -> None:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "websocket", "path": f"/{TOKEN}/state", "headers": []}
        asyncio.run(client.app(scope, None, send))  # type: ignore[arg-type]
        assert sent == [{"type": "websocket.close"}]


class TestBodies:
    @pytest.mark.parametrize(
        ("body", "status"),
        [
            ({}, 400),
            ([], 400),
            ({"number": 1, "label": "cat"}, 400),
            ({"number": 1, "label": "cat", "nonce": nonce(1), "who": "bob"}, 400),
            ({"number": "1", "label": "cat", "nonce": nonce(1)}, 400),
            ({"number": True, "label": "cat", "nonce": nonce(1)}, 400),
            ({"number": 1, "label": ["cat"], "nonce": nonce(1)}, 400),
            ({"number": 1, "label": "dog", "nonce": nonce(1)}, 400),
            ({"number": 1, "label": "cat", "nonce": "1"}, 400),
            ({"number": 1, "label": "cat", "nonce": 5}, 400),
            ({"number": 99, "label": "cat", "nonce": nonce(1)}, 404),
            ({"number": 10**30, "label": "cat", "nonce": nonce(1)}, 404),
            ({"number": 1, "label": "x" * 5000, "nonce": nonce(1)}, 413),
        ],
    )
    def test_what_does_not_fit_is_refused(self, body: Any, status: int, client: Client, store: Store) -> None:
        assert client.post(f"/{TOKEN}/label", json=body).status_code == status
        assert store.last_label() == 0

    @pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 4000])
    def test_what_is_no_json_is_refused(self, content: bytes, client: Client) -> None:
        headers = {"Content-Type": "application/json"}
        assert client.post(f"/{TOKEN}/undo", content=content, headers=headers).status_code == 400

    def test_a_request_whose_sender_goes_away_is_no_error(self, client: Client, store: Store) -> None:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        headers = {"Host": ADDRESS, "Origin": f"http://{ADDRESS}", "Content-Type": "application/json"}
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": "POST", "path": f"/{TOKEN}/label", "query_string": b"", "headers": raw}
        asyncio.run(client.app(scope, receive, send))
        assert sent[0]["status"] == 400
        assert store.last_label() == 0

    def test_forms_are_refused(self, client: Client) -> None:
        assert client.post(f"/{TOKEN}/undo", data={"nonce": nonce(1)}).status_code == 415


class TestPage:
    def test_headers_let_it_do_what_it_needs_and_no_more(self, client: Client) -> None:
        for path in (f"/{TOKEN}/", f"/{TOKEN}/state", f"/{TOKEN}/image/1", "/nowhere"):
            headers = client.get(path).headers
            policy = headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; ")
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cache-control"] == "no-store"
            assert "access-control-allow-origin" not in headers

    def test_it_is_one_static_file(self, client: Client) -> None:
        page = client.get(f"/{TOKEN}/").text
        assert "alert(1)" not in page
        assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval\(|src=\"http|href=\"http", page)


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    from labelling import begin

    Image.new("L", (20, 20)).save(tmp_path / "a.png")
    begin(tmp_path / "project", tmp_path, method="entropy")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UsageError, match=r"--port: \d+ cannot be used"):
            server.serve(tmp_path / "project", "ana", taken.getsockname()[1], False, print)
