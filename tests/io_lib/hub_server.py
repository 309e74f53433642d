"""A small Hugging Face Hub on this machine: the requests that create, commit and download make, by its HTTP API."""

import base64
import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest
import yaml

TOKEN = "hf_of_a_test"
LARGE = 500  # bytes from which a file is uploaded apart from the commit, as LFS


class Hub(ThreadingHTTPServer):
    """`repositories`: name → (private, [(commit, {path: bytes}), …]); `requests`: (method, path) of each request."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict = {}
        self.uploaded: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.address = f"http://127.0.0.1:{self.server_port}"

    def add(self, name, files, private=False):
        """A repository with these files, path → bytes, as its first commit."""
        self.repositories[name] = (private, [])
        self.commit(name, files)

    def commit(self, name, files):
        commits = self.repositories[name][1]
        oid = hashlib.sha1(f"{name}{len(commits)}".encode()).hexdigest()
        commits.append((oid, files))
        return oid

    def files(self, name, revision="main"):
        """(commit, files) of a revision; None if there is none."""
        commits = self.repositories[name][1]
        found = [one for one in commits if one[0] == revision]
        return found[0] if found else (commits[-1] if revision == "main" else None)

    def __enter__(self):
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()
        self.thread.join()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_):
        pass

    def answer(self, content, status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def missing(self, what):
        self.answer({"error": what}, 404 if what != "RepoNotFound" else 401, X_Error_Code=what, X_Error_Message=what)

    def body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def handle_one(self):
        path, body = unquote(urlsplit(self.path).path), self.body()
        self.server.requests.append((self.command, path))
        allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if self.command == "POST" and not allowed and path != "/api/validate-yaml":  # a PUT has a signed address
            return self.answer({"error": "Invalid username or password."}, 401)
        for pattern, method in ROUTES:
            if found := re.fullmatch(pattern, f"{self.command} {path}"):
                name = found.groupdict().get("name")
                known = self.server.repositories.get(name)
                if name is not None and (known is None or (known[0] and not allowed)):
                    return self.missing("RepoNotFound")
                return method(self, body, **found.groupdict())
        return self.answer({"error": f"no route for {self.command} {path}"}, 500)

    do_GET = do_POST = do_PUT = do_HEAD = handle_one

    def create(self, body):
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.server.repositories:
            return self.answer({"error": "You already created it", "url": f"{self.server.address}/{name}"}, 409)
        self.server.add(
            name, {".gitattributes": b"* text"}, bool(asked.get("private")) or asked.get("visibility") == "private"
        )
        return self.answer({"url": f"{self.server.address}/{name}", "name": name})

    def info(self, _, name, revision="main"):
        found = self.server.files(name, revision)
        if found is None:
            return self.missing("RevisionNotFound")
        siblings = [{"rfilename": path} for path in found[1]]
        private = self.server.repositories[name][0]
        return self.answer({"id": name, "sha": found[0], "private": private, "siblings": siblings, "tags": []})

    def tree(self, _, name, revision):
        entry = lambda path, content: {  # noqa: E731
            "type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest(),
        }  # fmt: skip
        return self.answer([entry(*item) for item in self.server.files(name, revision)[1].items()])

    def validate(self, body):
        head = re.match(r"---\n(.*?\n)---\n", json.loads(body)["content"], flags=re.DOTALL)
        wrong = [] if isinstance(yaml.safe_load(head[1])["license"], str) else [{"message": "license"}]
        return self.answer({"errors": wrong, "warnings": []})

    def preupload(self, body, name, revision):
        modes = [(file["path"], "lfs" if file["size"] > LARGE else "regular") for file in json.loads(body)["files"]]
        return self.answer(
            {"files": [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes]}
        )

    def batch(self, body, name):
        upload = lambda oid: {"upload": {"href": f"{self.server.address}/lfs/{oid}"}}  # noqa: E731
        objects = [{**one, "actions": upload(one["oid"])} for one in json.loads(body)["objects"]]
        return self.answer({"transfer": "basic", "objects": objects})

    def put(self, body, oid):
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.uploaded[oid] = body
        return self.answer({})

    def commit(self, body, name, revision):
        files = dict(self.server.files(name)[1])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.uploaded[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        oid = self.server.commit(name, files)
        return self.answer(
            {"success": True, "commitOid": oid, "commitUrl": f"{self.server.address}/{name}/commit/{oid}"}
        )

    def resolve(self, _, name, revision, path):
        found = self.server.files(name, revision)
        if found is None:
            return self.missing("RevisionNotFound")
        if path not in found[1]:
            return self.answer({"error": path}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=found[0])
        etag = f'"{hashlib.sha256(found[1][path]).hexdigest()}"'
        return self.answer(found[1][path], ETag=etag, X_Repo_Commit=found[0])


@contextlib.contextmanager
def hub_on_this_machine(monkeypatch, folder):
    """The server, as the Hub of this process and of those that it starts, with a cache in `folder`."""
    constants = pytest.importorskip("huggingface_hub.constants")
    with Hub() as server:
        environment = {"HF_ENDPOINT": server.address, "HF_HOME": str(folder), "HF_TOKEN": TOKEN}
        for name, value in {**environment, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}.items():
            monkeypatch.setenv(name, value)
        values = {  # of the environment when huggingface_hub was imported
            "ENDPOINT": server.address,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.address + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HOME": str(folder),
            "HF_HUB_CACHE": str(folder / "hub"),
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_PROGRESS_BARS": True,
        }
        for name, value in values.items():
            monkeypatch.setattr(constants, name, value)
        yield server


_NAME, _REVISION = r"(?P<name>[\w.-]+/[\w.-]+)", r"(?P<revision>[\w.-]+)"
ROUTES = (
    (r"POST /api/repos/create", Handler.create),
    (r"POST /api/validate-yaml", Handler.validate),
    (rf"GET /api/models/{_NAME}", Handler.info),
    (rf"GET /api/models/{_NAME}/revision/{_REVISION}", Handler.info),
    (rf"GET /api/models/{_NAME}/tree/{_REVISION}", Handler.tree),
    (rf"POST /api/models/{_NAME}/preupload/{_REVISION}", Handler.preupload),
    (rf"POST /{_NAME}\.git/info/lfs/objects/batch", Handler.batch),
    (r"PUT /lfs/(?P<oid>\w+)", Handler.put),
    (rf"POST /api/models/{_NAME}/commit/{_REVISION}", Handler.commit),
    (rf"(GET|HEAD) /{_NAME}/resolve/{_REVISION}/(?P<path>.+)", Handler.resolve),
)
