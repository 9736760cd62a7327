"""The layouts that are read, in the order in which they are tried: one literal list.

Each recognizes itself: by the files of a folder, the keys of a JSON document or the fields of the
first rows. `data.format` selects one instead.
"""

from job.core.errors import DataError
from job.data.formats import beir, documents, folders, joined, nemo, row_layouts
from job.data.formats.layout import DocumentLayout, FolderLayout, Layout, RowLayout
from job.data.readers import LISTS, ROWS

LAYOUTS: tuple[Layout, ...] = (
    FolderLayout(
        "beir",
        "a folder with `corpus`, `queries` and `qrels`",
        beir.is_beir,
        open=beir.open_beir,
    ),
    FolderLayout(
        "autorag",
        "a folder with `qa.parquet` and `corpus.parquet` (AutoRAG)",
        folders.is_autorag,
        open=folders.open_autorag,
    ),
    FolderLayout(
        "saved",
        "a folder of `datasets.save_to_disk`",
        folders.is_saved,
        files=folders.saved_files,
    ),
    DocumentLayout(
        "llamaindex",
        "`queries`, `corpus`, and `relevant_docs`, `relevant_contexts` or `qrels`, in one document",
        joined.is_joined,
        joined.read_joined,
        joined.joined_documents,
    ),
    DocumentLayout(
        "squad",
        "articles of paragraphs of questions (SQuAD)",
        documents.is_squad,
        documents.read_squad,
        documents.squad_documents,
    ),
    DocumentLayout(
        "nemo",
        "`corpus` with its `path`, and `data` of ids in `pos_doc`, `neg_doc` (NVIDIA NeMo)",
        nemo.is_nemo,
        nemo.read_nemo,
        nemo.nemo_documents,
        nemo.with_corpora,
    ),
    DocumentLayout(
        "splits",
        '`{"train": […], "test": […]}`',
        documents.is_splits,
        documents.read_splits,
    ),
    DocumentLayout(
        "pandas",
        "pandas' `to_json` by column, by index or split",
        documents.is_pandas,
        documents.read_pandas,
    ),
    DocumentLayout(
        "mapping",
        "an object from questions to their contexts",
        documents.is_mapping,
        documents.read_mapping,
    ),
    DocumentLayout(
        "columns",
        "an object of lists, one for each column",
        documents.is_columns,
        documents.read_columns,
    ),
    row_layouts.TEVATRON,
    row_layouts.DPR,
    row_layouts.INSTRUCTIONS,
    row_layouts.FLAGEMBEDDING,
    row_layouts.SET,
    row_layouts.SWIFT,
    row_layouts.MSMARCO,
    row_layouts.RAGAS,
    row_layouts.NEMO,
    row_layouts.QUESTIONS,
    ROWS,
)


def layouts_for(name: str) -> tuple[Layout, ...]:
    """Return the layouts to try for a value of `data.format`."""
    if name == "auto":
        return LAYOUTS
    if name in (ROWS.name, LISTS):
        return (ROWS,)
    chosen = tuple(layout for layout in LAYOUTS if layout.name == name)
    if not any(isinstance(layout, RowLayout) for layout in chosen):
        return chosen
    # Rows of the layout may be in any document.
    holders = (known for known in LAYOUTS if isinstance(known, DocumentLayout) or _has_files(known))
    return (*holders, *(layout for layout in chosen if isinstance(layout, RowLayout)))


def _has_files(layout: Layout) -> bool:
    return isinstance(layout, FolderLayout) and layout.files is not None


def not_in(name: str, layout: Layout) -> DataError:
    """Return the error for data that is not in the layout that `data.format` names."""
    msg = f"`{name}` is not in the layout `data.format={layout.name}`, which is {layout.summary}. "
    return DataError(msg + "Leave `data.format` out to have the layout recognized.")
