"""infinity, a server that we did not write, serves a saved model: `verify` passes it.

It runs sentence-transformers 3, which cannot read the form that version 6 writes by itself.
"""

import os
import socket
import subprocess
import time
import urllib.request

import pytest
from stored_runs import RECOMMENDED, store_run

from job.core.errors import GateNotMet
from job.serving.endpoints import open_endpoint
from job.verify import Options, verify_run

pytestmark = pytest.mark.serve
SECONDS = 300


@pytest.fixture(scope="module")
def run(tmp_path_factory, pairs_file):
    return store_run(tmp_path_factory.mktemp("run") / "tiny", "cls pooling", pairs_file)


@pytest.fixture(scope="module")
def url(run, tmp_path_factory):
    """Serve the stored model on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [os.environ["EMBEDTUNE_TEST_INFINITY"], "v2", "--model-id", str(run / "model")]
    command += ["--device", "cpu", "--engine", "torch", "--dtype", "float32"]
    command += ["--no-bettertransformer", "--host", "127.0.0.1", "--port", str(port)]
    log = tmp_path_factory.mktemp("log") / "infinity.log"
    environment = os.environ | {"DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        yield wait_for(f"http://127.0.0.1:{port}", server, log)
    finally:
        server.terminate()
        server.wait(30)


def wait_for(url, server, log):
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"{url}/models"):
                return url
        except OSError:
            time.sleep(0.5)
    raise AssertionError(log.read_text()[-3000:])


def test_infinity_serves_the_model_as_it_was_proven(run, url):
    """It cuts vectors without normalizing them again, which is a note."""
    lines = []
    verify_run(run, open_endpoint(url, None, None, None, 60.0), Options(60), lines.append)
    assert lines[-1].startswith("The endpoint serves the model of `tiny`")
    note = f"Note: the endpoint cuts vectors to {RECOMMENDED} numbers without normalizing them"
    assert any(line.startswith(note) for line in lines), lines


def test_another_model_at_the_address_is_named(run, url, tmp_path, pairs_file):
    other = store_run(tmp_path / "other", "dense layer", pairs_file)
    with pytest.raises(GateNotMet, match="vectors have 64 numbers, those of the model 48"):
        verify_run(other, open_endpoint(url, None, None, None, 60.0), Options(20), print)
