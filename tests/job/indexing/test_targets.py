"""Addresses of indexes, and what a database cannot store."""

from pathlib import Path

import pytest
from small_indexes import stamp_of

from job.core.errors import SpecError, StorageError
from job.indexing.examples import qdrant_example
from job.indexing.existing import Existing, require_replaceable
from job.indexing.targets import collection_name, folder_of, open_target, without_password


def test_the_address_chooses_the_database():
    assert open_target("folder", "docs", "int8") is None
    for to in ("postgres://u@h/d", "postgresql://h/d"):
        assert open_target(to, "docs", "binary").kind == "postgres"
    for to in ("http://localhost:6333", "https://host", "qdrant:folder"):
        assert open_target(to, "docs", "float32").kind == "qdrant"
    with pytest.raises(SpecError, match="expected a folder, postgresql"):
        open_target("mysql://h", "docs", "float32")


@pytest.mark.parametrize("to", ["postgres://[h", "http://[h", "mysql://me:s3cret@h/d"])
def test_what_is_no_address_is_refused_without_the_password(to):
    with pytest.raises(SpecError, match="`--to` is ") as refused:
        open_target(to, "docs", "float32")
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("password", ["s3%cret", "s3 cret", "s3cret@x", "s3cret/x", "s3#t", "s3?t"])
def test_a_password_that_an_address_cannot_hold_is_refused_and_not_shown(password):
    """The client would read a part of it as the host, and print it."""
    message = r"\(postgresql://me@host/db\) .*PGPASSWORD"
    with pytest.raises(SpecError, match=message) as refused:
        open_target(f"postgresql://me:{password}@host/db", "docs", "float32")
    assert "s3" not in str(refused.value)


def test_an_address_is_shown_without_its_password():
    for url, shown in {
        "postgres://me:s%40c@h:1/d?password=x": "postgres://me@h:1/d",
        "postgres://": "postgres://",
        "postgres://h/d?user=a@b": "postgres://h/d",
        "http://me:p@h:6333": "http://me@h:6333",
        "qdrant:folder": "qdrant:folder",
    }.items():
        assert without_password(url) == shown


def test_the_example_for_qdrant_has_no_password():
    example = qdrant_example("load()", "docs", "https://me:s3cret@host:6333", "float32")
    assert "url='https://me@host:6333'" in example


@pytest.mark.parametrize("to", ["postgresql://h/d", "http://h", "qdrant:f"])
def test_what_a_database_lacks_is_refused_with_alternatives(to):
    message = "no int8 vectors .*`--precision float32` or `--precision binary`.*`--to FOLDER`"
    with pytest.raises(SpecError, match=message):
        open_target(to, "docs", "int8")
    with pytest.raises(SpecError, match="`--collection` is `Docs;`"):
        open_target(to, "Docs;", "float32")


def test_the_name_of_a_run_becomes_one_of_a_table():
    assert collection_name("AWS-2026.11") == "aws_2026_11"
    assert collection_name("2026") == "_2026"
    assert len(collection_name("a" * 90)) == len(collection_name("9" * 90)) == 50


def test_parquet_files_are_below_the_run_unless_they_are_the_target():
    default = Path("runs/a/index/x")
    assert folder_of("out", None, default) == Path("out")
    assert folder_of("qdrant:q", None, default) == default
    assert folder_of("postgresql://h/d", "here", default) == Path("here")
    with pytest.raises(SpecError, match="`--shards` is for databases"):
        folder_of("out", "here", default)


def test_an_index_of_another_model_is_replaced_only_by_alias():
    stamp, other = stamp_of(), stamp_of(model="other")
    require_replaceable(None, stamp, "here", alias=False)
    require_replaceable(Existing("docs_1", stamp), stamp, "here", alias=False)
    require_replaceable(Existing("docs_1", other), stamp, "here", alias=True)
    with pytest.raises(StorageError, match=r"the model \(`other` of the run .*`--alias`"):
        require_replaceable(Existing("docs_1", other), stamp, "here", alias=False)
    with pytest.raises(StorageError, match="was not made by this command"):
        require_replaceable(Existing("docs", None), stamp, "here", alias=True)
