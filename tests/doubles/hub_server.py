"""A small Hugging Face Hub on 127.0.0.1, for the real clients.

    with Hub() as hub:
        first = hub.add("dataset", "me/pairs", {"train.jsonl": b"..."})
        subprocess.run(command, env=hub.environment(tmp_path), check=True)
        assert "model.safetensors" in hub.files("me/tuned")

The clients read `HF_ENDPOINT` when they are imported: run them in a subprocess. Xet, pull requests,
discussions, spaces, files' last changes and deleting are not supported and return an error. The
tests of `job.storage.hub` and `job.inputs` show that the clients work with it and raise their own
errors.
"""

import base64
import hashlib
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import yaml
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.routing import Map, Rule
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

DATE = "2026-01-01T00:00:00.000Z"
LFS_ENDINGS = (".safetensors", ".parquet", ".gz", ".bin")
LFS_BYTES = 1_000_000
REMOVED_PREFIXES = ("HF_", "HUGGING", "TRANSFORMERS_")

TYPES = "<any(models,datasets):types>"
REPO = f"/api/{TYPES}/<owner>/<name>"
# A model's URLs outside the API have no type.
PLAIN_REPOS = ("/<owner>/<name>", "/<any(datasets):types>/<owner>/<name>")
ROUTES = Map(merge_slashes=False)


@dataclass(frozen=True)
class Commit:
    id: str
    title: str
    files: Mapping[str, bytes]
    parent: "Commit | None"


@dataclass
class Repo:
    type: str
    id: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return self.id if self.type == "model" else f"{self.type}s/{self.id}"

    def at(self, revision: str) -> Commit:
        """Return the commit of a branch, a tag or a full commit id."""
        commit_id = self.branches.get(revision) or self.tags.get(revision) or revision
        if commit_id not in self.commits:
            raise refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[commit_id]

    def commit(self, branch: str, files: Mapping[str, bytes], title: str) -> str:
        """Commit exactly these files to a branch; return the commit's id."""
        tree = sorted((path, git_id(data)) for path, data in files.items())
        parent = self.commits.get(self.branches.get(branch, ""))
        content = json.dumps([self.path, title, parent.id if parent else None, tree])
        commit_id = hashlib.sha1(content.encode()).hexdigest()
        self.commits[commit_id] = Commit(commit_id, title, dict(files), parent)
        self.branches[branch] = commit_id
        return commit_id


@dataclass
class Fault:
    """An error for the next matching requests."""

    match: str
    times: int
    status: int


class Hub:
    """Repositories and their server; writing and private repositories need the `token`."""

    def __init__(self, token: str | None = None):
        self.token = token
        self.repos: dict[tuple[str, str], Repo] = {}
        self.requests: list[tuple[str, str]] = []
        self.lfs_objects: dict[str, bytes] = {}
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def __enter__(self) -> "Hub":
        self._server = make_server(
            "127.0.0.1", 0, self._application, threaded=True, request_handler=QuietHandler
        )
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()

    def environment(self, home: Path, **settings: str) -> dict[str, str]:
        """Return this process's environment with this endpoint, and caches at `home`."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(REMOVED_PREFIXES)}
        variables = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "no_proxy": "127.0.0.1",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            # Otherwise the clients first request a list of coding agents, and `datasets` calls S3.
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
        }
        return kept | variables | settings

    def add(
        self, repo_type: str, repo_id: str, files: Mapping[str, bytes] | Path, *, private=False
    ) -> str:
        """Commit exactly these files to `main` and return the commit's id.

        The first call creates the repository, private or not.
        """
        if isinstance(files, Path):
            paths = [path for path in files.rglob("*") if path.is_file()]
            files = {path.relative_to(files).as_posix(): path.read_bytes() for path in paths}
        with self._lock:
            repo = self.repos.setdefault((repo_type, repo_id), Repo(repo_type, repo_id, private))
            return repo.commit("main", files, "Add files")

    def files(self, repo_id: str, revision="main", repo_type="model") -> dict[str, bytes]:
        return dict(self.repos[repo_type, repo_id].at(revision).files)

    def fail_next(self, status: int, times: int = 1, match: str = "") -> None:
        """Answer the next requests whose `METHOD /path` contains `match` with an error."""
        self._faults.append(Fault(match, times, status))

    @Request.application
    def _application(self, request: Request) -> Response:
        request.get_data()  # may take long, so before the lock is taken
        with self._lock:
            target = f"{request.method} {request.path}"
            self.requests.append((request.method, request.path))
            fault = next((f for f in self._faults if f.times and f.match in target), None)
            if fault:
                fault.times -= 1
                raise refusal(fault.status, "The test injected this fault")
            return self._answer(request)

    def _answer(self, request: Request) -> Response:
        # Not `request.path`: there, a branch's `%2F` looks like the slash after the branch.
        path = request.environ["RAW_URI"].partition("?")[0]
        try:
            (handler, needs_token), matched = ROUTES.bind("").match(path, request.method)
        except NotFound:
            raise refusal(501, f"This Hub has no {request.method} {path}") from None
        if "create_pr" in request.args or "true" in request.values.getlist("expand"):
            raise refusal(501, "This Hub has neither pull requests nor files' last changes")
        arguments = {key: unquote(value) for key, value in matched.items()}
        may_all = self._may_all(request)
        if "name" in arguments:
            repo_type = arguments.pop("types", "models").removesuffix("s")
            names = [arguments.pop(key) for key in ("owner", "name") if key in arguments]
            repo = self.repos.get((repo_type, "/".join(names)))
            if repo is None or ((repo.private or needs_token) and not may_all):
                # With https a bare 401 would be enough; otherwise the clients rely on the code.
                known = "Authorization" in request.headers
                raise refusal(404 if known else 401, "Repository not found", "RepoNotFound")
            arguments["repo"] = repo
        elif needs_token and not may_all:
            raise refusal(401, "Invalid username or password.")
        found = handler(self, request, **arguments)
        return found if isinstance(found, Response) else as_json(found)

    def _may_all(self, request: Request) -> bool:
        """Whether the caller may do everything; a wrong token may do nothing, as on the Hub."""
        given = request.headers.get("Authorization")
        if self.token and given and given != f"Bearer {self.token}":
            raise refusal(401, "Invalid credentials in Authorization header")
        return self.token is None or given is not None


class QuietHandler(WSGIRequestHandler):
    def log_request(self, *_: object) -> None:
        pass


def as_json(content: object, status: int = 200) -> Response:
    return Response(json.dumps(content), status, mimetype="application/json")


def refusal(status: int, message: str, code: str = "", **content: object) -> HTTPException:
    """Return an error like the Hub's: the reason is in the headers."""
    response = as_json({"error": message, **content}, status)
    response.headers["X-Error-Message"] = message
    if code:
        response.headers["X-Error-Code"] = code
    return HTTPException(response=response)


