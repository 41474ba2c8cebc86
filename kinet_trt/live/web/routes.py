"""Routes of the live page's API, one group a function."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse, JSONResponse
from starlette.background import BackgroundTask

from kinet_trt.inference.counter import Threshold
from kinet_trt.io.tables import check_suffix, to_csv, to_xlsx
from kinet_trt.live import clock
from kinet_trt.live.acquisition.presets import Preset
from kinet_trt.live.session.edits import Edit
from kinet_trt.live.session.export import figure, file_name, nuclei_csv, summary_rows, write_geojson
from kinet_trt.live.session.region import Polygon, polygon
from kinet_trt.live.session.report import build
from kinet_trt.live.session.stain import dab_density
from kinet_trt.live.web import request_models as body
from kinet_trt.live.web import serializers
from kinet_trt.live.web.controller import Controller
from kinet_trt.live.web.serializers import Json

_CSV = "text/csv; charset=utf-8"
_XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
_REPORT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'"
_NO_LIMIT = 1 << 20  # px


class JSONAnswer(JSONResponse):
    """JSON; an empty object for None."""

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return super().render({} if content is None else content)


def live(controller: Controller, set_presets: Callable[[tuple[Preset, ...]], None]) -> APIRouter:
    """Return the routes of capture, counting and the camera."""
    router, loop = APIRouter(prefix="/api", default_response_class=JSONAnswer), controller.loop

    @router.post("/capture")
    def capture(request: body.Capture) -> Json:
        field = controller.capture(request.frame, anyway=request.anyway)
        return {"field": field.id, "number": field.number}

    @router.post("/pause")
    def pause(request: body.Pause) -> None:
        controller.frames.pause(request.frame) if request.on else controller.frames.resume()
        controller.notify()

    @router.post("/auto")
    def auto(request: body.Switch) -> None:
        controller.set_auto(request.on)

    @router.post("/threshold")
    def threshold(request: body.Threshold) -> None:
        loop.set_threshold(Threshold.parse(request.value))

    @router.post("/scale")
    def scale(request: body.Scale) -> Json:
        loop.set_mpp(request.mpp, request.source)
        mpp, source = loop.scale
        return {"mpp": mpp, "source": source, "clock": clock.now()}

    @router.post("/presets")
    def presets(request: body.Presets) -> None:
        set_presets(tuple(Preset(preset.name.strip(), preset.mpp) for preset in request.presets))

    @router.post("/blank")
    def blank(request: body.Switch) -> None:
        loop.take_flat_field() if request.on else loop.set_flat_field(None)

    @router.post("/region")
    def region(request: body.Region) -> None:
        controller.set_region(_polygon(request))

    return router


def sessions(controller: Controller) -> APIRouter:
    """Return the routes of sessions and recounts."""
    router, store = APIRouter(prefix="/api", default_response_class=JSONAnswer), controller.store

    @router.get("/sessions/list")
    def list_sessions() -> Json:
        open_id = controller.view.session.id
        listed = [
            {
                "id": session.id,
                "title": session.title,
                "created": session.created,
                "fields": len(store.fields.in_session(session.id)),
                "open": session.id == open_id,
            }
            for session in store.sessions.all()
        ]
        return {"sessions": listed}

    @router.post("/sessions")
    def begin(request: body.NewSession) -> Json:
        return {"session": controller.begin(request.title, request.reader).id}

    @router.post("/sessions/open")
    def reopen(request: body.Session) -> None:
        controller.reopen(request.session)

    @router.post("/sessions/rename")
    def rename(request: body.Rename) -> None:
        controller.rename(request.title, request.reader)

    @router.post("/sessions/delete")
    def delete(request: body.Session) -> None:
        controller.delete_session(request.session)

    @router.post("/note")
    def note(request: body.Note) -> None:
        controller.note(request.text)

    @router.post("/recount")
    def recount(request: body.Recount) -> None:
        if request.begins:
            controller.begin_recount(request.reader, with_model=request.start == "model")
        elif request.recount is None:
            controller.end_recount()
        else:
            controller.resume_recount(request.recount)

    return router


def exports(controller: Controller) -> APIRouter:
    """Return the routes of the report and the files to download."""
    router, store, hot_spot = APIRouter(prefix="/api"), controller.store, controller.hot_spot

    @router.get("/sessions/{session}/file")
    def session_file(session: int) -> Response:
        if session == controller.view.session.id:
            controller.unblinded()
        name = file_name(store.sessions.get(session), "session.kinet")
        return _temporary_file(lambda path: store.sessions.export(session, path), name, "application/vnd.sqlite3")

    @router.get("/report.html")
    def report() -> Response:
        opened = controller.unblinded()
        html = build(store, opened.id, bands=controller.bands, hot_spot=hot_spot, protocol=controller.protocol)
        disposition = _disposition("inline", file_name(opened.session, "report.html"))
        headers = {"content-security-policy": _REPORT_POLICY} | disposition
        return Response(html, media_type="text/html", headers=headers)

    @router.get("/nuclei.csv")
    def nuclei_table() -> Response:
        opened = controller.unblinded()
        return _download(nuclei_csv(opened.count()).encode(), _CSV, file_name(opened.session, "nuclei.csv"))

    @router.get("/summary.csv")
    def summary_csv() -> Response:
        opened = controller.unblinded()
        rows, _ = summary_rows(opened.count(), opened.session, hot_spot)
        return _download(to_csv(rows).encode(), _CSV, file_name(opened.session, "summary.csv"))

    @router.get("/summary.xlsx")
    def summary_xlsx() -> Response:
        opened = controller.unblinded()
        name = file_name(opened.session, "summary.xlsx")
        check_suffix(Path(name))
        rows, total = summary_rows(opened.count(), opened.session, hot_spot)
        return _download(to_xlsx(rows, total), _XLSX, name)

    @router.get("/geojson.zip")
    def geojson() -> Response:
        opened = controller.unblinded()
        count = opened.count()

        def write(path: Path) -> None:
            with tempfile.TemporaryDirectory(prefix="kinet-") as folder, zipfile.ZipFile(path, "w") as archive:
                write_geojson(store, count, Path(folder))
                for file in sorted(Path(folder).iterdir()):
                    archive.write(file, file.name)

        return _temporary_file(write, file_name(opened.session, "geojson.zip"), "application/zip")

    @router.get("/fields/{field}/figure.png")
    def field_figure(field: int) -> Response:
        opened, number = controller.unblinded(), controller.field(field).field.number
        name = file_name(opened.session, f"field-{number}.png")
        return _download(figure(store, opened.count(), number), "image/png", name)

    return router


def fields(controller: Controller) -> APIRouter:
    """Return the routes of captured fields and their pictures."""
    router, store = APIRouter(prefix="/api/fields/{field}", default_response_class=JSONAnswer), controller.store

    def jpeg(field: int, width: int, quality: int) -> Response:
        data = serializers.jpeg(store.fields.pixels(controller.field(field).field.id), width, quality)
        return Response(data, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})

    @router.get("")
    def nuclei(field: int) -> Response:
        return JSONResponse(serializers.nuclei(controller.field(field)))

    @router.get("/stain")
    def stain(field: int) -> Response:
        controller.unblinded()
        view = controller.field(field)
        density = dab_density(view.field, view.answer, store.fields.pixels(view.field.id))
        return JSONResponse(serializers.stain(view, density))

    @router.get("/picture.jpg")
    def picture(field: int) -> Response:
        return jpeg(field, _NO_LIMIT, 92)

    @router.get("/thumbnail.jpg")
    def thumbnail(field: int) -> Response:
        return jpeg(field, serializers.THUMBNAIL_WIDTH, serializers.JPEG_QUALITY)

    @router.post("/region")
    def region(field: int, request: body.FieldRegion) -> None:
        if request.map:
            controller.limit_to_tumor(field)
        else:
            with controller.first_reading(field, "changing the region of a field"):
                store.edits.set_region(field, _polygon(request))

    @router.post("/note")
    def note(field: int, request: body.Note) -> None:
        controller.note(request.text, field)

    @router.post("/delete")
    def delete(field: int) -> None:
        controller.delete_field(field)

    @router.post("/restore")
    def restore(field: int) -> Json:
        return {"number": controller.restore_field(field).number}

    @router.post("/finish")
    def finish(field: int, request: body.Switch) -> None:
        controller.finish(field, request.on)

    return router


def edits(controller: Controller) -> APIRouter:
    """Return the routes of corrections, undo and redo."""
    router, store = APIRouter(prefix="/api", default_response_class=JSONAnswer), controller.store

    @router.post("/fields/{field}/add")
    def add(field: int, request: body.NewNucleus) -> Json:
        with controller.editing(field) as reading:
            return {"nucleus": store.edits.add(field, request.x, request.y, request.cls, reading=reading).nucleus}

    @router.post("/fields/{field}/reclassify")
    def reclassify(field: int, request: body.Reclassify) -> None:
        with controller.editing(field) as reading:
            store.edits.reclassify(field, request.nucleus, request.cls, reading=reading)

    @router.post("/fields/{field}/remove")
    def remove(field: int, request: body.Nucleus) -> None:
        with controller.editing(field) as reading:
            store.edits.remove(field, request.nucleus, reading=reading)

    @router.post("/undo")
    def undo(request: body.Undo) -> Json:
        with controller.editing(request.field) as reading:
            edit = store.edits.undo(controller.view.session.id, field=request.field, reading=reading)
        return {"undone": _edit(edit)}

    @router.post("/redo")
    def redo(request: body.Undo) -> Json:
        with controller.editing(request.field) as reading:
            edit = store.edits.redo(controller.view.session.id, field=request.field, reading=reading)
        return {"redone": _edit(edit)}

    return router


def _edit(edit: Edit | None) -> Json | None:
    return None if edit is None else {"kind": edit.kind, "field": edit.field, "nucleus": edit.nucleus}


def _polygon(request: body.Region) -> Polygon | None:
    return None if request.points is None else polygon(request.points)


def _download(data: bytes, media_type: str, name: str) -> Response:
    return Response(data, media_type=media_type, headers=_disposition("attachment", name))


def _disposition(kind: str, name: str) -> dict[str, str]:
    """Return the header that names a file, with any characters."""
    quoted = quote(name)
    parameter = f'filename="{name}"' if quoted == name else f"filename*=utf-8''{quoted}"
    return {"content-disposition": f"{kind}; {parameter}"}


def _temporary_file(write: Callable[[Path], None], name: str, media_type: str) -> Response:
    """Return a file written for this response only; on disk, because it may not fit into memory."""
    folder = Path(tempfile.mkdtemp(prefix="kinet-"))
    try:
        write(folder / "made")
    except BaseException:
        shutil.rmtree(folder)
        raise
    return FileResponse(
        folder / "made", media_type=media_type, filename=name, background=BackgroundTask(shutil.rmtree, folder)
    )
