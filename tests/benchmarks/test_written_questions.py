"""The benchmark of written questions: which rows it trains on and tests with."""

from written_questions import ALL_FILTERS, AS_MANY, OWN, RULES, UNFILTERED, divide, selections


def test_no_context_is_both_asked_about_and_tested():
    rows = [
        {"question": f"q{n}", "context": f"context {n % 40} " + "of some words " * 4}
        for n in range(60)
    ]
    rows.append({"question": "q", "context": "too short"})
    asked, test = divide(rows, 10, 25, 0)
    assert len(set(asked)) == 10
    assert len(test) == 25
    assert not {row["context"] for row in test} & {*asked, "too short"}
    assert divide(rows, 10, 25, 0) == (asked, test)


def test_each_selection_has_the_questions_that_its_filters_accept():
    kept, unreadable = [written("c1")], {"reason": "no question in the answer", "chunk_id": "c4"}
    rejected = [
        written("c1", "copied from the chunk"),
        written("c2", "not found again", split="validation"),
        written("c3", "found better elsewhere"),
        unreadable,
    ]
    own = [{"question": "own", "context": f"about {n}", "chunk_id": n} for n in ("c2", "c3", "c4")]
    found = selections(kept, rejected, own, 0)
    assert found[UNFILTERED] == kept + rejected[:3]
    assert found[RULES] == kept + rejected[1:3]
    assert found[ALL_FILTERS] == kept
    assert len(found[AS_MANY]) == 1
    assert [(row["chunk_id"], row["split"]) for row in found[OWN]] == [
        ("c2", "validation"),
        ("c3", "train"),
    ]


def written(chunk, reason=None, split="train"):
    row = {"question": f"{reason}?", "context": f"about {chunk}", "chunk_id": chunk, "split": split}
    return row | ({"reason": reason} if reason else {})
