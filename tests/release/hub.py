"""A stand-in for the Hugging Face hub on this machine: repositories of models in memory, uploaded to and read from."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

COMMIT = "0" * 40


@contextmanager
def running(token: str) -> Iterator[tuple[str, dict[str, dict[str, bytes]]]]:
    """Run the server, for clients with this token; yield its address, and the files of each repository."""
    repositories: dict[str, dict[str, bytes]] = {}
    handler = type("Handler", (_Handler,), {"repositories": repositories, "token": token})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", repositories
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    repositories: dict[str, dict[str, bytes]]
    token: str

    def log_message(self, *message: object) -> None:
        """Print nothing."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {self.token}":
            return self._send(401, {"error": "Invalid credentials"})
        if self.path == "/api/repos/create":
            made = json.loads(body)
            name = f"{made['organization']}/{made['name']}" if made.get("organization") else made["name"]
            self.repositories.setdefault(name, {})
            return self._send(200, {"id": name, "url": f"http://{self.headers['Host']}/{name}"})
        if self.path == "/api/validate-yaml":
            return self._send(200, {"errors": [], "warnings": []})
        if match := re.fullmatch(r"/api/models/(.+)/preupload/main", self.path):
            files = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                     for file in json.loads(body)["files"]]  # fmt: skip
            return self._send(200, {"files": files})
        if match := re.fullmatch(r"/api/models/(.+)/commit/main", self.path):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.repositories[match[1]][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            address = f"http://{self.headers['Host']}/{match[1]}/commit/{COMMIT}"
            return self._send(200, {"commitUrl": address, "commitOid": COMMIT, "success": True})
        return self._send(404, {"error": self.path})

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/.+)?", path):
            if match[1] in self.repositories:
                siblings = [{"rfilename": name} for name in self.repositories[match[1]]]
                return self._send(200, {"id": match[1], "sha": COMMIT, "siblings": siblings, "private": False})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+/?", path):
            if match[1] in self.repositories:
                files = self.repositories[match[1]].items()
                return self._send(200, [_entry(name, content) for name, content in files])
        elif (match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)) and match[1] in self.repositories:
            content = self.repositories[match[1]].get(match[2])
            if content is None:
                return self._send(
                    404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
                )
            return self._send(200, content, {"X-Repo-Commit": COMMIT, "ETag": f'"{_oid(content)}"'})
        return self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def _entry(name: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(content), "oid": _oid(content)}
