"""`lada label`: a page on this machine that shows the queried images one after another and saves each label as given.

The page is one static file. Nobody gets in without the token in its address, which is new each time; requests must name
this host, and those that write must come from the page itself. Images are asked for by their number in the journal,
never by name, and are drawn anew as PNG, so that what people see holds nothing but pixels.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import json
import re
import secrets
import socket
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from lada_al.errors import UsageError
from lada_al.label import project as projects
from lada_al.label.claims import CLAIMS, Claims
from lada_al.label.images import Images
from lada_al.label.store import JOURNAL, JournalError, QueryItem, Store, Vote
from lada_al.pools.decode import UnreadableError

HOST = "127.0.0.1"  # the page is for people at this machine, or at the other end of their own tunnel
SOURCE = "page"
MAX_BODY = 4096
LONGEST_SIDE = 1024
IMAGES_KEPT = 64
CONNECTIONS = 32
PAGES = 64  # as many as can be open at once without two that show the same image


def serve(folder: Path, who: str, port: int, review: bool, announce: Callable[[str], None]) -> None:
    """Serves the page until it is stopped. `announce` is given its address once it can be opened.

    Raises:
        UsageError: the project cannot be used, or the port is taken.
    """
    project = projects.read(folder)
    images = project.images()
    with Store(folder / JOURNAL) as store, Claims(folder / CLAIMS) as claims, socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise UsageError(f"--port: {port} cannot be used: {error}") from error
        listening.listen(CONNECTIONS)
        address = f"{HOST}:{listening.getsockname()[1]}"
        token = secrets.token_urlsafe(24)
        app = make_app(Desk(store, claims, images, project.classes, who, review), token, address)
        settings = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="off",
            limit_concurrency=CONNECTIONS,
        )
        announce(f"http://{address}/{token}/")
        uvicorn.Server(settings).run(sockets=[listening])


class Desk:
    """What the page shows and does: one person, one journal."""

    def __init__(
        self, store: Store, claims: Claims, images: Images, classes: list[str], who: str, review: bool
    ) -> None:
        self.store, self.claims, self.images = store, claims, images
        self.classes, self.who, self.review = classes, who, review
        self._reviewed: set[str] = set()  # since the page was started: shown once, even if still in dispute
        self._undone: list[QueryItem] = []  # shown again, the last one first, even if others have labelled them
        self.picture = functools.lru_cache(maxsize=IMAGES_KEPT)(self._picture)

    def state(self, share: bool = False) -> dict[str, Any]:
        """What the page shows now, and the image after it; with `share`, even one that is on another page."""
        if self.review:
            waiting = [item for item in self.store.unsettled() if item.ranked.id not in self._reviewed]
        else:
            waiting = self.store.pending(PAGES)
        items = self._undone[::-1] + [item for item in waiting if item not in self._undone]
        shown = self._choose(items, share)
        after = items[items.index(shown) + 1 :] if shown else []
        progress = self.store.progress()
        return {
            "classes": self.classes,
            "who": self.who,
            "labelled": progress.labelled,
            "skipped": progress.skipped,
            "total": progress.total,
            "left": len(items) if self.review else progress.total - progress.labelled - progress.skipped,
            "can_undo": self.store.can_undo(self.who, SOURCE),
            "item": _shown(shown) if shown else None,
            "elsewhere": 0 if shown else len(items),
            "next": next((item.number for item in after if self.claims.is_free(item.number)), None),
        }

    def _choose(self, items: list[QueryItem], share: bool) -> QueryItem | None:
        """What was undone; else the first that is on nobody else's page; else none, or with `share` the first."""
        if self._undone:
            self.claims.take(self._undone[-1].number)
            return self._undone[-1]
        free = (item for item in items if self.claims.take(item.number))
        return next(free, items[0] if share and items else None)

    def label(self, number: int, label: str | None, nonce: str) -> dict[str, Any]:
        item = self._item(number)
        if label is not None and label not in self.classes:
            raise HTTPException(400, "there is no such class")
        self.store.record_once(Vote(item.ranked.id, label, self.who), SOURCE, nonce)
        self._reviewed.add(item.ranked.id)
        self._undone = [undone for undone in self._undone if undone != item]
        return self.state()

    def undo(self, nonce: str) -> dict[str, Any]:
        item = self.store.item_of(self.store.undo(self.who, SOURCE, nonce) or "")
        if item is not None:
            self._reviewed.discard(item.ranked.id)
            self._undone = [undone for undone in self._undone if undone != item] + [item]
        return self.state()

    def _item(self, number: int) -> QueryItem:
        item = self.store.item(number)
        if item is None:
            raise HTTPException(404, "there is no such image")
        return item

    def id_of(self, number: int) -> str:
        return self._item(number).ranked.id

    def _picture(self, id_: str) -> bytes:
        """The image as PNG, no side longer than LONGEST_SIDE."""
        image = self.images.image(id_)
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        data = io.BytesIO()
        image.save(data, format="PNG")
        return data.getvalue()


