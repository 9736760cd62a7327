"""Places: folders on disk and in S3 keep and give the same, and fail in one line."""

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
# What somebody who writes to a bucket may call an object.
HOSTILE = ["../x", "a/../../x", "a/..", "..", "/x", "//x", "a//x", "./x", "", "x\0y"]


@pytest.fixture(scope="module")
def server():
    with served_s3(AWS_MAX_ATTEMPTS="1", **SECRETS) as server:
        yield server


@pytest.fixture
def s3(server):
    """An S3 endpoint with an empty bucket, and secrets around; nothing is tried twice."""
    with emptied(server):
        yield server


@pytest.fixture
def bucket(s3):
    return S3Store("s3://box/runs")


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path):
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


def names(place):
    return [entry.name for entry in place.files()]


def below(folder):
    """Read all that a folder holds, links not followed."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def refusal(work):
    """Return the one line of a `StorageError`, in which there is no secret."""
    with pytest.raises(StorageError) as caught:
        work()
    message = str(caught.value)
    assert "\n" not in message
    assert not [secret for secret in SECRETS.values() if secret in message]
    return message


# What both kinds do alike.


def test_files_go_in_and_come_out(place, make_file, tmp_path):
    """Names, nested or odd, sizes and bytes are kept; the listing is by name, the new one wins."""
    data = {"empty": b"", "report/a.md": b"12345", "report/deep/Größe b+c%20": b"\0\xff"}
    place.put({"report/a.md": make_file(b"of an earlier try")})
    place.put({name: make_file(value, str(i)) for i, (name, value) in enumerate(data.items())})
    entries = place.files()
    assert [(entry.name, entry.size) for entry in entries] == [
        (name, len(value)) for name, value in data.items()
    ]
    place.get(entries, tmp_path / "back")
    place.get(entries[:1], tmp_path / "one")
    place.get([], tmp_path / "nothing")
    assert below(tmp_path / "back") == data
    assert below(tmp_path / "one") == {"empty": b""}
    assert below(tmp_path / "nothing") == {}


def test_a_text_is_read_as_it_was_written(place, make_file):
    """Folders are made on the way, and the later text wins; bytes are no text."""
    place.write("a/spec.json", "old")
    place.write("a/spec.json", "Größe 😀\n")
    assert place.read("a/spec.json") == "Größe 😀\n"
    assert names(place) == ["a/spec.json"]
    place.put({"x": make_file(b"\xff\xfe")})
    assert "x` cannot be read: " in refusal(lambda: place.read("x"))


def test_a_place_has_folders_and_what_is_not_there_is_nothing(place):
    """Folders are those directly below; one that nobody has written to is empty, not an error."""
    for name in ("file", "b/1", "a/2", "a/deep/3"):
        place.write(name, "")
    assert place.folders() == ["a", "b"]
    inner = place.join("a").join("deep")
    assert (inner.uri, names(inner)) == (f"{place.uri}/a/deep", ["3"])
    empty = place.join("none")
    assert (empty.files(), empty.folders()) == ([], [])
    # A folder is no file.
    for there, name in ((empty, "x"), (place, "a")):
        assert (there.read(name), there.modified_at(name)) == (None, None)


def test_a_file_tells_when_it_was_written_and_whether_it_changed(place):
    """The time has a zone; the tag is another one also where the size stays."""
    place.write("x", "one")
    (before,) = place.files()
    assert place.files() == [before]
    age = datetime.now(UTC) - place.modified_at("x")
    assert timedelta(seconds=-5) < age < timedelta(minutes=1)
    place.write("x", "two")
    assert place.files()[0].tag != before.tag


def test_a_file_in_the_way_is_told(place, make_file, tmp_path):
    """What cannot be written here is one line, whatever it came from."""
    place.write("a/x", "")
    (tmp_path / "back").mkdir()
    (tmp_path / "back" / "a").write_text("in the way", "utf-8")
    for folder in (tmp_path / "back", make_file(b"") / "below"):
        assert " cannot be " in refusal(lambda folder=folder: place.get(place.files(), folder))


# Names that lead elsewhere.


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_leads_out_is_refused(name, tmp_path):
    """Nor may two names mean one file."""
    folder = tmp_path / "folder"
    (folder / "a").mkdir(parents=True)
    assert "it was refused." in refusal(lambda: safe_join(folder, name))
    harmless = ("x", "a/b/x", "..x", "a..b/x", ".hidden", "a b/Größe", "~", "-")
    assert [safe_join(folder, name) for name in harmless] == [folder / name for name in harmless]


@pytest.mark.parametrize("name", ["../x", "/x", "a//x"])
def test_nothing_is_fetched_outside_the_folder(s3, bucket, name, tmp_path):
    """S3 lists such keys as they are; they are refused before a byte is written, here or there."""
    s3.put("box", f"runs/{name}", b"evil")
    s3.put("box", "runs/good", b"good")
    entries = {bucket: bucket.files()}
    local = FolderStore(tmp_path / "box" / "runs")
    local.write("good", "good")
    entries[local] = [*local.files(), Entry(name, 4, "tag")]
    target = tmp_path / "machine" / "folder"
    for place, listed in entries.items():
        assert "it was refused." in refusal(lambda p=place, e=listed: p.get(e[::-1], target))
        assert not [path for path in (tmp_path / "machine").rglob("*") if path.name == "x"]


def test_a_link_in_the_way_is_not_followed(place, tmp_path):
    """Neither a folder nor a file that is a link elsewhere takes anything."""
    place.write("a/deep/x", "evil")
    outside, target = tmp_path / "outside", tmp_path / "target"
    for folder in (outside, target):
        folder.mkdir()
    (target / "a").symlink_to(outside)
    assert "over a link; it was refused." in refusal(lambda: place.get(place.files(), target))
    assert below(outside) == {}
    (target / "a").unlink()
    (target / "a" / "deep").mkdir(parents=True)
    (target / "a" / "deep" / "x").symlink_to(outside / "mine")
    (outside / "mine").write_text("mine", "utf-8")
    place.get(place.files(), target)
    assert (outside / "mine").read_text("utf-8") == "mine"


# Addresses.


def test_an_address_is_a_bucket_and_a_key():
    """A slash at the end says nothing."""
    assert split_uri("s3://my-bucket") == ("my-bucket", "")
    assert split_uri("s3://my.bucket/") == ("my.bucket", "")
    assert split_uri("s3://b01/runs/a b/") == ("b01", "runs/a b")
    assert open_store("s3://b01/runs/a b/").uri == "s3://b01/runs/a b"


@pytest.mark.parametrize("uri", ["s3://", "s3:///runs", "s3://Upper/runs", "s3://a", "s3://b_c/x"])
def test_an_address_without_a_bucket_is_the_specs_error(uri):
    """The line shows what is expected."""
    with pytest.raises(SpecError, match=f"`{uri}`"):
        open_store(uri)


def test_the_bucket_itself_is_a_place_and_any_other_address_a_folder(s3, tmp_path):
    """Without a prefix the names are the keys; `runs` is not `runs-2`."""
    s3.put("box", "runs-2/x", b"")
    s3.put("box", "runs/y", b"")
    assert names(open_store("s3://box")) == ["runs-2/x", "runs/y"]
    assert names(open_store("s3://box/runs")) == ["y"]
    assert open_store(str(tmp_path)).folder == tmp_path


# What only S3 does.


def test_a_large_object_comes_in_parts_and_a_long_list_in_pages(s3, bucket, make_file, tmp_path):
    """Above 8 MiB an object goes up in parts and comes down in ranges; S3 lists 1,000 at a time."""
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
def test_the_kms_key_encrypts_all_that_is_written(s3, make_file, key):
    """Texts, files and files in parts, in a joined place too; without one the bucket decides."""
    asked = []

    def note(request, **_):
        header = "x-amz-server-side-encryption"
        found = [request.headers.get(header), request.headers.get(f"{header}-aws-kms-key-id")]
        asked.append([v.decode() if isinstance(v, bytes) else v for v in found])

    for operation in ("PutObject", "CreateMultipartUpload"):
        s3_client().meta.events.register(f"before-send.s3.{operation}", note)
    place = open_store("s3://box", key).join("runs")
    place.write("text", "")
    place.put({"small": make_file(b"1", "small"), "large": make_file(bytes(9 * MIB), "large")})
    forget_client()
    assert asked == [["aws:kms" if key else None, key]] * 3


def test_an_object_is_told_from_a_prefix_and_from_the_mark_of_a_folder(s3, tmp_path):
    """The exact key is an object, a prefix is none; consoles make objects that end in a slash."""
    for key in ("data/", "data/a/", "data/pairs.jsonl"):
        s3.put("box", key, b"" if key.endswith("/") else b"12")
    folder, entry = S3Store("s3://box/data/pairs.jsonl").as_file()
    assert (folder.uri, entry.name, entry.size) == ("s3://box/data", "pairs.jsonl", 2)
    assert [entry] == folder.files()
    others = ("s3://box/data", "s3://box/data/", "s3://box/data/pairs", "s3://box")
    assert [S3Store(uri).as_file() for uri in others] == [None] * 4
    folder.get(folder.files(), tmp_path / "back")
    assert below(tmp_path / "back") == {"pairs.jsonl": b"12"}


def test_the_endpoint_may_have_a_name(s3, bucket, monkeypatch, tmp_path):
    """The bucket stands in the path: `box.localhost` is no host."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint.replace("127.0.0.1", "localhost"))
    monkeypatch.setenv("NO_PROXY", "localhost")
    forget_client()
    bucket.write("x", "1")
    bucket.get(bucket.files(), tmp_path / "back")
    assert below(tmp_path / "back") == {"x": b"1"}
    assert {request.path.split("/")[1] for request in s3.requests} == {"box"}
    # At AWS itself it is a host's name.
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    forget_client()
    url = s3_client().generate_presigned_url("get_object", {"Bucket": "box", "Key": "x"})
    assert url.startswith("https://box.s3.amazonaws.com/x?")


