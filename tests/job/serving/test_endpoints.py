"""Clients of endpoints: each kind's protocol, and one clear error for each failure."""

import json
import socket
from io import BytesIO

import boto3
import numpy as np
import pytest
from botocore.response import StreamingBody
from botocore.stub import Stubber
from embedding_server import embedding_server

from job.core.errors import BackendError, SpecError
from job.serving.endpoints import Refused, open_endpoint


@pytest.fixture
def opened(tiny_encoder):
    """Open the client of a server with a mistake, or none, and pass both to a block."""

    def open_at(server, path="", kind=None, **options):
        given = {"model": None, "key": None, "seconds": 30.0} | options
        return open_endpoint(server.url + path, kind, **given)

    return open_at


@pytest.mark.parametrize(
    ("paths", "kind", "found"),
    [
        (("/embed", "/v1/embeddings"), None, "/embed"),
        (("/embed", "/v1/embeddings"), "openai", "/v1/embeddings"),
        (("/v1/embeddings",), None, "/v1/embeddings"),
        (("/embeddings",), None, "/embeddings"),
    ],
)
def test_the_address_and_the_kind_are_found_out(tiny_encoder, opened, paths, kind, found):
    with embedding_server(tiny_encoder, paths=paths) as server:
        assert opened(server, kind=kind).target == server.url + found


def test_requests_are_those_of_the_protocol(tiny_encoder, opened):
    """The key is a bearer token; fields that are not set are not sent."""
    with embedding_server(tiny_encoder) as server:
        tei = opened(server, "/embed", key="secret")
        openai = opened(server, "/v1/embeddings")
        first = tei.embed(["ask1", "ask2"], "query", 16)
        second = openai.embed(["ask1", "ask2"])
    cut = second[:, :16] / np.linalg.norm(second[:, :16], axis=1, keepdims=True)
    # Although the OpenAI-compatible answer has its rows in reverse order.
    np.testing.assert_allclose(first, cut, atol=1e-6)
    (path, headers, request), (other, _, of_openai) = server.requests
    assert (path, headers["Authorization"]) == ("/embed", "Bearer secret")
    wanted = {"inputs": ["ask1", "ask2"], "truncate": True, "prompt_name": "query"}
    assert request == wanted | {"dimensions": 16}
    assert (other, openai.model, tei.dtype) == ("/v1/embeddings", "tiny", "float32")
    assert of_openai == {"input": ["ask1", "ask2"], "model": "tiny", "encoding_format": "float"}
    assert (first.shape, second.shape) == ((2, 16), (2, 64))


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("error 500", "HTTP 500: .*out of memory"),
        ("wrong JSON", "something other than 2 vectors"),
        ("not JSON", "something other than 2 vectors: `<html>`"),
        ("one vector", "something other than 2 vectors"),
    ],
)
def test_a_broken_answer_is_one_error_with_what_was_found(tiny_encoder, opened, mistake, message):
    with embedding_server(tiny_encoder, mistake) as server:
        endpoint = opened(server, "/embed")
        with pytest.raises(BackendError, match=message):
            endpoint.embed(["ask1", "ask2"])


def test_a_slow_server_runs_into_the_time_limit(tiny_encoder, opened):
    with embedding_server(tiny_encoder, "slow") as server:
        endpoint = opened(server, "/v1/embeddings", seconds=0.2, model="tiny")
        with pytest.raises(BackendError, match=r"within 0\.2 seconds"):
            endpoint.embed(["ask1"])


def test_a_busy_server_is_asked_again(tiny_encoder, opened):
    with embedding_server(tiny_encoder, "busy") as server:
        assert opened(server, "/embed").embed(["ask1"]).shape == (1, 64)
    assert len(server.requests) == 2


def test_a_refused_request_can_be_told_from_a_failure(tiny_encoder, opened):
    with embedding_server(tiny_encoder, "refuses dimensions") as server:
        endpoint = opened(server, "/embed")
        for method, error in ((endpoint.ask, Refused), (endpoint.embed, BackendError)):
            with pytest.raises(error, match="not a Matryoshka model"):
                method(["ask1"], None, 16)


def test_an_address_without_a_server_is_an_error():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(BackendError, match="cannot be reached"):
        open_endpoint(url, None, None, None, 5.0)


def test_an_address_that_embeds_nowhere_lists_what_was_tried(tiny_encoder, opened):
    with (
        embedding_server(tiny_encoder, paths=()) as server,
        pytest.raises(BackendError, match="tried /embed, /v1/embeddings, /embeddings"),
    ):
        opened(server)


def test_an_address_of_another_scheme_is_refused():
    with pytest.raises(SpecError, match="expected http"):
        open_endpoint("ftp://host", None, None, None, 5.0)


def test_a_sagemaker_endpoint_is_invoked_by_its_runtime(monkeypatch):
    """With botocore's stubber, which checks requests against the service's own description."""
    client = boto3.client("sagemaker-runtime", region_name="us-east-1")
    monkeypatch.setattr(boto3, "client", lambda *_, **__: client)
    endpoint = open_endpoint("sagemaker:mine", None, None, None, 5.0)
    body = json.dumps({"inputs": ["ask1"], "truncate": True, "prompt_name": "query"})
    answer = b"[[0.6, null]]"
    with Stubber(client) as stub:
        stub.add_response(
            "invoke_endpoint",
            {"Body": StreamingBody(BytesIO(answer), len(answer))},
            {
                "EndpointName": "mine",
                "ContentType": "application/json",
                "Body": body.encode(),
            },
        )
        stub.add_client_error("invoke_endpoint", "ModelError", "too long")
        np.testing.assert_allclose(endpoint.embed(["ask1"], "query"), [[0.6, np.nan]])
        with pytest.raises(BackendError, match="too long"):
            endpoint.embed(["ask1"])
