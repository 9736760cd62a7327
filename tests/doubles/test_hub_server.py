"""The local Hub: the real clients, each in a fresh interpreter, take it for the Hub itself."""

import gzip
import inspect
import io
import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
from hub_server import Hub

TOKEN = "hf_right"
CARD = b"""\
---
license: mit
configs:
- config_name: easy
  data_files:
  - {split: train, path: easy/train.jsonl}
  - {split: test, path: easy/test.jsonl}
- config_name: hard
  data_files: hard/*.jsonl
---
# Pairs
"""


def in_client(hub, home, function, *arguments, **settings):
    """Call a function in a fresh interpreter that knows the Hub, and return its result."""
    call = f"{function.__name__}(*json.loads({json.dumps(arguments)!r}))"
    code = f"import json\n{inspect.getsource(function)}\nprint(json.dumps({call}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=hub.environment(home, **settings),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def jsonl(*questions):
    return "".join(json.dumps({"question": text}) + "\n" for text in questions).encode()


def parquet(*questions):
    file = io.BytesIO()
    pq.write_table(pa.table({"question": list(questions)}), file)
    return file.getvalue()


def read_data_sets(first):
    from datasets import load_dataset, load_dataset_builder
    from datasets.exceptions import DatasetNotFoundError

    def read(*arguments, **options):
        try:
            return load_dataset(*arguments, **options)["question"][:]
        except DatasetNotFoundError as error:
            return str(error)

    return {
        "data files": load_dataset_builder("me/pairs", "easy").config.data_files,
        "easy test": read("me/pairs", "easy", split="test"),
        "hard": read("me/pairs", "hard", split="train"),
        "first": read("me/pairs", "easy", split="train", revision=first),
        "latest": read("me/pairs", "easy", split="train"),
        "tagged": read("me/pairs", "easy", split="train", revision="old/one"),
        "no such revision": read("me/pairs", "easy", revision="gone"),
        "gz": read("me/gz", split="train"),
        "csv": read("me/csv", split="validation"),
        "parquet": read("me/parquet", split="train"),
        # In this order: what was read once is read from the cache, with a token or not.
        "private, no token": read("me/private", split="train", token=False),
        "private": read("me/private", split="train"),
        "unknown": read("me/unknown"),
    }


def test_datasets_finds_configs_splits_and_revisions(tmp_path):
    """`datasets` reads jsonl, csv, parquet and gz, by card or by file name, old or new."""
    files = {
        "README.md": CARD,
        "easy/train.jsonl": jsonl("Old?"),
        "easy/test.jsonl": jsonl("Tested?"),
        "hard/part.jsonl": jsonl("Hard?"),
        "hard/more.jsonl": jsonl("Harder?"),
    }
    with Hub(token=TOKEN) as hub:
        first = hub.add("dataset", "me/pairs", files)
        hub.repos["dataset", "me/pairs"].tags["old/one"] = first
        second = hub.add("dataset", "me/pairs", files | {"easy/train.jsonl": jsonl("New?")})
        hub.add("dataset", "me/gz", {"train.jsonl.gz": gzip.compress(jsonl("Packed?"))})
        hub.add("dataset", "me/csv", {"dev.csv": b"question\nIn commas?\n"})
        hub.add("dataset", "me/parquet", {"data/train-0-of-1.parquet": parquet("In columns?")})
        hub.add("dataset", "me/private", {"train.jsonl": jsonl("Secret?")}, private=True)
        found = in_client(hub, tmp_path, read_data_sets, first, HF_TOKEN=TOKEN)
    folder = f"hf://datasets/me/pairs@{second}"
    assert found == {
        "data files": {
            "train": [f"{folder}/easy/train.jsonl"],
            "test": [f"{folder}/easy/test.jsonl"],
        },
        "easy test": ["Tested?"],
        "hard": ["Harder?", "Hard?"],
        "first": ["Old?"],
        "latest": ["New?"],
        "tagged": ["Old?"],
        "no such revision": "Revision 'gone' doesn't exist for dataset 'me/pairs' on the Hub.",
        "gz": ["Packed?"],
        "csv": ["In commas?"],
        "parquet": ["In columns?"],
        "private": ["Secret?"],
        "private, no token": "Dataset 'me/private' doesn't exist on the Hub or cannot be accessed.",
        "unknown": "Dataset 'me/unknown' doesn't exist on the Hub or cannot be accessed.",
    }


