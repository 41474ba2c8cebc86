"""Serving: runs the live page of a camera until it is told to stop (``kinet-trt live SOURCE``)."""

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
from kinet_trt.core.files import Claim, sessions_file, user_data
from kinet_trt.core.ki67 import NET, Bands
from kinet_trt.inference.counter import NucleusCounter
from kinet_trt.live.acquisition.loop import FrameCheck, Loop
from kinet_trt.live.session.store import Store
from kinet_trt.live.session.summary import HOT_SPOT
from kinet_trt.live.web.auth import Access
from kinet_trt.live.web.controller import Station
from kinet_trt.live.web.routes import Limits, Server
from kinet_trt.quality.domain_check import Unlike

log = logging.getLogger(__name__)

PORT = 8765
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_START, _STOP = 20.0, 15.0  # s
_LONGEST_MESSAGE = 1 << 16  # bytes that a page may send over its socket at once


@dataclass(frozen=True)
class Options:
    """How the page is served.

    Attributes
    ----------
    store
        The session file; None: ``sessions.kinet`` in the user's data folder.
    host, port
        Where; port 0: any that is free; None: 8765, or any where that is taken.
    mpp
        um/px, stated by a person.
    title, reader
        Of a new session.
    bands, hot_spot
        As `Station` has them.
    auto
        Capture when the stage rests.
    browser
        Whether to open the page in the user's browser.
    limits
        How long the page and the server wait for one another.
    """

    store: Path | None = None
    host: str = "127.0.0.1"
    port: int | None = None
    mpp: float | None = None
    title: str = ""
    reader: str = ""
    bands: Bands | None = NET
    hot_spot: int = HOT_SPOT
    auto: bool = False
    browser: bool = True
    limits: Limits = field(default_factory=Limits)


def run(source: FrameSource, counter: NucleusCounter, options: Options, tell: Callable[[str], None]) -> int:
    """Serve the page until Ctrl-C or the signal to end; return the exit status.

    Raises
    ------
    KinetError
        If the session file cannot be used, another program has it open, or the address is taken.
    """
    stop = threading.Event()
    remarks = (Unlike(counter.engine.card.mpp),)
    with _signals(stop), serving(source, counter, options, remarks) as page:
        tell(f"Live page: {page.url}")
        if page.token:
            tell("The URL contains the access token; it is not shown again.")
        tell(f"Sessions: {page.store}" + (" (resuming the interrupted session)" if page.resumed else ""))
        tell("Press Ctrl-C to stop; captured fields are saved.")
        if options.browser and _has_screen():
            threading.Thread(target=webbrowser.open, args=(page.url,), daemon=True).start()
        # Wait in short intervals: on Windows, Ctrl-C does not interrupt waiting for a lock.
        while not stop.wait(0.5):
            if not page.alive():
                raise KinetError("the server of the live page has stopped: start kinet-trt live again")
    return 0


@dataclass(frozen=True)
class Page:
    """A page that is being served.

    Attributes
    ----------
    url
        Where; it holds the token where one is needed.
    port, token
        As they were chosen; the token is empty where none is needed.
    store
        The session file.
    resumed
        Whether the session of a program that was killed goes on.
    station
        What it shows.
    alive
        Whether the server runs.
    """

    url: str
    port: int
    token: str
    store: Path
    resumed: bool
    station: Station
    alive: Callable[[], bool]