def git_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_lfs(path: str, size: int) -> bool:
    # The clients commit an empty file as a regular one, regardless of the Hub's answer.
    return size > LFS_BYTES or (size > 0 and path.endswith(LFS_ENDINGS))


def file_entry(path: str, data: bytes) -> dict:
    size = len(data)
    entry = {"type": "file", "path": path, "size": size, "oid": git_id(data)}
    if is_lfs(path, size):
        oid = hashlib.sha256(data).hexdigest()
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n"
        entry["oid"] = git_id(pointer.encode())
        entry["lfs"] = {"oid": oid, "sha256": oid, "size": size, "pointerSize": len(pointer)}
    return entry


def content_id(entry: dict) -> str:
    """Return the id by which the clients compare a file and name it in their cache."""
    return entry.get("lfs", entry)["oid"]


def entries(commit: Commit) -> dict[str, dict]:
    """Describe files and folders by path."""
    found = {}
    for path, data in sorted(commit.files.items()):
        for folder in map(str, PurePosixPath(path).parents[:-1]):
            tree_id = git_id(f"{commit.id}/{folder}".encode())
            found[folder] = {"type": "directory", "path": folder, "size": 0, "oid": tree_id}
        found[path] = file_entry(path, data)
    return found


def front_matter(card: str) -> dict | None:
    return yaml.safe_load(card.split("\n---", 1)[0]) if card.startswith("---\n") else None


def route(method: str, *paths: str, needs_token=False):
    def register(handler):
        for path in paths:
            ROUTES.add(Rule(path, methods=[method], endpoint=(handler, needs_token)))
        return handler

    return register


@route("POST", "/api/validate-yaml")
def validate_yaml(hub, request):
    try:
        front_matter(request.json["content"])
    except yaml.YAMLError as error:
        return as_json({"errors": [{"message": str(error)}]}, 400)
    return {"errors": [], "warnings": []}


@route("POST", "/api/repos/create", needs_token=True)
def create_repo(hub, request):
    given = request.json
    repo_id = f"{given['organization']}/{given['name']}"
    repo = Repo(given.get("type", "model"), repo_id, given.get("visibility") == "private")
    url = f"{hub.endpoint}/{repo.path}"
    if (repo.type, repo_id) in hub.repos:
        raise refusal(409, f"You already created this {repo.type} repo", url=url)
    attributes = "".join(f"*{ending} filter=lfs diff=lfs merge=lfs\n" for ending in LFS_ENDINGS)
    repo.commit("main", {".gitattributes": attributes.encode()}, "initial commit")
    hub.repos[repo.type, repo_id] = repo
    return {"url": url, "name": repo_id}


# Ids without an owner, such as `gpt2`, are requested as well.
@route("GET", REPO, f"{REPO}/revision/<revision>")
@route("GET", f"/api/{TYPES}/<name>", f"/api/{TYPES}/<name>/revision/<revision>")
def info(hub, request, repo, revision="main"):
    commit = repo.at(revision)
    siblings = [{"rfilename": path} for path in sorted(commit.files)]
    if "blobs" in request.args:
        for sibling in siblings:
            entry = file_entry(sibling["rfilename"], commit.files[sibling["rfilename"]])
            sibling |= {"size": entry["size"], "blobId": entry["oid"], "lfs": entry.get("lfs")}
    card = front_matter(commit.files.get("README.md", b"").decode())
    about = {"id": repo.id, "sha": commit.id, "private": repo.private, "gated": False}
    return {**about, "lastModified": DATE, "tags": [], "siblings": siblings, "cardData": card}


