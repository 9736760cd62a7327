"""Failures and their exit codes: one class, one code."""

import pytest

from job.core.errors import EXIT_CODES, DataError, EmbedtuneError, StorageError, translated

CLASSES = EmbedtuneError.__subclasses__()


def test_each_failure_has_an_exit_code_and_a_meaning_of_its_own():
    """In the order of the codes; README and help are generated from this table.

    A subclass of a failure would share its code with it, and no test here would notice.
    """
    assert list(EXIT_CODES) == list(range(16))
    assert len(set(EXIT_CODES.values())) == 16
    assert not [sub for error in CLASSES for sub in error.__subclasses__()]


def test_what_is_expected_is_translated_and_a_bug_is_not():
    """A failure prints as its one sentence, whatever a stranger's name in it holds."""

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
