"""The S3 server of the tests: what it adds to moto and tests of S3 do not show, seen by boto3."""

from contextlib import closing

import boto3
from botocore.exceptions import ClientError
from s3_server import S3


def test_faults_wait_their_turn_and_what_they_strike_is_not_stored():
    """`after` spares the requests that fit, and counts also those that another fault strikes."""
    answers, session = [], boto3.Session("test", "test", region_name="us-east-1")
    with S3() as s3, closing(session.client("s3", endpoint_url=s3.endpoint)) as client:
        s3.bucket("box")
        s3.fail("AccessDenied", 403, after=1, match="/key")
        s3.fail("ExpiredToken", 400, after=3, match="/key", times=2)
        for number, key in enumerate(["key", "key", "other", "key", "key", "key", "key"]):
            try:
                client.put_object(Bucket="box", Key=f"{key}{number}", Body=b"1")
                answers.append("stored")
            except ClientError as error:
                answers.append(error.response["Error"]["Code"])
        assert s3.keys("box") == ["key0", "key3", "key6", "other2"]
    expired = ["ExpiredToken", "ExpiredToken"]
    assert answers == ["stored", "AccessDenied", "stored", "stored", *expired, "stored"]


def test_each_server_starts_empty():
    """moto has one set of buckets a process; a new server does not see the last one's."""
    for _ in range(2):
        with S3() as server:
            server.bucket("box")
            assert server.keys("box") == []
            server.put("box", "key", b"1")
