"""Columns of the tables that reading makes."""

import pyarrow as pa

TEXT = pa.large_string()
PLACE = {"file": TEXT, "row": pa.int64()}
PAIR_SCHEMA = pa.schema(
    PLACE
    | {"anchor": TEXT, "positive": TEXT, "negatives": pa.list_(TEXT)}
    | {"query_id": TEXT, "document_id": TEXT, "grade": pa.float64()}
    | {"split": TEXT, "group": TEXT, "anchor_key": pa.uint64(), "positive_key": pa.uint64()}
    # Of the document that the context is a part of, if `data.columns.document` names its column.
    | {"parent_key": pa.uint64()}
)
# `text_key` is that of a document's text without its title; 0 if it has no title.
DOCUMENT_SCHEMA = pa.schema({"id": TEXT, "text": TEXT, "key": pa.uint64(), "text_key": pa.uint64()})
REJECTED_SCHEMA = pa.schema(PLACE | {"reason": TEXT, "anchor": TEXT, "positive": TEXT})
# Negatives that are read apart from the pair they belong to. `target` is the key of a pair or of a
# question; `source` numbers the rows they come from.
NEGATIVE_SCHEMA = pa.schema(
    {"target": pa.uint64(), "text": TEXT, "key": pa.uint64(), "source": pa.int64()}
    | PLACE
    | {"anchor": TEXT}
)
