"""S3 on loopback that logs requests and fails when told to; real boto3 clients talk to it.

moto answers, in threads of this process; each `with S3()` empties moto's one set of buckets.
"""

import contextlib
import io
import os
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import unquote

from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import ThreadedWSGIServer
from werkzeug.test import run_wsgi_app

HOST = "127.0.0.1"  # an address: with a name, boto3 would put the bucket in front of it


class Request(NamedTuple):
    method: str
    path: str  # decoded: `/bucket/key`
    query: str
    sent: int  # bytes of the answer's body
    received: int  # bytes of the request's body


class Reply(NamedTuple):
    status: str
    headers: list[tuple[str, str]]
    body: bytes


@dataclass
class Fault:
    """Strikes `times` requests like these after sparing `after` of them."""

    method: str | None
    match: str
    after: int
    times: int
    strike: Callable[[Callable[[], Reply]], Reply | None]


class S3:
    """`with S3() as s3:` serves S3 at `s3.endpoint`.

    A fault fits requests of its method (None: any) whose decoded path contains its `match`.
    Of several that fit one request the oldest strikes, but all count it.
    """

    def __init__(self):
        self.requests: list[Request] = []
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._store = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
        self._server = None
        self._port = 0  # any free one at the first start, the same ever after
        self._faults: list[Fault] = []
        self._regions: dict[str, str] = {}
        # One request at a time, so that nothing changes any more when `stop` returns.
        self._lock = threading.RLock()

    def __enter__(self):
        self._store.reset()
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()
        self._store.reset()

    @property
    def endpoint(self) -> str:
        return f"http://{HOST}:{self._port}"

    @property
    def environment(self) -> dict[str, str]:
        return leading_to(self.endpoint, AWS_DEFAULT_REGION="us-east-1", AWS_MAX_ATTEMPTS="3")

    def start(self) -> None:
        """Listen; after a `stop` on the same port and with the same contents."""
        with self._lock:
            if self._server is None:
                self._server = Server(HOST, self._port, self._serve, Handler)
                self._port = self._server.port
                serve = self._server.serve_forever
                self._loop = threading.Thread(target=serve, args=[0.02], daemon=True)
                self._loop.start()

    def stop(self) -> None:
        """Die: open connections end without an answer, new ones are refused."""
        with self._lock:
            if self._server:
                self._server.shutdown()
                self._loop.join()  # the loop's last act is to close the listening socket
                self._server.drop_connections()
                self._server = None

    # The contents, straight from moto: not in `requests`, and also while the server is down.

    def bucket(self, name: str, region: str = "us-east-1") -> None:
        with self._lock:
            self._store.create_bucket(name, region)

    def put(self, bucket: str, key: str, data: bytes) -> None:
        with self._lock:
            self._store.put_object(bucket, key, data)

    def get(self, bucket: str, key: str) -> bytes:
        with self._lock:
            return self._store.get_bucket(bucket).keys[key].value

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        with self._lock:
            return sorted(k for k in self._store.get_bucket(bucket).keys if k.startswith(prefix))

    def fail(self, code, status, *, method=None, match="", times=1, after=0) -> None:
        """Answer with an S3 error, such as "SlowDown" 503, and change nothing."""
        self._faults.append(Fault(method, match, after, times, lambda _: error(code, status)))

    def truncate(self, match: str, at: int, times: int = 1) -> None:
        """Hang up after `at` bytes of a GET's body, though its headers promise all."""

        def cut(answer):
            reply = answer()
            return reply._replace(body=reply.body[:at])

        self._faults.append(Fault("GET", match, 0, times, cut))

    def stop_after(self, method: str | None, match: str, count: int) -> None:
        """Die on the `count`-th request, which changes nothing, until `start`."""
        self._faults.append(Fault(method, match, count - 1, 1, lambda _: self.stop()))

    def redirect(self, bucket: str, region: str) -> None:
        """Refuse what is signed for another region than the bucket's, as S3 does."""
        self._regions[bucket] = region

    def _serve(self, environ, start_response):
        """Log a request and answer it, or hang up."""
        method = environ["REQUEST_METHOD"]
        path = environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace")
        # boto3 frames uploads in chunks for https alone.
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length)
        with self._lock:
            alive = self._server and environ["werkzeug.socket"] in self._server.connections
            # Half an object, all that a dying client could send, is not stored.
            heard = alive and len(body) == length
            reply = self._reply(environ, body, method, path) if heard else None
            sent = len(reply.body) if reply else 0
            self.requests.append(Request(method, path, environ["QUERY_STRING"], sent, len(body)))
        if reply is None:
            raise ConnectionAbortedError
        named = {name.lower() for name, _ in reply.headers}
        # Without a length a body that is cut off looks like a short one.
        whole = [] if "content-length" in named else [("Content-Length", str(len(reply.body)))]
        start_response(reply.status, [*reply.headers, *whole])
        return [reply.body]

    def _reply(self, environ, body, method, path):
        def answer():
            return self._wrong_region(environ, path) or self._ask_moto(environ, body)

        fault = self._due_fault(method, path)
        reply = fault.strike(answer) if fault else answer()
        return reply._replace(body=b"") if reply and method == "HEAD" else reply

    def _ask_moto(self, environ, body):
        asked = environ | {"wsgi.input": io.BytesIO(body)}
        chunks, status, headers = run_wsgi_app(self._moto, asked, buffered=True)
        return Reply(status, list(headers), b"".join(chunks))

    def _due_fault(self, method, path):
        fitting = [f for f in self._faults if f.method in (None, method) and f.match in path]
        due = next((f for f in fitting if f.times and not f.after), None)
        for fault in fitting:
            fault.after = max(0, fault.after - 1)
        if due:
            due.times -= 1
        return due

    def _wrong_region(self, environ, path):
        bucket = path.split("/")[1]
        signature = unquote(environ.get("HTTP_AUTHORIZATION", "") + environ["QUERY_STRING"])
        signed_for = re.search(r"Credential=[^/]+/\d+/([^/]+)/|$", signature)[1]
        region = self._regions.get(bucket, signed_for)
        if signed_for in (None, region):
            return None
        # What boto3 signs for us-east-1 it sends to the endpoint of all regions, and from there it
        # reaches the bucket with a wrong signature; another region's endpoint only points there.
        malformed = signed_for == "us-east-1"
        code = "AuthorizationHeaderMalformed" if malformed else "PermanentRedirect"
        refusal = error(code, 400 if malformed else 301, Bucket=bucket, Region=region)
        return refusal._replace(headers=[*refusal.headers, ("x-amz-bucket-region", region)])


def leading_to(endpoint, **settings):
    """Return what leads a process to a server, and away from the user's own account."""
    nowhere = dict.fromkeys(("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"), os.devnull)
    ours = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": HOST,
    }
    return ours | nowhere | settings


def error(code, status, **details):
    fields = {"Code": code, "Message": "The test server was told to say so."} | details
    inner = "".join(f"<{name}>{value}</{name}>" for name, value in fields.items())
    xml = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{inner}</Error>'
    return Reply(f"{status} {code}", [("Content-Type", "application/xml")], xml.encode())


class Server(ThreadedWSGIServer):
    """One life of the endpoint, and the connections that die with it."""

    def __init__(self, *args):
        self.connections = set()
        super().__init__(*args)

    def process_request(self, request, client_address):
        self.connections.add(request)
        super().process_request(request, client_address)

    def drop_connections(self):
        for connection in self.connections:
            with contextlib.suppress(OSError):  # most ended long ago
                connection.shutdown(socket.SHUT_RDWR)


class Handler(MotoRequestHandler):
    def log_request(self, *_):
        """Say nothing on stderr: the log is `S3.requests`."""
