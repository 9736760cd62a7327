"""Requirements are parsed before a launch, decided by the lower bound, and reported together."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from reports import improved

from job.core.errors import GateNotMet, SpecError
from job.report.document import Report
from launcher.cli import main
from launcher.runs.requirements import Requirement, parse_requirement, require

MEASURED = improved()["comparison"]["64"]
FLOAT32, INT8 = MEASURED["float32"], MEASURED["int8_rescored"]
REPORT = Report.model_validate(
    improved(
        verdict__dimension=128,
        comparison={
            "384": {"float32": FLOAT32 | {"ci": [0.01, 0.05], "score_ci": [0.85, 0.95]}},
            "128": {
                "float32": FLOAT32 | {"ci": [0.0, 0.08], "score_ci": [0.8, 0.9]},
                "int8_rescored": INT8 | {"score_ci": [0.79, 0.9]},
            },
        },
    )
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lift>0", ("lift", ">", 0.0, None, "float32")),
        (" lift >= -0.01 at 64 ", ("lift", ">=", -0.01, "64", "float32")),
        ("nDCG@10>=.8 at 128 as int8", ("ndcg@10", ">=", 0.8, "128", "int8")),
    ],
)
def test_a_requirement_is_parsed(text, expected):
    assert parse_requirement(text) == Requirement(text, *expected)


@pytest.mark.parametrize(
    "text", ["", "lift", "lift<0", "lift>much", "mrr@10>0.5", "lift>0 at all", "lift>0 as int8"]
)
def test_an_invalid_requirement_is_refused(text):
    with pytest.raises(SpecError, match="--require"):
        parse_requirement(text)


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("lift>=0", True),
        # The lower bound equals the threshold.
        ("lift>0", False),
        ("lift>0 at 384", True),
        ("ndcg@10>=0.8", True),
        ("ndcg@10>0.8", False),
        # The mean is above the threshold, the lower bound is not.
        ("ndcg@10>=0.84", False),
        ("ndcg@10>=0.79 as int8_rescored", True),
        ("ndcg@10>=0.8 at 128 as int8_rescored", False),
    ],
)
def test_the_lower_bound_decides(text, met):
    if met:
        require(REPORT, [parse_requirement(text)])
    else:
        with pytest.raises(GateNotMet, match="its lower bound must meet"):
            require(REPORT, [parse_requirement(text)])


def test_all_unmet_requirements_are_reported_together():
    required = [parse_requirement(text) for text in ("lift>0", "lift>=0", "ndcg@10>=0.9 at 384")]
    with pytest.raises(GateNotMet) as caught:
        require(REPORT, required)
    message = str(caught.value)
    for part in ("`lift>0`", "128", "[0.000, 0.080]", "`ndcg@10>=0.9 at 384`", "[0.850, 0.950]"):
        assert part in message
    assert "`lift>=0`" not in message


def test_a_requirement_on_unmeasured_vectors_is_an_error():
    with pytest.raises(SpecError, match=r"64 as float32 was not measured\. Measured: 384 as"):
        require(REPORT, [parse_requirement("lift>0 at 64")])


def test_an_invalid_requirement_fails_before_the_launch(tmp_path, monkeypatch):
    """And not after hours of training."""
    monkeypatch.chdir(tmp_path)
    Path("pairs.jsonl").write_text(json.dumps({"question": "q", "context": "c"}) + "\n")
    done = CliRunner().invoke(main, ["launch", "--data", "pairs.jsonl", "--require", "good"])
    assert done.exit_code == 3
    assert not Path("runs").exists()
