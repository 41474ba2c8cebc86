"""The server of the live page: one route for everything that a person there may see or do.

`kinet_trt.live.web.controller` does the work, `kinet_trt.live.web.serializers` writes the answers, and
`kinet_trt.live.web.auth` decides who has access. No part of a request becomes a file's path.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
import secrets
import shutil
import tempfile
import zipfile
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import Depends, FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from kinet_trt.core.errors import KinetError
from kinet_trt.inference.counter import Threshold
from kinet_trt.io.tables import check_suffix, to_csv, to_xlsx
from kinet_trt.live import clock
from kinet_trt.live.acquisition import presets as preset_file
from kinet_trt.live.acquisition.loop import FrameResult, Viewer
from kinet_trt.live.acquisition.presets import Preset
from kinet_trt.live.session.edits import Edit
from kinet_trt.live.session.export import figure, file_name, nuclei_csv, summary_rows, write_geojson
from kinet_trt.live.session.region import Polygon, polygon
from kinet_trt.live.session.report import build
from kinet_trt.live.web import orders, serializers
from kinet_trt.live.web.auth import Access, Guard
from kinet_trt.live.web.controller import RefusedError, Station

log = logging.getLogger(__name__)

MOST_PAGES = 8
"""Pages that may be open at a time."""
WIDEST = 2560
"""px of a picture that is sent."""
_LOOK = 0.25  # s that a thread waits for a frame
_BEAT = 1.0  # s after which a page hears of the state though nothing changed
_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webmanifest": "application/manifest+json",
}
_CSV = "text/csv; charset=utf-8"
_XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
_REPORT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'"


@dataclass(frozen=True)
class Limits:
    """How long a page and the server wait for one another, s.

    Attributes
    ----------
    silence
        Without a message for so long a page says that its picture is old, and captures nothing.
    request
        After so long a page gives a request up, and says so.
    late
        An order that arrives so long after the key was pressed is refused.
    """

    silence: float = 3.0
    request: float = 10.0
    late: float = 5.0


class Server:
    """The web application of a station.

    Parameters
    ----------
    station
        Entered by the caller.
    access
        Who may come in.
    presets
        The file of the objective presets; None: they last as long as the program.
    limits
        How long a page and the server wait for one another.
    """

    def __init__(
        self, station: Station, access: Access, presets: Path | None = None, limits: Limits | None = None
    ) -> None:
        self.station, self.limits = station, limits or Limits()
        self._path = presets
        self._presets: tuple[Preset, ...] = ()
        if presets is not None:
            try:
                self._presets = preset_file.load(presets)
            except KinetError as error:
                log.warning("%s", error)
        # A page waits for its frames in a thread: with others' threads they might never come.
        self._threads = ThreadPoolExecutor(2 * MOST_PAGES, "page")
        self._pages: dict[str, asyncio.Event] = {}  # by the name that a page gives itself: set to close it
        self._closing = False
        self.app = Guard(self._routes(), access)

    def state(self) -> serializers.Json:
        """Return what the page is told of everything."""
        limits = {name: round(1000 * seconds) for name, seconds in asdict(self.limits).items()}
        return serializers.state(self.station, self._presets) | {"limits_ms": limits}

    async def in_time(self, connection: HTTPConnection) -> None:
        """Refuse an order that was under way for too long: what a person saw when the key went down has changed.

        A page sends when that was, by the clock of the state and the time since it came.
        """
        try:
            late = clock.now() - float(connection.headers.get("kinet-pressed", "inf"))
        except ValueError:
            return
        if late > self.limits.late:
            raise RefusedError(f"this arrived {late:.0f} s late, so nothing was done: try again")

    @contextlib.asynccontextmanager
    async def _life(self, _: FastAPI) -> AsyncIterator[None]:
        yield
        self._closing = True
        self._threads.shutdown(wait=False, cancel_futures=True)

    # --- the live picture --------------------------------------------------------------------------------------------

    async def live(self, socket: WebSocket) -> None:
        """Send frames, each when the one before was shown, and the state when it changed."""
        await socket.accept()
        name = socket.query_params.get("page") or secrets.token_hex(8)
        if name in self._pages:  # a page that lost its connection, and is back before the server noticed
            self._pages.pop(name).set()
        if len(self._pages) >= MOST_PAGES:
            await socket.close(1013, f"expected up to {MOST_PAGES} open pages: close one")
            return
        self._pages[name] = replaced = asyncio.Event()
        viewer = self.station.loop.viewer()
        here = asyncio.get_running_loop()
        changed, ready = asyncio.Event(), asyncio.Event()
        changed.set()
        ready.set()
        page = _Page(viewer, ready)

        def tell() -> None:
            here.call_soon_threadsafe(changed.set)

        unlisten = self.station.listen(tell)
        works = (self._frames(socket, page), self._states(socket, changed), self._answers(socket, page))
        tasks = [asyncio.create_task(work) for work in works]
        gone = asyncio.create_task(replaced.wait())
        try:
            done, _ = await asyncio.wait([*tasks, gone], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                if error is not None and not isinstance(error, WebSocketDisconnect | RuntimeError | KinetError):
                    log.warning("a page was lost: %s: %s", type(error).__name__, error)
        finally:
            unlisten()
            viewer.close()
            for task in (*tasks, gone):
                task.cancel()
            await asyncio.gather(*tasks, gone, return_exceptions=True)
            if self._pages.get(name) is replaced:
                del self._pages[name]
            with contextlib.suppress(RuntimeError):
                await socket.close(1001)

    async def _frames(self, socket: WebSocket, page: _Page) -> None:
        here = asyncio.get_running_loop()
        while not self._closing:
            await page.ready.wait()
            made = await here.run_in_executor(self._threads, self._next, page)
            if made is None:
                if page.viewer.closed:  # a recording is over: the state says so, and the session goes on
                    await asyncio.sleep(_BEAT)
                continue
            seen, blind, data = made
            if blind is not self.station.blind:  # a recount has begun or ended since
                page.held = None
                continue
            page.shown = seen
            page.ready.clear()
            await socket.send_bytes(data)

    def _next(self, page: _Page) -> tuple[FrameResult, bool, bytes] | None:
        """Return the next picture of a page: the newest, or the one at which the pages are paused, once."""
        newest, held, blind = page.viewer.take(_LOOK), self.station.held, self.station.blind
        if newest is None and page.viewer.closed and not page.begun:
            newest = self.station.latest  # the page was opened after the end of a recording
        seen = held or newest
        if seen is None or (seen is held and page.held == (seen.sequence, blind)):
            return None
        page.begun = True
        page.held = None if seen is not held else (seen.sequence, blind)
        if seen is not held:
            self.station.show(seen)
        return seen, blind, serializers.frame(seen, page.width, blind=blind)

    async def _states(self, socket: WebSocket, changed: asyncio.Event) -> None:
        here = asyncio.get_running_loop()
        while not self._closing:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(changed.wait(), _BEAT)
            changed.clear()
            text = await here.run_in_executor(self._threads, lambda: json.dumps(self.state(), allow_nan=False))
            await socket.send_text(text)

    async def _answers(self, socket: WebSocket, page: _Page) -> None:
        while True:
            said = _object(await socket.receive_text())
            if said.get("type") == "shown":
                if page.shown is not None and said.get("frame") == page.shown.sequence:
                    if page.held is None:
                        page.viewer.shown(page.shown)
                    page.shown = None
                    page.ready.set()
            elif said.get("type") == "view" and isinstance(width := said.get("width"), int | float):
                page.width = int(min(max(width, 64), WIDEST)) if width == width else WIDEST

    # --- the routes --------------------------------------------------------------------------------------------------

    def _routes(self) -> FastAPI:
        # Its own documentation pages would load scripts from elsewhere.
        app = FastAPI(
            title="kinet-trt live",
            docs_url=None,
            redoc_url=None,
            openapi_url=None,
            lifespan=self._life,
            **_without_telemetry(),
            dependencies=[Depends(self.in_time)],
        )
        app.add_exception_handler(KinetError, _told)
        app.add_exception_handler(RequestValidationError, _told)
        app.add_exception_handler(HTTPException, _told)
        app.add_exception_handler(Exception, _failed)
        station, store = self.station, self.station.store

        for name, (data, kind) in _page_files().items():
            for path in {f"/{name}", "/" if name == "index.html" else f"/{name}"}:
                app.get(path)(_static(data, kind))
        app.websocket("/api/live")(self.live)

        @app.get("/api/state")
        def state() -> Response:
            return JSONResponse(self.state())

        # Capture, count, camera

        @app.post("/api/capture")
        def capture(order: orders.Capture) -> Response:
            field = station.capture(order.frame, anyway=order.anyway)
            return JSONResponse({"field": field.id, "number": field.number})

        @app.post("/api/pause")
        def pause(order: orders.Pause) -> Response:
            station.pause(order.frame) if order.on else station.resume()
            return _done()

        @app.post("/api/auto")
        def auto(order: orders.Switch) -> Response:
            station.set_auto(order.on)
            return _done()

        @app.post("/api/threshold")
        def threshold(order: orders.Threshold) -> Response:
            station.loop.set_threshold(Threshold.parse(order.value))
            return _done()

        @app.post("/api/scale")
        def scale(order: orders.Scale) -> Response:
            station.loop.set_mpp(order.mpp, order.source)
            mpp, source = station.loop.scale
            return JSONResponse({"mpp": mpp, "source": source, "clock": clock.now()})

        @app.post("/api/presets")
        def presets(order: orders.Presets) -> Response:
            chosen = tuple(Preset(one.name.strip(), one.mpp) for one in order.presets)
            preset_file.check(chosen)
            if self._path is not None:
                preset_file.save(self._path, chosen)
            self._presets = chosen
            return _done()

        @app.post("/api/blank")
        def blank(order: orders.Switch) -> Response:
            station.loop.take_blank() if order.on else station.loop.set_correction(None)
            return _done()

        @app.post("/api/region")
        def region(order: orders.Region) -> Response:
            station.set_region(_outline(order))
            return _done()

        # Sessions

        @app.get("/api/sessions/list")
        def sessions() -> Response:
            here = station.view.session.id
            return JSONResponse(
                {
                    "sessions": [
                        {
                            "id": one.id,
                            "title": one.title,
                            "created": one.created,
                            "fields": len(store.fields(one.id)),
                            "open": one.id == here,
                        }
                        for one in store.sessions()
                    ]
                }
            )

        @app.post("/api/sessions")
        def begin(order: orders.NewSession) -> Response:
            return JSONResponse({"session": station.begin(order.title, order.reader).id})

        @app.post("/api/sessions/open")
        def reopen(order: orders.Session) -> Response:
            station.reopen(order.session)
            return _done()

        @app.post("/api/sessions/rename")
        def rename(order: orders.Names) -> Response:
            station.rename(order.title, order.reader)
            return _done()

        @app.post("/api/sessions/delete")
        def delete_session(order: orders.Session) -> Response:
            station.delete_session(order.session)
            return _done()

        @app.get("/api/sessions/{session}/file")
        def session_file(session: int) -> Response:
            if session == station.view.session.id:
                station.unblinded()
            name = file_name(store.session(session), "session.kinet")
            return _file(lambda path: store.export_session(session, path), name, "application/vnd.sqlite3")

        @app.get("/api/report.html")
        def report() -> Response:
            live = station.unblinded()
            html = build(store, live.id, bands=station.bands, hot_spot=station.hot_spot)
            named = _disposition("inline", file_name(live.session, "report.html"))
            return Response(html, media_type="text/html", headers={"content-security-policy": _REPORT_POLICY} | named)

        @app.get("/api/nuclei.csv")
        def nuclei_table() -> Response:
            live = station.unblinded()
            return _download(nuclei_csv(live.count()).encode(), _CSV, file_name(live.session, "nuclei.csv"))

        @app.get("/api/summary.csv")
        def summary_csv() -> Response:
            live = station.unblinded()
            rows, _ = summary_rows(live.count(), live.session, station.hot_spot)
            return _download(to_csv(rows).encode(), _CSV, file_name(live.session, "summary.csv"))

        @app.get("/api/summary.xlsx")
        def summary_xlsx() -> Response:
            live = station.unblinded()
            name = file_name(live.session, "summary.xlsx")
            check_suffix(Path(name))
            rows, total = summary_rows(live.count(), live.session, station.hot_spot)
            return _download(to_xlsx(rows, total), _XLSX, name)

        @app.get("/api/geojson.zip")
        def geojson() -> Response:
            live = station.unblinded()
            counted = live.count()

            def write(path: Path) -> None:
                with tempfile.TemporaryDirectory(prefix="kinet-") as folder, zipfile.ZipFile(path, "w") as archive:
                    write_geojson(store, counted, Path(folder))
                    for one in sorted(Path(folder).iterdir()):
                        archive.write(one, one.name)

            return _file(write, file_name(live.session, "geojson.zip"), "application/zip")

        # Fields

        @app.get("/api/fields/{field}")
        def nuclei(field: int) -> Response:
            return JSONResponse(serializers.nuclei(station.field(field)))

        @app.get("/api/fields/{field}/picture.jpg")
        def picture(field: int) -> Response:
            return _picture(serializers.jpeg(store.pixels(station.field(field).field.id), 1 << 20, 92))

        @app.get("/api/fields/{field}/thumbnail.jpg")
        def thumbnail(field: int) -> Response:
            return _picture(serializers.jpeg(store.pixels(station.field(field).field.id), serializers.THUMBNAIL))

        @app.get("/api/fields/{field}/figure.png")
        def field_figure(field: int) -> Response:
            live, number = station.unblinded(), station.field(field).field.number
            name = file_name(live.session, f"field-{number}.png")
            return _download(figure(store, live.count(), number), "image/png", name)

        @app.post("/api/fields/{field}/add")
        def add(field: int, order: orders.Place) -> Response:
            return JSONResponse({"nucleus": station.add(field, order.x, order.y, order.cls).nucleus})

        @app.post("/api/fields/{field}/reclassify")
        def reclassify(field: int, order: orders.Reclass) -> Response:
            station.reclassify(field, order.nucleus, order.cls)
            return _done()

        @app.post("/api/fields/{field}/remove")
        def remove(field: int, order: orders.Nucleus) -> Response:
            station.remove(field, order.nucleus)
            return _done()

        @app.post("/api/fields/{field}/region")
        def field_region(field: int, order: orders.FieldRegion) -> Response:
            station.limit_to_tumor(field) if order.map else station.set_field_region(field, _outline(order))
            return _done()

        @app.post("/api/fields/{field}/note")
        def field_note(field: int, order: orders.Text) -> Response:
            station.note(order.text, field)
            return _done()

        @app.post("/api/fields/{field}/delete")
        def delete_field(field: int) -> Response:
            station.delete_field(field)
            return _done()

        @app.post("/api/fields/{field}/restore")
        def restore_field(field: int) -> Response:
            return JSONResponse({"number": station.restore_field(field).number})

        @app.post("/api/fields/{field}/finish")
        def finish(field: int, order: orders.Switch) -> Response:
            station.finish(field, order.on)
            return _done()

        @app.post("/api/undo")
        def undo(order: orders.Undo) -> Response:
            return JSONResponse({"undone": _said(station.undo(order.field))})

        @app.post("/api/redo")
        def redo(order: orders.Undo) -> Response:
            return JSONResponse({"redone": _said(station.redo(order.field))})

        @app.post("/api/note")
        def note(order: orders.Text) -> Response:
            station.note(order.text)
            return _done()

        @app.post("/api/recount")
        def recount(order: orders.Recount) -> Response:
            if order.begins:
                station.begin_recount(order.reader, with_model=order.start == "model")
            elif order.recount is None:
                station.end_recount()
            else:
                station.go_on_recounting(order.recount)
            return _done()

        return app


class _Page:
    """One open page."""

    def __init__(self, viewer: Viewer, ready: asyncio.Event) -> None:
        self.viewer, self.ready = viewer, ready
        self.width = 1280
        self.begun = False  # whether a picture was sent
        self.shown: FrameResult | None = None  # sent, and not yet on the screen
        self.held: tuple[int, bool] | None = None  # the held picture that was sent last, and whether blind


def _page_files() -> dict[str, tuple[bytes, str]]:
    """Return the files of the page by name: what is not in this list is not served."""
    folder = resources.files("kinet_trt.live.web") / "page"
    found = [one for one in folder.iterdir() if Path(one.name).suffix in _KINDS] if folder.is_dir() else []
    return {one.name: (one.read_bytes(), _KINDS[Path(one.name).suffix]) for one in found}


def _static(data: bytes, kind: str) -> Callable[[], Response]:
    # Nothing may be kept by the browser: after an upgrade half a page of the old version would not fit the new one.
    return lambda: Response(data, media_type=kind)


def _said(correction: Edit | None) -> serializers.Json | None:
    if correction is None:
        return None
    return {"kind": correction.kind, "field": correction.field, "nucleus": correction.nucleus}


def _done() -> Response:
    return JSONResponse({})


def _picture(data: bytes) -> Response:
    return Response(data, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})


def _download(data: bytes, kind: str, name: str) -> Response:
    return Response(data, media_type=kind, headers=_disposition("attachment", name))


def _disposition(how: str, name: str) -> dict[str, str]:
    """Return the header that names a file, whatever its letters."""
    plain = quote(name)
    said = f'filename="{name}"' if plain == name else f"filename*=utf-8''{plain}"
    return {"content-disposition": f"{how}; {said}"}


def _file(write: Callable[[Path], None], name: str, kind: str) -> Response:
    """Return a file that is made for this answer alone, on disk: it may be too large for the memory."""
    folder = Path(tempfile.mkdtemp(prefix="kinet-"))
    try:
        write(folder / "made")
    except BaseException:
        shutil.rmtree(folder)
        raise
    gone = BackgroundTask(shutil.rmtree, folder)
    return FileResponse(folder / "made", media_type=kind, filename=name, background=gone)


def _outline(order: orders.Region) -> Polygon | None:
    return None if order.points is None else polygon(order.points)


def _object(text: str) -> dict[str, Any]:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _without_telemetry() -> dict[str, Any]:
    """Return the option of newer FastAPI that keeps requests from a collector that the environment may name."""
    if "telemetry" not in inspect.signature(FastAPI).parameters:
        return {}
    return {"telemetry": {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}}


def _told(_: Request, error: Exception) -> Response:
    """Say in one sentence what was wrong."""
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "the request"
        return JSONResponse({"error": f"{where}: {first['msg']}"}, 422)
    if isinstance(error, HTTPException):  # the web framework's own
        return JSONResponse({"error": error.detail}, error.status_code)
    return JSONResponse({"error": str(error)}, 409 if isinstance(error, RefusedError) else 400)


def _failed(_: Request, error: Exception) -> Response:
    log.error("a request failed: %s: %s", type(error).__name__, error)
    log.debug("", exc_info=error)
    return JSONResponse({"error": f"internal error in kinet-trt: {type(error).__name__}"}, 500)
