"""Python to copy: query an index, in a folder, in PostgreSQL or in Qdrant.

Each example defines `search(question)`, which returns the ids of the ten best documents. Equal
scores are ordered by id, as in the report.
"""

from job.core.formatting import RESCORED
from job.evaluation.metrics import DEPTH
from job.evaluation.quantization import RESCORE_MULTIPLIER, stored_as
from job.indexing.targets import without_password

CANDIDATES = RESCORE_MULTIPLIER * DEPTH

AGAIN = "# Rank the candidates again with the float32 query."

OPENING = """\
import numpy as np
{imports}
from sentence_transformers import SentenceTransformer

model = {load}
{setup}

def search(question):
    query = model.encode_query(question, normalize_embeddings=True)
{body}

print(search("a question"))
"""

FOLDER = """\
folder = Path({place!r})
rows = pa.concat_tables(pq.read_table(path) for path in sorted(folder.glob("shard-*.parquet")))
ids = rows["id"].to_pylist()
"""
NUMBERS = """\
vectors = rows["vector"].combine_chunks().flatten().to_numpy().reshape(len(rows), -1)
"""
BITS = """\
packed = np.frombuffer(b"".join(rows["vector"].to_pylist()), np.uint8).reshape(len(rows), -1)
signs = np.unpackbits(packed, axis=1, count={dimension}) * 2.0 - 1.0
"""
CODES = """\
ends = pq.read_table(folder / "calibration.parquet")
lowest, highest = ends["minimum"].to_numpy(), ends["maximum"].to_numpy()
steps = (highest - lowest) / np.float32(255)
vectors = vectors.astype(np.float32)
"""
BEST = """\
    best = np.argsort(-scores, kind="stable")[:10]
    return [ids[n] for n in best]
"""
RESCORE = """\
    found = np.sort(np.argsort(-scores, kind="stable")[:{candidates}])
    {again}
    scores = {documents}[found] @ {weights}
    return [ids[n] for n in found[np.argsort(-scores, kind="stable")[:10]]]
"""
SELECT = """\
    rows = connection.execute(
        'SELECT {columns} FROM "{name}" '
        "ORDER BY embedding {operator} %s, id LIMIT {limit}",
        [{value}],
    ).fetchall()
"""


def folder_example(load: str, place: str, dimension: int, precision: str) -> str:
    """`load` is the expression that loads the model; `precision` may be a rescored one."""
    stored = stored_as(precision)
    setup = FOLDER.format(place=place)
    documents, weights = "vectors", "query"
    if stored == "binary":
        setup += BITS.format(dimension=dimension)
        documents = "signs"
        body = "    scores = signs @ np.where(query > 0, 1.0, -1.0)\n"
    elif stored == "int8":
        setup += NUMBERS + CODES
        weights = "(query * steps)"
        body = (
            "    codes = np.floor((query - lowest) / np.where(steps == 0, 1, steps))\n"
            "    scores = vectors @ (codes.clip(0, 255) - 128)\n"
        )
    else:
        setup += NUMBERS
        body = "    scores = vectors @ query\n"
    if precision.endswith(RESCORED):
        body += RESCORE.format(
            again=AGAIN, candidates=CANDIDATES, documents=documents, weights=weights
        )
    else:
        body += BEST
    imports = "import pyarrow as pa\nimport pyarrow.parquet as pq"
    return _joined("from pathlib import Path\n\n", imports, load, setup, body)


def postgres_example(load: str, name: str, precision: str) -> str:
    """Return the example for the view `name`; the address is in a variable."""
    setup = (
        'connection = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)\n'
        "register_vector(connection)\n"
    )
    imports = "import psycopg\n"
    if stored_as(precision) == "float32":
        operator, value = "<#>", "query"
    else:
        operator, value = "<~>", "Bit(query > 0)"
        imports += "from pgvector import Bit\n"
    imports += "from pgvector.psycopg import register_vector"
    is_rescored = precision.endswith(RESCORED)
    columns, limit = ("id, embedding", CANDIDATES) if is_rescored else ("id", 10)
    body = SELECT.format(columns=columns, name=name, operator=operator, limit=limit, value=value)
    if is_rescored:
        body += (
            f"    {AGAIN}\n"
            "    scored = [\n"
            "        (-float((Bit(bits).to_numpy() * 2.0 - 1.0) @ query), name)\n"
            "        for name, bits in rows\n"
            "    ]\n"
            "    return [name for _, name in sorted(scored)[:10]]\n"
        )
    else:
        body += "    return [name for (name,) in rows]\n"
    return _joined("import os\n\n", imports, load, setup, body)


def qdrant_example(load: str, name: str, place: str, precision: str) -> str:
    """Return the example for the alias `name`."""
    stored, is_rescored = stored_as(precision), precision.endswith(RESCORED)
    is_folder = place.startswith("qdrant:")
    opened = f'url={without_password(place)!r}, api_key=os.environ.get("QDRANT_API_KEY")'
    if is_folder:
        opened = f"path={place.partition(':')[2]!r}"
    setup = f"client = QdrantClient({opened})\n"
    value = "query.tolist()" if stored == "float32" else "(query > 0).astype(float).tolist()"
    # Without a server every search is exact.
    exact = "" if is_folder else "        search_params=models.SearchParams(exact=True),\n"
    body = (
        f"    found = client.query_points(\n"
        f"        {name!r},\n"
        f"        query={value},\n"
        f"        limit={CANDIDATES},  # more than ten: equal scores come in any order\n"
        f"        with_vectors={is_rescored},\n"
        f"{exact}"
        f"    ).points\n"
    )
    scored = "-point.score" if stored == "float32" else "point.score"
    if is_rescored:
        scored = "-float((np.array(point.vector) * 2.0 - 1.0) @ query)"
        body += f"    {AGAIN}\n"
    body += f'    ranked = sorted(({scored}, point.payload["id"]) for point in found)\n'
    body += "    return [name for _, name in ranked[:10]]\n"
    imports = "from qdrant_client import QdrantClient" + ("" if is_folder else ", models")
    return _joined("" if is_folder else "import os\n\n", imports, load, setup, body)


def _joined(before: str, imports: str, load: str, setup: str, body: str) -> str:
    text = OPENING.format(imports=imports, load=load, setup=setup, body=body)
    return before + (text if "np." in text else text.replace("import numpy as np\n", "", 1))