def _shown(item: QueryItem) -> dict[str, Any]:
    """What the page says of an image. The network's guess is not among it: it would be the labeller's guess too."""
    return {"number": item.number, "id": item.ranked.id, "batch": item.query, "rank": item.rank + 1}


def make_app(desk: Desk, token: str, address: str) -> ASGIApp:
    """The pages of a desk, for requests to `address`, HOST:PORT, that know the token."""
    page = resources.files("lada_al.label").joinpath("page.html").read_text(encoding="utf-8")

    async def show(request: Request) -> Response:
        del request
        return Response(page, media_type="text/html; charset=utf-8")

    async def state(request: Request) -> Response:
        del request
        return JSONResponse(desk.state())

    async def shared(request: Request) -> Response:
        del request
        return JSONResponse(desk.state(share=True))

    async def image(request: Request) -> Response:
        number = request.path_params["number"]
        if not re.fullmatch(r"[0-9]{1,18}", number):
            raise HTTPException(404, "there is no such image")
        id_ = desk.id_of(int(number))
        try:
            return Response(await run_in_threadpool(desk.picture, id_), media_type="image/png")
        except (UnreadableError, KeyError) as error:
            raise HTTPException(404, "the image cannot be shown") from error

    async def label(request: Request) -> Response:
        body = await _body(request, {"number": int, "label": (str, type(None)), "nonce": str})
        return JSONResponse(desk.label(body["number"], body["label"], body["nonce"]))

    async def undo(request: Request) -> Response:
        body = await _body(request, {"nonce": str})
        return JSONResponse(desk.undo(body["nonce"]))

    routes = [
        Route("/", show),
        Route("/state", state),
        Route("/shared", shared),
        Route("/image/{number}", image),
        Route("/label", label, methods=["POST"]),
        Route("/undo", undo, methods=["POST"]),
    ]
    return Guard(Starlette(routes=routes, exception_handlers={JournalError: _not_now}), token, address, _headers(page))


class Guard:
    """Lets in only requests that know the token, name this host, and, if they write, come from the page itself."""

    def __init__(self, app: ASGIApp, token: str, address: str, headers: dict[str, str]) -> None:
        self.app, self.token, self.headers = app, token.encode(), headers
        port = address.rpartition(":")[2]
        self.hosts = {address, f"localhost:{port}"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        reason = self._reason_to_refuse(scope)
        if reason is not None:
            answer = Response(reason[1], status_code=reason[0], media_type="text/plain", headers=self.headers)
            await answer(scope, receive, send)
            return

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.lower().encode(), value.encode()) for name, value in self.headers.items()]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        path = scope["path"].removeprefix(f"/{self.token.decode()}")
        await self.app({**scope, "path": path, "raw_path": path.encode()}, receive, send_with_headers)

    def _reason_to_refuse(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if host not in self.hosts:
            return 421, "this page is not of that host"
        if origin != f"http://{host}" and (origin is not None or scope["method"] not in ("GET", "HEAD")):
            return 403, "only the page itself may ask this"
        given = scope["path"].removeprefix("/").partition("/")[0].encode()
        if not secrets.compare_digest(given, self.token):
            return 404, "not found"
        return None


async def _not_now(request: Request, error: Exception) -> Response:
    """The page keeps the answer and sends it again; if it was written after all, it counts once."""
    del request
    return Response(str(error), status_code=503, media_type="text/plain")


async def _body(request: Request, fields: dict[str, Any]) -> dict[str, Any]:
    """The JSON object of a request, with just these fields of these types."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise HTTPException(415, "expected application/json")
    content = b""
    try:
        async for part in request.stream():
            content += part
            if len(content) > MAX_BODY:
                raise HTTPException(413, f"expected at most {MAX_BODY} bytes")
    except ClientDisconnect as error:
        raise HTTPException(400, "the request ended early") from error
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        body = None
    fits = isinstance(body, dict) and body.keys() == fields.keys()
    if not fits or any(
        not isinstance(body[name], kind) or isinstance(body[name], bool) for name, kind in fields.items()
    ):
        raise HTTPException(400, f"expected a JSON object with {', '.join(fields)}")
    if not re.fullmatch(r"[0-9a-f]{32}", body["nonce"]):
        raise HTTPException(400, "nonce must be 32 hexadecimal digits")
    return body


def _headers(page: str) -> dict[str, str]:
    """What every answer says of how a browser may use it."""
    return {
        "Content-Security-Policy": f"default-src 'none'; img-src 'self' data:; connect-src 'self'; {_inline(page)}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cache-Control": "no-store",
    }


def _inline(page: str) -> str:
    """The part of the content policy that allows the page's own style and script, by their hashes, and no others."""

    def source(tag: str) -> str:
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    return f"script-src {source('script')}; style-src {source('style')}"
