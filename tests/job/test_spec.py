"""The spec: what it takes, what it refuses, and that a refusal says what to type instead."""

import json
import re
from importlib import resources
from typing import get_args

import pytest
from pydantic import BaseModel

from job.errors import SpecError
from job.spec import PRESETS, JobSpec, Section
from job.spec_document import (
    build_spec,
    differing_fields,
    field_rows,
    parse_assignments,
    parse_document,
)

FIELDS = [name for name, *_ in field_rows()]

DEFAULTS = {
    "version": 1,
    "preset": "balanced",
    "data": {
        "source": None,
        "subset": None,
        "split": "train",
        "revision": None,
        "max_download_gb": 50.0,
        "columns": {"anchor": None, "positive": None, "negatives": None, "group": None},
        "validation": None,
        "test": None,
        "corpus": None,
        "limit": None,
        "validation_fraction": 0.1,
        "test_fraction": 0.1,
        "near_duplicate_threshold": 0.8,
        "min_characters": 3,
        "min_test_queries": 30,
        "seed": 42,
    },
    "model": {
        "base": "BAAI/bge-base-en-v1.5",
        "max_download_gb": 50.0,
        "revision": None,
        "name": None,
        "language": None,
        "license": None,
        "query_prompt": "auto",
        "document_prompt": "auto",
        "max_length": None,
        "attention": "auto",
        "precision": "auto",
        "trust_remote_code": False,
    },
    "training": {
        "epochs": "auto",
        "batch_size": "auto",
        "mini_batch_size": "auto",
        "learning_rate": "auto",
        "dropout": 0.0,
        "cluster": 8,
        "mined_negatives": 0,
        "negative_margin": 0.95,
        "warmup_ratio": 0.1,
        "schedule": "cosine",
        "weight_decay": 0.0,
        "scale": 20.0,
        "dimension_weights": None,
        "evaluate_every": "epoch",
        "checkpoint_steps": None,
        "report_to": ["tensorboard"],
        "seed": 42,
    },
    "evaluation": {
        "dimensions": None,
        "main_dimension": 128,
        "protocol": "grouped",
        "retention": 0.99,
        "precisions": ["float32", "int8", "binary"],
        "max_bytes_per_vector": None,
        "min_ndcg": None,
        "probe": None,
        "probe_limit": 500,
        "permutations": 10_000,
        "validation_corpus_limit": 1_000,
        "batch_size": 64,
    },
    "output": {
        "uri": "runs",
        "kms_key": None,
        "hub": None,
        "hub_private": True,
        "hub_strategy": "end",
        "hub_always": False,
    },
}

# Another legal value for every field, as a user would type it, and what it is read as.
OTHERS = {
    "data.source": ("pairs.jsonl", "pairs.jsonl"),
    "data.subset": ("en", "en"),
    "data.split": ("validation[:10%]", "validation[:10%]"),
    "data.revision": ("0123", "0123"),
    "data.max_download_gb": ("0.5", 0.5),
    "data.columns.anchor": ("Frage", "Frage"),
    "data.columns.positive": ("Größe 😀", "Größe 😀"),
    "data.columns.negatives": ("[neg_1, 'neg 2']", ["neg_1", "neg 2"]),
    "data.columns.group": ("no", "no"),
    "data.validation": ("s3://bucket/valid", "s3://bucket/valid"),
    "data.test": ("../test.csv", "../test.csv"),
    "data.corpus": ("/data/corpus.jsonl", "/data/corpus.jsonl"),
    "data.limit": ("1_000", 1000),
    "data.validation_fraction": ("0.2", 0.2),
    "data.test_fraction": (".5", 0.5),
    "data.near_duplicate_threshold": ("null", None),
    "data.min_characters": ("10", 10),
    "data.min_test_queries": ("5", 5),
    "data.seed": ("0", 0),
    "model.base": ("./bge", "./bge"),
    "model.max_download_gb": ("1e3", 1000.0),
    "model.revision": ("7", "7"),
    "model.name": ('"BGE: base"', "BGE: base"),
    "model.language": ("de", "de"),
    "model.license": ("apache-2.0", "apache-2.0"),
    "model.query_prompt": ("'query: '", "query: "),
    "model.document_prompt": ('""', ""),
    "model.max_length": ("256", 256),
    "model.attention": ("eager", "eager"),
    "model.precision": ("float16", "float16"),
    "model.trust_remote_code": ("true", True),
    "training.epochs": ("3", 3),
    "training.batch_size": ("64", 64),
    "training.mini_batch_size": ("16", 16),
    "training.learning_rate": ("1e-4", 0.0001),
    "training.dropout": ("null", None),
    "training.cluster": ("1", 1),
    "training.mined_negatives": ("3", 3),
    "training.negative_margin": ("0.9", 0.9),
    "training.warmup_ratio": ("0", 0.0),
    "training.schedule": ("linear", "linear"),
    "training.weight_decay": ("0.01", 0.01),
    "training.scale": ("50", 50.0),
    "training.dimension_weights": ("[1, 0.5]", [1.0, 0.5]),
    "training.evaluate_every": ("25", 25),
    "training.checkpoint_steps": ("25", 25),
    "training.report_to": ("[]", []),
    "training.seed": ("4294967295", 4294967295),
    "evaluation.dimensions": ("[64, 32]", [64, 32]),
    "evaluation.main_dimension": ("64", 64),
    "evaluation.protocol": ("article", "article"),
    "evaluation.retention": ("0.95", 0.95),
    "evaluation.precisions": ("[float32]", ["float32"]),
    "evaluation.max_bytes_per_vector": ("256", 256),
    "evaluation.min_ndcg": ("0.8", 0.8),
    "evaluation.probe": ("builtin:aws-docs", "builtin:aws-docs"),
    "evaluation.probe_limit": ("200", 200),
    "evaluation.permutations": ("1000", 1000),
    "evaluation.validation_corpus_limit": ("100", 100),
    "evaluation.batch_size": ("8", 8),
    "output.uri": ("s3://bucket/runs", "s3://bucket/runs"),
    "output.kms_key": ("alias/results", "alias/results"),
    "output.hub": ("our-team/search.v2", "our-team/search.v2"),
    "output.hub_private": ("false", False),
    "output.hub_strategy": ("checkpoint", "checkpoint"),
    "output.hub_always": ("true", True),
}

