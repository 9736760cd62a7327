"""Files that hold what is expected; `RENEW=1 pytest …` writes them anew, to be looked at."""

import os


def assert_golden(path, text):
    """Compare a text with a file beside its test."""
    if os.environ.get("RENEW"):
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8")
