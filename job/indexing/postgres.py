"""Load an index into PostgreSQL with pgvector: a table for each index, and a view by its name.

The stamp is in the comments of both. Each Parquet file is copied in a transaction that also counts
the documents in the comment, so that loading resumes after the last one.
"""

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pyarrow as pa
from pgvector import Bit
from pgvector.psycopg import register_vector
from psycopg import sql

from job.core.errors import SpecError, StorageError, first_line
from job.indexing.existing import Existing, require_replaceable
from job.indexing.shards import Shards, vectors_of
from job.indexing.stamp import Stamp, read_stamp
from job.indexing.targets import without_password
from job.runtime.counter import Counter

EXTENSION = (0, 7)
# The largest vectors of pgvector.
MAX_DIMENSION = {"float32": 16_000, "binary": 64_000}
# Its approximate index takes up to 2,000 float32 components, or 4,000 of half precision.
MAX_INDEXED, MAX_HALF_INDEXED = 2_000, 4_000
NUL = str.maketrans({"\0": "\N{REPLACEMENT CHARACTER}"})


class Postgres:
    kind = "postgres"

    def __init__(self, url: str, name: str) -> None:
        self._url, self._name = url, name
        self._shown = without_password(url)

    def require_free(self, stamp: Stamp, *, alias: bool) -> None:
        if stamp.dimension > (limit := MAX_DIMENSION[stamp.precision]):
            msg = f"pgvector stores up to {limit} dimensions as {stamp.precision}, not "
            raise SpecError(msg + f"{stamp.dimension}. Add `--dimension`.")
        with self._connect() as connection:
            _require_extension(connection, self._shown)
            _require_schema(connection, self._shown)
            found = self._existing(connection)
            require_replaceable(found, stamp, f"the database `{self._shown}`", alias=alias)

    def _connect(self) -> psycopg.Connection[Any]:
        try:
            return psycopg.connect(self._url, connect_timeout=30)
        except (psycopg.Error, UnicodeError) as error:
            msg = f"PostgreSQL at `{self._shown}` does not answer: {first_line(error)}. Check the "
            raise StorageError(msg + "address and the password (PGPASSWORD).") from None

    def _existing(self, connection: psycopg.Connection[Any]) -> Existing | None:
        """Return what has the name of the collection."""
        row = connection.execute(
            "SELECT relkind = 'v', obj_description(oid, 'pg_class') FROM pg_class "
            "WHERE oid = to_regclass(%s)",
            [self._name],
        ).fetchone()
        if row is None:
            return None
        comment = _parsed(row[1])
        if not row[0] or comment is None:
            return Existing(self._name, None)
        return Existing(comment["table"], read_stamp(json.dumps(comment["stamp"]), self._shown))

    def load(self, shards: Shards) -> Iterator[str]:
        stamp = shards.stamp
        table = f"{self._name}_{stamp.digest}"
        try:
            with self._connect() as connection:
                connection.autocommit = True
                register_vector(connection)
                before = self._existing(connection)
                done = _create(connection, table, stamp)
                counter = Counter("load", "documents", stamp.documents, done)
                for first, rows in shards.read(done):
                    with connection.transaction():
                        _copy(connection, table, rows, stamp)
                        _comment(connection, "TABLE", table, table, stamp, first + len(rows))
                    counter.add(len(rows))
                yield from self._switch(connection, table, stamp, before)
        except psycopg.Error as error:
            msg = f"PostgreSQL at `{self._shown}` refused the index: {first_line(error)}. What was "
            raise StorageError(msg + "loaded is kept: the same command continues.") from None

    def _switch(
        self,
        connection: psycopg.Connection[Any],
        table: str,
        stamp: Stamp,
        before: Existing | None,
    ) -> Iterator[str]:
        """Let the view point to the table, in a transaction."""
        view = sql.Identifier(self._name)
        select = sql.SQL("VIEW {} AS SELECT * FROM {}").format(view, sql.Identifier(table))
        was_replaced = True
        with connection.transaction():
            try:
                with connection.transaction():
                    connection.execute(sql.SQL("CREATE OR REPLACE {}").format(select))
            except psycopg.errors.InvalidTableDefinition:
                # Of another dimension: such a view can only be created again.
                connection.execute(sql.SQL("DROP VIEW {}").format(view))
                connection.execute(sql.SQL("CREATE {}").format(select))
                was_replaced = False
            _comment(connection, "VIEW", self._name, table, stamp, stamp.documents)
        if not was_replaced:
            yield f"The view `{self._name}` was created again: grant its privileges again."
        yield f"The view `{self._name}` shows the table `{table}`."
        if before and before.physical != table:
            yield f'The earlier table is kept: DROP TABLE "{before.physical}" deletes it.'
        yield f"For approximate search in large tables: {_approximate(table, stamp)}"


