"""A server on loopback with OpenAI's API of chats and Bedrock's Converse, with planted faults.

It writes questions in the words of `conftest.make_pairs`: `tell7` in a chunk becomes `ask7`.
"""

import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULTS = {
    *("429", "500", "silent", "cut off", "half JSON", "html", "empty", "refusal", "nonsense"),
    *("400", "401", "404", "408", "424", "503", "too long"),
}
# What Bedrock calls the faults; it answers 401 with HTTP 403.
EXCEPTIONS = {
    "400": "ValidationException",
    "401": "AccessDeniedException",
    "404": "ResourceNotFoundException",
    "408": "ModelTimeoutException",
    "424": "ModelErrorException",
    "429": "ThrottlingException",
    "500": "InternalServerException",
    "503": "ServiceUnavailableException",
}
REFUSAL = "I cannot help with that."


def write_questions(prompt):
    """Answer the prompt of `questions.md` with a line for each kind that it asks for."""
    text = prompt.rpartition("Text:")[2]
    words = [word.replace("tell", "ask") for word in re.findall(r"tell\d+", text)] or text.split()
    kinds = re.findall(r"(?m)^- (natural|keywords|task|comparison|paraphrase):", prompt)
    turned = [words[number:] + words[:number] for number in range(len(kinds))]
    return "\n".join(
        f"{kind}: What is the {' '.join(words[:8])}?"
        for kind, words in zip(kinds, turned, strict=True)
    )


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def log_message(self, *arguments):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.requests.append((self.path, dict(self.headers), body))
            number = len(server.requests)
        fault = server.fault(number, body)
        assert fault is None or fault in FAULTS
        if fault == "silent":
            # Until the client gives up, or the test ends.
            server.closing.wait(30)
            self.close_connection = True
            return
        if server.pause:
            server.closing.wait(server.pause)
        self.answer(fault, body)

    def answer(self, fault, body):
        is_converse = self.path.endswith("/converse")
        content = body["messages"][-1]["content"]
        text = self.server.write(content[0]["text"] if is_converse else content)
        if fault == "nonsense":
            text = "I am a language model."
        status = int(fault) if fault and fault.isdigit() else 200
        said = self.server.error or f"fault {status}"
        exception = self.server.code or EXCEPTIONS.get(fault)
        if is_converse:
            document = converse(text, fault) if status == 200 else {"message": said}
            status = 403 if status == 401 else status
        else:
            document = chat(text, fault) if status == 200 else {"error": {"message": said}}
        data = json.dumps(document).encode()
        if fault == "html":
            data = b"<html>nothing here</html>"
        length = len(data)
        if fault in ("half JSON", "cut off"):
            data = data[: length // 2]
        self.send_response(status)
        if fault == "429":
            self.send_header("Retry-After", "0")
        if is_converse and status != 200:
            self.send_header("x-amzn-ErrorType", f"{exception}:http://internal.amazon.com/")
        self.send_header("Content-Length", str(length if fault == "cut off" else len(data)))
        self.end_headers()
        try:
            self.wfile.write(data)
        except OSError:
            return
        self.close_connection = self.close_connection or fault == "cut off"


def chat(text, fault):
    message = {"role": "assistant", "content": text}
    if fault in ("empty", "refusal"):
        message["content"] = "" if fault == "empty" else None
    if fault == "refusal":
        message["refusal"] = REFUSAL
    reason = "length" if fault == "too long" else "stop"
    usage = {"prompt_tokens": 100, "completion_tokens": 50}
    return {"choices": [{"message": message, "finish_reason": reason}], "usage": usage}


def converse(text, fault):
    thought = {"reasoningContent": {"reasoningText": {"text": "natural: What do I think?"}}}
    content = {"empty": [], "refusal": [{"text": REFUSAL}]}.get(fault, [thought, {"text": text}])
    reasons = {"too long": "max_tokens", "refusal": "content_filtered"}
    return {
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": reasons.get(fault, "end_turn"),
        "usage": {"inputTokens": 100, "outputTokens": 50, "totalTokens": 150},
        "metrics": {"latencyMs": 1},
    }


@contextmanager
def llm_server(fault=lambda *_: None, write=write_questions, pause=0, error=None, code=None):
    """Serve within the block; yields the server, with its `url` and `requests`.

    `fault` names the fault of a request, by its number from 1 and its body; `pause` is seconds;
    `error` is what a fault's message says, and `code` what Bedrock, at `endpoint`, calls it.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.fault, server.write, server.pause, server.requests = fault, write, pause, []
    server.error, server.code = error, code
    server.lock, server.closing = threading.Lock(), threading.Event()
    server.endpoint = f"http://127.0.0.1:{server.server_port}"
    server.url = f"{server.endpoint}/v1"
    thread = threading.Thread(target=server.serve_forever, args=[0.01], daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
