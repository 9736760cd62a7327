"""Stores on disk and in S3 behave the same and fail with one line."""

import errno
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from remote import emptied, forget_client, served_s3

from job.core.errors import SpecError, StorageError
from job.storage.s3 import ATTEMPTS, s3_client
from job.storage.stores import Entry, FolderStore, S3Store, open_store, safe_join, split_uri

MIB = 1 << 20
SECRETS = {"AWS_SECRET_ACCESS_KEY": "PlantedSecretKey", "AWS_SESSION_TOKEN": "PlantedToken"}
# Names that anyone with access to a bucket can give an object.
HOSTILE = ["../x", "a/../../x", "a/..", "..", "/x", "//x", "a//x", "./x", "", "x\0y"]


@pytest.fixture(scope="module")
def server():
    with served_s3(AWS_MAX_ATTEMPTS="1", **SECRETS) as server:
        yield server


@pytest.fixture
def s3(server):
    """An S3 endpoint with an empty bucket, and planted secrets; the client does not retry."""
    with emptied(server):
        yield server


@pytest.fixture
def bucket(s3):
    return S3Store("s3://box/runs")


@pytest.fixture(params=["local", "s3"])
def store(request, tmp_path):
    """The same folder on disk and in S3."""
    if request.param == "local":
        return FolderStore(tmp_path / "box" / "runs")
    request.getfixturevalue("s3")
    return S3Store("s3://box/runs")


