"""The browser, and pages of good, bad and hostile reports."""

import os
from pathlib import Path

import pytest
import reports
from chromium import chromium

from job.report.compare_runs import Group, to_compare_html
from job.report.document import Report
from job.report.render import to_html

REPORTS = ("improved", "worse", "perfect", "odd", "hostile")
COMPARED = ("runs", "hostile_runs")


def html_of(name):
    if name in REPORTS:
        return to_html(Report.model_validate(getattr(reports, name)()))
    groups = [
        Group(test_set, {run: Report.model_validate(report) for run, report in runs.items()})
        for test_set, runs in getattr(reports, name)().items()
    ]
    return to_compare_html(groups)


@pytest.fixture(scope="session")
def browser():
    if "EMBEDTUNE_CHROMIUM" not in os.environ:
        pytest.skip("no browser to test with: `make test-browser` finds or installs it")
    with chromium(os.environ["EMBEDTUNE_CHROMIUM"]) as browser:
        yield browser


@pytest.fixture(scope="session")
def axe():
    """The source code of axe-core."""
    return Path(os.environ["EMBEDTUNE_AXE"]).read_text("utf-8")


@pytest.fixture(scope="session")
def write_page(tmp_path_factory):
    """Write a page once; returns its path."""
    folder = tmp_path_factory.mktemp("pages")

    def write(name):
        path = folder / f"{name}.html"
        if not path.is_file():
            path.write_text(html_of(name), "utf-8")
        return path

    return write


@pytest.fixture(scope="session", params=REPORTS + COMPARED)
def path(write_page, request):
    return write_page(request.param)
