"""The tests' S3 server: features beyond moto that other tests do not cover, through boto3."""

from contextlib import closing

import boto3
from botocore.exceptions import ClientError
from s3_server import S3


def test_faults_apply_in_turn_and_failed_requests_store_nothing():
    """`after` skips matching requests, and also counts those that fail by another fault."""
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
    """moto has one set of buckets per process; a new server does not see earlier ones."""
    for _ in range(2):
        with S3() as server:
            server.bucket("box")
            assert server.keys("box") == []
            server.put("box", "key", b"1")
