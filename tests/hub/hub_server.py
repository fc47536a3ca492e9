"""A Hugging Face Hub on this machine: as much of its HTTP interface as the real client needs to download and push.

Like the real one it is two hosts (here: two ports), the Hub itself and the storage that large files are redirected to.
Everything is addressed by content: blobs by git sha1 or sha256, commits by a sha1 over their files, message and parent.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_local"  # the one user's access token: reads everything, writes everything

Files = dict[str, bytes]


@dataclass
class Repository:
    private: bool = False
    gated: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)  # branches and tags, as commit hashes
    messages: list[str] = field(default_factory=list)


class RefusedError(Exception):
    """An answer that is not 2xx; ``code`` is what the client tells its exceptions apart by."""

    def __init__(self, status: HTTPStatus, code: str = "", message: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message or status.phrase


def is_large(path: str) -> bool:
    return path.endswith((".onnx", ".safetensors"))


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def blob_id(path: str, content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if is_large(path) else git_sha1(content)


class LocalHub:
    """The Hub's state, its two servers, and what tests do to them."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.storage: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []  # method and path of everything that was asked
        self.downloads: list[str] = []  # the files whose content was sent, in order
        self.failure: HTTPStatus | None = None
        self.changes: dict[str, Callable[[bytes], bytes]] = {}
        self.dropped: set[str] = set()
        self.headers: dict[str, str] = {}  # of a hostile server: sent in place of those it should send
        self.seconds_per_byte: float | None = None  # of one that sends bodies byte by byte
        self.is_silent = threading.Event()  # while it is set, nothing is answered
        self._ports = [0, 0]
        self._start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._ports[0]}"

    @property
    def storage_url(self) -> str:
        return f"http://127.0.0.1:{self._ports[1]}/storage"

    def commit(self, repo_id: str, files: Files, message: str = "Update", *, branch: str = "main") -> str:
        """Make ``files`` the whole content of a branch; returns the commit hash."""
        repository = self.repositories.setdefault(repo_id, Repository())
        self.storage |= {blob_id(path, content): content for path, content in files.items() if is_large(path)}
        blobs = {path: blob_id(path, content) for path, content in sorted(files.items())}
        commit = hashlib.sha1(json.dumps([blobs, message, repository.refs.get(branch)]).encode()).hexdigest()
        repository.commits[commit] = dict(files)
        repository.messages.append(message)
        repository.refs[branch] = commit
        return commit

    def tag(self, repo_id: str, name: str, commit: str) -> None:
        self.repositories[repo_id].refs[name] = commit

    @contextmanager
    def down(self) -> Iterator[None]:
        """Nothing listens on the Hub's ports."""
        self.stop()
        try:
            yield
        finally:
            self._start()

    @contextmanager
    def failing(self, status: HTTPStatus) -> Iterator[None]:
        """Every request is answered with ``status``."""
        self.failure = status
        try:
            yield
        finally:
            self.failure = None

    @contextmanager
    def changing(self, path: str, change: Callable[[bytes], bytes]) -> Iterator[None]:
        """The content of ``path`` is sent changed, while all metadata speaks of the original."""
        self.changes[path] = change
        try:
            yield
        finally:
            del self.changes[path]

    def drop_connection_once(self, path: str) -> None:
        """The connection breaks in the middle of the next download of ``path``."""
        self.dropped.add(path)

    def _start(self) -> None:
        # HTTP/1.0, the handler's default, keeps no connection open: a stopped server is silent at once.
        handler = type("Handler", (_Handler,), {"hub": self})
        self._servers = [ThreadingHTTPServer(("127.0.0.1", port), handler) for port in self._ports]
        self._ports = [server.server_port for server in self._servers]
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        while self.hub.is_silent.is_set():
            time.sleep(0.05)
        self.hub.requests.append((self.command, unquote(path)))
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            if self.hub.failure is not None:
                raise RefusedError(self.hub.failure)
            for method, pattern, action in _ROUTES:
                match = re.fullmatch(pattern, path)
                if match and self.command in method.split():
                    groups = {name: unquote(text) for name, text in match.groupdict().items() if text is not None}
                    return action(self, **groups)
            raise RefusedError(HTTPStatus.NOT_FOUND, message=f"no such endpoint: {self.command} {path}")
        except RefusedError as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.message}
            self._send_json({"error": refused.message}, refused.status, **headers)

    # Answers

    def _send(self, content: bytes, status: HTTPStatus = HTTPStatus.OK, /, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers, **self.hub.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        pause = self.hub.seconds_per_byte  # a test may change it meanwhile
        if pause is None:
            self.wfile.write(content)
            return
        with suppress(OSError):  # the client has given up
            for byte in content:
                self.wfile.write(bytes([byte]))
                time.sleep(pause)

    def _send_json(self, content: object, status: HTTPStatus = HTTPStatus.OK, /, **headers: str) -> None:
        headers["Content-Type"] = "application/json"
        self._send(json.dumps(content).encode(), status, **headers)

    def _send_file(self, path: str, content: bytes, /, **headers: str) -> None:
        if self.command == "HEAD":
            return self._send(content, **headers)
        self.hub.downloads.append(path)
        content = self.hub.changes.get(path, bytes)(content)
        part, status = content, HTTPStatus.OK
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            end = min(int(wanted[2] or len(content)), len(content) - 1)
            part, status = content[int(wanted[1]) : end + 1], HTTPStatus.PARTIAL_CONTENT
            headers["Content-Range"] = f"bytes {wanted[1]}-{end}/{len(content)}"
        if path in self.hub.dropped:
            self.hub.dropped.remove(path)
            headers["Content-Length"] = str(len(part))
            part = part[: len(part) // 2]
        self._send(part, status, **headers)

    # Who may do what

    def _signed_in(self) -> bool:
        authorization = self.headers.get("Authorization")
        if authorization not in (None, f"Bearer {TOKEN}"):
            raise RefusedError(HTTPStatus.UNAUTHORIZED, message="Invalid credentials in Authorization header")
        return authorization is not None

    def _require_sign_in(self) -> None:
        if not self._signed_in():
            raise RefusedError(HTTPStatus.UNAUTHORIZED, message="Invalid username or password.")

    def _repository(self, repo: str) -> Repository:
        repository = self.hub.repositories.get(repo)
        if self._signed_in():
            if repository is None:
                raise RefusedError(HTTPStatus.NOT_FOUND, "RepoNotFound", "Repository not found")
        elif repository is None or repository.private:  # a stranger is not told which of the two it is
            raise RefusedError(HTTPStatus.UNAUTHORIZED, "RepoNotFound", "Invalid username or password.")
        return repository

    def _commit(self, repo: str, revision: str) -> tuple[str, Files]:
        repository = self._repository(repo)
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            raise RefusedError(HTTPStatus.NOT_FOUND, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit, repository.commits[commit]

    # Endpoints: reading

    def model_info(self, repo: str, revision: str = "main") -> None:
        commit, files = self._commit(repo, revision)
        self._send_json({"id": repo, "sha": commit, "siblings": [{"rfilename": path} for path in files]})

    def tree(self, repo: str, revision: str, folder: str = "") -> None:
        files = self._commit(repo, revision)[1]
        below = {path: content for path, content in files.items() if not folder or path.startswith(folder + "/")}
        self._send_json([_tree_entry(path, content) for path, content in below.items()])

    def resolve(self, repo: str, revision: str, path: str) -> None:
        commit, files = self._commit(repo, revision)
        if self.hub.repositories[repo].gated and not self._signed_in():
            raise RefusedError(HTTPStatus.UNAUTHORIZED, "GatedRepo", f"Access to model {repo} is restricted.")
        if path not in files:
            raise RefusedError(HTTPStatus.NOT_FOUND, "EntryNotFound", "Entry not found")
        etag = blob_id(path, files[path])
        if not is_large(path):
            return self._send_file(path, files[path], **{"X-Repo-Commit": commit, "ETag": f'"{etag}"'})
        headers = {"X-Repo-Commit": commit, "X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(files[path]))}
        self._send(b"", HTTPStatus.FOUND, **headers, Location=f"{self.hub.storage_url}/{etag}/{path}")

    def read_storage(self, sha256: str, path: str) -> None:
        if "Authorization" in self.headers:
            raise RefusedError(HTTPStatus.BAD_REQUEST, message="a token was sent to the storage host")
        self._send_file(path, self.hub.storage[sha256])

    # Endpoints: writing

    def create_repository(self) -> None:
        self._require_sign_in()
        wanted = json.loads(self.body)
        repo_id = f"{wanted['organization']}/{wanted['name']}"
        exists = repo_id in self.hub.repositories
        if not exists:
            private = wanted.get("visibility") == "private" or wanted.get("private", False)  # as in clients 2.x or 1.x
            self.hub.repositories[repo_id] = Repository(private=private)
            self.hub.commit(repo_id, {".gitattributes": b"*.onnx filter=lfs\n"}, "initial commit")
        self._send_json({"url": f"{self.hub.url}/{repo_id}"}, HTTPStatus.CONFLICT if exists else HTTPStatus.OK)

    def create_branch(self, repo: str, branch: str) -> None:
        self._require_sign_in()
        refs = self._repository(repo).refs
        if branch in refs:
            raise RefusedError(HTTPStatus.CONFLICT, message="Reference already exists")
        refs[branch] = refs["main"]
        self._send_json({})

    def validate_yaml(self) -> None:
        self._send_json({"errors": [], "warnings": []})

    def preupload(self, repo: str, revision: str) -> None:
        self._require_sign_in()
        _, files = self._commit(repo, revision)
        answers: list[dict[str, Any]] = []
        for file in json.loads(self.body)["files"]:
            path = file["path"]
            mode = "lfs" if is_large(path) else "regular"
            oid = blob_id(path, files[path]) if path in files else None
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._send_json({"files": answers})

    def lfs_batch(self, repo: str) -> None:
        self._require_sign_in()
        objects = json.loads(self.body)["objects"]
        for wanted in objects:
            if wanted["oid"] not in self.hub.storage:
                wanted["actions"] = {"upload": {"href": f"{self.hub.storage_url}/{wanted['oid']}"}}
        self._send_json({"transfer": "basic", "objects": objects})

    def write_storage(self, sha256: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != sha256:
            raise RefusedError(HTTPStatus.BAD_REQUEST, message="the content does not have that sha256")
        self.hub.storage[sha256] = self.body
        self._send(b"")

    def push_commit(self, repo: str, revision: str) -> None:
        self._require_sign_in()
        files = dict(self._commit(repo, revision)[1])
        message = ""
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            match line["key"]:
                case "header":
                    message = value["summary"]
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.hub.storage[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        commit = self.hub.commit(repo, files, message, branch=revision)
        self._send_json({"success": True, "commitOid": commit, "commitUrl": f"{self.hub.url}/{repo}/commit/{commit}"})


def _tree_entry(path: str, content: bytes) -> dict[str, Any]:
    entry = {"type": "file", "path": path, "size": len(content), "oid": git_sha1(content)}
    if is_large(path):
        pointer = (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{blob_id(path, content)}\nsize {len(content)}\n"
        )
        entry["oid"] = git_sha1(pointer.encode())
        entry["lfs"] = {"oid": blob_id(path, content), "size": len(content), "pointerSize": len(pointer)}
    return entry


_KIND = "(?:models|datasets)"
_REPO = r"(?P<repo>[^/]+/[^/]+)"
_ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", rf"/api/{_KIND}/{_REPO}(?:/revision/(?P<revision>[^/]+))?", _Handler.model_info),
    ("GET", rf"/api/{_KIND}/{_REPO}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", _Handler.tree),
    ("GET HEAD", rf"(?:/datasets)?/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
    ("GET", r"/storage/(?P<sha256>[0-9a-f]{64})/(?P<path>.+)", _Handler.read_storage),
    ("POST", r"/api/repos/create", _Handler.create_repository),
    ("POST", rf"/api/models/{_REPO}/branch/(?P<branch>[^/]+)", _Handler.create_branch),
    ("POST", r"/api/validate-yaml", _Handler.validate_yaml),
    ("POST", rf"/api/models/{_REPO}/preupload/(?P<revision>[^/]+)", _Handler.preupload),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", r"/storage/(?P<sha256>[0-9a-f]{64})", _Handler.write_storage),
    ("POST", rf"/api/models/{_REPO}/commit/(?P<revision>[^/]+)", _Handler.push_commit),
]
