"""A stand-in for the hub on this machine: the two requests that fetching a file is made of.

HEAD tells of a file by its headers and GET gives it, whole or from a byte on.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

VERSION = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the server has, what is wrong with it, and what it was asked for."""

    folders: dict[str, Path]
    url: str = ""
    gated: set[str] = field(default_factory=set)  # names that want a token
    token: str | None = None  # the one token that is good
    status: int | None = None  # answered to everything
    breaks_at: dict[str, int] = field(default_factory=dict)  # file: bytes before it breaks, once
    altered: set[str] = field(default_factory=set)  # files of which one byte is another
    requests: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, range

    def files_given(self) -> list[str]:
        """Returns the names of the files that were given, in their order."""
        return [path.split(f"/{VERSION}/")[-1].split("/main/")[-1] for path in self._given()]

    def _given(self) -> list[str]:
        return [path for method, path, _ in self.requests if method == "GET"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:  # noqa: N802
        self._answer()

    def do_GET(self) -> None:  # noqa: N802
        self._answer()

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        pass

    def _answer(self) -> None:
        hub = self.hub
        hub.requests.append((self.command, self.path, self.headers.get("Range", "")))
        name, mark, rest = self.path.lstrip("/").partition("/resolve/")
        _, _, file = rest.partition("/")
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if hub.status:
            return self._refuse(hub.status, "")
        if token and token != hub.token:
            return self._refuse(401, "", "Invalid credentials in Authorization header")
        if not mark or name not in hub.folders:
            return self._refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        if name in hub.gated and token != hub.token:
            return self._refuse(401, "GatedRepo", f"Access to model {name} is restricted.")
        path = hub.folders[name] / file
        if not path.is_file():
            return self._refuse(404, "EntryNotFound", "Entry not found")
        return self._give(path, file)

    def _give(self, path: Path, file: str) -> None:
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if path.suffix not in (".safetensors", ".bin"):  # small files go by git's checksum
            digest = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
        first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        if file in self.hub.altered:
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("ETag", f'"{digest}"')
        self.send_header("X-Repo-Commit", VERSION)
        self.send_header("Content-Length", str(len(content) - first))
        if "Range" in self.headers:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        breaks_at = self.hub.breaks_at.pop(file, None)
        if breaks_at is not None:
            self.wfile.write(content[first:breaks_at])
            self.wfile.flush()
            self.connection.close()
            self.close_connection = True
            return
        self.wfile.write(content[first:])

    def _refuse(self, status: int, code: str, message: str = "") -> None:
        body = json.dumps({"error": message}).encode()
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        if message:
            self.send_header("X-Error-Message", message)
        self.send_header("X-Repo-Commit", VERSION)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def serving(folders: dict[str, Path]) -> Iterator[Hub]:
    """Yields a hub of model folders by name, at a free port of this machine."""
    hub = Hub(folders)
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
