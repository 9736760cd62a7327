"""S3 on loopback for real boto3 clients; it records requests and injects faults.

moto answers, in threads of this process; each `with S3()` clears moto's single set of buckets.
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

HOST = "127.0.0.1"  # an address: with a host name, boto3 would prepend the bucket


class Request(NamedTuple):
    method: str
    path: str  # decoded: `/bucket/key`
    query: str
    sent: int  # bytes of the response's body
    received: int  # bytes of the request's body


class Reply(NamedTuple):
    status: str
    headers: list[tuple[str, str]]
    body: bytes


@dataclass
class Fault:
    """Applies to `times` matching requests after skipping `after` of them."""

    method: str | None
    match: str
    after: int
    times: int
    strike: Callable[[Callable[[], Reply]], Reply | None]


class S3:
    """`with S3() as s3:` serves S3 at `s3.endpoint`.

    A fault matches requests of its method (None: any) whose decoded path contains its `match`.
    If several match one request, the oldest applies, but all count the request.
    """

    def __init__(self):
        self.requests: list[Request] = []
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._store = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
        self._server = None
        self._port = 0  # any free port at the first start, then always the same
        self._faults: list[Fault] = []
        self._regions: dict[str, str] = {}
        # One request at a time, so that nothing changes after `stop` has returned.
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
        return environment_for(self.endpoint, AWS_DEFAULT_REGION="us-east-1", AWS_MAX_ATTEMPTS="3")

    def start(self) -> None:
        """Listen; after `stop`, on the same port and with the same contents."""
        with self._lock:
            if self._server is None:
                self._server = Server(HOST, self._port, self._serve, Handler)
                self._port = self._server.port
                serve = self._server.serve_forever
                self._loop = threading.Thread(target=serve, args=[0.02], daemon=True)
                self._loop.start()

    def stop(self) -> None:
        """Go down: open connections end without a response, new ones are refused."""
        with self._lock:
            if self._server:
                self._server.shutdown()
                self._loop.join()  # at its end, the loop closes the listening socket
                self._server.drop_connections()
                self._server = None

    # Direct access to moto's contents: not recorded in `requests`, works while the server is down.

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
        """Return an S3 error, such as "SlowDown" 503, and change nothing."""
        self._faults.append(Fault(method, match, after, times, lambda _: error(code, status)))

    def truncate(self, match: str, at: int, times: int = 1) -> None:
        """Close the connection after `at` bytes of a GET's body, with the full Content-Length."""

        def cut(answer):
            reply = answer()
            return reply._replace(body=reply.body[:at])

        self._faults.append(Fault("GET", match, 0, times, cut))

    def stop_after(self, method: str | None, match: str, count: int) -> None:
        """Go down at the `count`-th request, which changes nothing, until `start`."""
        self._faults.append(Fault(method, match, count - 1, 1, lambda _: self.stop()))

    def redirect(self, bucket: str, region: str) -> None:
        """Refuse requests that are signed for another region than the bucket's, as S3 does."""
        self._regions[bucket] = region

    def _serve(self, environ, start_response):
        """Record a request and answer it, or close the connection."""
        method = environ["REQUEST_METHOD"]
        path = environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace")
        # boto3 uses chunked uploads for https only.
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length)
        with self._lock:
            alive = self._server and environ["werkzeug.socket"] in self._server.connections
            # A killed client may have sent half an object, which is not stored.
            complete = alive and len(body) == length
            reply = self._reply(environ, body, method, path) if complete else None
            sent = len(reply.body) if reply else 0
            self.requests.append(Request(method, path, environ["QUERY_STRING"], sent, len(body)))
        if reply is None:
            raise ConnectionAbortedError
        named = {name.lower() for name, _ in reply.headers}
        # Without a length, a truncated body looks like a short one.
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
        environ = environ | {"wsgi.input": io.BytesIO(body)}
        chunks, status, headers = run_wsgi_app(self._moto, environ, buffered=True)
        return Reply(status, list(headers), b"".join(chunks))

    def _due_fault(self, method, path):
        matching = [f for f in self._faults if f.method in (None, method) and f.match in path]
        due = next((f for f in matching if f.times and not f.after), None)
        for fault in matching:
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
        # boto3 sends requests signed for us-east-1 to the global endpoint, which forwards them to
        # the bucket, where the signature is wrong; another region's endpoint redirects.
        malformed = signed_for == "us-east-1"
        code = "AuthorizationHeaderMalformed" if malformed else "PermanentRedirect"
        refusal = error(code, 400 if malformed else 301, Bucket=bucket, Region=region)
        return refusal._replace(headers=[*refusal.headers, ("x-amz-bucket-region", region)])


def environment_for(endpoint, **settings):
    """Return variables that point a process to a server, without the user's own account."""
    no_files = dict.fromkeys(("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"), os.devnull)
    variables = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": HOST,
    }
    return variables | no_files | settings


def error(code, status, **details):
    fields = {"Code": code, "Message": "The test injected this fault."} | details
    inner = "".join(f"<{name}>{value}</{name}>" for name, value in fields.items())
    xml = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{inner}</Error>'
    return Reply(f"{status} {code}", [("Content-Type", "application/xml")], xml.encode())


class Server(ThreadedWSGIServer):
    """One running server, and its open connections."""

    def __init__(self, *args):
        self.connections = set()
        super().__init__(*args)

    def process_request(self, request, client_address):
        self.connections.add(request)
        super().process_request(request, client_address)

    def drop_connections(self):
        for connection in self.connections:
            with contextlib.suppress(OSError):  # most have ended already
                connection.shutdown(socket.SHUT_RDWR)


class Handler(MotoRequestHandler):
    def log_request(self, *_):
        """Print nothing to stderr: `S3.requests` is the log."""
