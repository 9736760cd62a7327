"""Each sentence of a report holds in the situations that mislead: ties, few groups, no change."""

import pytest
import reports
import situations

from job.report.document import Report


@pytest.fixture(scope="module")
def report():
    made = {}

    def of(make):
        if make not in made:
            made[make] = Report.model_validate(make())
        return made[make]

    return of


@pytest.mark.parametrize("make", situations.SITUATIONS)
def test_a_report_equals_its_golden_file(make):
    """After an intended change, `make golden` writes the files again: read every sentence."""
    path, text = reports.golden_markdown(make)
    assert text.splitlines() == path.read_text("utf-8").splitlines()


def test_the_report_of_the_other_tests_is_that_of_a_gain():
    """Except for numbers, which depend on the machine's arithmetic."""
    made, stored = situations.gained(), reports.improved()
    assert made["verdict"]["sentence"] == stored["verdict"]["sentence"]
    assert made["comparison"].keys() == stored["comparison"].keys()
    assert keys_of(made) == keys_of(stored)


def keys_of(value, path=""):
    if isinstance(value, dict):
        return {path} | {
            k for name, inner in value.items() for k in keys_of(inner, f"{path}/{name}")
        }
    return {path}


CLAIMS = {
    situations.gained: (True, True),
    situations.gained_at_main_only: (False, False),
    situations.tie: (False, False),
    situations.nothing_changed: (False, False),
    situations.perfect_scores: (False, False),
    # Two groups show nothing, however large the lift is.
    situations.two_groups: (False, False),
    situations.uneven_groups: (True, True),
    situations.regression: (False, False),
    situations.given_test_set: (True, True),
}


@pytest.mark.parametrize("make", situations.SITUATIONS)
def test_the_verdict_is_the_one_of_the_situation(report, make):
    verdict = report(make).verdict
    assert (verdict.improved, verdict.deploy) == CLAIMS[make]


@pytest.mark.parametrize("make", situations.SITUATIONS)
def test_no_interval_of_a_measured_quantity_claims_certainty(report, make):
    """Only the reference keeps exactly all of itself."""
    made = report(make)
    for dimension, precisions in made.comparison.items():
        found = precisions.float32
        assert found.ci[0] < found.ci[1]
        assert found.wide_ci[0] <= found.ci[0]
        assert found.wide_ci[1] >= found.ci[1]
        for precision, quality in precisions.items():
            assert quality.score_ci[0] < quality.score_ci[1]
            is_reference = (dimension, precision) == (made.full, "float32")
            assert (quality.retention.at_least == 1.0) == is_reference
            assert (quality.retention.ci == (1.0, 1.0)) == is_reference
            assert quality.retention.at_least <= quality.retention.share
    assert made.swap.worse.ci[0] < made.swap.worse.ci[1]
