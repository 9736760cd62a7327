"""The S3 server of the tests: boto3 finds in it what it would find in S3, failures included."""

import contextlib
import http.client
import io
import os
import random
import re
import socket
import subprocess
import sys

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EndpointConnectionError, ResponseStreamingError
from botocore.httpchecksum import AwsChunkedWrapper, Crc32Checksum
from s3_server import S3, Request

MIB = 1 << 20


@pytest.fixture
def s3():
    with S3() as server:
        server.bucket("box")
        yield server


@pytest.fixture
def make_client(s3):
    """Make clients that find the server without a word in the environment."""
    made = []

    def make(attempts=2, region="us-east-1"):
        client = boto3.client(
            "s3",
            endpoint_url=s3.endpoint,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name=region,
            config=Config(retries={"total_max_attempts": attempts, "mode": "standard"}),
        )
        made.append(client)
        return client

    yield make
    for client in made:
        client.close()


def half_an_upload(s3):
    """Open a connection that has sent 3 of an object's 6 bytes to a server that waits for more."""
    connection = socket.create_connection(s3.endpoint.removeprefix("http://").split(":"))
    connection.settimeout(5)
    headers = b"Host: s3\r\nContent-Length: 6\r\nExpect: 100-continue\r\n\r\n"
    connection.sendall(b"PUT /box/half HTTP/1.1\r\n" + headers)
    assert connection.recv(12) == b"HTTP/1.1 100"
    connection.sendall(b"abc")
    return connection


def statuses(connection):
    """Read what the server still says, up to the end, and list the answers' statuses."""
    with connection.makefile("rb") as answer:
        return re.findall(rb"HTTP/1.1 ([2-5]\d\d)", answer.read())


def test_objects_come_back_and_requests_are_logged(s3, make_client):
    """The log has decoded paths, and the bytes of bodies both ways."""
    client = make_client()
    client.put_object(Bucket="box", Key="runs/ä b+c", Body=b"12345")
    assert client.get_object(Bucket="box", Key="runs/ä b+c")["Body"].read() == b"12345"
    client.head_object(Bucket="box", Key="runs/ä b+c")
    client.delete_object(Bucket="box", Key="runs/ä b+c")
    path = "/box/runs/ä b+c"
    assert s3.requests == [
        Request("PUT", path, "", sent=0, received=5),
        Request("GET", path, "", sent=5, received=0),
        Request("HEAD", path, "", sent=0, received=0),
        Request("DELETE", path, "", sent=0, received=0),
    ]
    assert s3.keys("box") == []


def test_a_multipart_object_comes_back(s3, make_client):
    """12 MiB go up in parts, and down in ranges."""
    client, data, back = make_client(), random.Random(0).randbytes(12 * MIB), io.BytesIO()
    client.upload_fileobj(io.BytesIO(data), "box", "big")
    client.download_fileobj("box", "big", back)
    assert s3.get("box", "big") == back.getvalue() == data
    parts = [r.received for r in s3.requests if r.method == "PUT"]
    ranges = [r.sent for r in s3.requests if r.method == "GET"]
    assert sorted(parts) == sorted(ranges) == [4 * MIB, 8 * MIB]


def test_an_upload_in_chunks_is_decoded(s3):
    """What boto3 sends to https, but never to http, is stored and counted without its frame."""
    data = random.Random(0).randbytes(2 * MIB + 1)
    headers = {
        "Content-Encoding": "aws-chunked",
        "Transfer-Encoding": "chunked",
        "x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "x-amz-decoded-content-length": str(len(data)),
        "x-amz-trailer": "x-amz-checksum-crc32",
    }
    framed = AwsChunkedWrapper(io.BytesIO(data), Crc32Checksum, "x-amz-checksum-crc32")
    connection = http.client.HTTPConnection(s3.endpoint.removeprefix("http://"))
    with contextlib.closing(connection):
        connection.request("PUT", "/box/key", framed, headers, encode_chunked=True)
        assert connection.getresponse().status == 200
    assert s3.get("box", "key") == data
    assert s3.requests == [Request("PUT", "/box/key", "", sent=0, received=len(data))]


def test_contents_are_reached_past_the_log(s3, make_client):
    """What a test puts and looks at itself is no request."""
    s3.put("box", "a/1", b"old")
    s3.put("box", "a/1", b"new")
    s3.put("box", "b/2", b"")
    assert (s3.keys("box"), s3.keys("box", "a/"), s3.get("box", "a/1")) == (
        ["a/1", "b/2"],
        ["a/1"],
        b"new",
    )
    assert s3.requests == []
    assert make_client().get_object(Bucket="box", Key="a/1")["Body"].read() == b"new"


def test_another_process_finds_the_server(s3):
    """`environment` is all that a process needs."""
    code = "import boto3; boto3.client('s3').put_object(Bucket='box', Key='from', Body=b'afar')"
    subprocess.run([sys.executable, "-c", code], env=os.environ | s3.environment, check=True)
    assert s3.get("box", "from") == b"afar"


def test_boto3_retries_when_told_to_slow_down(s3, make_client):
    """A fault strikes `times` times, and the next request goes through."""
    s3.fail("SlowDown", 503, method="PUT", match="/key")
    make_client().put_object(Bucket="box", Key="key", Body=b"1")
    assert s3.get("box", "key") == b"1"
    assert [r.method for r in s3.requests] == ["PUT", "PUT"]