# All of them at once, but for a minimum, which does not go with a share of one's own.
TOGETHER = {field: text for field, (text, _) in OTHERS.items() if field != "evaluation.min_ndcg"}

# Field: smallest value taken, one below it, largest value taken, one above it.
BOUNDS = {
    "data.max_download_gb": ("0.001", "0", None, None),
    "data.limit": ("1", "0", None, None),
    "data.validation_fraction": ("0", "-0.001", "0.5", "0.501"),
    "data.test_fraction": ("0", "-0.001", "0.5", "0.501"),
    "data.near_duplicate_threshold": ("0.001", "0", "1", "1.001"),
    "data.min_characters": ("1", "0", "1000", "1001"),
    "data.min_test_queries": ("1", "0", None, None),
    "data.seed": ("0", "-1", "4294967295", "4294967296"),
    "model.max_download_gb": ("0.001", "0", None, None),
    "model.max_length": ("8", "7", "131072", "131073"),
    "training.epochs": ("0", "-1", "1000", "1001"),
    "training.batch_size": ("2", "1", "65536", "65537"),
    "training.mini_batch_size": ("1", "0", None, None),
    "training.learning_rate": ("0.000001", "0", "1", "1.001"),
    "training.dropout": ("0", "-0.001", "0.999", "1"),
    "training.cluster": ("1", "0", "1024", "1025"),
    "training.mined_negatives": ("0", "-1", "20", "21"),
    "training.negative_margin": ("0.001", "0", "1", "1.001"),
    "training.warmup_ratio": ("0", "-0.001", "0.9", "0.901"),
    "training.weight_decay": ("0", "-0.001", "1", "1.001"),
    "training.scale": ("0.001", "0", "1000", "1000.001"),
    "training.dimension_weights": ("[1, 0.001]", "[1, 0]", None, None),
    "training.evaluate_every": ("1", "0", None, None),
    "training.checkpoint_steps": ("1", "0", None, None),
    "training.seed": ("0", "-1", "4294967295", "4294967296"),
    "evaluation.dimensions": ("[8, 1]", "[8, 0]", "[65536, 8]", "[65537, 8]"),
    "evaluation.main_dimension": ("1", "0", None, None),
    "evaluation.retention": ("0.001", "0", "1", "1.001"),
    "evaluation.max_bytes_per_vector": ("1", "0", None, None),
    "evaluation.min_ndcg": ("0.001", "0", "1", "1.001"),
    "evaluation.probe_limit": ("1", "0", None, None),
    "evaluation.permutations": ("100", "99", "1000000", "1000001"),
    "evaluation.validation_corpus_limit": ("1", "0", None, None),
    "evaluation.batch_size": ("1", "0", "65536", "65537"),
}
LOWER, UPPER = {"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"}


