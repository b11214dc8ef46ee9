"""HTTP for the Hub on localhost: routes, requests and replies, and what can go wrong when a test asks for it."""

from __future__ import annotations

import json
import re
import socket
import socketserver
import struct
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from .hub_git import Repo

ROUTES: list[tuple[str, re.Pattern[str], bool, Callable[[Any, Call], Any]]] = []
NAME = r"[A-Za-z0-9][\w.-]*"  # of a user or a repository; both become folder names
REPO = rf"(?P<repo>{NAME}/{NAME})"
API = rf"/api/(?P<kind>model|dataset)s/{REPO}"
PAGE = rf"/(?:(?P<kind>dataset)s/)?{REPO}"
REV = r"(?P<rev>[^/]+)"  # a slash in a revision is sent quoted, one in a file's path not always
PATH = r"(?P<path>.+)"


def route(method: str, path: str, write: bool = False) -> Callable[[Callable], Callable]:
    """Let the decorated method answer: with a Reply, or with what is to be sent as JSON.

    By then the repository and the revision exist, and the user may see them (with ``write``: push to them).
    """

    def register(handler: Callable) -> Callable:
        ROUTES.append((method, re.compile(path), write, handler))
        return handler

    return register


def is_true(values: list[str] | None) -> bool:
    return values is not None and values[0].lower() in ("1", "true")


@dataclass
class Reply:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def json_reply(value: Any, status: int = 200) -> Reply:
    return Reply(status, json.dumps(value, default=str).encode(), {"Content-Type": "application/json"})


class HubError(Exception):
    """A refusal. Most exceptions that a client raises depend on X-Error-Code, not on the status."""

    def __init__(self, status: int, message: str, code: str = "", commit: str = "", **body: Any) -> None:
        super().__init__(message)
        self.reply = json_reply({"error": message, **body}, status)
        one_line = " ".join(message.encode("ascii", "replace").decode().split())
        headers = {"X-Error-Message": one_line, "X-Error-Code": code, "X-Repo-Commit": commit}
        self.reply.headers |= {name: value for name, value in headers.items() if value}


@dataclass
class Call:
    """A request. What comes after the body is known once its route, its user and its repository are."""

    method: str
    path: str  # as sent: quoted, without the query
    query: dict[str, list[str]]
    headers: Message
    body: bytes
    args: dict[str, str] = field(default_factory=dict)  # the named groups of the route
    user: str = ""
    role: str = ""
    repo: Repo = field(init=False)
    commit: str = field(init=False)  # of the revision in the route, else of main

    def json(self) -> Any:
        return json.loads(self.body or b"{}")


@dataclass
class Fault:
    """What befalls the next requests whose "METHOD /path" the pattern is found in."""

    pattern: re.Pattern[str]
    times: int
    reply: Reply | None = None  # answered instead of doing what is asked
    cut_after: int | None = None  # bytes of the body that arrive before the connection is cut
    lose_reply: bool = False  # what is asked is done, then the connection is cut
    delay: float = 0  # seconds before anything else
    skip: int = 0  # so many requests that match are spared first


class Listener(socketserver.ThreadingTCPServer):
    """One port on localhost and the function that answers what is asked there."""

    request_queue_size = 64

    def __init__(self, answer: Callable[[Call], Reply], faults: list[Fault]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self._faults = answer, faults
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._requests: list[threading.Thread] = []

    def process_request(self, request: Any, client_address: Any) -> None:
        """As inherited, except that daemon threads are remembered too, so that stop() can wait for them."""
        thread = threading.Thread(target=self.process_request_thread, args=(request, client_address), daemon=True)
        self._requests = [*filter(threading.Thread.is_alive, self._requests), thread]
        thread.start()

    def next_fault(self, request: str) -> Fault | None:
        """What befalls this request, if anything."""
        for fault in self._faults:
            if fault.times and fault.pattern.search(request):
                if fault.skip:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                return fault
        return None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        if self._thread.is_alive():
            self.shutdown()
            self._thread.join()
        self.server_close()
        for thread in self._requests:
            thread.join(timeout=5)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet
    server: Listener

    def _serve(self) -> None:
        path, _, query = self.path.partition("?")
        fault = self.server.next_fault(f"{self.command} {path}")
        if fault is not None:
            if fault.delay:
                time.sleep(fault.delay)
            if fault.cut_after is not None:
                # Of a shorter body no more would come.
                self.rfile.read(min(fault.cut_after, int(self.headers.get("Content-Length", 0))))
                return self._hang_up()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            asked = Call(self.command, path, parse_qs(query), self.headers, body)
            reply = fault.reply if fault is not None and fault.reply is not None else self.server.answer(asked)
        except HubError as error:
            reply = error.reply
        except Exception as error:
            traceback.print_exc()
            reply = HubError(500, repr(error)).reply
        if fault is not None and fault.lose_reply:
            return self._hang_up()
        if reply.status == 200 and self.command == "GET" and "Range" in self.headers:
            self._cut(reply, self.headers["Range"])
        self.send_response(reply.status)
        # A connection that stays open would outlive stop().
        for name, value in {**reply.headers, "Content-Length": str(len(reply.body)), "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _hang_up(self) -> None:
        """Cut the connection hard, as a cable that is pulled: the client gets a reset, not an end."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def _cut(self, reply: Reply, header: str) -> None:
        """Reduce a reply to the range of bytes that is asked for."""
        size, asked = len(reply.body), re.fullmatch(r"bytes=(?=\d|-\d)(\d*)-(\d*)", header)
        if asked is None:
            return
        first, last = asked.groups()
        start = int(first) if first else max(size - int(last), 0)
        end = min(int(last) + 1, size) if first and last else size
        reply.status, reply.body = (206, reply.body[start:end]) if start < end else (416, b"")
        reply.headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}" if start < end else f"bytes */{size}"

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the output of the tests clean: HubServer.requests is the log."""