# What goes wrong. Each operation as one who has listed `a`, an object of three bytes, does it.

LISTED = Entry("a", 3, '"900150983cd24fb0d6963f7d28e17f72"')
OPERATIONS = {
    "files": lambda place, _, __: place.files(),
    "folders": lambda place, _, __: place.folders(),
    "modified_at": lambda place, _, __: place.modified_at("a"),
    "read": lambda place, _, __: place.read("a"),
    "get": lambda place, _, folder: place.get([LISTED] if place.bucket == "box" else [], folder),
    "write": lambda place, _, __: place.write("write", ""),
    "put": lambda place, source, __: place.put({"put": source}),
}


def test_a_bucket_in_another_region_is_found(s3, make_file, tmp_path):
    """The client signs for the region that S3 names, in everything that it does."""
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
    """Say what each operation answers when all fail; nothing is stored, there or here."""
    s3.put("box", "runs/a", b"abc")

    def collect(place=bucket):
        folder = tmp_path / "back"
        found = {
            name: refusal(lambda work=work: work(place, make_file(b"1"), folder))
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
def test_what_s3_refuses_for_ever_is_told(s3, refusals, code, status, advice):
    """One line says what could not be done, why and what to do; S3's own code ends it."""
    s3.fail(code, status, times=1000)
    found = refusals()
    for name, line in found.items():
        assert line.startswith(FAILED[name])
        assert advice in line
        # A HEAD's answer holds the status alone.
        assert line.endswith(f"({status if name == 'changed' else code}, HTTP {status}).")


def test_s3_that_asks_once_to_slow_down_is_asked_again(s3, bucket, make_file, monkeypatch):
    """The client's own retries: patient by default, or as often as the user says."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    forget_client()
    s3.fail("SlowDown", 503, method="PUT")
    bucket.put({"x": make_file(b"1")})
    assert s3.get("box", "runs/x") == b"1"
    monkeypatch.delenv("AWS_MAX_ATTEMPTS")
    forget_client()
    assert s3_client().meta.config.retries["total_max_attempts"] == ATTEMPTS


def test_a_missing_bucket_is_told(s3, make_file, tmp_path):
    """Reading and writing alike; only a HEAD cannot tell a bucket from an object."""
    place = S3Store("s3://nobox/runs")
    works = OPERATIONS | {"get": lambda place, _, folder: place.get([LISTED], folder)}
    del works["changed"]
    for work in works.values():
        line = refusal(lambda work=work: work(place, make_file(b"1"), tmp_path / "back"))
        assert line.startswith("`s3://nobox/runs")
        assert line.endswith("(NoSuchBucket, HTTP 404).")


def test_an_endpoint_that_is_gone_is_told(s3, refusals):
    """The line names the address, which may be a slip."""
    s3.stop()
    for name, line in refusals().items():
        assert line.startswith(FAILED[name])
        assert s3.endpoint in line


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({}, "AWS_PROFILE or AWS_ACCESS_KEY_ID"),
        ({"AWS_ACCESS_KEY_ID": "half"}, "AWS_PROFILE or AWS_ACCESS_KEY_ID"),
        ({"AWS_PROFILE": "nobody"}, "(nobody)"),
    ],
    ids=["none", "half", "unknown profile"],
)
def test_missing_credentials_are_told(s3, refusals, monkeypatch, environment, told):
    """Nobody waits for a cloud's address that this machine does not have."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    forget_client()
    assert [line for line in refusals().values() if told not in line] == []


@pytest.mark.parametrize("endpoint", ["localhost:9000", "not an address"])
def test_an_endpoint_that_is_no_address_is_told(s3, bucket, monkeypatch, endpoint):
    """A slip in a variable is no bug of ours."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    forget_client()
    assert endpoint in refusal(bucket.files)


def test_an_object_that_is_gone_is_told(s3, bucket, tmp_path):
    """It was listed and deleted before it was read."""
    assert "(NoSuchKey, HTTP 404)" in refusal(lambda: bucket.get([LISTED], tmp_path / "back"))
    assert below(tmp_path / "back") == {}


@pytest.mark.parametrize("size", [3, 9 * MIB])
def test_an_object_that_was_replaced_is_refused(s3, bucket, tmp_path, size):
    """What was listed is what is fetched, or nothing."""
    s3.put("box", "runs/a", b"a" * size)
    entries = bucket.files()
    s3.put("box", "runs/a", b"b" * size)
    assert "it changed while" in refusal(lambda: bucket.get(entries, tmp_path / "back"))
    assert below(tmp_path / "back") == {}


def test_an_object_cut_short_is_fetched_again(s3, bucket, tmp_path):
    """Once is no failure, for a file as for a text; for ever is, and half of it never appears."""
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


def test_a_key_that_is_also_a_folder_is_told(s3, bucket, tmp_path):
    """S3 can hold both, a disk cannot."""
    s3.put("box", "runs/a", b"1")
    s3.put("box", "runs/a/b", b"2")
    assert RUNS in refusal(lambda: bucket.get(bucket.files(), tmp_path / "back"))


def test_an_upload_to_a_server_that_stays_away_is_told(s3, bucket, make_file):
    """What had arrived stays; what had not is not there in part."""
    s3.stop_after("PUT", "/box/", count=2)
    files = {f"{i}": make_file(bytes([i]), f"{i}") for i in range(8)}
    assert s3.endpoint in refusal(lambda: bucket.put(files))
    assert len(s3.keys("box")) < len(files)


# What goes wrong on disk.


def test_a_folder_that_cannot_be_written_is_told(tmp_path, make_file):
    """A file where a folder is needed; and one that was listed and deleted before it was copied."""
    place = FolderStore(make_file(b"") / "runs")
    for work in (lambda: place.write("x", ""), lambda: place.put({"x": make_file(b"")})):
        assert f"`{place.folder}/x` cannot be written" in refusal(work)
    assert " cannot be " in refusal(lambda: FolderStore(tmp_path).get([LISTED], tmp_path / "back"))


def test_a_local_result_costs_no_second_copy(tmp_path, make_file):
    """A file that is put is linked, where the disk can."""
    source = make_file(b"large")
    FolderStore(tmp_path / "runs").put({"model": source})
    assert source.stat().st_nlink == 2
    assert below(tmp_path / "runs") == {"model": b"large"}


def test_where_nothing_can_be_linked_files_are_copied_and_devices_refused(tmp_path, monkeypatch):
    """Across file systems there are no links; a device would be copied without end."""

    def refuse(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr("job.storage.workspace.os.link", refuse)
    (tmp_path / "source").write_bytes(b"large")
    place = FolderStore(tmp_path / "runs")
    place.put({"model": tmp_path / "source"})
    assert below(tmp_path / "runs") == {"model": b"large"}
    assert "is no file" in refusal(lambda: place.put({"x": Path("/dev/zero")}))
