"""A tracking server of MLflow's, and a proxy before it that breaks what it is told to break."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from served import free_port

PASS, REFUSE, RESET, LOSE, LOSE_ONCE, SLOW, BROKEN, BAD_GATEWAY = (
    "pass",
    "refuse",
    "reset",
    "lose",
    "lose once",
    "slow",
    "503",
    "502",
)
"""What a proxy does with a request: hand it on, or one of the faults.

``refuse``: nobody listens; ``reset``: the connection is reset before the server hears of it;
``lose``: the server does what it is asked, and the answer is lost; ``lose once``: so with the first
of equal writes; ``slow``: the answer comes too late.
"""


class Proxy:
    """Stands between a client and a server; its ``mode`` may change at any time."""

    def __init__(self, target: str) -> None:
        self.target = target.removeprefix("http://")
        self.port = free_port()
        self.slow_s = 2.0
        self.requests: list[tuple[str, str, str]] = []
        self._lost: set[tuple[str, str, bytes]] = set()
        self._mode = PASS
        self._listener: ThreadingHTTPServer | None = None
        self._listen()

    @property
    def address(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def mode(self) -> str:
        """What it does with requests."""
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        if self._listener and mode == REFUSE:
            self.close()
        if mode != REFUSE and not self._listener:
            self._listen()
        self._mode = mode

    def close(self) -> None:
        """Listen no more."""
        if self._listener:
            self._listener.shutdown()
            self._listener.server_close()
            self._listener = None

    def _listen(self) -> None:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"  # a connection per request: faults meet each of them

            def handle_any(self) -> None:
                proxy._handle(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815

            def log_message(self, *arguments: object) -> None:
                """Say nothing."""

        self._listener = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._listener.daemon_threads = True
        threading.Thread(target=self._listener.serve_forever, args=(0.02,), daemon=True).start()

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        mode = self._mode
        if mode == LOSE_ONCE:
            mode = self._first_is_lost(request.command, request.path, body)
        self.requests.append((mode, request.command, request.path))
        if mode in (RESET, REFUSE):
            _reset(request)
            return
        if mode in (BROKEN, BAD_GATEWAY):
            request.send_response(int(mode))
            request.end_headers()
            return
        if mode == SLOW:
            time.sleep(self.slow_s)
        upstream = http.client.HTTPConnection(self.target, timeout=60)
        headers = {k: v for k, v in request.headers.items() if k.lower() != "connection"}
        upstream.request(request.command, request.path, body, headers)
        answer = upstream.getresponse()
        content = answer.read()
        upstream.close()
        if mode == LOSE:
            _reset(request)
            return
        try:
            request.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    request.send_header(name, value)
            request.send_header("Content-Length", str(len(content)))
            request.end_headers()
            request.wfile.write(content)
        except OSError:  # the client has given up
            return

    def _first_is_lost(self, command: str, path: str, body: bytes) -> str:
        write = (command, path, body)
        if command == "GET" or "/search" in path or write in self._lost:
            return PASS
        self._lost.add(write)
        return LOSE


def _reset(request: BaseHTTPRequestHandler) -> None:
    """Close the connection with a reset, without an answer."""
    linger = struct.pack("ii", 1, 0)
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    request.connection.close()
    request.rfile.close()
    request.wfile.close = lambda: None  # type: ignore[method-assign]  # it would flush
    request.close_connection = True