def flat(document, prefix=""):
    """Flatten sections to dotted fields."""
    fields = {}
    for key, value in document.items():
        nested = flat(value, f"{prefix}{key}.") if isinstance(value, dict) else None
        fields |= {f"{prefix}{key}": value} if nested is None else nested
    return fields


def values(spec):
    return flat(spec.model_dump(mode="json"))


def assigned(field, text):
    """Build a spec with one field assigned; return the field's value."""
    return values(build_spec({}, {field: text}))[field]


def refusal(document, assignments=None):
    with pytest.raises(SpecError) as caught:
        build_spec(document, assignments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_defaults_are_those_that_are_documented():
    """A job that says nothing means exactly this; a changed default is seen here."""
    assert JobSpec().model_dump(mode="json") == DEFAULTS
    assert build_spec({}) == JobSpec()


def test_every_field_is_listed_with_its_default_and_a_description():
    """`field_rows` has each leaf once, in the spec's order, and no field is left unexplained."""
    rows = field_rows()
    assert [(name, json.loads(default)) for name, default, _ in rows] == [*flat(DEFAULTS).items()]
    assert all(description.endswith((".", ").")) for *_, description in rows)


def test_the_schema_describes_every_field_and_allows_no_other():
    """An editor that reads the JSON Schema shows the descriptions and marks unknown fields."""
    schema = JobSpec.model_json_schema()
    sections = {"JobSpec": schema, **schema["$defs"]}
    assert {name: section["additionalProperties"] for name, section in sections.items()} == (
        dict.fromkeys(sections, False)
    )
    described = {
        (name, field)
        for name, section in sections.items()
        for field, about in section["properties"].items()
        if "$ref" not in about and not about.get("description")
    }
    assert not described


def test_a_spec_cannot_be_changed():
    """A stage that got a spec can rely on it."""
    with pytest.raises(ValueError, match="frozen"):
        JobSpec().training.epochs = 1
    with pytest.raises(ValueError, match="frozen"):
        JobSpec().training = None


# What may stand in a spec.


def test_another_value_is_known_here_for_every_field():
    """A new field must say in these tests what it takes.

    `version` has one value only, and a preset sets other fields too: see below.
    """
    assert set(OTHERS) == set(FIELDS) - {"version", "preset"}
    assert all(flat(DEFAULTS)[field] != value for field, (_, value) in OTHERS.items())


@pytest.mark.parametrize("field", OTHERS)
def test_a_dotted_assignment_sets_its_field_and_no_other(field):
    """Values are YAML: numbers, lists, null, quoted texts, `1e-4`; the rest keeps its default."""
    text, value = OTHERS[field]
    assert values(build_spec({}, {field: text})) == flat(DEFAULTS) | {field: value}


@pytest.mark.parametrize("field", OTHERS)
def test_an_assignment_wins_over_the_document(field):
    """What is typed last counts, and the document around it stays."""
    text, value = OTHERS[field]
    document = build_spec({}, {"training.seed": "7", "data.seed": "8"}).model_dump(mode="json")
    expected = flat(DEFAULTS) | {"training.seed": 7, "data.seed": 8, field: value}
    assert values(build_spec(document, {field: text})) == expected


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("training.epochs", '"3"', 3),
        ("training.epochs", "3.0", 3),
        ("training.epochs", "0.5", 0.5),
        ("training.learning_rate", '"2e-5"', 2e-5),
        ("training.learning_rate", "1e-05", 1e-5),
        ("training.learning_rate", "auto", "auto"),
        ("training.learning_rate", '"auto"', "auto"),
        ("training.epochs", '"auto"', "auto"),
        ("training.batch_size", '"auto"', "auto"),
        ("training.mini_batch_size", '"auto"', "auto"),
        ("training.mini_batch_size", "null", None),
        ("training.dropout", '"0.1"', 0.1),
        ("preset", '"quick"', "quick"),
        ("training.evaluate_every", '"10"', 10),
        ("evaluation.dimensions", '["64", "32"]', [64, 32]),
        ("evaluation.protocol", '"article"', "article"),
        ("model.trust_remote_code", "True", True),
        ("model.trust_remote_code", '"false"', False),
    ],
)
def test_hyperparameters_are_read_as_sagemaker_sends_them(field, text, value):
    """SageMaker sends strings, its SDK and its tuner strings in JSON's quotes as well."""
    assert assigned(field, text) == value


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("model.language", "no"),
        ("model.revision", "0123"),
        ("model.revision", "12:30"),
        ("model.query_prompt", "query: "),
        ("model.query_prompt", "Represent this: "),
        ("data.source", "2024-01-01"),
        ("data.source", "data: 😀.jsonl"),
    ],
)
def test_a_text_arrives_as_it_was_typed(field, text):
    """Norwegian is no boolean, a commit no octal number, and a prompt keeps its colon and space."""
    assert assigned(field, text) == text