@route("GET", f"{REPO}/tree/<revision>", f"{REPO}/tree/<revision>/<folder>")
def tree(hub, request, repo, revision, folder=""):
    prefix = f"{folder}/" if folder else ""
    recursive = request.args.get("recursive") == "true"
    below = [
        entry
        for path, entry in entries(repo.at(revision)).items()
        if path.startswith(prefix) and (recursive or "/" not in path.removeprefix(prefix))
    ]
    if folder and not below:
        raise refusal(404, f"{folder} does not exist on {revision}", "EntryNotFound")
    return below


@route("POST", f"{REPO}/paths-info/<revision>")
def paths_info(hub, request, repo, revision):
    known = entries(repo.at(revision))
    wanted = [path.rstrip("/") for path in request.form.getlist("paths")]
    return [known[path] for path in wanted if path in known]


@route("GET", "/<name>/resolve/<revision>/<path:path>")
@route("GET", *(f"{repo}/resolve/<revision>/<path:path>" for repo in PLAIN_REPOS))
def resolve(hub, request, repo, revision, path):
    commit = repo.at(revision)
    if path not in commit.files:
        missing = refusal(404, "Entry not found", "EntryNotFound")
        missing.response.headers["X-Repo-Commit"] = commit.id
        raise missing
    data = commit.files[path]
    entry = file_entry(path, data)
    response = Response(data, headers={"X-Repo-Commit": commit.id})
    response.set_etag(content_id(entry))
    if "lfs" in entry:
        response.headers["X-Linked-Size"] = str(len(data))
        response.headers["X-Linked-ETag"] = response.headers["ETag"]
    return response.make_conditional(request, accept_ranges=True, complete_length=len(data))


@route("GET", f"{REPO}/auth-check")
@route("GET", f"{REPO}/auth-check/write", needs_token=True)
def auth_check(hub, request, repo):
    return {}


@route("POST", f"{REPO}/tag/<revision>", needs_token=True)
def create_tag(hub, request, repo, revision):
    return add_reference(repo.tags, request.json["tag"], repo.at(revision))


@route("POST", f"{REPO}/branch/<branch>", needs_token=True)
def create_branch(hub, request, repo, branch):
    start = request.json.get("startingPoint", "main")
    return add_reference(repo.branches, branch, repo.at(start))


def add_reference(references, name, target):
    if name in references:
        raise refusal(409, f"Reference {name} already exists")
    references[name] = target.id
    return {}


@route("POST", f"{REPO}/preupload/<revision>", needs_token=True)
def preupload(hub, request, repo, revision):
    present = entries(repo.at(revision))
    files = [{"path": file["path"], "shouldIgnore": False} for file in request.json["files"]]
    for answer, file in zip(files, request.json["files"], strict=True):
        path = file["path"]
        answer["uploadMode"] = "lfs" if is_lfs(path, file["size"]) else "regular"
        answer["oid"] = content_id(present[path]) if path in present else None
    return {"files": files}


@route("POST", *(f"{repo}.git/info/lfs/objects/batch" for repo in PLAIN_REPOS), needs_token=True)
def lfs_batch(hub, request, repo):
    objects = request.json["objects"]
    for wanted in objects:
        if wanted["oid"] not in hub.lfs_objects:
            wanted["actions"] = {"upload": {"href": f"{hub.endpoint}/lfs/{wanted['oid']}"}}
    return {"transfer": "basic", "objects": objects}


# The clients send no token to the storage.
@route("PUT", "/lfs/<oid>")
def lfs_upload(hub, request, oid):
    data = request.get_data()
    if hashlib.sha256(data).hexdigest() != oid:
        raise refusal(400, "The content does not match its SHA-256")
    hub.lfs_objects[oid] = data
    return {}


@route("POST", f"{REPO}/commit/<revision>", needs_token=True)
def commit(hub, request, repo, revision):
    header, *operations = map(json.loads, request.get_data().splitlines())
    head = repo.at(revision)
    if revision not in repo.branches:
        raise refusal(400, f"{revision} is not a branch")
    if header["value"].get("parentCommit", head.id) != head.id:
        raise refusal(412, "A commit has happened since. Please refresh and try again.")
    files = dict(head.files)
    for operation in operations:
        apply_to(files, operation["key"], operation["value"], hub.lfs_objects)
    made = repo.commit(revision, files, header["value"]["summary"])
    url = f"{hub.endpoint}/{repo.path}/commit/{made}"
    return {"success": True, "commitOid": made, "commitUrl": url}


def apply_to(files, operation, value, lfs_objects):
    path = value["path"]
    match operation:
        case "file":
            files[path] = base64.b64decode(value["content"])
        case "lfsFile" if value["oid"] in lfs_objects:
            files[path] = lfs_objects[value["oid"]]
        case _:
            raise refusal(400, f"Cannot do {operation} of {path}")