@pytest.mark.parametrize(
    ("code", "status"), [("AccessDenied", 403), ("ExpiredToken", 400), ("NoSuchBucket", 404)]
)
def test_an_error_surfaces(s3, make_client, code, status):
    """Errors that a retry cannot mend reach the caller, and nothing is stored."""
    s3.fail(code, status)
    with pytest.raises(ClientError) as raised:
        make_client().put_object(Bucket="box", Key="key", Body=b"1")
    assert raised.value.response["Error"]["Code"] == code
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert s3.keys("box") == []


def test_a_head_fails_without_a_body(s3, make_client):
    """HEAD has no room for S3's code: boto3 tells the status."""
    s3.fail("AccessDenied", 403, method="HEAD")
    with pytest.raises(ClientError, match=r"\(403\)"):
        make_client().head_bucket(Bucket="box")
    assert s3.requests == [Request("HEAD", "/box", "", sent=0, received=0)]


def test_faults_wait_their_turn(s3, make_client):
    """`after` spares the requests that fit, and counts also those that another fault strikes."""
    s3.fail("AccessDenied", 403, after=1, match="/key")
    s3.fail("ExpiredToken", 400, after=3, match="/key", times=2)
    client, answers = make_client(), []
    for key in ["key", "key", "other", "key", "key", "key", "key"]:
        try:
            client.put_object(Bucket="box", Key=key, Body=b"1")
            answers.append("stored")
        except ClientError as error:
            answers.append(error.response["Error"]["Code"])
    expired = ["ExpiredToken", "ExpiredToken"]
    assert answers == ["stored", "AccessDenied", "stored", "stored", *expired, "stored"]


def test_a_body_cut_short_fails_the_read(s3, make_client):
    """The answer promises all of the object and ends early."""
    s3.put("box", "key", b"123456")
    s3.truncate("key", at=4)
    answer = make_client().get_object(Bucket="box", Key="key")
    assert answer["ContentLength"] == 6
    with pytest.raises(ResponseStreamingError):
        answer["Body"].read()
    assert s3.requests == [Request("GET", "/box/key", "", sent=4, received=0)]


def test_a_download_cut_short_is_repeated(s3, make_client, tmp_path):
    """boto3's transfers ask again when a body ends early."""
    s3.put("box", "key", b"123456")
    s3.truncate("key", at=4, times=2)
    make_client().download_file("box", "key", str(tmp_path / "key"))
    assert (tmp_path / "key").read_bytes() == b"123456"
    assert [r.sent for r in s3.requests if r.method == "GET"] == [4, 4, 6]


def test_a_stopped_server_refuses_and_a_started_one_remembers(s3, make_client):
    """Down, it takes no connection; up again, it has its port and its contents."""
    client, endpoint = make_client(), s3.endpoint
    client.put_object(Bucket="box", Key="key", Body=b"1")
    s3.stop()
    with pytest.raises(EndpointConnectionError):
        client.get_object(Bucket="box", Key="key")
    assert s3.get("box", "key") == b"1"
    s3.start()
    assert s3.endpoint == endpoint
    assert client.get_object(Bucket="box", Key="key")["Body"].read() == b"1"


def test_stopping_drops_open_connections(s3):
    """An upload under way ends without an answer and leaves nothing."""
    with half_an_upload(s3) as connection:
        s3.stop()
        assert statuses(connection) == []
    s3.start()
    assert s3.keys("box") == []


def test_half_an_upload_is_not_stored(s3):
    """A client that dies while it uploads leaves nothing."""
    with half_an_upload(s3) as connection:
        connection.shutdown(socket.SHUT_WR)
        assert statuses(connection) == []
    assert s3.requests == [Request("PUT", "/box/half", "", sent=0, received=3)]
    assert s3.keys("box") == []


def test_the_server_dies_in_the_middle(s3, make_client):
    """The request that kills it changes nothing; boto3's retry finds a closed port."""
    s3.stop_after("PUT", "/box/", count=2)
    client = make_client()
    client.put_object(Bucket="box", Key="first", Body=b"1")
    with pytest.raises(EndpointConnectionError):
        client.put_object(Bucket="box", Key="second", Body=b"2")
    assert [r.path for r in s3.requests] == ["/box/first", "/box/second"]
    s3.start()
    assert s3.keys("box") == ["first"]
    client.put_object(Bucket="box", Key="second", Body=b"2")
    assert s3.keys("box") == ["first", "second"]


@pytest.mark.parametrize("region", ["us-east-1", "us-west-2"])
def test_boto3_follows_to_the_region_of_the_bucket(s3, make_client, region):
    """It signs again for the right region, once a client, whichever refusal it met."""
    s3.bucket("far", region="eu-central-1")
    s3.redirect("far", "eu-central-1")
    client = make_client(region=region, attempts=1)
    client.put_object(Bucket="far", Key="key", Body=b"1")
    assert client.get_object(Bucket="far", Key="key")["Body"].read() == b"1"
    assert [r.method for r in s3.requests] == ["PUT", "PUT", "GET"]
    fresh = make_client(region=region, attempts=1)
    assert fresh.head_object(Bucket="far", Key="key")["ContentLength"] == 1


def test_each_server_starts_empty():
    """moto has one set of buckets a process; a new server does not see the last one's."""
    for _ in range(2):
        with S3() as server:
            server.bucket("box")
            assert server.keys("box") == []
            server.put("box", "key", b"1")
