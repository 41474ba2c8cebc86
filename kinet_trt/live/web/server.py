"""Web application of the live page: its routes, the WebSocket, the static files and the error responses.

`kinet_trt.live.web.controller` does the work, `kinet_trt.live.web.serializers` builds the JSON, and
`kinet_trt.live.web.auth` controls access.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import mimetypes
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from kinet_trt.core.errors import KinetError
from kinet_trt.live import clock
from kinet_trt.live.acquisition import presets as preset_file
from kinet_trt.live.acquisition.presets import Preset
from kinet_trt.live.web import routes, serializers
from kinet_trt.live.web.auth import Access, Guard
from kinet_trt.live.web.controller import Controller
from kinet_trt.live.web.displayed import RefusedError
from kinet_trt.live.web.live_socket import LiveSocket

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """Timeouts between page and server, s."""

    # without a message for this long, a page marks its picture as out of date and captures nothing
    silence: float = 3.0
    request: float = 10.0  # timeout of a page's request
    late: float = 5.0  # a request that arrives this long after the key press is refused


class Server:
    """Web application of a controller, which the caller enters.

    ``presets`` is the file of the objective presets; None: they are not saved.
    """

    def __init__(
        self, controller: Controller, access: Access, presets: Path | None = None, limits: Limits | None = None
    ) -> None:
        self.controller, self.limits = controller, limits or Limits()
        self._presets_path = presets
        self._presets: tuple[Preset, ...] = ()
        if presets is not None:
            try:
                self._presets = preset_file.load(presets)
            except KinetError as error:
                log.warning("%s", error)
        self._socket = LiveSocket(controller, self.state)
        self.app = Guard(self._create_app(), access)

    def state(self) -> serializers.Json:
        """Return the state as JSON: everything that the page shows except pictures."""
        limits = {name: round(1000 * seconds) for name, seconds in asdict(self.limits).items()}
        return serializers.state(self.controller, self._presets) | {"limits_ms": limits}

    def set_presets(self, presets: tuple[Preset, ...]) -> None:
        """Replace the objective presets and save them."""
        preset_file.check(presets)
        if self._presets_path is not None:
            preset_file.save(self._presets_path, presets)
        self._presets = presets

    async def refuse_late(self, connection: HTTPConnection) -> None:
        """Refuse a request that arrives late: the person acted on a picture that has changed since.

        The page sends the time of the key press, by the clock of the last state.
        """
        try:
            late = clock.now() - float(connection.headers.get("kinet-pressed", "inf"))
        except ValueError:
            return
        if late > self.limits.late:
            raise RefusedError(f"this arrived {late:.0f} s late, so nothing was done: try again")

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        yield
        self._socket.close()

    def _create_app(self) -> FastAPI:
        # FastAPI's documentation pages would load scripts from other servers.
        app = FastAPI(
            title="kinet-trt live",
            docs_url=None,
            redoc_url=None,
            openapi_url=None,
            lifespan=self._lifespan,
            dependencies=[Depends(self.refuse_late)],
            **_without_telemetry(),
        )
        for kind in (KinetError, RequestValidationError, HTTPException):
            app.add_exception_handler(kind, _error_response)
        app.add_exception_handler(Exception, _internal_error)
        app.websocket("/api/live")(self._socket.serve)
        app.get("/api/state")(lambda: JSONResponse(self.state()))
        app.include_router(routes.live(self.controller, self.set_presets))
        for group in (routes.sessions, routes.exports, routes.fields, routes.edits):
            app.include_router(group(self.controller))
        # The Windows registry may have another type for scripts, with which browsers do not run them.
        mimetypes.add_type("text/javascript", ".js")
        files = StaticFiles(packages=[("kinet_trt.live.web", "page")])

        @app.get("/")
        async def index(request: Request) -> Response:
            return await files.get_response("index.html", request.scope)

        app.mount("/", files)
        return app


def _without_telemetry() -> dict[str, Any]:
    """Return the options of newer FastAPI that keep requests from a collector named by the environment."""
    if "telemetry" not in inspect.signature(FastAPI).parameters:
        return {}
    return {"telemetry": {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}}


def _error_response(_: Request, error: Exception) -> Response:
    """Return the message of an expected error, one sentence."""
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][1:]) or "the request"
        return JSONResponse({"error": f"{name}: {first['msg']}"}, 422)
    if isinstance(error, HTTPException):
        return JSONResponse({"error": error.detail}, error.status_code)
    return JSONResponse({"error": str(error)}, 409 if isinstance(error, RefusedError) else 400)


def _internal_error(_: Request, error: Exception) -> Response:
    log.error("a request failed: %s: %s", type(error).__name__, error)
    log.debug("", exc_info=error)
    return JSONResponse({"error": f"internal error in kinet-trt: {type(error).__name__}"}, 500)
