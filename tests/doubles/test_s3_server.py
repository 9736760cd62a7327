"""The S3 server of the tests: what it adds to moto, seen by boto3."""

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EndpointConnectionError, ResponseStreamingError
from s3_server import S3, Request


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


def test_requests_are_logged_and_what_a_test_looks_at_itself_is_not(s3, make_client):
    """The log has decoded paths, and the bytes of bodies both ways."""
    client, path = make_client(), "/box/runs/ä b+c"
    client.put_object(Bucket="box", Key="runs/ä b+c", Body=b"12345")
    s3.put("box", "other", b"1")
    assert (s3.keys("box", "runs/"), s3.get("box", "runs/ä b+c")) == (["runs/ä b+c"], b"12345")
    client.get_object(Bucket="box", Key="runs/ä b+c")
    client.head_object(Bucket="box", Key="runs/ä b+c")
    assert s3.requests == [
        Request("PUT", path, "", sent=0, received=5),
        Request("GET", path, "", sent=5, received=0),
        Request("HEAD", path, "", sent=0, received=0),
    ]


def test_faults_wait_their_turn_and_what_they_strike_is_not_stored(s3, make_client):
    """`after` spares the requests that fit, and counts also those that another fault strikes."""
    s3.fail("AccessDenied", 403, after=1, match="/key")
    s3.fail("ExpiredToken", 400, after=3, match="/key", times=2)
    client, answers = make_client(), []
    for number, key in enumerate(["key", "key", "other", "key", "key", "key", "key"]):
        try:
            client.put_object(Bucket="box", Key=f"{key}{number}", Body=b"1")
            answers.append("stored")
        except ClientError as error:
            answers.append(error.response["Error"]["Code"])
    expired = ["ExpiredToken", "ExpiredToken"]
    assert answers == ["stored", "AccessDenied", "stored", "stored", *expired, "stored"]
    assert s3.keys("box") == ["key0", "key3", "key6", "other2"]


def test_a_body_cut_short_promises_all_of_the_object(s3, make_client):
    s3.put("box", "key", b"123456")
    s3.truncate("key", at=4)
    answer = make_client().get_object(Bucket="box", Key="key")
    assert answer["ContentLength"] == 6
    with pytest.raises(ResponseStreamingError):
        answer["Body"].read()
    assert s3.requests == [Request("GET", "/box/key", "", sent=4, received=0)]


def test_the_server_dies_in_the_middle_and_remembers(s3, make_client):
    """The request that kills it changes nothing; up again, it has its port and its contents."""
    s3.stop_after("PUT", "/box/", count=2)
    client, endpoint = make_client(), s3.endpoint
    client.put_object(Bucket="box", Key="first", Body=b"1")
    # boto3's second attempt finds a closed port.
    with pytest.raises(EndpointConnectionError):
        client.put_object(Bucket="box", Key="second", Body=b"2")
    assert [r.path for r in s3.requests] == ["/box/first", "/box/second"]
    s3.start()
    assert (s3.endpoint, s3.keys("box")) == (endpoint, ["first"])
    client.put_object(Bucket="box", Key="second", Body=b"2")
    assert s3.keys("box") == ["first", "second"]


@pytest.mark.parametrize("region", ["us-east-1", "us-west-2"])
def test_boto3_follows_to_the_region_of_the_bucket(s3, make_client, region):
    """It signs again for the right region, once a client, whichever refusal it met."""
    s3.bucket("far", region="eu-central-1")
    s3.redirect("far", "eu-central-1")
    client = make_client(region=region, attempts=1)
    client.put_object(Bucket="far", Key="key", Body=b"1")
    assert client.head_object(Bucket="far", Key="key")["ContentLength"] == 1
    assert [r.method for r in s3.requests] == ["PUT", "PUT", "HEAD"]


def test_each_server_starts_empty():
    """moto has one set of buckets a process; a new server does not see the last one's."""
    for _ in range(2):
        with S3() as server:
            server.bucket("box")
            assert server.keys("box") == []
            server.put("box", "key", b"1")
