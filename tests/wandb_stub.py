"""A W&B server on this machine for wandb itself to talk to: it keeps what it is told, and can be out of order."""

import base64
import gzip
import json
import re
import socket
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.wandb_stub_records import StubArtifact, StubRun, StubSweep
from tests.wandb_stub_store import StubStore

KEY = "0123456789abcdef0123456789abcdef01234567"
WRONG_KEY = KEY[::-1]
ENTITY = "somebody"


class WandbStub:
    """Serves from `with` on, at a free port of the loopback interface.

    Attributes:
        store: what came.
        wrongs: what went wrong in answering; a test may see to it that nothing did.
    """

    def __init__(self) -> None:
        stub = self

        class Bound(_Handler):
            serving = stub

        self._server = _Server(("127.0.0.1", 0), Bound)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.store = StubStore(self.url, ENTITY)
        self.wrongs: list[str] = []
        self.lock = threading.Lock()
        self._answering = threading.Event()
        self._answering.set()
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> "WandbStub":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.die()

    def env(self, folder: Path, *, key: str = KEY) -> dict[str, str]:
        """What makes wandb talk to this server alone, and keep what is its own below `folder`."""
        own = {f"WANDB_{name}_DIR": str(folder / name.lower()) for name in ("DATA", "CACHE", "CONFIG")}
        return {**own, "WANDB_BASE_URL": self.url, "WANDB_API_KEY": key, "WANDB_ERROR_REPORTING": "false"}

    # ------------------------------------------------------------------------------------------------ out of order

    def hang(self) -> None:
        """Take requests and answer none, until told to `go_on`."""
        self._answering.clear()

    def go_on(self) -> None:
        self._answering.set()

    def die(self) -> None:
        """Break off every connection and take no new one."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._server.server_close()
        self._server.break_off()
        self._answering.set()

    def wait_until_answering(self) -> None:
        self._answering.wait()

    # ------------------------------------------------------------------------------------------------- what came

    @property
    def runs(self) -> list[StubRun]:
        with self.lock:
            return list(self.store.runs.values())

    @property
    def artifacts(self) -> list[StubArtifact]:
        with self.lock:
            return list(self.store.artifacts.values())

    @property
    def sweeps(self) -> list[StubSweep]:
        with self.lock:
            return list(self.store.sweeps.values())


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._connections: set[socket.socket] = set()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._connections.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def break_off(self) -> None:
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, *_: Any) -> None:
        """A connection that was broken off is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    serving: WandbStub

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if len(body) < length:  # either of us is gone
            self.close_connection = True
            return
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.serving.wait_until_answering()
        try:
            with self.serving.lock:
                status, content = self._answer(unquote(urlsplit(self.path).path), body)
        except Exception as error:
            self.serving.wrongs.append(f"{self.command} {self.path}: {error!r}; {body[:2000]!r}")
            status, content = 400, json.dumps({"errors": [{"message": repr(error)}]}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _answer(self, path: str, body: bytes) -> tuple[int, bytes]:
        store = self.serving.store
        if path.startswith("/sdk/otel/"):
            return 200, b""
        if path.startswith("/storage/"):  # as with the real one, whoever has the address may
            name = path.removeprefix("/storage/")
            if self.command == "PUT":
                store.put(name, body)
                return 200, b""
            return (200, store.uploads[name]) if name in store.uploads else (404, b"")
        if not self._knows_key():
            return 401, json.dumps({"errors": [{"message": "user is not logged in"}]}).encode()
        if path == "/graphql":
            return self._answer_graphql(json.loads(body))
        if found := re.fullmatch(r"/files/([^/]+)/([^/]+)/([^/]+)/file_stream", path):
            store.run(*found.groups()).stream(json.loads(body))
            return 200, b"{}"
        raise LookupError(path)

    def _knows_key(self) -> bool:
        given = self.headers.get("Authorization", "").removeprefix("Basic ")
        return base64.b64decode(given) == f"api:{KEY}".encode()

    def _answer_graphql(self, asked: dict[str, Any]) -> tuple[int, bytes]:
        named = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
        operation = named[1] if named else asked["query"][:80]
        data = self.serving.store.answer(operation, asked.get("variables") or {})
        return 200, json.dumps({"data": data}).encode()
