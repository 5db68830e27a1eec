"""A server laid out like the Hugging Face Hub, with a CDN of another host that wants signatures.

Large files (LFS) are uploaded before the commit that names them, as the library huggingface_hub
does where Xet is switched off.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from loopback import LoopbackServers

TOKEN = "hf_test_token"


@dataclass
class Repository:
    """Commits, oldest first: each maps paths to contents."""

    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{}])

    def sha(self, number: int) -> str:
        return hashlib.sha1(b"commit %d" % number).hexdigest()

    def find(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit of a revision: ``main``, or the hash of one."""
        for number, files in enumerate(self.commits):
            last = revision == "main" and number == len(self.commits) - 1
            if last or self.sha(number) == revision:
                return self.sha(number), files
        return None


class Hub(LoopbackServers):
    """The two servers.

    Attributes:
        url: For ``HF_ENDPOINT``.
        repositories: By ``org/name``, all of models.
        private: Whether reading needs the token.
        lifetime: Seconds for which a signed URL of the CDN is valid.
        leaked: Whether the CDN ever got a token.
        signed: How many signed URLs were made.
        fail: Called with each request's method and path; a status ends it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.private = False
        self.lifetime = 60.0
        self.leaked = False
        self.signed = 0
        self.fail: Any = lambda method, path: None
        self.lock = threading.Lock()
        self.url, self.cdn = (self.serve(kind, hub=self) for kind in (_Main, _Cdn))

    def add(self, name: str, files: dict[str, bytes]) -> None:
        """Commit files to a repository."""
        with self.lock:
            found = self.repositories.setdefault(name, Repository())
            found.commits.append({**found.commits[-1], **files})
            for content in files.values():
                self.large[hashlib.sha256(content).hexdigest()] = content


def is_large(path: str, content: bytes) -> bool:
    """Whether the Hub keeps a file as LFS."""
    return bool(content) and path.endswith((".bin", ".safetensors", ".index"))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def hub(self) -> Hub:
        return self.server.hub  # type: ignore[attr-defined, no-any-return]

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, status: int, data: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def json(self, tree: Any, status: int = 200, **headers: str) -> None:
        self.answer(status, json.dumps(tree).encode(), Content_Type="application/json", **headers)

    def content(self, data: bytes, etag: str) -> None:
        """A file, or the range of it that was asked for."""
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        common = {"ETag": f'"{etag}"', "Accept_Ranges": "bytes"}
        if self.headers.get("If-None-Match") == f'"{etag}"':
            self.answer(304, **common)
        elif found is None:
            self.answer(200, data, **common)
        elif int(found[1]) >= len(data):
            self.answer(416, Content_Range=f"bytes */{len(data)}")
        else:
            start, end = int(found[1]), min(int(found[2] or len(data)), len(data) - 1)
            where = f"bytes {start}-{end}/{len(data)}"
            self.answer(206, data[start : end + 1], Content_Range=where, **common)


class _Cdn(_Handler):
    def do_GET(self) -> None:
        if "Authorization" in self.headers:
            self.hub.leaked = True
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        if status := self.hub.fail("CDN", parts.path):
            return self.answer(status)
        if time.time() > float(query.get("expires", ["0"])[0]):
            return self.answer(403, b"expired")
        data = self.hub.large.get(parts.path.lstrip("/"))
        if data is None:
            return self.answer(404)
        return self.content(data, parts.path.lstrip("/"))

    def do_PUT(self) -> None:
        digest = urlsplit(self.path).path.lstrip("/")
        data = self.body()
        if status := self.hub.fail("UPLOAD", self.path):
            return self.answer(status)
        if hashlib.sha256(data).hexdigest() != digest:
            return self.answer(400)
        self.hub.large[digest] = data
        return self.answer(200, ETag=f'"{digest}"')


class _Main(_Handler):
    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if status := self.hub.fail("GET", path):
            return self.answer(status, Retry_After="0")
        if self.hub.private and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.json({"error": "Invalid username or password."}, 401)
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self.resolve(found[1], unquote(found[2]), unquote(found[3]))
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/([^/]+)", path):
            commit = self.commit(found[1], found[2])
            return commit and self.json({"sha": commit[0], "id": found[1]})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)(?:/(.*))?", path):
            return self.tree(found[1], found[2], unquote(found[3] or ""))
        return self.answer(404)

    do_HEAD = do_GET  # noqa: N815

    def commit(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit; None after the answer that there is none."""
        repository = self.hub.repositories.get(name)
        found = repository.find(unquote(revision)) if repository else None
        if found is None:
            self.json({"error": "Not found"}, 404, X_Error_Code="RevisionNotFound")
        return found

    def resolve(self, name: str, revision: str, path: str) -> None:
        commit = self.commit(name, revision)
        if commit is None:
            return None
        data = commit[1].get(path)
        if data is None:
            return self.answer(404, b"Entry not found", X_Error_Code="EntryNotFound")
        digest = hashlib.sha256(data).hexdigest()
        if not is_large(path, data):
            return self.content(data, digest[:40])
        self.hub.signed += 1
        until = time.time() + self.hub.lifetime
        place = f"{self.hub.cdn}/{digest}?expires={until}&sig=s3cr3t"
        return self.answer(302, b"Found", Location=place, X_Linked_Etag=f'"{digest}"')

    def entry(self, path: str, data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        found: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": ""}
        found["oid"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        if is_large(path, data):
            found["lfs"] = {"oid": digest, "size": len(data), "pointerSize": 130}
        return found

    def tree(self, name: str, revision: str, folder: str) -> None:
        commit = self.commit(name, revision)
        if commit is None:
            return
        at = int(parse_qs(urlsplit(self.path).query).get("cursor", ["0"])[0])
        start = f"{folder}/" if folder else ""
        paths = sorted(path for path in commit[1] if path.startswith(start))
        found: list[dict[str, Any]] = [{"type": "directory", "path": "somewhere", "oid": "1"}]
        found += [self.entry(path, commit[1][path]) for path in paths[at : at + 3]]
        more: dict[str, str] = {}
        if at + 3 < len(paths):
            here = f"{self.hub.url}{urlsplit(self.path).path}?recursive=true&cursor={at + 3}"
            more["Link"] = f'<{here}>; rel="next"'
        self.json(found, **more)

    def do_POST(self) -> None:
        path, data = urlsplit(self.path).path, self.body()
        if status := self.hub.fail("POST", path):
            return self.answer(status, Retry_After="0")
        if self.hub.private and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.json({"error": "Invalid username or password."}, 401)
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/paths-info/([^/]+)", path):
            commit = self.commit(found[1], found[2])
            if commit is None:
                return None
            wanted = [p for p in json.loads(data)["paths"] if p in commit[1]]
            return self.json([self.entry(p, commit[1][p]) for p in wanted])
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.json({"error": "Invalid username or password."}, 401)
        if path == "/api/repos/create":
            return self.create(json.loads(data))
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)", path):
            return self.preupload(json.loads(data))
        if re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return self.batch(json.loads(data))
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", path):
            return self.add_commit(found[1], [json.loads(line) for line in data.splitlines()])
        return self.answer(404)

    def create(self, tree: dict[str, Any]) -> None:
        name = (
            f"{tree['organization']}/{tree['name']}" if tree.get("organization") else tree["name"]
        )
        with self.hub.lock:
            there = name in self.hub.repositories
            self.hub.repositories.setdefault(name, Repository())
        self.json({"url": f"{self.hub.url}/{name}", "name": name}, 409 if there else 200)

    def preupload(self, tree: dict[str, Any]) -> None:
        found = []
        for file in tree["files"]:
            large = is_large(file["path"], b"x") or b"\0" in base64.b64decode(file["sample"])
            mode = "lfs" if large else "regular"
            found.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False})
        self.json({"files": found})

    def batch(self, tree: dict[str, Any]) -> None:
        found = []
        for item in tree["objects"]:
            entry = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.large:
                place = f"{self.hub.cdn}/{item['oid']}?sig=s3cr3t"
                entry["actions"] = {"upload": {"href": place, "header": {}}}
            found.append(entry)
        self.json({"transfer": "basic", "objects": found})

    def add_commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        with self.hub.lock:
            repository = self.hub.repositories[name]
            sha, files = repository.find("main") or ("", {})
            wanted = lines[0]["value"].get("parentCommit")
            if wanted not in (None, sha):
                return self.json({"error": "A commit has happened since."}, 412)
            files = dict(files)
            for line in lines[1:]:
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    if value["oid"] not in self.hub.large:
                        return self.json({"error": "LFS object is missing"}, 400)
                    files[value["path"]] = self.hub.large[value["oid"]]
                elif line["key"] == "deletedFile":
                    files.pop(value["path"], None)
            repository.commits.append(files)
            made = repository.sha(len(repository.commits) - 1)
        url = f"{self.hub.url}/{name}/commit/{made}"
        return self.json({"success": True, "commitOid": made, "commitUrl": url})
