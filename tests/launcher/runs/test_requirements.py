"""Requirements are parsed before a launch, decided by lower bounds, and reported together."""

import json
from pathlib import Path

import pytest
import reports
from click.testing import CliRunner

from job.core.errors import GateNotMet, SpecError
from job.report.document import Report
from launcher.cli import main
from launcher.runs.requirements import Requirement, parse_requirement, require

BASIS = {"p_value": 0.001, "wins": 9, "ties": 0, "losses": 1}


def lift(low, high, wide_low=None, p_value=0.001):
    wide = [low if wide_low is None else wide_low, high]
    return BASIS | {"lift": low, "ci": [low, high], "wide_ci": wide, "p_value": p_value}


def quality(score, kept):
    """Make the quality of vectors from its lower bounds."""
    retention = {"share": 1.0, "ci": [0.0, 2.0], "at_least": kept}
    return {"score_ci": [score, 0.95], "retention": retention, "bytes_per_vector": 128}


OTHERS = {"against_full_base": lift(0, 0), "against_bm25": lift(0, 0)}
REPORT = reports.improved(
    verdict__improved=True,
    verdict__deploy=True,
    recommendation__dimension=128,
    recommendation__precision="int8",
    comparison={
        "384": {"float32": lift(0.01, 0.05) | OTHERS | quality(0.85, 1.0)},
        "128": {
            "float32": lift(0.0, 0.08, -0.01) | OTHERS | quality(0.8, 0.98),
            "int8": quality(0.79, 0.97),
        },
    },
    swap__ci=[0.02, 0.06],
    swap__wide_ci=[0.01, 0.07],
    out_of_domain__dimension=128,
    out_of_domain__comparison={"128": lift(-0.01, 0.01, -0.02), "384": lift(-0.3, -0.1)},
)


def changed(**changes):
    report = json.loads(json.dumps(REPORT))
    for path, value in changes.items():
        section, name = path.split("__")
        report[section][name] = value
    return Report.model_validate(report)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lift>0", ("lift", ">", 0.0, None, None)),
        (" lift >= -0.01 at 64 ", ("lift", ">=", -0.01, "64", None)),
        ("nDCG@10>=.8 at 128 as int8", ("ndcg@10", ">=", 0.8, "128", "int8")),
        ("retention>=0.99", ("retention", ">=", 0.99, None, None)),
        ("probe>=-0.02", ("probe", ">=", -0.02, None, None)),
        ("Improved", ("improved",)),
    ],
)
def test_a_requirement_is_parsed(text, expected):
    assert parse_requirement(text) == Requirement(text, *expected)


@pytest.mark.parametrize(
    "text",
    [
        *("", "lift", "lift<0", "lift>much", "mrr@10>0.5", "lift>0 at all", "lift>0 as int8"),
        *("probe>0 as int8", "improved>0"),
    ],
)
def test_an_invalid_requirement_is_refused(text):
    with pytest.raises(SpecError, match="--require"):
        parse_requirement(text)


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("improved", True),
        # By default about the recommended vectors: 128 dimensions as int8.
        ("lift>0", True),
        ("lift>0.02", False),
        ("lift>=0.02", True),
        ("lift>0 at 384", True),
        # The interval begins at 0.
        ("lift>0 at 128", False),
        ("lift>=0 at 128", False),
        # That a loss is excluded is decided by the wider interval.
        ("lift>=-0.01 at 128", True),
        ("lift>=-0.009 at 128", False),
        ("ndcg@10>=0.79", True),
        ("ndcg@10>0.79", False),
        ("ndcg@10>=0.8 at 128", True),
        ("ndcg@10>=0.8 at 128 as int8", False),
        ("retention>=0.97", True),
        ("retention>=0.98", False),
        ("retention>=0.98 at 128 as float32", True),
        ("probe>=-0.02", True),
        ("probe>=-0.019", False),
        ("probe>=-0.02 at 384", False),
    ],
)
def test_the_lower_bound_decides(text, met):
    if met:
        require(changed(), [parse_requirement(text)])
    else:
        with pytest.raises(GateNotMet, match="bound"):
            require(changed(), [parse_requirement(text)])


@pytest.mark.parametrize("text", ["lift>0", "lift>=0", "lift>=0.01"])
def test_a_lift_passes_only_as_the_verdict_says(text):
    """The model must have improved at full width and on validation too, so an untouched base model
    does not pass `lift>=0`; a lower bound above 0 alone is not enough."""
    with pytest.raises(GateNotMet, match="significant"):
        require(changed(verdict__deploy=False), [parse_requirement(text)])