@contextlib.contextmanager
def serving(
    source: FrameSource, counter: NucleusCounter, options: Options, remarks: tuple[FrameCheck, ...] = ()
) -> Iterator[Page]:
    """Serve the page in threads as long as the context lasts; raises as `run`."""
    folder = user_data()
    path = options.store or sessions_file()
    recorded = isinstance(source, FolderSource | VideoSource)
    with contextlib.ExitStack() as stack:
        claim = Claim(path)
        if not claim.take():
            elsewhere = claim.said()
            raise KinetError(
                f"{path}: another kinet-trt live has these sessions open{f' at {elsewhere}' if elsewhere else ''}: use "
                "that one, or name another file with --sessions FILE"
            )
        stack.callback(claim.release)
        taken = stack.enter_context(contextlib.closing(_listen(options.host, options.port)))
        port: int = taken.getsockname()[1]
        store = stack.enter_context(Store.open(path))
        grabber = FrameGrabber(source, mpp=options.mpp)
        loop = Loop(grabber, counter, mpp=options.mpp, stated="file" if recorded else "camera", remarks=remarks)
        station = Station(
            loop,
            store,
            title=options.title,
            reader=options.reader,
            bands=options.bands,
            hot_spot=options.hot_spot,
            auto=options.auto,
            old=options.limits.late,
        )
        token = "" if options.host in LOOPBACK else secrets.token_urlsafe(24)
        access = Access.by_token(token, port) if token else Access.local(port)
        server = Server(station, access, folder / "objectives.json" if folder else None, options.limits)
        stack.enter_context(station)
        stack.enter_context(grabber)
        stack.enter_context(loop)
        alive = stack.enter_context(_http(server, taken))
        address = _address(options.host, port)
        claim.say(address)
        url = f"{address}?token={token}" if token else address
        yield Page(url, port, token, path, station.view.resumed, station, alive)


@contextlib.contextmanager
def _http(server: Server, taken: socket.socket) -> Iterator[Callable[[], bool]]:
    """Run the web server in a thread: its own handling of signals would end the program before the session is left."""
    web = uvicorn.Server(
        uvicorn.Config(
            server.app,
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            ws="websockets-sansio",
            ws_max_size=_LONGEST_MESSAGE,
            ws_per_message_deflate=False,  # a JPEG grows no smaller, and the processor is the count's
            h11_max_incomplete_event_size=1 << 16,
            limit_concurrency=200,
            timeout_graceful_shutdown=3,
        )
    )
    thread = threading.Thread(target=web.run, kwargs={"sockets": [taken]}, name="web", daemon=True)
    thread.start()
    try:
        end = time.monotonic() + _START
        while not web.started:
            if not thread.is_alive() or time.monotonic() > end:
                raise KinetError("the server of the live page did not start")
            time.sleep(0.01)
        yield thread.is_alive
    finally:
        web.should_exit = True
        thread.join(_STOP)
        if thread.is_alive():
            log.warning("the server of the live page does not stop: its thread is left running")


def _listen(host: str, port: int | None) -> socket.socket:
    """Take an address before anything else is started, so that a wrong one is told at once."""
    wanted = [PORT, 0] if port is None else [port]
    for one in wanted:
        try:
            family = socket.getaddrinfo(host, one, type=socket.SOCK_STREAM)[0][0]
            taken = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            raise KinetError(
                f"--host {host}: expected an address of this machine: {error.strerror or error}"
            ) from error
        try:
            if os.name == "posix":
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind((host, one))
            taken.listen(128)
            return taken
        except OSError as error:
            taken.close()
            if one == wanted[-1]:
                raise KinetError(
                    f"{host}:{one}: cannot listen: {error.strerror or error}; --port 0 takes a free one"
                ) from error
    raise AssertionError("unreachable")


def _address(host: str, port: int) -> str:
    name = {"0.0.0.0": _own_name(), "::": _own_name(), "::1": "[::1]"}.get(host, host)  # noqa: S104
    return f"http://{f'[{name}]' if ':' in name and not name.startswith('[') else name}:{port}/"


def _own_name() -> str:
    return socket.gethostname() or "127.0.0.1"


def _has_screen() -> bool:
    """Return whether a browser would be seen: a terminal browser in this terminal would only be in the way."""
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


@contextlib.contextmanager
def _signals(stop: threading.Event) -> Iterator[None]:
    """Let Ctrl-C and the signal to end set an event, so that the session is left in order."""

    def ask(_: int, __: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
