"""Documents: each kind of file becomes Markdown with a title; what cannot be read is named."""

import os
import zipfile
from pathlib import Path

import pytest
from conftest import write_jsonl

from job.core.errors import DataError
from job.generation.documents import read_documents
from job.spec.schema import Columns, DataSpec

WORD = """<?xml version="1.0"?><w:document xmlns:w="http://schemas.openxmlformats.org/\
wordprocessingml/2006/main"><w:body><w:p><w:pPr><w:pStyle w:val="Heading1"/></w:pPr><w:r>\
<w:t>Leave</w:t></w:r></w:p><w:p><w:r><w:t>Ask your lead first.</w:t></w:r></w:p></w:body>\
</w:document>"""
STYLES = """<?xml version="1.0"?><w:styles xmlns:w="http://schemas.openxmlformats.org/\
wordprocessingml/2006/main"><w:style w:type="paragraph" w:styleId="Heading1"><w:name \
w:val="heading 1"/></w:style></w:styles>"""
RELATION = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
RELATIONS = """<?xml version="1.0"?><Relationships xmlns="http://schemas.openxmlformats.org/\
package/2006/relationships"><Relationship Id="r1" Type="{}/{}" Target="{}"/></Relationships>"""
TYPES = """<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/\
content-types"><Default Extension="xml" ContentType="application/xml"/></Types>"""
PAGE = """<html><head><title>Refunds &amp; returns</title><style>p {}</style></head><body>
<nav>Home</nav><main><h2>When</h2><p>Within <b>30</b> days.</p></main><footer>Imprint</footer>
<script>track()</script></body></html>"""


def write_word(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("[Content_Types].xml", TYPES)
        main = RELATIONS.format(RELATION, "officeDocument", "word/document.xml")
        archive.writestr("_rels/.rels", main)
        archive.writestr("word/document.xml", WORD)
        styles = RELATIONS.format(RELATION, "styles", "styles.xml")
        archive.writestr("word/_rels/document.xml.rels", styles)
        archive.writestr("word/styles.xml", STYLES)


def write_pdf(path, text):
    """Write a page with a text, or without one for an empty text, as a scanner does."""
    from pypdf import PdfWriter
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer = PdfWriter()
    page = writer.add_blank_page(300, 300)
    if text:
        font = DictionaryObject({NameObject("/Type"): NameObject("/Font")})
        font[NameObject("/Subtype")] = NameObject("/Type1")
        font[NameObject("/BaseFont")] = NameObject("/Helvetica")
        fonts = DictionaryObject({NameObject("/F1"): font})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        content = DecodedStreamObject()
        content.set_data(f"BT /F1 12 Tf 20 200 Td ({text}) Tj ET".encode())
        page[NameObject("/Contents")] = writer._add_object(content)
    with path.open("wb") as file:
        writer.write(file)


def test_each_kind_of_file_becomes_markdown_with_a_title(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "how_to.txt").write_text("Plain words.", "utf-8")
    (tmp_path / "guide.md").write_text("\n# The guide\n\nText.", "utf-8")
    (tmp_path / "page.html").write_text(PAGE, "utf-8")
    write_word(tmp_path / "staff.docx")
    write_pdf(tmp_path / "report-2026.pdf", "Revenue grew.")
    found = {d.id: (d.title, d.text.strip()) for d in read_documents(tmp_path, DataSpec()).found}
    assert found == {
        "sub/how_to.txt": ("how to", "Plain words."),
        "guide.md": ("The guide", "# The guide\n\nText."),
        "page.html": ("Refunds & returns", "## When\n\nWithin **30** days."),
        "staff.docx": ("Leave", "# Leave\n\nAsk your lead first."),
        "report-2026.pdf": ("report 2026", "Revenue grew."),
    }


def test_what_cannot_be_read_is_skipped_with_its_reason(tmp_path):
    (tmp_path / "good.txt").write_text("Words.", "utf-8")
    (tmp_path / "empty.md").write_text(" \n", "utf-8")
    (tmp_path / "broken.docx").write_bytes(b"no archive")
    (tmp_path / "broken.pdf").write_bytes(b"no pdf")
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)))
    (tmp_path / "archive.md").write_bytes(b"PK\x03\x04 and more")
    (tmp_path / "latin.html").write_text("<p>Größe und Gewicht der Geräte", "cp1252")
    write_pdf(tmp_path / "scan.pdf", "")
    found = read_documents(tmp_path, DataSpec())
    assert [document.id for document in found.found] == ["good.txt"]
    assert found.skipped["scan.pdf"] == "it has no text layer, only images"
    assert found.skipped["empty.md"] == "it has no text"
    assert found.skipped["broken.docx"].startswith("it is no Word file")
    assert found.skipped["broken.pdf"].startswith("it is no readable PDF")
    assert found.skipped["binary.txt"].startswith("it is not UTF-8")
    assert found.skipped["archive.md"].startswith("it is an Excel workbook or another ZIP archive")
    assert "looks like cp1252: `--set data.encoding=cp1252`" in found.skipped["latin.html"]
    assert "7 documents skipped" in found.warning()