def _require_extension(connection: psycopg.Connection[Any], shown: str) -> None:
    try:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        row = connection.execute(
            "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
        ).fetchone()
    except psycopg.Error as error:
        msg = f"PostgreSQL at `{shown}` has no pgvector: {first_line(error)}. Install the extension"
        msg += " on the server, or let an administrator run `CREATE EXTENSION vector`."
        raise StorageError(msg) from None
    version = str(row[0]) if row else "0"
    if tuple(int(part) for part in version.split(".")[:2]) < EXTENSION:
        msg = f"PostgreSQL at `{shown}` has pgvector {version}; 0.7 or newer is needed: `ALTER "
        raise StorageError(msg + "EXTENSION vector UPDATE`.")


def _require_schema(connection: psycopg.Connection[Any], shown: str) -> None:
    """Refuse a user who may not create tables where new tables go."""
    user, schema, may = connection.execute(
        "SELECT current_user, current_schema(), has_schema_privilege(current_schema(), 'CREATE')"
    ).fetchone() or ("", None, None)
    if not may:
        msg = (
            f"The user `{user}` may not create tables in {f'`{schema}`' if schema else 'a schema'}"
        )
        msg += f" of `{shown}`. Let an administrator run `GRANT CREATE ON SCHEMA "
        raise StorageError(msg + f"{schema or 'public'} TO {user}`.")


def _create(connection: psycopg.Connection[Any], table: str, stamp: Stamp) -> int:
    """Create the table unless it exists; return how many documents it has."""
    comment = connection.execute(
        "SELECT obj_description(to_regclass(%s), 'pg_class')", [table]
    ).fetchone()
    found = _parsed(comment[0] if comment else None)
    if found is not None:
        return int(found["documents"])
    kind = "bit" if stamp.precision == "binary" else "vector"
    text = ", text text" if stamp.with_text else ""
    # Ids are compared byte by byte, as the report does: it decides between equal scores.
    columns = f'(id text COLLATE "C" PRIMARY KEY, embedding {kind}({stamp.dimension}) NOT NULL'
    with connection.transaction():
        create = sql.SQL("CREATE TABLE {} " + columns + text + ")")
        connection.execute(create.format(sql.Identifier(table)))
        _comment(connection, "TABLE", table, table, stamp, 0)
    return 0


def _copy(connection: psycopg.Connection[Any], table: str, rows: pa.Table, stamp: Stamp) -> None:
    names = ["id", "embedding", *(["text"] if stamp.with_text else [])]
    kinds = ["text", "bit" if stamp.precision == "binary" else "vector", "text"]
    into = sql.SQL("COPY {} ({}) FROM STDIN WITH (FORMAT BINARY)").format(
        sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, names))
    )
    vectors = vectors_of(rows, stamp)
    texts = rows["text"].to_pylist() if stamp.with_text else None
    with connection.cursor() as cursor, cursor.copy(into) as copy:
        copy.set_types(kinds[: len(names)])
        for row, name in enumerate(rows["id"].to_pylist()):
            vector = Bit(vectors[row]) if stamp.precision == "binary" else vectors[row]
            # PostgreSQL has no NUL in texts.
            text = [texts[row].translate(NUL)] if texts else []
            copy.write_row([name, vector, *text])


def _comment(
    connection: psycopg.Connection[Any],
    kind: str,
    name: str,
    table: str,
    stamp: Stamp,
    documents: int,
) -> None:
    text = json.dumps({"embedtune": stamp.model_dump(), "table": table, "documents": documents})
    command = sql.SQL(f"COMMENT ON {kind} {{}} IS {{}}")
    connection.execute(command.format(sql.Identifier(name), sql.Literal(text)))


def _parsed(comment: str | None) -> dict[str, Any] | None:
    """Return the stamp, the table and the number of loaded documents of a comment of ours."""
    try:
        found = json.loads(comment or "")
        names = {"stamp": "embedtune", "table": "table", "documents": "documents"}
        return {name: found[key] for name, key in names.items()}
    except (ValueError, TypeError, LookupError):
        return None


def _approximate(table: str, stamp: Stamp) -> str:
    """Return the command that creates an approximate index."""
    if stamp.precision == "binary":
        column = "embedding bit_hamming_ops"
    elif stamp.dimension <= MAX_INDEXED:
        column = "embedding vector_ip_ops"
    elif stamp.dimension <= MAX_HALF_INDEXED:
        column = f"(embedding::halfvec({stamp.dimension})) halfvec_ip_ops"
    else:
        return f"none, as pgvector indexes up to {MAX_HALF_INDEXED} dimensions."
    return f'CREATE INDEX ON "{table}" USING hnsw ({column});'
