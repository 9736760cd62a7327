"""The options of `embedtune index` and of `python -m job index`. Needs only Click."""

import click

from job.spec.options import DEVICE, with_options

OPTIONS = (
    click.option(
        "--corpus",
        required=True,
        metavar="PATH",
        help="The documents: a file or a folder, JSON lines, JSON, CSV, TSV, Parquet, Arrow or a "
        "workbook; columns `id` and `text`, and optionally `title`.",
    ),
    click.option(
        "--to",
        required=True,
        metavar="PLACE",
        help="A folder for Parquet files, postgresql://USER@HOST/DATABASE (pgvector), "
        "http(s)://HOST:6333 (Qdrant), or qdrant:FOLDER (Qdrant without a server).",
    ),
    click.option(
        "--collection",
        metavar="NAME",
        help="Name in the database, under which queries find the index.  [default: the run's name]",
    ),
    click.option(
        "--alias",
        is_flag=True,
        help="If the name has the index of another model or corpus, build the new one beside it "
        "and then let the name point to the new one. The old one is kept.",
    ),
    click.option(
        "--dimension",
        type=click.IntRange(min=1),
        help="Dimensions of the vectors.  [default: what the report recommends]",
    ),
    click.option(
        "--precision",
        type=click.Choice(["float32", "int8", "binary"]),
        help="Precision of the stored vectors; databases have no int8.  "
        "[default: what the report recommends]",
    ),
    click.option("--with-text", is_flag=True, help="Store the texts as well."),
    click.option("--text-column", metavar="NAME", help="Column of the texts.  [default: detected]"),
    click.option("--id-column", metavar="NAME", help="Column of the ids.  [default: detected]"),
    click.option(
        "--shards",
        metavar="FOLDER",
        help="Folder of the Parquet files that a database is loaded from.  "
        "[default: a folder below the run's `index/`]",
    ),
    click.option(
        "--shard-size",
        type=click.IntRange(min=1),
        default=10_000,
        show_default=True,
        help="Documents of a Parquet file; an interruption costs at most one file.",
    ),
    click.option(
        "--batch-size",
        type=click.IntRange(min=1),
        default=64,
        show_default=True,
        help="Documents encoded at once.",
    ),
    click.option(
        "--device",
        type=DEVICE,
        default="auto",
        show_default=True,
        help="Device of this machine that encodes.",
    ),
)

index_options = with_options(OPTIONS)