@pytest.mark.parametrize("name", ["binary.txt", "broken.pdf", "broken.docx"])
def test_nothing_but_broken_documents_is_an_error(tmp_path, name):
    (tmp_path / name).write_bytes(bytes(range(256)))
    with pytest.raises(DataError, match=f"no document with a text. `{name}`: it is n"):
        read_documents(tmp_path, DataSpec())


def test_folders_behind_links_are_read_once_and_what_is_not_read_is_named(tmp_path):
    docs, shared = tmp_path / "docs", tmp_path / "shared"
    for folder in (docs, shared):
        folder.mkdir()
        (folder / "words.txt").write_text("Words.", "utf-8")
    (docs / "link").symlink_to(shared)
    (docs / "loop").symlink_to(".")
    (docs / "gone.txt").symlink_to("nowhere")
    for name in ("a.pptx", "b.pptx", "picture.png"):
        (docs / name).write_bytes(b"x")
    found = read_documents(docs, DataSpec())
    assert [document.id for document in found.found] == ["link/words.txt", "words.txt"]
    assert found.warning() == (
        "1 document skipped: `gone.txt`: it is a link to nothing. "
        "3 files of other kinds not read: 2 `.pptx`, 1 `.png`"
    )


def test_a_table_that_is_no_document_is_an_error_that_says_what_to_do(tmp_path):
    (tmp_path / "words.txt").write_text("Words.", "utf-8")
    (tmp_path / "package.json").write_text('{"name": "x"}', "utf-8")
    with pytest.raises(DataError, match=r"package\.json.*move it out of the folder"):
        read_documents(tmp_path, DataSpec())


def test_rows_are_chunks_with_their_ids_titles_and_other_fields(tmp_path):
    rows = [
        {"id": 7, "title": "T", "text": "one", "url": "a.html", "lang": "en"},
        {"text": "two", "lang": "de"},
        {"text": None},
    ]
    found = read_documents(write_jsonl(tmp_path / "chunks.jsonl", rows), DataSpec())
    first, second = found.found
    assert (first.id, first.title, first.text, first.parent) == ("7", "T", "one", "a.html")
    assert first.fields == {"url": "a.html", "lang": "en"}
    assert (second.id, second.parent, second.is_row) == ("chunks.jsonl:2", None, True)
    assert found.skipped == {"chunks.jsonl": "1 row without a text"}


def test_named_columns_win(tmp_path):
    rows = [{"text": "no", "body": "yes", "url": "u", "book": "b"}]
    columns = Columns(corpus_text="body", document="book")
    file = write_jsonl(tmp_path / "chunks.jsonl", rows)
    (found,) = read_documents(file, DataSpec(columns=columns)).found
    assert (found.text, found.parent) == ("yes", "b")


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({}, "no files"),
        ({"picture.png": b"x"}, "1 `.png`"),
        ({"empty.txt": b" "}, "`empty.txt`"),
        ({"rows.jsonl": b'{"words": "x"}\n'}, "`words`"),
    ],
)
def test_no_documents_is_an_error_that_names_what_was_found(tmp_path, files, named):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=named):
        read_documents(tmp_path, DataSpec())


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_documents(tmp_path / "gone", DataSpec())


def test_a_text_in_another_encoding_is_an_error_with_the_setting(tmp_path):
    (tmp_path / "page.txt").write_text("Größe und Gewicht der Geräte, für Käufer.", "cp1252")
    with pytest.raises(
        DataError, match=r"looks like cp1252: `--set data.encoding=cp1252`"
    ) as error:
        read_documents(tmp_path, DataSpec())
    assert "embedtune check" not in str(error.value)
    (found,) = read_documents(tmp_path, DataSpec(encoding="cp1252")).found
    assert found.text.startswith("Größe")


def test_lone_surrogates_and_names_that_are_not_utf8_are_replaced(tmp_path):
    """Some PDF files and JSON escapes have them; no tokenizer and no UTF-8 file takes them."""
    escaped = r'{"id": "a\ud83d", "text": "A broken \ud83d smile", "title": "\ud83d"}'
    (tmp_path / "rows.jsonl").write_text(escaped + "\n", "utf-8")
    Path(os.fsdecode(os.fsencode(tmp_path / "gr") + b"\xfc\xdfe.txt")).write_text("Text", "utf-8")
    found = read_documents(tmp_path, DataSpec(documents=str(tmp_path))).found
    texts = [(each.id, each.title, each.text) for each in found]
    assert ("a\ufffd", "\ufffd", "A broken \ufffd smile") in texts
    assert {each.id for each in found} == {"a\ufffd", "gr\ufffd\ufffde.txt"}