@pytest.mark.parametrize("field", ["data.source", "model.name", "data.near_duplicate_threshold"])
@pytest.mark.parametrize("text", ["null", "~", ""])
def test_null_takes_a_value_back(field, text):
    """A field that may be empty is emptied by `null`, even where the document sets it."""
    section, name = field.split(".")
    given = 0.5 if name == "near_duplicate_threshold" else "given"
    assert values(build_spec({section: {name: given}}, {field: text}))[field] is None


@pytest.mark.parametrize(
    ("text", "uri"),
    [("runs/", "runs"), ("s3://bucket/runs//", "s3://bucket/runs"), ("s3://bucket/", "s3://bucket"),
     ("/", "/"), ("a/b", "a/b")],
)  # fmt: skip
def test_a_slash_at_its_end_makes_no_other_place(text, uri):
    """Shells complete folders so; a run is found again however its output was typed."""
    assert assigned("output.uri", text) == uri
    assert differing_fields(*(build_spec({"output": {"uri": u}}) for u in (text, uri))) == []


def test_an_assignment_does_not_change_the_document_it_is_merged_with():
    """The caller's document is as it was, so that it can be used again."""
    document = {"training": {"epochs": 2}}
    build_spec(document, {"training.epochs": "3", "data.seed": "1"})
    assert document == {"training": {"epochs": 2}}


def test_set_options_are_split_at_their_first_equals_sign():
    """A value may hold further ones, and the last of two assignments counts."""
    texts = ["data.source=a=b.jsonl", "model.name=", "training.epochs=1", "training.epochs=2"]
    assert parse_assignments(texts) == {
        "data.source": "a=b.jsonl",
        "model.name": "",
        "training.epochs": "2",
    }


# What is refused.


def test_a_set_option_without_equals_sign_is_refused_with_its_form():
    """The user reads what was typed and what is expected."""
    with pytest.raises(SpecError) as caught:
        parse_assignments(["training.epochs"])
    assert str(caught.value) == (
        "`--set training.epochs` has no `=`; expected `--set section.field=value`."
    )


@pytest.mark.parametrize("field", FIELDS)
def test_a_misspelt_field_is_named_with_the_right_one(field):
    """Wherever the field is, a typing error is refused, never ignored, and the cure is named."""
    wrong = field + field[-1]
    expected = f"`{wrong}` is not a field of the spec. Did you mean `{field}`?"
    *sections, name = wrong.split(".")
    document = {name: None}
    for section in reversed(sections):
        document = {section: document}
    assert refusal(document) == expected
    assert refusal({}, {wrong: "null"}) == expected


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"epochs": 3}, "`epochs` is not a field of the spec. Did you mean `training.epochs`?"),
        (
            {"data": {"epochs": 3}},
            "`data.epochs` is not a field of the spec. Did you mean `training.epochs`?",
        ),
        ({"zzz": 3}, "`zzz` is not a field of the spec. `embedtune schema` lists the fields."),
    ],
)
def test_a_field_in_the_wrong_place_is_named_with_the_right_one(document, message):
    """A field's own name finds its section; where nothing is near, the list of all is named."""
    assert refusal(document) == message


@pytest.mark.parametrize(
    ("document", "nearest"),
    [
        ({"trainings": {"epochs": 3}}, "`training`"),
        ({"modle": {"base": "x"}}, "`model`"),
        ({"data": {"column": {"anchor": "x"}}}, "`data.columns`"),
    ],
)
def test_a_misspelt_section_is_named_with_the_right_one(document, nearest):
    """What is near a section's name is a section, not one of the fields."""
    assert refusal(document).endswith(f"is not a field of the spec. Did you mean {nearest}?")


def bounded_fields(section=JobSpec, prefix=""):
    """Find the bounds that the schema states, by dotted field."""
    schema = JobSpec.model_json_schema()
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from bounded_fields(field.annotation, f"{prefix}{name}.")
        else:
            own = schema if section is JobSpec else schema["$defs"][section.__name__]
            keys = set(re.findall(r'"(\w+)": ', json.dumps(own["properties"][name])))
            if keys & (LOWER | UPPER):
                yield f"{prefix}{name}", bool(keys & LOWER), bool(keys & UPPER)