@pytest.fixture
def make_file(tmp_path):
    def make(data, name="source"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return make


def names(store):
    return [entry.name for entry in store.files()]


def below(folder):
    """Read all files in a folder, without following links."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def refusal(work):
    """Return the message of a `StorageError`: one line, without secrets."""
    with pytest.raises(StorageError) as caught:
        work()
    message = str(caught.value)
    assert "\n" not in message
    assert not [secret for secret in SECRETS.values() if secret in message]
    return message


# Both kinds.


def test_files_survive_put_and_get(store, make_file, tmp_path):
    """With nested or odd names; the listing is sorted, and a new file replaces an old one."""
    data = {"empty": b"", "report/a.md": b"12345", "report/deep/Größe b+c%20": b"\0\xff"}
    store.put({"report/a.md": make_file(b"of an earlier try")})
    store.put({name: make_file(value, str(i)) for i, (name, value) in enumerate(data.items())})
    entries = store.files()
    assert [(entry.name, entry.size) for entry in entries] == [
        (name, len(value)) for name, value in data.items()
    ]
    store.get(entries, tmp_path / "back")
    store.get(entries[:1], tmp_path / "one")
    store.get([], tmp_path / "nothing")
    assert below(tmp_path / "back") == data
    assert below(tmp_path / "one") == {"empty": b""}
    assert below(tmp_path / "nothing") == {}


def test_a_text_survives_write_and_read(store, make_file):
    """Folders are created, and the last text wins; reading other bytes is an error."""
    store.write("a/spec.json", "old")
    store.write("a/spec.json", "Größe 😀\n")
    assert store.read("a/spec.json") == "Größe 😀\n"
    assert names(store) == ["a/spec.json"]
    store.put({"x": make_file(b"\xff\xfe")})
    assert "x` cannot be read: " in refusal(lambda: store.read("x"))


def test_a_store_lists_direct_subfolders_and_a_missing_one_is_empty(store):
    """A missing folder is not an error."""
    for name in ("file", "b/1", "a/2", "a/deep/3"):
        store.write(name, "")
    assert store.folders() == ["a", "b"]
    inner = store.join("a").join("deep")
    assert (inner.uri, names(inner)) == (f"{store.uri}/a/deep", ["3"])
    empty = store.join("none")
    assert (empty.files(), empty.folders()) == ([], [])
    # A folder is not a file.
    for there, name in ((empty, "x"), (store, "a")):
        assert (there.read(name), there.modified_at(name)) == (None, None)


def test_a_file_has_a_time_and_a_tag_that_changes_with_its_content(store):
    """The time has a zone; the tag changes even if the size does not."""
    store.write("x", "one")
    (before,) = store.files()
    assert store.files() == [before]
    age = datetime.now(UTC) - store.modified_at("x")
    assert timedelta(seconds=-5) < age < timedelta(minutes=1)
    store.write("x", "two")
    assert store.files()[0].tag != before.tag


def test_a_file_in_the_way_is_an_error(store, make_file, tmp_path):
    """One line, from both kinds of store."""
    store.write("a/x", "")
    (tmp_path / "back").mkdir()
    (tmp_path / "back" / "a").write_text("in the way", "utf-8")
    for folder in (tmp_path / "back", make_file(b"") / "below"):
        assert " cannot be " in refusal(lambda folder=folder: store.get(store.files(), folder))


# Hostile names.


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_leads_out_of_the_folder_is_refused(name, tmp_path):
    """So is a second spelling of a name."""
    folder = tmp_path / "folder"
    (folder / "a").mkdir(parents=True)
    assert "it was refused." in refusal(lambda: safe_join(folder, name))
    harmless = ("x", "a/b/x", "..x", "a..b/x", ".hidden", "a b/Größe", "~", "-")
    assert [safe_join(folder, name) for name in harmless] == [folder / name for name in harmless]


@pytest.mark.parametrize("name", ["../x", "/x", "a//x"])
def test_nothing_is_fetched_outside_the_folder(s3, bucket, name, tmp_path):
    """S3 lists such keys unchanged; they are refused before any byte is written."""
    s3.put("box", f"runs/{name}", b"evil")
    s3.put("box", "runs/good", b"good")
    entries = {bucket: bucket.files()}
    local = FolderStore(tmp_path / "box" / "runs")
    local.write("good", "good")
    entries[local] = [*local.files(), Entry(name, 4, "tag")]
    target = tmp_path / "machine" / "folder"
    for store, listed in entries.items():
        assert "it was refused." in refusal(lambda p=store, e=listed: p.get(e[::-1], target))
        assert not [path for path in (tmp_path / "machine").rglob("*") if path.name == "x"]


def test_a_link_in_the_way_is_not_followed(store, tmp_path):
    """Neither a link to a folder nor one to a file."""
    store.write("a/deep/x", "evil")
    outside, target = tmp_path / "outside", tmp_path / "target"
    for folder in (outside, target):
        folder.mkdir()
    (target / "a").symlink_to(outside)
    assert "through a link; it was refused." in refusal(lambda: store.get(store.files(), target))
    assert below(outside) == {}
    (target / "a").unlink()
    (target / "a" / "deep").mkdir(parents=True)
    (target / "a" / "deep" / "x").symlink_to(outside / "mine")
    (outside / "mine").write_text("mine", "utf-8")
    store.get(store.files(), target)
    assert (outside / "mine").read_text("utf-8") == "mine"


# URIs.


def test_an_s3_uri_is_a_bucket_and_a_key():
    """A trailing slash makes no difference."""
    assert split_uri("s3://my-bucket") == ("my-bucket", "")
    assert split_uri("s3://my.bucket/") == ("my.bucket", "")
    assert split_uri("s3://b01/runs/a b/") == ("b01", "runs/a b")
    assert open_store("s3://b01/runs/a b/").uri == "s3://b01/runs/a b"


@pytest.mark.parametrize("uri", ["s3://", "s3:///runs", "s3://Upper/runs", "s3://a", "s3://b_c/x"])
def test_an_s3_uri_without_a_valid_bucket_is_a_spec_error(uri):
    """The message shows the URI."""
    with pytest.raises(SpecError, match=f"`{uri}`"):
        open_store(uri)


def test_a_bucket_without_prefix_is_a_store_and_another_path_a_folder(s3, tmp_path):
    """Without a prefix, names are keys; `runs` does not match `runs-2`."""
    s3.put("box", "runs-2/x", b"")
    s3.put("box", "runs/y", b"")
    assert names(open_store("s3://box")) == ["runs-2/x", "runs/y"]
    assert names(open_store("s3://box/runs")) == ["y"]
    assert open_store(str(tmp_path)).folder == tmp_path


# S3 only.


def test_large_objects_move_in_parts_and_long_lists_in_pages(s3, bucket, make_file, tmp_path):
    """Objects above 8 MiB use multipart uploads and ranges; S3 lists 1,000 keys at a time."""
    data = random.Random(0).randbytes(17 * MIB)
    bucket.put({"big": make_file(data)})
    bucket.get(bucket.files(), tmp_path / "back")
    assert s3.get("box", "runs/big") == below(tmp_path / "back")["big"] == data
    parts = sorted(r.received for r in s3.requests if r.method == "PUT")
    ranges = sorted(r.sent for r in s3.requests if r.method == "GET" and r.path.endswith("big"))
    assert parts == ranges == [MIB, 8 * MIB, 8 * MIB]
    for number in range(1001):
        s3.put("box", f"many/{number:04d}/x", b"")
    many = S3Store("s3://box/many")
    assert names(many) == [f"{number:04d}/x" for number in range(1001)]
    assert len(many.folders()) == 1001


@pytest.mark.parametrize("key", ["alias/mine", None], ids=["a key", "none"])
def test_the_kms_key_encrypts_all_writes(s3, make_file, key):
    """Texts, files and multipart uploads, in a subfolder too; without a key the bucket decides."""
    asked = []

    def note(request, **_):
        header = "x-amz-server-side-encryption"
        found = [request.headers.get(header), request.headers.get(f"{header}-aws-kms-key-id")]
        asked.append([v.decode() if isinstance(v, bytes) else v for v in found])

    for operation in ("PutObject", "CreateMultipartUpload"):
        s3_client().meta.events.register(f"before-send.s3.{operation}", note)
    store = open_store("s3://box", key).join("runs")
    store.write("text", "")
    store.put({"small": make_file(b"1", "small"), "large": make_file(bytes(9 * MIB), "large")})
    forget_client()
    assert asked == [["aws:kms" if key else None, key]] * 3


def test_only_an_exact_key_is_a_file(s3, tmp_path):
    """Not a prefix, and not an object with a trailing slash, by which consoles mark folders."""
    for key in ("data/", "data/a/", "data/pairs.jsonl"):
        s3.put("box", key, b"" if key.endswith("/") else b"12")
    folder, entry = S3Store("s3://box/data/pairs.jsonl").as_file()
    assert (folder.uri, entry.name, entry.size) == ("s3://box/data", "pairs.jsonl", 2)
    assert [entry] == folder.files()
    others = ("s3://box/data", "s3://box/data/", "s3://box/data/pairs", "s3://box")
    assert [S3Store(uri).as_file() for uri in others] == [None] * 4
    folder.get(folder.files(), tmp_path / "back")
    assert below(tmp_path / "back") == {"pairs.jsonl": b"12"}


def test_an_endpoint_may_be_a_host_name(s3, bucket, monkeypatch, tmp_path):
    """The bucket is in the path: there is no host `box.localhost`."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint.replace("127.0.0.1", "localhost"))
    monkeypatch.setenv("NO_PROXY", "localhost")
    forget_client()
    bucket.write("x", "1")
    bucket.get(bucket.files(), tmp_path / "back")
    assert below(tmp_path / "back") == {"x": b"1"}
    assert {request.path.split("/")[1] for request in s3.requests} == {"box"}
    # At AWS, the bucket is part of the host name.
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    forget_client()
    url = s3_client().generate_presigned_url("get_object", {"Bucket": "box", "Key": "x"})
    assert url.startswith("https://box.s3.amazonaws.com/x?")


# Failures. Each operation of a client that has listed `a`, an object of three bytes.

LISTED = Entry("a", 3, '"900150983cd24fb0d6963f7d28e17f72"')
OPERATIONS = {
    "files": lambda store, _, __: store.files(),
    "folders": lambda store, _, __: store.folders(),
    "modified_at": lambda store, _, __: store.modified_at("a"),
    "read": lambda store, _, __: store.read("a"),
    "get": lambda store, _, folder: store.get([LISTED] if store.bucket == "box" else [], folder),
    "write": lambda store, _, __: store.write("write", ""),
    "put": lambda store, source, __: store.put({"put": source}),
}


def test_a_bucket_may_be_in_another_region(s3, make_file, tmp_path):
    """Every operation signs for the region that S3 returns."""
    s3.bucket("far", region="eu-central-1")
    s3.redirect("far", "eu-central-1")
    for work in OPERATIONS.values():
        forget_client()
        work(S3Store("s3://far/runs"), make_file(b"1"), tmp_path / "back")
    assert s3.keys("far") == ["runs/put", "runs/write"]


RUNS = "s3://box/runs"
FAILED = {
    "files": f"`{RUNS}` cannot be read: ",
    "folders": f"`{RUNS}` cannot be read: ",
    "modified_at": f"`{RUNS}/a` cannot be read: ",
    "read": f"`{RUNS}/a` cannot be read: ",
    "get": f"`{RUNS}` cannot be read: ",
    "write": f"`{RUNS}/write` cannot be written: ",
    "put": f"`{RUNS}` cannot be written: ",
}


@pytest.fixture
def refusals(s3, bucket, make_file, tmp_path):
    """Collect the error of each operation; none may leave a file here or in S3."""
    s3.put("box", "runs/a", b"abc")

    def collect(store=bucket):
        folder = tmp_path / "back"
        found = {
            name: refusal(lambda work=work: work(store, make_file(b"1"), folder))
            for name, work in OPERATIONS.items()
        }
        assert s3.keys("box") == ["runs/a"]
        assert below(folder) == {}
        return found

    return collect


@pytest.mark.parametrize(
    ("code", "status", "advice"),
    [
        ("AccessDenied", 403, "s3:ListBucket, s3:GetObject and, to store results, s3:PutObject"),
        ("ExpiredToken", 400, "log in"),
        ("SlowDown", 503, "try again later"),
        ("InternalError", 500, ""),
    ],
)
def test_a_lasting_s3_error_becomes_one_line(s3, refusals, code, status, advice):
    """It says what failed, why and what to do, and ends with S3's error code."""
    s3.fail(code, status, times=1000)
    found = refusals()
    for name, line in found.items():
        assert line.startswith(FAILED[name])
        assert advice in line
        # The response to HEAD has only the status.
        assert line.endswith(f"({status if name == 'modified_at' else code}, HTTP {status}).")


def test_a_throttled_request_is_retried(s3, bucket, make_file, monkeypatch):
    """By the client's own retries: `ATTEMPTS` by default, or as often as the user sets."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    forget_client()
    s3.fail("SlowDown", 503, method="PUT")
    bucket.put({"x": make_file(b"1")})
    assert s3.get("box", "runs/x") == b"1"
    monkeypatch.delenv("AWS_MAX_ATTEMPTS")
    forget_client()
    assert s3_client().meta.config.retries["total_max_attempts"] == ATTEMPTS


def test_a_missing_bucket_is_an_error(s3, make_file, tmp_path):
    """In every operation but HEAD, which cannot distinguish a bucket from an object."""
    store = S3Store("s3://nobox/runs")
    works = OPERATIONS | {"get": lambda store, _, folder: store.get([LISTED], folder)}
    del works["modified_at"]
    for work in works.values():
        line = refusal(lambda work=work: work(store, make_file(b"1"), tmp_path / "back"))
        assert line.startswith("`s3://nobox/runs")
        assert line.endswith("(NoSuchBucket, HTTP 404).")


def test_an_error_names_an_unreachable_endpoint(s3, refusals):
    """The address may be a typo."""
    s3.stop()
    for name, line in refusals().items():
        assert line.startswith(FAILED[name])
        assert s3.endpoint in line


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "AWS_PROFILE or AWS_ACCESS_KEY_ID"),
        ({"AWS_ACCESS_KEY_ID": "half"}, "AWS_PROFILE or AWS_ACCESS_KEY_ID"),
        ({"AWS_PROFILE": "nobody"}, "(nobody)"),
    ],
    ids=["none", "half", "unknown profile"],
)
def test_an_error_explains_missing_credentials(s3, refusals, monkeypatch, environment, expected):
    """Without waiting for the metadata address of a cloud machine."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    forget_client()
    assert [line for line in refusals().values() if expected not in line] == []


@pytest.mark.parametrize("endpoint", ["localhost:9000", "not an address"])
def test_an_invalid_endpoint_is_an_error(s3, bucket, monkeypatch, endpoint):
    """A typo in a variable is not a bug of embedtune."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    forget_client()
    assert endpoint in refusal(bucket.files)


def test_an_object_deleted_after_listing_is_an_error(s3, bucket, tmp_path):
    """And no file is left here."""
    assert "(NoSuchKey, HTTP 404)" in refusal(lambda: bucket.get([LISTED], tmp_path / "back"))
    assert below(tmp_path / "back") == {}


@pytest.mark.parametrize("size", [3, 9 * MIB])
def test_an_object_replaced_after_listing_is_an_error(s3, bucket, tmp_path, size):
    """A download is the listed content, or nothing."""
    s3.put("box", "runs/a", b"a" * size)
    entries = bucket.files()
    s3.put("box", "runs/a", b"b" * size)
    assert "it changed while" in refusal(lambda: bucket.get(entries, tmp_path / "back"))
    assert below(tmp_path / "back") == {}


def test_a_truncated_response_is_retried(s3, bucket, tmp_path):
    """For files and texts; a lasting truncation is an error and leaves no partial file."""
    s3.put("box", "runs/a", b"123456")
    entries = bucket.files()
    s3.truncate("runs/a", at=3)
    bucket.get(entries, tmp_path / "back")
    assert below(tmp_path / "back") == {"a": b"123456"}
    s3.truncate("runs/a", at=3)
    assert bucket.read("a") == "123456"
    s3.truncate("runs/a", at=3, times=1000)
    for work in (lambda: bucket.get(entries, tmp_path / "more"), lambda: bucket.read("a")):
        assert s3.endpoint in refusal(work)
    assert below(tmp_path / "more") == {}


def test_a_key_that_is_also_a_folder_is_an_error(s3, bucket, tmp_path):
    """S3 can have both, a disk cannot."""
    s3.put("box", "runs/a", b"1")
    s3.put("box", "runs/a/b", b"2")
    assert RUNS in refusal(lambda: bucket.get(bucket.files(), tmp_path / "back"))


def test_an_upload_to_a_lost_server_is_an_error(s3, bucket, make_file):
    """Some files arrived whole; the others are absent."""
    s3.stop_after("PUT", "/box/", count=2)
    files = {f"{i}": make_file(bytes([i]), f"{i}") for i in range(8)}
    assert s3.endpoint in refusal(lambda: bucket.put(files))
    assert len(s3.keys("box")) < len(files)


# Failures on disk.


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path, make_file):
    """So is a file that was deleted after the listing."""
    store = FolderStore(make_file(b"") / "runs")
    for work in (lambda: store.write("x", ""), lambda: store.put({"x": make_file(b"")})):
        assert f"`{store.folder}/x` cannot be written" in refusal(work)
    assert " cannot be " in refusal(lambda: FolderStore(tmp_path).get([LISTED], tmp_path / "back"))


def test_a_local_put_makes_a_hard_link(tmp_path, make_file):
    """If the file system can, so that results are not copied."""
    source = make_file(b"large")
    FolderStore(tmp_path / "runs").put({"model": source})
    assert source.stat().st_nlink == 2
    assert below(tmp_path / "runs") == {"model": b"large"}


def test_without_hard_links_files_are_copied_and_devices_refused(tmp_path, monkeypatch):
    """Links do not cross file systems, and copying a device would never end."""

    def refuse(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr("job.storage.workspace.os.link", refuse)
    (tmp_path / "source").write_bytes(b"large")
    store = FolderStore(tmp_path / "runs")
    store.put({"model": tmp_path / "source"})
    assert below(tmp_path / "runs") == {"model": b"large"}
    assert "not a regular file" in refusal(lambda: store.put({"x": Path("/dev/zero")}))
