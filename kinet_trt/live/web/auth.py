"""Access: who may come in, and what a browser may do with what goes out; a layer around the whole server.

A page of another origin that a user has open must neither read nor do anything here (cross-site requests, DNS
rebinding), whoever is on the network must know the token, and no request may fill the memory.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LARGEST = 1_000_000
"""Bytes of a request's body."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content security policy of the page: nothing from elsewhere, nothing inline."""
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_HARMLESS = ("GET", "HEAD")


@dataclass(frozen=True)
class Access:
    """Who may come in.

    Attributes
    ----------
    hosts
        Host headers that are answered, like ``127.0.0.1:8765``; None: any, which needs a token: a name that somebody
        else's DNS points here brings no cookie with it.
    token
        What whoever comes must know; None: nothing.
    cookie
        Name of the cookie that remembers the token. Cookies do not tell ports apart, so the port is in the name.
    """

    hosts: frozenset[str] | None
    token: str | None
    cookie: str = "kinet_trt"

    def __post_init__(self) -> None:
        if self.hosts is None and not self.token:
            raise ValueError("expected hosts or a token, found neither: anybody might come in")

    @classmethod
    def local(cls, port: int) -> Access:
        """Return the access for a server on the loopback interface: this machine's browsers, by a local name."""
        return cls(frozenset(f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")), None)

    @classmethod
    def by_token(cls, token: str, port: int) -> Access:
        """Return the access for a server on a network."""
        return cls(None, token, f"kinet_trt_{port}")


class Guard:
    """Lets in what `Access` allows, and puts on every answer what keeps a browser from helping others.

    Parameters
    ----------
    app
        What is guarded, an ASGI application.
    access
        Who may come in.
    """

    def __init__(self, app: App, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        send = _with_headers(send) if scope["type"] == "http" else send
        headers = _Headers(scope["headers"])
        if scope["type"] == "http" and (given := self._given(scope)) is not None:
            # The token leaves the address bar, and with it the browser's history, at once.
            await _answer(send, 303, "", {"location": "/", "set-cookie": self._cookie(given)})
            return
        refusal = self._refusal(scope, headers)
        if refusal and scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": refusal[1][:100]})
        elif refusal:
            await _answer(send, *refusal, plain=scope["path"] == "/")
        elif scope["type"] == "websocket":
            await self._app(scope, receive, send)
        else:
            await self._bounded(scope, headers, receive, send)

    def _refusal(self, scope: Scope, headers: _Headers) -> tuple[int, str] | None:
        """Return the status and the sentence with which a request is refused; None: it may come in."""
        access, host = self._access, headers.one("host")
        if host is None or (access.hosts is not None and host.lower() not in access.hosts):
            return 421, "Open this page by the address that kinet-trt printed."
        changes = scope["type"] == "websocket" or scope["method"] not in _HARMLESS
        origin = headers.one("origin")
        if (changes or origin is not None) and origin not in (f"http://{host}", f"https://{host}"):
            return 403, "The request was refused because it comes from another page."
        if headers.one("sec-fetch-site") in ("cross-site", "same-site") and scope.get("path") != "/":
            return 403, "The request was refused because it comes from another page."
        if access.token and not self._knows(headers):
            return 401, "The token is missing: open the full address that kinet-trt printed when it started."
        return None

    def _given(self, scope: Scope) -> str | None:
        """Return the token that came with the address of the page, if it is right."""
        if self._access.token is None or scope["path"] != "/" or scope["method"] not in _HARMLESS:
            return None
        try:
            given = parse_qs(scope.get("query_string", b"").decode("ascii"), max_num_fields=10).get("token", [])
        except ValueError:
            return None
        return given[0] if len(given) == 1 and self._is_token(given[0]) else None

    def _knows(self, headers: _Headers) -> bool:
        bearer = headers.one("authorization") or ""
        if bearer.startswith("Bearer ") and self._is_token(bearer[7:]):
            return True
        for text in headers.all("cookie"):
            try:
                cookie = SimpleCookie(text).get(self._access.cookie)
            except CookieError:
                continue
            if cookie is not None and self._is_token(cookie.value):
                return True
        return False

    def _is_token(self, given: str) -> bool:
        return self._access.token is not None and hmac.compare_digest(given.encode(), self._access.token.encode())

    def _cookie(self, token: str) -> str:
        return f"{self._access.cookie}={token}; Path=/; HttpOnly; SameSite=Strict"

    async def _bounded(self, scope: Scope, headers: _Headers, receive: Receive, send: Send) -> None:
        """Pass on a request whose body is not too large, whatever it says of its length."""
        refusal = 413, f"The request is too large: expected up to {LARGEST:,} bytes."
        stated = headers.one("content-length") or "0"
        if not stated.isascii() or not stated.isdigit() or int(stated[:20]) > LARGEST:
            await _answer(send, *refusal)
            return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return  # who asked has gone
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > LARGEST:
                await _answer(send, *refusal)
                return
        whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return whole.pop() if whole else await receive()

        await self._app(scope, replay, send)


class _Headers:
    """The headers of a request."""

    def __init__(self, raw: Iterable[tuple[bytes, bytes]]) -> None:
        self._raw = [(name.lower(), value.decode("latin-1")) for name, value in raw]

    def all(self, name: str) -> list[str]:
        return [value for key, value in self._raw if key == name.encode()]

    def one(self, name: str) -> str | None:
        """Return a header that may occur once; None without one, and where there are several."""
        found = self.all(name)
        return found[0] if len(found) == 1 else None


def _with_headers(send: Send) -> Send:
    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message["headers"]}
            extra = [
                (name.encode(), value.encode()) for name, value in _HEADERS.items() if name.encode() not in present
            ]
            message = {**message, "headers": [*message["headers"], *extra]}
        await send(message)

    return guarded


async def _answer(
    send: Send, status: int, sentence: str, headers: dict[str, str] | None = None, *, plain: bool = False
) -> None:
    body = f"{sentence}\n".encode() if plain else json.dumps({"error": sentence}).encode() if sentence else b""
    kind = "text/plain; charset=utf-8" if plain else "application/json"
    found = {"content-type": kind, "content-length": str(len(body)), **(headers or {})}
    # What is refused may still be coming in.
    found |= {"connection": "close"} if status == 413 else {}
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in found.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