def test_the_bounds_below_are_those_of_the_schema():
    """No bound goes untested, and none is stated here that the spec has not."""
    stated = {(f, low is not None, high is not None) for f, (low, _, high, _) in BOUNDS.items()}
    assert stated == set(bounded_fields())


@pytest.mark.parametrize("field", BOUNDS)
def test_a_value_at_its_bound_is_taken(field):
    """The limits belong to what is allowed."""
    low, _, high, _ = BOUNDS[field]
    for text in filter(None, (low, high)):
        assert assigned(field, text) == json.loads(text)


@pytest.mark.parametrize("field", BOUNDS)
def test_a_value_beyond_its_bound_is_refused_with_what_was_found(field):
    """The message names the field, the limit and the value."""
    _, below, _, above = BOUNDS[field]
    for text in filter(None, (below, above)):
        beyond = re.sub(r"[\[\]]", "", text).split(", ")
        found = next(part for part in beyond if f"(found {part})" in refusal({}, {field: text}))
        pattern = rf"`{field}`: .*Input should be (greater|less) than .* \(found {found}\)"
        assert re.fullmatch(pattern, refusal({}, {field: text}))


@pytest.mark.parametrize(
    ("field", "taken", "expected"),
    [
        ("version", ["1"], "1"),
        ("preset", ["quick", "balanced", "best"], "'quick'"),
        ("model.attention", ["auto", "sdpa", "eager", "flash_attention_2"], "'auto'"),
        ("model.precision", ["auto", "float32", "bfloat16", "float16"], "'auto'"),
        ("training.schedule", ["cosine", "linear", "constant_with_warmup"], "'cosine'"),
        ("evaluation.protocol", ["grouped", "article"], "'grouped'"),
        ("output.hub_strategy", ["end", "checkpoint"], "'end'"),
        ("training.epochs", ["auto"], "'auto'"),
        ("training.batch_size", ["auto"], "'auto'"),
        ("training.mini_batch_size", ["auto"], "'auto'"),
        ("training.learning_rate", ["auto"], "'auto'"),
        ("training.evaluate_every", ["epoch"], "'epoch'"),
    ],
)
def test_a_choice_takes_its_values_and_names_them_when_it_refuses(field, taken, expected):
    """The user reads the allowed values and what was found instead."""
    assert [str(assigned(field, text)) for text in taken] == taken
    message = refusal({}, {field: "other"})
    assert message.startswith(f"`{field}`: Input should be {expected}")
    assert "(found 'other')" in message


