"""Failures and their exit codes: one class, one code, and the drawing that shows them is true."""

import re

import pytest

from job import errors
from job.errors import EXIT_CODES, EmbedtuneError

CLASSES = EmbedtuneError.__subclasses__()


def test_each_failure_has_an_exit_code_of_its_own():
    """The codes run from 3 to 15 without gaps: 0, 1 and 2 mean other things."""
    assert sorted(error.exit_code for error in CLASSES) == list(range(3, 16))


def test_the_tree_is_flat():
    """A subclass of a failure would share its code with it, and no test here would notice."""
    assert not [sub for error in CLASSES for sub in error.__subclasses__()]


def test_the_drawn_tree_shows_every_class_with_its_code():
    """The module's docstring is what people read; it names exactly the classes that exist."""
    drawn = re.findall(r"[├└]── (\w+) +(\d+) {4}\S", errors.__doc__)
    assert drawn == [(error.__name__, str(error.exit_code)) for error in CLASSES]
    assert all(error.__name__ in vars(errors) for error in CLASSES)


def test_every_exit_code_has_a_meaning_in_the_order_of_the_codes():
    """README and help are generated from this table."""
    expected = {
        0: "done",
        1: "a bug of ours; the traceback says where",
        2: "wrong usage of the command line",
        **{error.exit_code: error.meaning for error in CLASSES},
    }
    assert list(EXIT_CODES.items()) == list(expected.items())
    assert list(EXIT_CODES) == list(range(16))
    assert len(set(EXIT_CODES.values())) == 16


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_a_failure_prints_as_its_sentence(error):
    """What a failure is raised with is what the user reads."""
    assert str(error("The sentence.")) == "The sentence."
