"""Pages of plain arithmetic on loopback, and a visitor without a browser."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.app.chromium import browsing
from tests.app.served import PICTURES

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Served:
    """A page that is served.

    Attributes:
      url: of it.
      folder: of the host; nobody may read of it.
      errors: what it wrote to stderr.
    """

    url: str
    folder: Path
    errors: Path

    @property
    def pictures(self) -> Path:
        """The folder that is searched."""
        return self.folder / PICTURES


@dataclass
class Visitor:
    """Speaks HTTP with a page, as a browser would."""

    url: str
    session: str = field(default_factory=lambda: uuid.uuid4().hex)

    def request(
        self, method: str, path: str, body: bytes | None = None, kind: str = "application/json"
    ) -> tuple[int, dict[str, str], bytes]:
        """-> (status, headers, body)."""
        place = urlsplit(self.url)
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=120)
        try:
            connection.request(method, path, body, {"Content-Type": kind} if body else {})
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def upload(self, *files: tuple[str, bytes]) -> tuple[int, Any]:
        """-> (status, paths that the page knows the files by, or what it said)."""
        line, parts = uuid.uuid4().hex, []
        for name, data in files:
            head = f'Content-Disposition: form-data; name="files"; filename="{name}"'
            parts.append(f"--{line}\r\n{head}\r\n\r\n".encode() + data + b"\r\n")
        body = b"".join(parts) + f"--{line}--\r\n".encode()
        kind = f"multipart/form-data; boundary={line}"
        status, _, said = self.request("POST", "/gradio_api/upload", body, kind)
        return status, json.loads(said) if status == 200 else said.decode()

    def ask(self, name: str, *inputs: Any) -> tuple[int, list[tuple[str, Any]]]:
        """-> (status of the call, [(event, data), ...] until it is over)."""
        body = json.dumps({"data": inputs, "session_hash": self.session}).encode()
        status, _, said = self.request("POST", f"/gradio_api/call/{name}", body)
        if status != 200:
            return status, [("refused", said.decode())]
        number = json.loads(said)["event_id"]
        _, _, stream = self.request("GET", f"/gradio_api/call/{name}/{number}")
        events = []
        for block in stream.decode().strip().split("\n\n"):
            event, _, data = block.partition("\n")
            events.append((event.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
        return status, events

    def answer(self, name: str, *inputs: Any) -> list[Any]:
        """What an event shows in the end; a state, whose value no visitor sees, is None."""
        status, events = self.ask(name, *inputs)
        assert status == 200, events
        event, data = events[-1]
        assert event == "complete", events
        return data


def file_of(path: str) -> dict[str, Any]:
    """An uploaded file as a page takes it."""
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def start(command: Sequence[str], errors: Path, **environment: str) -> subprocess.Popen[str]:
    """Starts a page; its first line says where it is."""
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=errors.open("w"),
        text=True,
    )


def url_of(child: subprocess.Popen[str], errors: Path) -> str:
    """Where a page that was started is served."""
    assert child.stdout is not None
    watch = threading.Timer(400, child.kill)
    watch.start()
    line = child.stdout.readline()
    watch.cancel()
    assert line.startswith("serving http://127.0.0.1:"), line + errors.read_text()
    return line.split()[1].rstrip("/")


def stop(child: subprocess.Popen[str]) -> int:
    """Ends it as Ctrl-C does."""
    child.send_signal(signal.SIGINT)
    try:
        return child.wait(30)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Debian's Chromium."""
    with browsing() as browser:
        yield browser


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Served]]:
    """Returns `serve(kind)`: the page of a kind, started once."""
    found: dict[str, Served] = {}
    children: list[subprocess.Popen[str]] = []
    failed: set[str] = set()

    def page(kind: str) -> Served:
        if kind in failed:
            pytest.fail(f"the page {kind} did not start before")
        if kind not in found:
            failed.add(kind)
            folder = tmp_path_factory.mktemp("pages") / kind
            errors = folder.with_suffix(".err")
            children.append(start(("-m", "tests.app.served", kind, str(folder)), errors))
            found[kind] = Served(url_of(children[-1], errors), folder, errors)
            failed.remove(kind)
        return found[kind]

    yield page
    for child in children:
        stop(child)