@pytest.mark.parametrize(
    ("field", "text", "found"),
    [
        ("training.epochs", "three", "'three'"),
        ("training.batch_size", "3.5", "3.5"),
        ("training.epochs", "null", "None"),
        ("training.scale", ".nan", "nan"),
        ("evaluation.retention", ".nan", "nan"),
        ("training.scale", ".inf", "inf"),
        ("data.columns.negatives", "negative", "'negative'"),
        ("data.split", "null", "None"),
        ("data.max_download_gb", ".inf", "inf"),
        ("training.cluster", "null", "None"),
        ("output.uri", '""', "''"),
        ("output.hub_private", "null", "None"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_with_what_was_found(field, text, found):
    """Numbers are numbers, and not every field may be empty."""
    message = refusal({}, {field: text})
    assert message.startswith(f"`{field}`: ")
    assert message.endswith(f"(found {found})")


def test_an_empty_list_of_dimensions_is_refused():
    """A comparison at no dimension would say nothing."""
    assert refusal({}, {"evaluation.dimensions": "[]"}).startswith("`evaluation.dimensions`: ")


def test_a_dimension_named_twice_is_refused():
    """Its loss would count twice; the message names the field and shows the list."""
    message = refusal({}, {"evaluation.dimensions": "[64, 32, 64]"})
    assert "`evaluation.dimensions` names one twice: [64, 32, 64]" in message


@pytest.mark.parametrize(
    "name", ["search", "a/search/v2", "our team/search", "/search", "our-team/", "s3://b/r", "../x"]
)
def test_a_hub_repository_that_is_none_is_refused(name):
    """Before hours of training: the message names the field, what was found and the form."""
    message = refusal({}, {"output.hub": name})
    assert message == f"`output.hub`: expected a repository, `owner/name` (found {name!r})"


def test_the_first_three_of_many_errors_are_named_on_one_line():
    """More would not be read; one line goes into `output/failure`."""
    wrong = {"training": {"warmup_ratio": -1, "weight_decay": 2, "scale": 0, "seed": -1}}
    assert refusal(wrong) == (
        "`training.warmup_ratio`: Input should be greater than or equal to 0 (found -1); "
        "`training.weight_decay`: Input should be less than or equal to 1 (found 2); "
        "`training.scale`: Input should be greater than 0 (found 0)"
    )


@pytest.mark.parametrize("value", [3, "three", [3]])
def test_a_section_that_is_no_mapping_is_named(value):
    """The message says which section is wrong, however the value came in."""
    for document, assignments in (
        ({"training": value}, {}),
        ({}, {"training": json.dumps(value)}),
        ({"training": value}, {"training.epochs": "3"}),
    ):
        assert "`training`" in refusal(document, assignments)


def test_an_unreadable_value_is_named_with_its_field():
    """A bracket left open is a typing error of the user's, not ours."""
    assert refusal({}, {"evaluation.dimensions": "[64, 32"}) == (
        "`evaluation.dimensions`: the value '[64, 32' is not valid YAML; put it in quotes."
    )


# Presets.

# What each preset says, as JSON has it: (preset, field, value).
PRESET_FIELDS = [
    (preset, field, value)
    for preset, sections in json.loads(json.dumps(PRESETS)).items()
    for field, value in flat(sections).items()
]


def test_each_preset_has_its_values():
    """What the spec takes for a preset is what the table of presets holds, in its order."""
    assert get_args(JobSpec.model_fields["preset"].annotation) == tuple(PRESETS)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_sets_its_fields_and_no_other(preset):
    """However it is given; a field that neither it nor the user names keeps its default."""
    expected = flat(DEFAULTS) | {"preset": preset}
    expected |= {field: value for name, field, value in PRESET_FIELDS if name == preset}

    assert values(JobSpec(preset=preset)) == expected
    assert values(build_spec({"preset": preset})) == expected
    assert values(build_spec({}, {"preset": preset})) == expected
    assert values(build_spec({}, {"preset": json.dumps(preset)})) == expected
    assert values(build_spec(parse_document(f"preset: {preset}\n", "job.yaml"))) == expected
    assert values(build_spec({"preset": "balanced"}, {"preset": preset})) == expected


def test_the_balanced_preset_is_the_defaults():
    """Who names no preset gets it, and who names it gets nothing else."""
    assert PRESETS["balanced"] == {}
    assert build_spec({"preset": "balanced"}) == build_spec({}) == JobSpec()


@pytest.mark.parametrize("preset", sorted({name for name, *_ in PRESET_FIELDS}))
def test_a_preset_that_is_no_default_changes_something(preset):
    """A preset under another name would be a choice that makes no difference."""
    assert differing_fields(JobSpec(), JobSpec(preset=preset)) != ["preset"]


@pytest.mark.parametrize(("preset", "field", "value"), PRESET_FIELDS)
def test_a_given_value_wins_over_the_presets(preset, field, value):
    """In a document as in an assignment; even the default wins, where somebody wrote it down."""
    section, name = field.split(".")
    for given, text in ((OTHERS[field][1], OTHERS[field][0]),
                        (flat(DEFAULTS)[field], json.dumps(flat(DEFAULTS)[field]))):  # fmt: skip
        expected = values(JobSpec(preset=preset)) | {field: given}
        assert values(build_spec({"preset": preset, section: {name: given}})) == expected
        assert values(build_spec({"preset": preset}, {field: text})) == expected
        assert values(build_spec({section: {name: given}}, {"preset": preset})) == expected
    assert value != flat(DEFAULTS)[field]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_presets_section_may_be_given_in_part(preset):
    """A field beside those of the preset does not take the preset's values away."""
    expected = values(JobSpec(preset=preset)) | {"training.seed": 7, "evaluation.retention": 0.9}
    document = {"preset": preset, "training": {"seed": 7}, "evaluation": {"retention": 0.9}}
    assert values(build_spec(document)) == expected


@pytest.mark.parametrize("preset", PRESETS)
def test_a_section_with_all_its_lines_commented_out_has_the_presets_values(preset):
    """An empty section says no more than none."""
    text = f"preset: {preset}\ntraining:\n  # epochs: 3\nevaluation:\n"
    assert build_spec(parse_document(text, "job.yaml")) == JobSpec(preset=preset)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("given", [{}, TOGETHER])
def test_a_resolved_preset_written_and_read_is_the_same(preset, given):
    """A run's spec.json names each value, so it means the same when presets have changed."""
    spec = build_spec({"preset": preset}, given)

    document = parse_document(spec.to_json(), "spec.json")

    assert list(flat(document)) == FIELDS
    assert build_spec(document) == spec
    assert build_spec(document).to_json() == spec.to_json()


@pytest.mark.parametrize("wrong", ["fast", "Quick", "", 3, None, ["quick"], {"quick": 1}, False])
def test_an_unknown_preset_is_refused_with_those_there_are(wrong):
    """One clear line, whatever stands there, and nothing about the fields a preset sets."""
    expected = f"`preset`: Input should be 'quick', 'balanced' or 'best' (found {wrong!r})"
    assert refusal({"preset": wrong}) == expected
    assert refusal({}, {"preset": json.dumps(wrong)}) == expected


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("value", [3, "three", [3]])
def test_a_preset_does_not_hide_a_section_that_is_no_mapping(preset, value):
    """The preset's values cannot be put beneath it; the section is named all the same."""
    message = refusal({"preset": preset, "training": value})
    assert message.startswith("`training`: ")
    assert message.endswith(f"(found {value!r})")


# Documents.


def test_a_document_is_yaml_or_json():
    """Both say the same, comments and an empty file included."""
    text = "# a job\ntraining:\n  epochs: 3  # few\n  learning_rate: 1e-4\n"
    as_json = '{"training": {"epochs": 3, "learning_rate": 1e-4}}'
    assert build_spec(parse_document(text, "a")) == build_spec(parse_document(as_json, "b"))
    assert parse_document("", "empty") == parse_document("# nothing\n", "comment") == {}


def test_a_section_with_all_its_lines_commented_out_has_the_defaults():
    """Who comments out the last line of a section means its defaults, not an error."""
    document = parse_document("training:\n  # epochs: 3\ndata:\n  seed: 1\n", "job.yaml")
    expected = flat(DEFAULTS) | {"data.seed": 1, "training.batch_size": 8}
    assert values(build_spec(document, {"training.batch_size": "8"})) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "training:\n  epochs: 3\n bad\n",
            "is not valid YAML in line 3: expected <block end>, but found '<scalar>'.",
        ),
        (
            "training:\n\tepochs: 3\n",
            "is not valid YAML in line 2: found character '\\t' that cannot start any token.",
        ),
        (
            '{"training": {"epochs": 3}',
            "is not valid YAML in line 1: expected ',' or '}', but got '<stream end>'.",
        ),
        ("- training\n", "holds a list; expected sections such as `data:`."),
        ("pairs.jsonl\n", "holds a str; expected sections such as `data:`."),
        ("false\n", "holds a bool; expected sections such as `data:`."),
    ],
)
def test_a_broken_document_is_named_with_its_line(text, message):
    """The user reads which file, which line and what is wrong with it."""
    with pytest.raises(SpecError) as caught:
        parse_document(text, "job.yaml")
    assert str(caught.value) == f"`job.yaml` {message}"


