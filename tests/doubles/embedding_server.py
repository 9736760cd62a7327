"""An embedding server on loopback that serves a stored model, rightly or with a planted mistake.

It speaks the protocols of text-embeddings-inference (`/embed`, with named prompts) and of OpenAI
(`/v1/embeddings`).
"""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MISTAKES = {
    *("no prompt", "mean pooling", "float16 overflow", "cut without normalizing", "no dense layer"),
    *("reversed", "half the tokens", "other weights", "truncated", "not normalized"),
    *("refuses dimensions", "refuses long texts", "ignores dimensions", "prompt twice"),
    *("slow", "error 500", "wrong JSON", "one vector", "busy", "not JSON"),
    *("rounded", "rounded to float16"),
}


class Model:
    """A stored model with a planted mistake, or none."""

    def __init__(self, folder, mistake=None):
        import torch
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.base.modules import Dense

        assert mistake is None or mistake in MISTAKES
        self.mistake = mistake
        self.encoder = SentenceTransformer(str(folder), device="cpu")
        self.limit = self.encoder.max_seq_length
        if mistake == "mean pooling":
            self.encoder[1].pooling_mode = "mean"
        if mistake == "half the tokens":
            self.encoder.max_seq_length //= 2
        if mistake == "no dense layer":
            modules = [m for m in self.encoder.children() if not isinstance(m, Dense)]
            self.encoder = SentenceTransformer(modules=modules, device="cpu")
        if mistake == "other weights":
            torch.manual_seed(1)
            for weights in self.encoder.parameters():
                weights.data = torch.randn_like(weights)
        if mistake == "float16 overflow":
            # 65,504 is the largest number of float16.
            table = self.encoder[0].model.embeddings.word_embeddings.weight
            table.data[-5:] *= 1e7
            self.encoder.half()

    def embed(self, texts, prompt_name, dimensions):
        import numpy as np

        prompt = self.encoder.prompts.get(prompt_name, "") if prompt_name else ""
        if self.mistake == "no prompt":
            prompt = ""
        if self.mistake == "prompt twice":
            prompt *= 2
        found = self.encoder.encode(texts, prompt=prompt, normalize_embeddings=True)
        found = found.astype("float32")
        if self.mistake == "reversed":
            found = found[:, ::-1]
        if self.mistake and self.mistake.startswith("rounded"):
            # Noise of a tenth of the length: a cosine of .995.
            noise = np.random.default_rng(0).normal(size=found.shape)
            found = found + 0.1 * noise / np.linalg.norm(noise, axis=1, keepdims=True)
        if self.mistake == "truncated":
            found = found[:, :16]
        if self.mistake == "not normalized":
            found = found * 3
        if dimensions and self.mistake != "ignores dimensions":
            found = found[:, :dimensions]
        if self.mistake not in ("cut without normalizing", "not normalized"):
            found = found / np.linalg.norm(found, axis=1, keepdims=True)
        return found.tolist()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body in one packet: otherwise the second one waits for an acknowledgement.
    wbufsize = -1

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        dtype = "float16" if self.server.model.mistake == "rounded to float16" else "float32"
        known = {"/v1/models": {"data": [{"id": "tiny"}]}, "/info": {"model_dtype": dtype}}
        found = known.get(self.path) if self.path.partition("/")[2] else None
        self.answer(found, 200 if found else 404)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        request, model = json.loads(body), self.server.model
        self.server.requests.append((self.path, dict(self.headers), request))
        texts, dimensions = request.get("inputs", request.get("input")), request.get("dimensions")
        if model.mistake == "slow":
            time.sleep(0.5)
        if failure := self.failure(texts, dimensions):
            return self.answer({"error": failure[1]}, failure[0])
        rows = model.embed(texts, request.get("prompt_name"), dimensions)
        if model.mistake == "one vector":
            rows = rows[:1]
        return self.answer(self.as_answer(rows), 200)

    def failure(self, texts, dimensions):
        """Return the status and the reason of a refusal, or None."""
        mistake, limit = self.server.model.mistake, self.server.model.limit
        if self.path not in self.server.paths:
            return 404, "no such path"
        if texts is None:
            return 422, "no texts"
        longest = max(len(text.split()) for text in texts)
        reasons = {
            "error 500": (True, 500, "out of memory"),
            "busy": (len(self.server.requests) % 2 == 1, 429, "busy"),
            "refuses dimensions": (dimensions is not None, 400, "not a Matryoshka model"),
            "refuses long texts": (longest > limit, 413, "too long"),
        }
        applies, status, reason = reasons.get(mistake, (False, 0, ""))
        return (status, reason) if applies else None

    def as_answer(self, rows):
        if self.server.model.mistake == "wrong JSON":
            return {"embeddings": "none"}
        if self.server.model.mistake == "not JSON":
            return "<html>"
        if self.path == "/embed":
            return rows
        # In any order: `index` says which text a vector belongs to.
        numbered = [{"index": n, "embedding": row} for n, row in enumerate(rows)]
        return {"object": "list", "model": "tiny", "data": numbered[::-1]}

    def answer(self, document, status):
        text = document if document == "<html>" else json.dumps(document)
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


@contextmanager
def embedding_server(folder, mistake=None, paths=("/embed", "/v1/embeddings")):
    """Serve a model within the block; yields the server, with its `url` and `requests`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.model, server.paths, server.requests = Model(folder, mistake), paths, []
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=[0.01], daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
