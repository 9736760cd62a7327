"""Libraries get our variables, unless the user has set others."""

import os

import pytest

from job.runtime.libraries import VARIABLES, set_library_variables


@pytest.fixture
def unset(monkeypatch):
    for name in (*VARIABLES, "OMP_WAIT_POLICY"):
        # Set first, so that what the test sets is removed again.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_all_are_set_where_nothing_is(unset):
    set_library_variables()
    assert {name: os.environ[name] for name in VARIABLES} == VARIABLES


@pytest.mark.parametrize("name", VARIABLES)
def test_what_the_user_sets_stays(unset, monkeypatch, name):
    monkeypatch.setenv(name, "theirs")
    set_library_variables()
    assert os.environ[name] == "theirs"


def test_a_policy_of_waiting_is_not_overruled(unset, monkeypatch):
    """The number of spins would count, not the policy."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    set_library_variables()
    assert "GOMP_SPINCOUNT" not in os.environ
