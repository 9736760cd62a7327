"""Where an index goes, by its address: a folder, PostgreSQL or Qdrant."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from job.core.errors import SpecError
from job.indexing.shards import Shards
from job.indexing.stamp import Stamp

POSTGRES = ("postgres", "postgresql")
QDRANT = ("http", "https")
QDRANT_FOLDER = "qdrant:"
# User, then password up to the last `@`.
USER = re.compile(r"(://[^/@:?#]*):(.*)@", re.DOTALL)
# What a password may contain in an address.
ENCODED = re.compile(r"([\w.~!$&'()*+,;=:-]|%[0-9A-Fa-f]{2})*", re.ASCII)
# Names with room for a digest.
COLLECTION = re.compile(r"[a-z_][a-z0-9_]{0,49}")


class Target(Protocol):
    """A database that an index is loaded into."""

    # How to query it, of `job.indexing.examples`.
    kind: str

    def require_free(self, stamp: Stamp, *, alias: bool) -> None:
        """Refuse, before anything is encoded, what `load` could not do."""

    def load(self, shards: Shards) -> Iterator[str]:
        """Load the files that are not yet loaded, then let the name point to them.

        Yields sentences about what was done.
        """


def open_target(to: str, collection: str, precision: str) -> Target | None:
    """Return the database of an address; None for a folder."""
    scheme = _scheme(to)
    if scheme in POSTGRES:
        _require_precision(precision, "pgvector", "float32, or binary as `bit`")
        _require_name(collection)
        from job.indexing.postgres import Postgres

        return Postgres(to, collection)
    if scheme in QDRANT or to.startswith(QDRANT_FOLDER):
        _require_precision(precision, "Qdrant", "float32, or binary")
        _require_name(collection)
        from job.indexing.qdrant import Qdrant

        return Qdrant(to, collection)
    if "://" in to:
        msg = f"`--to` is `{without_password(to)}`; expected a folder, postgresql://…, "
        raise SpecError(msg + "http(s)://… or qdrant:FOLDER.")
    return None


def without_password(url: str) -> str:
    """Return an address to show: without a password and parameters."""
    return USER.sub(r"\1@", url).partition("?")[0]


def _scheme(to: str) -> str:
    """Return the scheme of an address; refuse one that the databases' clients would misread."""
    found = USER.search(to)
    if found and not ENCODED.fullmatch(found[2]):
        msg = f"The password in `--to` ({without_password(to)}) has characters that an address "
        raise SpecError(msg + "needs percent-encoded. Give it in PGPASSWORD instead.")
    try:
        return urlsplit(to).scheme
    except ValueError as error:
        msg = f"`--to` is `{without_password(to)}`, which is no address: {error}."
        raise SpecError(msg) from None


def folder_of(to: str, shards: str | None, default: Path) -> Path:
    """Return the folder of the Parquet files."""
    is_database = "://" in to or to.startswith(QDRANT_FOLDER)
    if shards and not is_database:
        msg = "`--shards` is for databases; the folder of Parquet files is that of `--to`."
        raise SpecError(msg)
    return Path(shards) if shards else default if is_database else Path(to)


def collection_name(run: str) -> str:
    """Make a name that needs no quotes in SQL from that of a run."""
    name = re.sub(r"[^a-z0-9_]", "_", run.lower())[:50]
    return name if COLLECTION.fullmatch(name) else f"_{name}"[:50]


def _require_name(name: str) -> None:
    if not COLLECTION.fullmatch(name):
        msg = f"`--collection` is `{name}`; expected up to 50 lower-case letters, digits and `_`, "
        raise SpecError(msg + "not a digit first.")


def _require_precision(precision: str, database: str, available: str) -> None:
    if precision == "int8":
        msg = f"{database} stores no int8 vectors with a range for each dimension, which the report"
        msg += f" measured. It stores {available}: add `--precision float32` or `--precision "
        raise SpecError(msg + "binary`, or write int8 to Parquet files: `--to FOLDER`.")