def meet_refusals():
    from huggingface_hub import HfApi

    mine, nobody, wrong = HfApi(), HfApi(token=False), HfApi(token="hf_expired")

    def outcome(call, *arguments, **options):
        try:
            call(*arguments, **options)
        except Exception as error:  # noqa: BLE001
            response = getattr(error, "response", None)
            return [type(error).__name__, response.status_code if response is not None else None]
        return "works"

    return {
        "private": outcome(mine.model_info, "me/private"),
        "private, no token": outcome(nobody.model_info, "me/private"),
        "private, wrong token": outcome(wrong.model_info, "me/private"),
        "private file, no token": outcome(nobody.hf_hub_download, "me/private", "config.json"),
        "public, wrong token": outcome(wrong.hf_hub_download, "me/open", "config.json"),
        "unknown": outcome(mine.model_info, "me/unknown"),
        "unknown, no owner": outcome(nobody.hf_hub_download, "unknown", "config.json"),
        "unknown revision": outcome(nobody.snapshot_download, "me/open", revision="gone"),
        "unknown file": outcome(nobody.hf_hub_download, "me/open", "gone.json"),
        "who, wrong token": outcome(wrong.whoami),
        "may write": outcome(mine.auth_check, "me/open", write=True),
        "may write, no token": outcome(nobody.auth_check, "me/open", write=True),
        "upload, no token": outcome(
            nobody.upload_file, path_or_fileobj=b"", path_in_repo="a", repo_id="me/open"
        ),
        "create, no token": outcome(nobody.create_repo, "me/new"),
        "create, exists": outcome(mine.create_repo, "me/open"),
        "delete on an unknown branch": outcome(
            mine.delete_file, "config.json", "me/open", revision="gone"
        ),
        "asked to fail": outcome(mine.model_info, "me/down"),
    }


def test_refusals_are_the_errors_of_the_real_hub(tmp_path):
    """Whatever is missing, private, taken or broken raises the class that the Hub would cause."""
    with Hub(token=TOKEN) as hub:
        hub.add("model", "me/open", {"config.json": b"{}"})
        hub.add("model", "me/down", {"config.json": b"{}"})
        hub.add("model", "me/private", {"config.json": b"{}"}, private=True)
        hub.fail_next(500, match="me/down")
        found = in_client(hub, tmp_path, meet_refusals, HF_TOKEN=TOKEN)
    assert found == {
        "private": "works",
        "private, no token": ["RepositoryNotFoundError", 401],
        "private, wrong token": ["HfHubHTTPError", 401],
        "private file, no token": ["RepositoryNotFoundError", 401],
        "public, wrong token": ["HfHubHTTPError", 401],
        "unknown": ["RepositoryNotFoundError", 404],
        "unknown, no owner": ["RepositoryNotFoundError", 401],
        "unknown revision": ["RevisionNotFoundError", 404],
        "unknown file": ["RemoteEntryNotFoundError", 404],
        "who, wrong token": ["HfHubHTTPError", 401],
        "may write": "works",
        "may write, no token": ["RepositoryNotFoundError", 401],
        "upload, no token": ["RepositoryNotFoundError", 401],
        "create, no token": ["HfHubHTTPError", 401],
        "create, exists": ["HfHubHTTPError", 409],
        "delete on an unknown branch": ["RevisionNotFoundError", 404],
        "asked to fail": ["HfHubHTTPError", 500],
    }