def test_a_swap_that_gains_without_a_gain_at_full_width_is_explained():
    """Its interval and p-value alone would pass."""
    report = changed(verdict__improved=False, verdict__deploy=False)
    with pytest.raises(GateNotMet, match="significant at full width first, which it is not"):
        require(report, [parse_requirement("lift>0")])
    with pytest.raises(GateNotMet, match=r"significant\.$"):
        require(changed(verdict__deploy=False), [parse_requirement("lift>0 at 128")])


def test_without_a_dimension_lift_as_float32_is_about_float32_vectors_of_the_recommended_width():
    """Not about the swap to int8, which is what `lift>0` alone requires."""
    worse = changed(recommendation__dimension=384, swap__ci=[-0.5, 0.5], verdict__deploy=False)
    require(worse, [parse_requirement("lift>0 as float32")])
    with pytest.raises(GateNotMet, match="the recommended vectors"):
        require(worse, [parse_requirement("lift>0")])
    lost = json.loads(json.dumps(REPORT))
    lost["recommendation"]["dimension"] = 384
    lost["comparison"]["384"]["float32"] |= lift(-0.05, -0.01)
    with pytest.raises(GateNotMet, match=r"384 dimensions is \[-0\.050, -0\.010\]"):
        require(Report.model_validate(lost), [parse_requirement("lift>0 as float32")])


@pytest.mark.parametrize(
    ("text", "met"),
    [("ndcg@10>=0.75", True), ("ndcg@10>=0.76", False), ("ndcg@10>=0.79 at 128 as int8", True)],
)
def test_the_score_of_chosen_vectors_needs_a_simultaneous_bound(text, met):
    """Vectors that the condition names are not chosen among several: their own interval decides."""
    report = json.loads(json.dumps(REPORT))
    report["comparison"]["128"]["int8"]["score_at_least"] = 0.75
    if met:
        require(Report.model_validate(report), [parse_requirement(text)])
    else:
        with pytest.raises(GateNotMet, match=r"bound is 0\.750"):
            require(Report.model_validate(report), [parse_requirement(text)])


def test_improved_is_about_the_full_width():
    """Vectors that are too small may lose the gain."""
    require(changed(verdict__deploy=False), [parse_requirement("improved")])
    not_improved = changed(verdict__improved=False, verdict__sentence="Not improved: why.")
    with pytest.raises(GateNotMet, match="Not improved: why"):
        require(not_improved, [parse_requirement("improved")])


def test_a_gain_at_one_dimension_needs_a_significant_p_value():
    report = json.loads(json.dumps(REPORT))
    report["comparison"]["384"]["float32"]["p_value"] = 0.06
    with pytest.raises(GateNotMet, match=r"p = 0\.060"):
        require(Report.model_validate(report), [parse_requirement("lift>0 at 384")])


def test_a_report_of_the_version_before_is_judged_at_its_main_dimension():
    """It has no swap and no simultaneous bounds."""
    report = Report.model_validate(reports.before())
    require(report, list(map(parse_requirement, ["improved", "lift>0.46", "retention>=1"])))
    with pytest.raises(GateNotMet, match="32 dimensions"):
        require(report, [parse_requirement("lift>0.47")])


def test_a_probe_needs_an_out_of_domain_test():
    report = Report.model_validate(REPORT | {"out_of_domain": None})
    with pytest.raises(SpecError, match=r"--set evaluation\.out_of_domain="):
        require(report, [parse_requirement("probe>=-0.02")])


def test_all_unmet_requirements_are_reported_together():
    texts = ("lift>0 at 128", "lift>=0", "ndcg@10>=0.9 at 384")
    with pytest.raises(GateNotMet) as caught:
        require(changed(), list(map(parse_requirement, texts)))
    message = str(caught.value)
    for part in ("`lift>0 at 128`", "[0.000, 0.080]", "`ndcg@10>=0.9 at 384`", "is 0.850"):
        assert part in message
    assert "`lift>=0`" not in message


@pytest.mark.parametrize("text", ["lift>0 at 64", "ndcg@10>0 at 64", "retention>0 at 64"])
def test_a_requirement_on_unmeasured_vectors_is_an_error(text):
    with pytest.raises(SpecError, match=r"64 as float32 was not measured\. Measured: 384 as"):
        require(changed(), [parse_requirement(text)])


def test_an_invalid_requirement_fails_before_the_launch(tmp_path, monkeypatch):
    """And not after hours of training."""
    monkeypatch.chdir(tmp_path)
    Path("pairs.jsonl").write_text(json.dumps({"question": "q", "context": "c"}) + "\n")
    done = CliRunner().invoke(main, ["launch", "--data", "pairs.jsonl", "--require", "good"])
    assert done.exit_code == 3
    assert not Path("runs").exists()
