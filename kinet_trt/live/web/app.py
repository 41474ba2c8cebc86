"""Starts and stops the live page of a camera (``kinet-trt live SOURCE``)."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import uvicorn

from kinet_trt.camera.folder import FolderSource
from kinet_trt.camera.grabber import FrameGrabber
from kinet_trt.camera.source import FrameSource
from kinet_trt.camera.video import VideoSource
from kinet_trt.core.errors import KinetError
from kinet_trt.core.ki67 import NET, Bands
from kinet_trt.core.lock_file import LockFile
from kinet_trt.core.user_folders import sessions_file, user_data
from kinet_trt.inference.counter import NucleusCounter
from kinet_trt.live.acquisition.loop import Loop
from kinet_trt.live.acquisition.results import FrameCheck
from kinet_trt.live.session.store import Store
from kinet_trt.live.session.summary import HOT_SPOT
from kinet_trt.live.web.auth import Access
from kinet_trt.live.web.controller import Controller
from kinet_trt.live.web.server import Limits, Server
from kinet_trt.quality.domain_check import DomainCheck

log = logging.getLogger(__name__)

PORT = 8765
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_START_TIMEOUT, _STOP_TIMEOUT = 20.0, 15.0  # s
_MAX_MESSAGE = 1 << 16  # bytes of a WebSocket message from a page


@dataclass(frozen=True)
class Options:
    """Options of the live page; see also `Controller`."""

    store: Path | None = None  # session file; None: sessions.kinet in the user's data folder
    host: str = "127.0.0.1"
    port: int | None = None  # 0: any free port; None: 8765, or any free port if that is taken
    mpp: float | None = None  # um/px entered by hand; None: the camera's
    title: str = ""
    reader: str = ""
    bands: Bands | None = NET
    hot_spot: int = HOT_SPOT
    protocol: str | None = None
    auto: bool = False
    browser: bool = True  # open the page in the user's browser
    limits: Limits = field(default_factory=Limits)


def run(source: FrameSource, counter: NucleusCounter, options: Options, tell: Callable[[str], None]) -> int:
    """Serve the page until SIGINT or SIGTERM; return the exit status.

    KinetError if the session file cannot be used, another process has it open, or the address is taken.
    """
    stop = threading.Event()
    check = DomainCheck(counter.engine.card.mpp)
    with _signals(stop), serving(source, counter, options, check) as page:
        tell(f"Live page: {page.url}")
        if page.token:
            tell("The URL contains the access token; it is not shown again.")
        resumed = page.controller.view.resumed
        tell(f"Sessions: {page.controller.store.path}" + (" (resuming the interrupted session)" if resumed else ""))
        tell("Press Ctrl-C to stop; captured fields are saved.")
        if options.browser and _has_screen():
            threading.Thread(target=webbrowser.open, args=(page.url,), daemon=True).start()
        # Wait in short intervals: on Windows, Ctrl-C does not interrupt waiting for a lock.
        while not stop.wait(0.5):
            if not page.alive():
                raise KinetError("the server of the live page has stopped: start kinet-trt live again")
    return 0


@dataclass(frozen=True)
class LivePage:
    """A running live page."""

    url: str  # with the token if there is one
    port: int
    token: str  # empty on the loopback interface
    controller: Controller
    alive: Callable[[], bool]  # returns whether the server is running


@contextlib.contextmanager
def serving(
    source: FrameSource, counter: NucleusCounter, options: Options, check: FrameCheck | None = None
) -> Iterator[LivePage]:
    """Serve the page in threads while the context is open; raises like `run`."""
    folder = user_data()
    path = options.store or sessions_file()
    recorded = isinstance(source, FolderSource | VideoSource)
    with contextlib.ExitStack() as stack:
        lock = LockFile(path)
        if not lock.acquire():
            elsewhere = lock.read_note()
            raise KinetError(
                f"{path}: another kinet-trt live has these sessions open{f' at {elsewhere}' if elsewhere else ''}: use "
                "that one, or name another file with --sessions FILE"
            )
        stack.callback(lock.release)
        listener = stack.enter_context(contextlib.closing(_listen(options.host, options.port)))
        port: int = listener.getsockname()[1]
        store = stack.enter_context(Store.open(path))
        grabber = FrameGrabber(source, mpp=options.mpp)
        loop = Loop(grabber, counter, mpp=options.mpp, source_kind="file" if recorded else "camera", check=check)
        controller = Controller(
            loop,
            store,
            title=options.title,
            reader=options.reader,
            bands=options.bands,
            hot_spot=options.hot_spot,
            protocol=options.protocol,
            auto=options.auto,
            max_age=options.limits.late,
        )
        token = "" if options.host in LOOPBACK else secrets.token_urlsafe(24)
        access = Access.by_token(token, port) if token else Access.local(port)
        server = Server(controller, access, folder / "objectives.json" if folder else None, options.limits)
        stack.enter_context(controller)
        stack.enter_context(grabber)
        stack.enter_context(loop)
        alive = stack.enter_context(_http(server, listener))
        address = _address(options.host, port)
        lock.write_note(address)
        url = f"{address}?token={token}" if token else address
        yield LivePage(url, port, token, controller, alive)


@contextlib.contextmanager
def _http(server: Server, listener: socket.socket) -> Iterator[Callable[[], bool]]:
    """Run uvicorn in a thread: its own signal handlers would end the process before the session is closed."""
    web = uvicorn.Server(
        uvicorn.Config(
            server.app,
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            ws="websockets-sansio",
            ws_max_size=_MAX_MESSAGE,
            ws_per_message_deflate=False,  # JPEGs do not compress, and counting needs the CPU
            h11_max_incomplete_event_size=1 << 16,
            limit_concurrency=200,
            timeout_keep_alive=75,  # after the default of 5 s, requests often meet a connection that is just closing
            timeout_graceful_shutdown=3,
        )
    )
    thread = threading.Thread(target=web.run, kwargs={"sockets": [listener]}, name="web", daemon=True)
    thread.start()
    try:
        end = time.monotonic() + _START_TIMEOUT
        while not web.started:
            if not thread.is_alive() or time.monotonic() > end:
                raise KinetError("the server of the live page did not start")
            time.sleep(0.01)
        yield thread.is_alive
    finally:
        web.should_exit = True
        thread.join(_STOP_TIMEOUT)
        if thread.is_alive():
            log.warning("the server of the live page did not stop within %g s", _STOP_TIMEOUT)


def _listen(host: str, port: int | None) -> socket.socket:
    """Listen before anything else is started, so that a wrong address is reported at once."""
    ports = [PORT, 0] if port is None else [port]
    for number in ports:
        try:
            family = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0][0]
            listener = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            raise KinetError(
                f"--host {host}: expected an address of this machine: {error.strerror or error}"
            ) from error
        try:
            if os.name == "posix":
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, number))
            listener.listen(128)
            return listener
        except OSError as error:
            listener.close()
            if number == ports[-1]:
                raise KinetError(
                    f"{host}:{number}: cannot listen: {error.strerror or error}; use --port 0 for any free port"
                ) from error
    raise AssertionError("unreachable")


def _address(host: str, port: int) -> str:
    """Return the URL of the page, by the name of this machine if it listens on all interfaces."""
    name = socket.gethostname() or "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104
    return f"http://{f'[{name}]' if ':' in name else name}:{port}/"


def _has_screen() -> bool:
    """Return whether there is a screen for a browser; a text browser in this terminal would only disturb."""
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


@contextlib.contextmanager
def _signals(stop: threading.Event) -> Iterator[None]:
    """Let SIGINT and SIGTERM set an event, so that the session is closed in order."""

    def request_stop(_: int, __: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, request_stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