def upload_and_download(folder):
    from pathlib import Path

    from huggingface_hub import HfApi, HfFileSystem, ModelCard

    api = HfApi()
    repo = api.create_repo("tuned", private=True).repo_id
    api.create_repo(repo, exist_ok=True)
    api.upload_folder(folder_path=folder, repo_id=repo)
    first = api.model_info(repo).sha
    api.create_tag(repo, tag="v1")
    api.create_branch(repo, branch="try/it")
    ModelCard("---\nlicense: mit\n---\n# Tuned\n").push_to_hub(repo)
    api.delete_file("empty.bin", repo, revision="try/it")
    api.delete_folder("sub", repo, revision="try/it")
    again = api.upload_folder(folder_path=folder, repo_id=repo, revision="v1")
    here = Path(api.snapshot_download(repo, revision="v1"))
    info = api.model_info(repo, files_metadata=True)
    references = api.list_repo_refs(repo)
    weights = HfFileSystem().info(f"{repo}/model.safetensors", expand_info=True)
    return {
        "repo": repo,
        "same": all(
            path.read_bytes() == (here / path.relative_to(folder)).read_bytes()
            for path in Path(folder).rglob("*")
            if path.is_file()
        ),
        "unchanged": again.oid == first == here.name,
        "branches": sorted(branch.name for branch in references.branches),
        "tags": {tag.name: tag.target_commit == first for tag in references.tags},
        "private": info.private,
        "license": info.card_data.license,
        "siblings": {s.rfilename: [s.size, bool(s.lfs)] for s in info.siblings},
        "folders": [e.path for e in api.list_repo_tree(repo) if not hasattr(e, "size")],
        "inside": [e.path for e in api.list_repo_tree(repo, "sub")],
        "weights": [weights["size"], weights["last_commit"].oid == first],
        "user": api.whoami()["name"],
    }


def test_what_is_uploaded_is_downloaded(tmp_path):
    """A private repository takes folders, cards, tags and branches, and gives the bytes back."""
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    files = {
        "model.safetensors": bytes(range(256)) * 8,
        "vocabulary.txt": b"a long one\n" * 100_000,
        "sub/config.json": b"{}",
        "empty.bin": b"",
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    with Hub(token=TOKEN) as hub:
        found = in_client(hub, tmp_path, upload_and_download, str(folder), HF_TOKEN=TOKEN)
        tagged, tried = (hub.files("tester/tuned", revision) for revision in ("v1", "try/it"))
        main = hub.files("tester/tuned")
        assert hub.repos["model", "tester/tuned"].private
    card = b"---\nlicense: mit\n---\n# Tuned\n"
    files[".gitattributes"] = main[".gitattributes"]
    assert main == files | {"README.md": card}
    assert tagged == files
    assert set(files) - set(tried) == {"empty.bin", "sub/config.json"}
    assert found == {
        "repo": "tester/tuned",
        "same": True,
        "unchanged": True,
        "branches": ["main", "try/it"],
        "tags": {"v1": True},
        "private": True,
        "license": "mit",
        "siblings": {
            ".gitattributes": [len(files[".gitattributes"]), False],
            "README.md": [len(card), False],
            "empty.bin": [0, False],
            "model.safetensors": [2048, True],
            "sub/config.json": [2, False],
            "vocabulary.txt": [1_100_000, True],
        },
        "folders": ["sub"],
        "inside": ["sub/config.json"],
        "weights": [2048, True],
        "user": "tester",
    }


def download_in_parts():
    from pathlib import Path

    from huggingface_hub import HfFileSystem, hf_hub_download

    whole = Path(hf_hub_download("me/large", "model.bin")).read_bytes()
    part = HfFileSystem().cat_file("me/large/model.bin", start=10, end=14)
    return {"size": len(whole), "end": whole[-4:].decode(), "part": part.decode()}


def test_a_download_goes_on_where_it_was_cut(tmp_path):
    """The clients write 10 MiB at a time; a cut after that costs a second, partial request."""
    with Hub() as hub:
        hub.add("model", "me/large", {"model.bin": b"0123456789here".ljust(12_000_000) + b"last"})
        hub.cut_next(11_000_000, match="GET /me/large/resolve")
        # Too much to hurt the rest of the file; the whole of it would need a third download.
        hub.cut_next(1_600_000, match="GET /me/large/resolve")
        hub.fail_next(503, match="HEAD /me/large/resolve")
        found = in_client(hub, tmp_path, download_in_parts)
        downloads = hub.requests.count(("GET", "/me/large/resolve/main/model.bin"))
    assert found == {"size": 12_000_004, "end": "last", "part": "here"}
    assert downloads == 3
