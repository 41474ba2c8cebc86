"""WebSocket of the live page: frames, each after the last one is on the screen, and the state."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect

from kinet_trt.core.errors import KinetError
from kinet_trt.live.acquisition.loop import Viewer
from kinet_trt.live.acquisition.results import FrameResult
from kinet_trt.live.web import serializers
from kinet_trt.live.web.controller import Controller

log = logging.getLogger(__name__)

MAX_PAGES = 8
"""Maximum number of open pages."""
MAX_WIDTH = 2560
"""Maximum width of a transmitted picture, px."""
_FRAME_TIMEOUT = 0.25  # s that a thread waits for a frame
_STATE_INTERVAL = 1.0  # s after which the state is sent though nothing changed


class PageConnection:
    """Connection state of one open page."""

    def __init__(self, viewer: Viewer) -> None:
        self.viewer = viewer
        self.ready = asyncio.Event()
        self.ready.set()
        self.width = 1280
        self.started = False  # whether a picture was sent
        self.pending: FrameResult | None = None  # sent, not yet confirmed to be on the screen
        self.held: tuple[int, bool] | None = None  # held frame that was sent last, and whether blind


class LiveSocket:
    """Serves the WebSocket of every open page; ``state`` returns the state as JSON."""

    def __init__(self, controller: Controller, state: Callable[[], serializers.Json]) -> None:
        self._controller, self._state = controller, state
        # Threads of its own: pages wait in them for frames and would block other requests.
        self._threads = ThreadPoolExecutor(2 * MAX_PAGES, "page")
        self._pages: dict[str, asyncio.Event] = {}  # by the page's own name; set to close it
        self._closing = False

    def close(self) -> None:
        """Stop serving."""
        self._closing = True
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def serve(self, socket: WebSocket) -> None:
        """Serve one page until it is closed."""
        await socket.accept()
        name = socket.query_params.get("page") or secrets.token_hex(8)
        if name in self._pages:  # a page that reconnects before the server noticed the lost connection
            self._pages.pop(name).set()
        if len(self._pages) >= MAX_PAGES:
            await socket.close(1013, f"expected up to {MAX_PAGES} open pages: close one")
            return
        self._pages[name] = replaced = asyncio.Event()
        loop, changed = asyncio.get_running_loop(), asyncio.Event()
        changed.set()
        page = PageConnection(self._controller.loop.viewer())
        unlisten = self._controller.listen(lambda: loop.call_soon_threadsafe(changed.set))
        work = (
            self._send_frames(socket, page),
            self._send_states(socket, changed),
            self._receive(socket, page),
            replaced.wait(),
        )
        tasks = [asyncio.create_task(one) for one in work]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                if error is not None and not isinstance(error, WebSocketDisconnect | RuntimeError | KinetError):
                    log.warning("connection to a page lost: %s: %s", type(error).__name__, error)
        finally:
            unlisten()
            page.viewer.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._pages.get(name) is replaced:
                del self._pages[name]
            with contextlib.suppress(RuntimeError):
                await socket.close(1001)

    async def _send_frames(self, socket: WebSocket, page: PageConnection) -> None:
        loop = asyncio.get_running_loop()
        while not self._closing:
            await page.ready.wait()
            message = await loop.run_in_executor(self._threads, self._next_frame, page)
            if message is None:
                if page.viewer.closed:  # the recording is over; the session continues
                    await asyncio.sleep(_STATE_INTERVAL)
                continue
            seen, blind, data = message
            if blind is not self._controller.blind:  # a recount began or ended meanwhile
                page.held = None
                continue
            page.pending = seen
            page.ready.clear()
            await socket.send_bytes(data)

    def _next_frame(self, page: PageConnection) -> tuple[FrameResult, bool, bytes] | None:
        """Return the newest frame, or the held one, once; None if there is none."""
        frames = self._controller.frames
        newest, held, blind = page.viewer.take(_FRAME_TIMEOUT), frames.held, self._controller.blind
        if newest is None and page.viewer.closed and not page.started:
            newest = frames.latest  # the page was opened after the end of a recording
        seen = held or newest
        if seen is None or (seen is held and page.held == (seen.sequence, blind)):
            return None
        page.started = True
        page.held = None if seen is not held else (seen.sequence, blind)
        if seen is not held:
            frames.show(seen)
        return seen, blind, serializers.frame(seen, page.width, blind=blind)

    async def _send_states(self, socket: WebSocket, changed: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        while not self._closing:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(changed.wait(), _STATE_INTERVAL)
            changed.clear()
            text = await loop.run_in_executor(self._threads, lambda: json.dumps(self._state(), allow_nan=False))
            await socket.send_text(text)

    async def _receive(self, socket: WebSocket, page: PageConnection) -> None:
        while True:
            message = _json_object(await socket.receive_text())
            if message.get("type") == "shown":
                if page.pending is not None and message.get("frame") == page.pending.sequence:
                    if page.held is None:
                        page.viewer.record_shown(page.pending)
                    page.pending = None
                    page.ready.set()
            elif message.get("type") == "view" and isinstance(width := message.get("width"), int | float):
                page.width = int(min(max(width, 64), MAX_WIDTH)) if width == width else MAX_WIDTH


def _json_object(text: str) -> dict[str, Any]:
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}
