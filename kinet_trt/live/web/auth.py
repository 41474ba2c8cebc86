"""Access control of the live page, an ASGI middleware around the whole server.

Refuses pages of other origins that the user has open (cross-site requests, DNS rebinding), clients without the token on
a network, and request bodies that would fill the memory.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 1_000_000
"""Maximum size of a request's body, bytes."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content security policy of the page: nothing from other servers, nothing inline."""
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_SAFE_METHODS = ("GET", "HEAD")


@dataclass(frozen=True)
class Access:
    """Access rules: ``hosts`` or a ``token`` is required."""

    # Accepted Host headers with port, like 127.0.0.1:8765. None: any, which requires a token: browsers do not send the
    # cookie to another name that resolves to this machine.
    hosts: frozenset[str] | None
    token: str | None
    cookie: str = "kinet_trt"  # its name contains the port, because cookies are shared between ports

    def __post_init__(self) -> None:
        if self.hosts is None and not self.token:
            raise ValueError("expected hosts or a token, found neither: anybody would have access")

    @classmethod
    def local(cls, port: int) -> Access:
        """Return the rules of a server on the loopback interface: local names, no token."""
        return cls(frozenset(f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")), None)

    @classmethod
    def by_token(cls, token: str, port: int) -> Access:
        """Return the rules of a server on a network: any name, with a token."""
        return cls(None, token, f"kinet_trt_{port}")


class Guard:
    """Middleware that enforces `Access` and adds security headers to every response.

    Starlette's TrustedHostMiddleware ignores ports, so hosts are checked here.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if scope["type"] == "websocket":
            if refusal:
                await send({"type": "websocket.close", "code": 1008, "reason": refusal[1][:100]})
            else:
                await self._app(scope, receive, send)
            return
        send = _with_security_headers(send)
        if token := self._token_in_url(scope):
            # Removes the token from the address bar and the browser's history.
            cookie = f"{self._access.cookie}={token}; Path=/; HttpOnly; SameSite=Strict"
            await RedirectResponse("/", 303, {"set-cookie": cookie})(scope, receive, send)
        elif refusal:
            await _refuse(scope, *refusal)(scope, receive, send)
        else:
            await self._with_limited_body(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Return the status and message with which a request is refused; None if it is accepted."""
        headers = Headers(scope=scope)
        host, origin = _single(headers, "host"), _single(headers, "origin")
        if host is None or (self._access.hosts is not None and host.lower() not in self._access.hosts):
            return 421, "Open this page by the address that kinet-trt printed."
        changes = scope["type"] == "websocket" or scope["method"] not in _SAFE_METHODS
        foreign = (changes or origin is not None) and origin not in (f"http://{host}", f"https://{host}")
        if foreign or (_single(headers, "sec-fetch-site") in ("cross-site", "same-site") and scope["path"] != "/"):
            return 403, "The request was refused because it comes from another page."
        if self._access.token and not self._has_token(headers):
            return 401, "The token is missing: open the full address that kinet-trt printed when it started."
        return None

    def _token_in_url(self, scope: Scope) -> str | None:
        """Return the token in the URL of the page, if it is right."""
        if scope["path"] != "/" or scope["method"] not in _SAFE_METHODS:
            return None
        tokens = QueryParams(scope.get("query_string", b"")).getlist("token")
        return tokens[0] if len(tokens) == 1 and self._is_token(tokens[0]) else None

    def _has_token(self, headers: Headers) -> bool:
        cookies = [cookie_parser(text).get(self._access.cookie, "") for text in headers.getlist("cookie")]
        scheme, _, bearer = (_single(headers, "authorization") or "").partition(" ")
        return any(map(self._is_token, cookies)) or (scheme == "Bearer" and self._is_token(bearer))

    def _is_token(self, token: str) -> bool:
        return self._access.token is not None and hmac.compare_digest(token.encode(), self._access.token.encode())

    async def _with_limited_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request whose body is not too large, whatever its Content-Length."""
        length = Headers(scope=scope).get("content-length", "0")
        too_large = not (length.isascii() and length.isdigit()) or int(length[:20]) > MAX_BODY
        body, more = b"", True
        while more and not too_large:
            message = await receive()
            if message["type"] != "http.request":
                return  # the client has disconnected
            body += message.get("body", b"")
            more = message.get("more_body", False)
            too_large = len(body) > MAX_BODY
        if too_large:
            # The rest of the body may still be arriving.
            refusal = _refuse(scope, 413, f"The request is too large: expected up to {MAX_BODY:,} bytes.")
            refusal.headers["connection"] = "close"
            await refusal(scope, receive, send)
            return
        replay: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_again() -> Message:
            return replay.pop() if replay else await receive()

        await self._app(scope, receive_again, send)


def _single(headers: Headers, name: str) -> str | None:
    """Return a header; None if it is missing or repeated."""
    values = headers.getlist(name)
    return values[0] if len(values) == 1 else None


def _refuse(scope: Scope, status: int, sentence: str) -> Response:
    if scope["path"] == "/":
        return PlainTextResponse(f"{sentence}\n", status)
    return JSONResponse({"error": sentence}, status)


def _with_security_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=message.setdefault("headers", []))
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return send_with_headers
