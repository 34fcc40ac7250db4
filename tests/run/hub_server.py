"""A hub of one process: what huggingface_hub asks of the real one to push and to load."""

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

import pytest


class Hub(ThreadingHTTPServer):
    """Repositories in memory.

    Attributes:
      repos: name -> path -> content; "datasets/ORG/NAME" is a data set, "NAME@BRANCH" what is on
        another branch than the main one.
      token: that writing needs.
      asked: "METHOD path" of every request.
    """

    daemon_threads = True

    def __init__(self, token: str = "secret") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.token = token
        self.asked: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit_of(self, repo: str) -> str:
        """The name of what stands there."""
        content = sorted(self.repos[repo].items())
        return hashlib.sha1(repr(content).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server: Hub  # type: ignore[assignment]
    protocol_version = "HTTP/1.1"
    kinds: ClassVar[dict[str, str]] = {"json": "application/json"}

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def _say(self, code: int, body: Any = b"", **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _parts(self) -> list[str]:
        path = urlsplit(self.path).path
        self.server.asked.append(f"{self.command} {unquote(path)}")
        return [unquote(part) for part in path.strip("/").split("/")]

    def do_POST(self) -> None:
        parts = self._parts()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self._say(401, {"error": "Invalid username or password."})
        elif parts[:3] == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            self.server.repos.setdefault(name, {})
            self._say(200, {"url": f"{self.server.url}/{name}", "name": name, "id": name})
        elif parts[:2] == ["api", "validate-yaml"]:
            self._say(200, {"errors": [], "warnings": []})
        elif parts[4:5] == ["preupload"]:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            self._say(200, {"files": files})
        elif parts[4:5] == ["commit"]:
            repo = "/".join(parts[2:4])
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.repos[repo][line["value"]["path"]] = content
            oid = self.server.commit_of(repo)
            url = f"{self.server.url}/{repo}/commit/{oid}"
            self._say(200, {"commitUrl": url, "commitOid": oid, "success": True})
        else:
            self._say(404, {"error": f"no POST {self.path}"})

    def _standing(self, name: str, revision: str) -> str:
        """The repository that a branch or a commit of one is."""
        if revision != "main":
            for repo in self.server.repos:
                branch = repo.partition("@")[2]
                if repo.split("@")[0] == name and revision in (branch, self.server.commit_of(repo)):
                    return repo
            return f"{name}@{revision}"
        return name

    def do_GET(self) -> None:
        parts = self._parts()
        if api := parts[0] == "api":
            del parts[0]
        is_set = parts[:1] == ["datasets"]
        if api or is_set:  # a model's files have no such prefix
            del parts[0]
        name, what = "/".join(parts[:2]), "".join(parts[2:3])
        revision = "".join(parts[3:4]) or "main"
        repo = self._standing(f"datasets/{name}" if is_set else name, revision)
        files = self.server.repos.get(repo)
        if files is None:
            lacks = "Revision" if repo.split("@")[0] in self.server.repos else "Repo"
            code = {"X_Error_Code": f"{lacks}NotFound", "X_Error_Message": f"{lacks} not found"}
            self._say(404, {"error": f"{lacks} not found"}, **code)
        elif api:
            listed = [{"rfilename": path, "size": len(x)} for path, x in sorted(files.items())]
            if what == "tree":
                tree = [
                    {"type": "file", "path": p, "size": len(x), "oid": hashlib.sha1(x).hexdigest()}
                    for p, x in sorted(files.items())
                ]
                self._say(200, tree)
                return
            facts = {"id": name, "private": False, "tags": [], "downloads": 0}
            self._say(200, facts | {"sha": self.server.commit_of(repo), "siblings": listed})
        elif what == "resolve" and (content := files.get("/".join(parts[4:]))) is not None:
            self._say(
                200,
                content,
                ETag=f'"{hashlib.sha1(content).hexdigest()}"',
                X_Repo_Commit=self.server.commit_of(repo),
                Content_Length=str(len(content)),
            )
        else:
            self._say(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")

    do_HEAD = do_GET


@contextlib.contextmanager
def serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that huggingface_hub asks instead of the real one, with a cache of its own."""
    with Hub() as server:  # its socket is closed in the end
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", server.token)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.delenv("MMJAX_OFFLINE", raising=False)
        yield server
        server.shutdown()
