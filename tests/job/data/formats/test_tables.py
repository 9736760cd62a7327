"""CSV and its relatives: delimiters by the text, headers that are none, encodings."""

import json

import pytest
from fuzz.ugly_files import as_lines, as_table, plain, texts
from suggested_commands import commands_in, run_command

from job.core.errors import DataError, SpecError
from job.data.readers import read_records
from job.data.sources import open_source
from job.data.tables import guess_names
from job.spec.parse import build_spec, parse_assignments
from job.spec.schema import DataSpec

ROWS = [
    {"question": "Which one, a or b?", "context": "It is a; b is another | one, or so."},
    {"question": "plain", "context": "text"},
]


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_text_says_what_separates_the_fields(tmp_path, suffix, delimiter):
    """Whatever the suffix, and whatever else the texts hold."""
    path = tmp_path / f"a{suffix}"
    path.write_text(as_table(ROWS, delimiter), newline="")
    assert [record.fields for record in read_records(path)] == ROWS


def test_a_spreadsheets_own_word_about_it_is_no_header(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("sep=;\r\n" + as_table(ROWS, ";"), newline="")
    assert [(record.row, record.fields) for record in read_records(path)] == [
        (3, ROWS[0]),
        (4, ROWS[1]),
    ]


HEADERLESS = [[f"Where is item {n}?", f"Item {n} lies on shelf {n}.", f"It {n} is far away."]
              for n in range(40)]  # fmt: skip


def headerless(path, delimiter="\t"):
    path.write_text("".join(delimiter.join(row) + "\n" for row in HEADERLESS))
    return path


@pytest.mark.parametrize(("name", "delimiter"), [("a b.tsv", "\t"), ("a.csv", ",")])
def test_a_file_without_a_header_is_refused_with_the_line_to_add(
    tmp_path, monkeypatch, name, delimiter
):
    """Its first row would be lost; the command that is suggested reads all of them."""
    path = headerless(tmp_path / name, delimiter)
    with pytest.raises(DataError, match="has no header line") as caught:
        open_source(str(path), DataSpec())
    message = str(caught.value)
    header = delimiter.join(["question", "context", "negative"]).replace("\t", r"\t")
    assert f"Add the line `{header}`" in message
    monkeypatch.chdir(tmp_path)
    (command,) = commands_in(message)
    assert "40 rows, 40 usable" in run_command(command, "data.min_test_queries=1")


def test_texts_that_are_named_as_columns_are_not_believed(tmp_path):
    """As they repeat as values, or are not all questions: an earlier refusal advised to."""
    path = headerless(tmp_path / "a.tsv")
    named = {"anchor": HEADERLESS[0][0], "positive": HEADERLESS[0][1]}
    with pytest.raises(DataError, match="has no header line"):
        open_source(str(path), DataSpec(columns=named))


def test_a_form_whose_columns_are_questions_can_be_named(tmp_path):
    path = tmp_path / "a.csv"
    rows = [{"What would you ask?": q["question"], "What is a good answer?": q["context"]}
            for q in plain(3)]  # fmt: skip
    path.write_text(as_table(rows), newline="")
    with pytest.raises(DataError, match="has no header line"):
        open_source(str(path), DataSpec())
    names = [*rows[0]]
    source = open_source(str(path), DataSpec(columns={"anchor": names[0], "positive": names[1]}))
    assert [row.row for row in source.rows] == [2, 3, 4]


@pytest.mark.parametrize(
    "header",
    [
        "question,context",
        "Frage,Antwort",
        "问题,上下文",
        "Customer Question Text,Answer given",
        "question_1,answer_2",
        "Q1,A1",
        "The customer's own question,What we say",
    ],
)
def test_names_of_columns_are_no_texts(tmp_path, header):
    path = tmp_path / "a.csv"
    path.write_text(
        f"{header}\nWhere is it now?,It is here on the shelf below the pump.\n", "utf-8"
    )
    assert len([*read_records(path)]) == 1


@pytest.mark.parametrize(
    "rows",
    [
        "red valve opening,turn the lever twice\nkiln temperature degrees,nine hundred by day\n",
        "17,Where is it?,It is here.\n18,How is it?,It is warm.\n",
        "q17,Where is it?,It is here.\nq18,How is it?,It is warm.\n",
        "Where is it?,It is here.,1\nHow is it?,It is warm.,0\n",
        "怎么打开红色的阀门,把杠杆转两圈就打开了\n窑炉白天的温度是多少,白天保持在九百度左右\n",
    ],
    ids=["no marks", "numbers", "ids", "labels", "Chinese"],
)
def test_first_lines_like_those_below_are_no_header(tmp_path, rows):
    path = tmp_path / "a.csv"
    path.write_text(rows, "utf-8")
    with pytest.raises(DataError, match="has no header line"):
        [*read_records(path)]


def test_columns_are_named_by_what_they_hold():
    rows = [["17", "It is here.", "Where is it?", "No."], ["18", "Two turns do.", "How?", "It is."]]
    assert guess_names(rows) == ["id", "context", "question", "negative"]


SAMPLES = {
    "cp1252": texts(),
    "cp1251": [{"question": f"Где красный клапан {n}?", "context": f"Он на полке {n}, внизу."}
               for n in range(40)],
    "cp932": [{"question": f"赤いバルブはどこですか{n}？", "context": f"棚の引き出しの中です{n}。"}
              for n in range(40)],
    "gb18030": [{"question": f"红色阀门在哪里{n}？", "context": f"它在架子下面的抽屉里{n}。"}
                for n in range(40)],
    "utf-16-le": texts(),
}  # fmt: skip


@pytest.mark.parametrize("encoding", SAMPLES)
@pytest.mark.parametrize("write", [as_table, as_lines])
def test_another_encoding_is_refused_with_the_command_that_reads_it(tmp_path, encoding, write):
    """The likely encoding is named, and with it every text is read right."""
    path = tmp_path / ("a.csv" if write is as_table else "a.jsonl")
    path.write_bytes(write(SAMPLES[encoding]).encode(encoding))
    with pytest.raises(DataError, match="is not UTF-8") as caught:
        list(open_source(str(path), DataSpec()).rows)
    (command,) = commands_in(str(caught.value))
    assert command.startswith(f"embedtune check {path} --set ")
    settings = parse_assignments(command.split(" --set ")[1:])
    spec = build_spec({}, settings).data
    read = [(row.anchor, row.positives[0]) for row in open_source(str(path), spec).rows]
    assert read == [(row["question"], row["context"]) for row in SAMPLES[encoding]]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json"])
def test_utf_16_with_its_mark_is_read(tmp_path, name):
    """As spreadsheets save it under the name of Unicode."""
    write = {"a.csv": as_table, "a.jsonl": as_lines, "a.json": json.dumps}[name]
    (tmp_path / name).write_bytes(write(texts()).encode("utf-16"))
    assert [record.fields for record in read_records(tmp_path / name)] == texts()


@pytest.mark.parametrize("name", ["no-such", "hex"])
def test_an_unknown_encoding_is_a_mistake_in_the_spec(tmp_path, name):
    path = tmp_path / "a.csv"
    path.write_text(as_table(ROWS))
    with pytest.raises(SpecError, match=f"there is no encoding `{name}`"):
        open_source(str(path), DataSpec(encoding=name))
