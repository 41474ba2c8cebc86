"""Access control over real sockets, with the headers of browsers and other clients."""

from __future__ import annotations

import asyncio
import socket as sockets

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from live_page import page, socket
from websockets.exceptions import InvalidStatus

from kinet_trt.inference.counter import NucleusCounter
from kinet_trt.live.web.auth import MAX_BODY, Access, Guard


@pytest.fixture(scope="module")
def counter() -> NucleusCounter:
    return NucleusCounter(precision="fp32")


@pytest.fixture(scope="module")
def local(tmp_path_factory, counter):
    with page(tmp_path_factory.mktemp("live") / "s.kinet", counter) as (served, client, _):
        yield served, client


@pytest.fixture(scope="module")
def shared(tmp_path_factory, counter):
    """Serve a page on all interfaces."""
    with page(tmp_path_factory.mktemp("live") / "s.kinet", counter, host="0.0.0.0") as (served, client, _):
        yield served, client


EVIL = ["http://evil.example", "null", "http://127.0.0.1", "http://127.0.0.1:1", "https://localhost.evil.example:1", ""]


@pytest.mark.parametrize("origin", EVIL)
def test_other_origins_are_refused(local, origin):
    served, client = local
    answer = client.post("/api/auto", json={"on": True}, headers={"origin": origin})
    assert answer.status_code == 403
    assert "another page" in answer.json()["error"]
    assert not client.get("/api/state").json()["auto"]
    with pytest.raises(InvalidStatus) as refused, socket(served, origin=origin):
        pass
    assert refused.value.response.status_code == 403


def test_changes_without_origin_are_refused(local):
    served, _ = local
    base = f"http://127.0.0.1:{served.port}"
    assert httpx.post(f"{base}/api/auto", json={"on": True}).status_code == 403
    assert httpx.get(f"{base}/api/state").status_code == 200
    assert httpx.get(f"{base}/api/state", headers={"sec-fetch-site": "cross-site"}).status_code == 403


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", "127.0.0.1:1", "localhost.:1", ""])
def test_other_host_names_are_refused(local, host):
    """A foreign name that resolves to 127.0.0.1 must not read the page (DNS rebinding)."""
    _, client = local
    assert client.get("/api/state", headers={"host": host, "origin": f"http://{host}"}).status_code == 421


def test_localhost_is_accepted_by_its_names(local):
    served, client = local
    host = f"localhost:{served.port}"
    answer = client.post("/api/auto", json={"on": False}, headers={"host": host, "origin": f"http://{host}"})
    assert answer.status_code == 200


def test_security_headers_allow_nothing_from_other_servers(local):
    for path in ("/", "/api/state", "/nothing"):
        headers = local[1].get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
        assert headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize(
    "path",
    [
        "/../pyproject.toml",
        "/..%2f..%2fetc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/page/index.html",
        "/index.html/..",
        "/api/fields/..%2f1/picture.jpg",
        "/api/sessions/..%2f..%2fetc%2fpasswd/file",
        "/static/../server.py",
        "/server.py",
        "//etc/passwd",
        "/index.html%00.js",
        "/openapi.json",
        "/docs",
    ],
)
def test_request_paths_do_not_reach_other_files(local, path):
    served, _ = local
    # Over a raw socket, because clients normalize such paths.
    with sockets.create_connection(("127.0.0.1", served.port), 20) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.split(b" ", 2)[1] in (b"404", b"400", b"422")
    assert b"root:" not in answer
    assert b"import" not in answer


def test_body_of_a_gigabyte_is_refused_at_once(local):
    served, client = local
    head = (
        f"POST /api/note HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nOrigin: http://127.0.0.1:{served.port}\r\n"
        "Content-Type: application/json\r\n"
    )
    with sockets.create_connection(("127.0.0.1", served.port), 20) as raw:
        raw.sendall(f"{head}Content-Length: 1000000000\r\n\r\n".encode())
        assert b" 413 " in raw.recv(65536)
    with sockets.create_connection(("127.0.0.1", served.port), 20) as raw:
        raw.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        chunk, sent = b"10000\r\n" + b"x" * 0x10000 + b"\r\n", 0
        try:
            while sent < 100 * MAX_BODY:
                raw.sendall(chunk)
                sent += len(chunk)
        except (BrokenPipeError, ConnectionResetError):
            pass
    assert sent < 20 * MAX_BODY  # the socket buffers hold no more
    assert client.get("/api/state").status_code == 200


# --- a token ----------------------------------------------------------------------------------------------------------


def test_everything_is_refused_without_the_token(shared):
    served, client = shared
    assert len(served.token) >= 32
    assert served.token in served.url
    for path in ("/", "/api/state", "/api/sessions/list", "/api/report.html", "/app.js"):
        assert client.get(path).status_code == 401
    assert "token" in client.get("/").text
    assert client.post("/api/auto", json={"on": True}).status_code == 401
    with pytest.raises(InvalidStatus) as refused, socket(served):
        pass
    assert refused.value.response.status_code == 403
    for wrong in (served.token[:-1], served.token.lower(), "", "é", "x" * 5000):
        assert client.get("/", params={"token": wrong}).status_code == 401
        assert client.get("/api/state", headers=[(b"authorization", f"Bearer {wrong}~".encode())]).status_code == 401
    assert client.get("/api/state", params={"token": served.token}).status_code == 401  # only in the URL of the page


def test_token_in_the_url_becomes_a_cookie(shared):
    served, client = shared
    answer = client.get("/", params={"token": served.token})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    client.cookies.clear()
    kept = {"cookie": cookie.split(";")[0]}
    assert client.get("/api/state", headers=kept).status_code == 200
    assert client.post("/api/auto", json={"on": False}, headers=kept).status_code == 200
    assert client.post("/api/auto", json={"on": True}, headers=kept | {"origin": "http://evil"}).status_code == 403
    with socket(served, **kept) as live:
        assert live.recv(timeout=60)
    assert client.get("/api/state", headers={"authorization": f"Bearer {served.token}"}).status_code == 200
    assert client.get("/api/state", headers={"cookie": "a=\x01; kinet_trt=b"}).status_code == 401


# --- the rule ---------------------------------------------------------------------------------------------------------


def ask(access: Access, headers: list[tuple[bytes, bytes]], method: str = "POST") -> int:
    """Return the status of a request to an application without access control, behind the guard."""
    statuses: list[int] = []

    async def application(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def send(message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": method, "path": "/api/x", "query_string": b"", "headers": headers}
    asyncio.run(Guard(application, access)(scope, receive, send))
    return statuses[0]


values = st.one_of(
    st.binary(max_size=30), st.sampled_from([b"127.0.0.1:5", b"http://127.0.0.1:5", b"kinet_trt_5=secret"])
)


@given(st.lists(st.tuples(st.sampled_from([b"host", b"origin", b"cookie", b"authorization"]), values), max_size=5))
def test_changes_need_the_right_headers(headers):
    def one(name):
        found = [value for key, value in headers if key == name]
        return found[0] if len(found) == 1 else None

    own_origin = one(b"host") == b"127.0.0.1:5" and one(b"origin") == b"http://127.0.0.1:5"
    assert (ask(Access.local(5), headers) == 200) == own_origin
    known = b"kinet_trt_5=secret" in [value for key, value in headers if key == b"cookie"]
    host, origin = one(b"host"), one(b"origin")
    same = host is not None and origin in (b"http://" + host, b"https://" + host)
    assert (ask(Access.by_token("secret", 5), headers) == 200) == (same and known)


def test_access_needs_hosts_or_a_token():
    with pytest.raises(ValueError, match="anybody"):
        Access(None, None)
