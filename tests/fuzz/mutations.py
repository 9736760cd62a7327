"""Valid files, and mutations of their bytes and of their rows."""

import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
from fuzz.ugly_files import DOCUMENTS, ODD_TEXTS, QRELS, QUERIES, as_lines, as_table, plain
from hypothesis import strategies as st

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
PACKED = tuple(f"{suffix}.gz" for suffix in SUFFIXES if suffix != ".parquet")

# Mutations of bytes.

INTERESTING = [
    *(b"\0", b"\xff", b"\n", b"\r", b'"', b"'", b",", b";", b"\t", b"{", b"}", b"[", b"]"),
    *(b"\\", b"\\u0000", b"\\ud800", b"\xef\xbb\xbf", b"\xff\xfe", b"\xe2\x80\xa8", b"NaN"),
    *(b"1e999", b"null", b"\x1f\x8b", b"PAR1", b"\x80" * 9, b"\x7f" * 8, b"PK\x03\x04"),
]
pieces = st.one_of(st.sampled_from(INTERESTING), st.binary(min_size=1, max_size=8))
positions = st.floats(0.0, 1.0, exclude_max=True)


def inserted(data, where, piece, _):
    at = int(where * len(data))
    return data[:at] + piece + data[at:]


def overwritten(data, where, piece, _):
    at = int(where * len(data))
    return data[:at] + piece + data[at + len(piece) :]


def cut_out(data, where, _, length):
    at = int(where * len(data))
    return data[:at] + data[at + length :]


def cut_off(data, where, *_):
    return data[: int(where * len(data))]


def repeated(data, where, _, length):
    at = int(where * len(data))
    return data[: at + length] + data[at:]


def flipped(data, where, _, length):
    at = int(where * len(data))
    byte = data[at : at + 1]
    return data[:at] + bytes(b ^ (1 << length % 8) for b in byte) + data[at + 1 :]


changes = st.lists(
    st.tuples(
        st.sampled_from([inserted, overwritten, cut_out, cut_off, repeated, flipped, flipped]),
        positions,
        pieces,
        st.integers(1, 200),
    ),
    min_size=1,
    max_size=4,
)


def changed(data, steps):
    for change, *how in steps:
        data = change(data, *how)
    return data


# Mutations of rows.

words = st.one_of(
    st.text(max_size=30),
    st.text(st.characters(categories=["Cs", "Cc", "Cf", "Mn", "Zs", "Co"]), max_size=12),
    st.sampled_from(list(ODD_TEXTS.values())),
)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), words, st.just(10**400), st.just("")
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(words, inner, max_size=3)),
    max_leaves=8,
)
names = st.one_of(
    st.sampled_from(["question", "context", "negative", "negatives_1", "score", "", " ", "id"]),
    words,
)
odd_rows = st.one_of(
    st.fixed_dictionaries({}, optional={"question": values, "context": values, "negative": values}),
    st.dictionaries(names, values, max_size=4),
)
row_lists = st.tuples(st.lists(odd_rows, min_size=1, max_size=12), st.booleans())


def mixed(rows, first):
    """Put odd rows before or after good ones."""
    return [*rows, *plain(20)] if first else [*plain(20), *rows]


def as_file(rows, suffix):
    """Encode rows in a format, as far as the format can represent them."""
    plain_suffix = suffix.removesuffix(".gz")
    if plain_suffix == ".parquet":
        data = parquet(rows)
    elif plain_suffix in (".csv", ".tsv"):
        data = table(rows, "\t" if plain_suffix == ".tsv" else ",").encode("utf-8", "replace")
    elif plain_suffix == ".json":
        data = json.dumps(rows).encode()
    else:
        data = as_lines(rows, ensure_ascii=True).encode()
    return gzip.compress(data, mtime=0) if suffix.endswith(".gz") else data


def table(rows, delimiter):
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return as_table([{key: row.get(key) for key in columns} for row in rows], delimiter)


def parquet(rows):
    """Encode rows as Parquet; a column with mixed types becomes strings."""
    columns = dict.fromkeys(key for row in rows for key in row)
    arrays = {encodable(key): array([row.get(key) for row in rows]) for key in columns}
    buffer = io.BytesIO()
    pq.write_table(pa.table(arrays), buffer)
    return buffer.getvalue()


def encodable(text):
    return text.encode("utf-8", "replace").decode()


def array(cells):
    try:
        made = pa.array(cells)
        # A structure without fields cannot be written.
        pq.write_table(pa.table([made], ["made"]), io.BytesIO())
        return made
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return pa.array([None if cell is None else encodable(str(cell)) for cell in cells])


VALID = {suffix: as_file(plain(30), suffix) for suffix in (*SUFFIXES, *PACKED)}

# BEIR.

ids = st.sampled_from(["q0", "q1", "d0", "d1", "q 1", "", "None", "=1", "q\u00a01", "\U0001f642"])
scores = st.sampled_from(["1", "0", "2", "-1", "0.5", "nan", "inf", "", "x", "1 ", "٣", "1e400"])
qrels_lines = st.lists(
    st.builds("{}\t{}\t{}".format, ids, ids, scores) | st.text(max_size=20), max_size=6
)
entry = st.fixed_dictionaries(
    {"_id": ids}, optional={"text": words | values, "title": scalars, "metadata": values}
)
entries = st.lists(st.one_of(*[entry] * 9, st.dictionaries(words, values, max_size=2)), max_size=3)


def beir_files(documents, queries, qrels):
    return {
        "corpus.jsonl": as_lines([*DOCUMENTS[:20], *documents], ensure_ascii=True).encode(),
        "queries.jsonl": as_lines([*QUERIES[:20], *queries], ensure_ascii=True).encode(),
        "qrels/test.tsv": "\n".join(["query-id\tcorpus-id\tscore", *QRELS[:20], *qrels, ""]).encode(
            "utf-8", "replace"
        ),
    }