@pytest.mark.parametrize(
    "text",
    [
        "training: \x00",
        "model:\n  revision: 2024-01-01\n",
        "2024-01-01: x\n",
        "data: !!set {a, b}\n",
        "model:\n  name: !!binary aGk=\n",
        "data: &data\n  columns: *data\n",
        "[" * 5000,
    ],
    ids=["nul", "date", "date key", "set", "binary", "recursive", "deep"],
)
def test_yaml_that_json_cannot_hold_is_refused_on_one_line(text):
    """Whatever YAML allows beyond JSON is the user's error with a sentence, not a traceback."""
    with pytest.raises(SpecError) as caught:
        build_spec(parse_document(text, "job.yaml"))
    assert "\n" not in str(caught.value)


def test_the_init_file_is_the_articles_job():
    """`embedtune init` writes a valid spec: the article's data, model, dimensions and card."""
    text = resources.files("launcher").joinpath("job.yaml").read_text("utf-8")
    assert values(build_spec(parse_document(text, "job.yaml"))) == flat(DEFAULTS) | {
        "data.source": "philschmid/finanical-rag-embedding-dataset",
        "data.columns.anchor": "question",
        "data.columns.positive": "context",
        "model.base": "BAAI/bge-base-en-v1.5",
        "model.name": "BGE base Financial Matryoshka",
        "model.language": "en",
        "model.license": "apache-2.0",
        "training.epochs": 4,
        "training.batch_size": 128,
        "evaluation.dimensions": [768, 512, 256, 128, 64],
        "evaluation.main_dimension": 128,
    }


