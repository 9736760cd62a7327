"""Errors and their exit codes: one class, one code."""

import pytest

from job.core.errors import EXIT_CODES, DataError, EmbedtuneError, StorageError, translated

CLASSES = EmbedtuneError.__subclasses__()


def test_each_error_has_a_unique_exit_code_and_meaning():
    """In the order of the codes; README's table is generated from this one.

    A subclass would share its parent's code unnoticed, so there is none.
    """
    assert list(EXIT_CODES) == list(range(17))
    assert len(set(EXIT_CODES.values())) == 17
    assert not [sub for error in CLASSES for sub in error.__subclasses__()]


def test_expected_exceptions_are_translated_and_bugs_are_not():
    """The message stays on one line, whatever a quoted name contains."""

    def expected(error):
        return DataError(f"`{error}` is wrong.") if isinstance(error, ValueError) else None

    with pytest.raises(DataError) as caught, translated(expected):
        raise ValueError("a\nb")  # noqa: EM101
    assert str(caught.value) == "`a\\x0ab` is wrong."
    assert caught.value.__suppress_context__
    for error in (KeyError("bug"), StorageError("known")):
        with pytest.raises(type(error)) as same, translated(expected):
            raise error
        assert same.value is error
