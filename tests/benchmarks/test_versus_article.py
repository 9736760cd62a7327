"""What the comparison with the article keeps, and when a side is as good as the article."""

import pytest
import versus_article
from outcomes import ARTICLE, ON_VALIDATION, PHASES, Outcome, as_good_as, report_on
from versus_article import Task, kept, validations

TASK = Task("same epochs", 52, "pairs.jsonl", "model", 100, 3, "cpu", "64,32")


def outcome(validated):
    return Outcome({"train": 1.5}, {"updates": 3}, ["q1"], [0], {"base": {64: [0.5]}}, validated)


def test_a_finished_side_is_measured_once(tmp_path, monkeypatch):
    """The settings of a task tell its file from those of others."""
    measured = []

    def measure(task):
        measured.append(task)
        return outcome([(1.0, 0.5)])

    monkeypatch.setattr(versus_article, "measured", measure)
    other = Task(**{**vars(TASK), "epochs": 4})

    found = [kept(task, tmp_path) for task in (TASK, other, TASK)]

    assert measured == [TASK, other]
    assert found[0] == found[2] == outcome([(1.0, 0.5)])


def test_the_times_of_validations_are_read_from_a_runs_log():
    lines = [
        {"time": "2026-01-02T03:04:05Z", "what": "fetch"},
        {"time": "2026-01-02T03:05:05Z", "what": "validate", "dim_64_cosine_ndcg@10": 0.8},
        {"time": "2026-01-02T03:05:05Z", "what": "validate", "dim_128_cosine_ndcg@10": 0.9},
    ]

    assert validations(lines, start=5.0, main=128) == [(65.0, 0.9)]


@pytest.mark.parametrize(("quality", "share"), [(0.8, "10.0%"), (0.85, "20.0%"), (0.95, "inf%")])
def test_a_side_is_as_good_from_its_first_validation_that_reaches_the_articles_end(quality, share):
    ours = outcome([(20.0, 0.82), (40.0, 0.9), (60.0, 0.88)])

    assert share in as_good_as([outcome([(200.0, quality)])], [ours], "same epochs")


def test_times_are_printed_unless_only_scores_were_measured(capsys):
    """The article's side takes less time then than the article does."""
    found = {
        side: [
            Outcome(
                dict.fromkeys(PHASES, seconds),
                {"updates": 3},
                ["q1", "q2"],
                [0, 1],
                {row: {64: [score, score]} for row in rows},
                [(seconds, score)],
            )
        ]
        for side, seconds, score, rows in (
            (ARTICLE, 10.0, 0.5, (ARTICLE, ON_VALIDATION)),
            ("quick", 2.0, 0.75, ("base", "quick")),
        )
    }

    report_on(found)
    timed = capsys.readouterr().out
    report_on(found, with_times=False)
    untimed = capsys.readouterr().out

    assert "article: 5.0 times as long as quick" in timed
    assert "quick: as good as the article's end after 20.0% of its time" in timed
    for words in ("whole run", "times as long", "of its time"):
        assert words in timed
        assert words not in untimed
    assert "+0.250" in untimed