def test_what_the_init_file_comments_out_is_legal_too():
    """Each commented-out field works once its `#` is taken away."""
    text = resources.files("launcher").joinpath("job.yaml").read_text("utf-8")
    live, count = re.subn(r"(?m)^  # (\w+: \S+)$", r"  \1", text)
    section, lines = re.subn(r"(?m)^# (output:|  \w+: \S+)$", r"\1", live)
    live, count = section, count + lines
    spec = build_spec(parse_document(live, "job.yaml"))
    assert (spec.data.limit, spec.training.learning_rate) == (1000, 5e-5)
    assert spec.output.uri == "s3://my-bucket/runs"
    assert spec.output.hub == "my-organization/my-model"
    assert count == 5


# Two specs.


def test_a_spec_written_and_read_is_the_same():
    """The resolved spec.json of a run is a valid job.json for another, every field included."""
    every = build_spec({}, TOGETHER)
    for spec in (JobSpec(), every, build_spec({}, {"training.learning_rate": "1e-05"})):
        again = build_spec(parse_document(spec.to_json(), "spec.json"))
        assert again == spec
        assert again.to_json() == spec.to_json()


@pytest.mark.parametrize("field", OTHERS)
def test_a_difference_is_named_by_its_field(field):
    """Exactly the field that differs is named, in either direction."""
    changed = build_spec({}, {field: OTHERS[field][0]})
    assert differing_fields(JobSpec(), changed) == differing_fields(changed, JobSpec()) == [field]


def test_equal_specs_differ_in_nothing():
    """How a value was written makes no difference."""
    document = {"training": {"scale": 20}, "data": {"min_characters": 3.0}}
    written = build_spec(document, {"data.seed": '"42"'})
    assert differing_fields(written, JobSpec()) == []


def test_every_section_refuses_unknown_fields_by_its_class():
    """A new section that forgot to derive from `Section` would let misspelt fields pass."""
    annotations = [f.annotation for f in JobSpec.model_fields.values()]
    models = [a for a in annotations if isinstance(a, type) and issubclass(a, BaseModel)]
    assert len(models) == 5
    assert all(issubclass(model, Section) for model in models)


@pytest.mark.parametrize(
    "text",
    [
        *("2024-13-45", "0x_", "1" * 5000, "!!bool x", "!!timestamp x", "!!int ''", "[" * 3000),
        ":".join(["59"] * 400) + ".5",
    ],
    ids=lambda text: text[:12],
)
def test_yaml_that_its_own_library_stumbles_over_is_refused(text):
    """As a setting and in a job file; the message says where."""
    assert refusal({}, {"training.seed": text}).startswith("`training.seed`: the value ")
    with pytest.raises(SpecError, match=r"`job.yaml` is not valid YAML") as caught:
        parse_document(f"training: {{seed: {text}}}", "job.yaml")
    assert "\n" not in str(caught.value)


def test_a_key_that_stands_twice_is_refused():
    """The last would win, and a whole section be lost in silence."""
    with pytest.raises(SpecError) as caught:
        parse_document("training: {epochs: 1}\ndata: {}\ntraining: {seed: 3}\n", "job.yaml")
    assert str(caught.value) == (
        "`job.yaml` is not valid YAML in line 3: the key `training` stands here twice."
    )


@pytest.mark.parametrize("field", ["training.epochs", "data.limit", "training.dropout"])
@pytest.mark.parametrize("text", ["no", "yes"])
def test_a_truth_value_is_no_number(field, text):
    """To Python `no` is 0 and `yes` is 1; to whoever wrote it, it is something else."""
    assert refusal({}, {field: text}) == (
        f"`{field}`: a truth value is neither a number nor a text; put it in quotes if it is one "
        f"(found {text == 'yes'})"
    )


@pytest.mark.parametrize("field", ["data.source", "data.test", "model.base", "evaluation.probe"])
@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "is empty"),
        ("a\0b", "holds a zero byte, or what is not UTF-8"),
        ("gr\udcf6\udcdfe", "holds a zero byte, or what is not UTF-8"),
        ("x" * 256, "a path may be 4095 bytes long, and each part of it 255"),
        ("x/" * 2100, "a path may be 4095 bytes long, and each part of it 255"),
    ],
)
def test_a_path_that_no_disk_can_hold_is_refused(field, text, what):
    """Before anything looks for it; nothing is not the current folder."""
    section, name = field.split(".")
    assert refusal({section: {name: text}}).startswith(f"`{field}`: {what} (found ")


def test_what_yaml_knows_and_json_does_not_is_named_by_its_field():
    """A date without quotes, in a document and as a setting."""
    expected = "`data.columns.negatives` holds what is neither text, number nor list: "
    document = parse_document("data: {columns: {negatives: [2024-01-01]}}", "job.yaml")
    assert refusal(document).startswith(expected)
    assert refusal({}, {"data.columns.negatives": "[2024-01-01]"}).startswith(expected)
