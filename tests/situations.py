"""Reports of made-up test sets, built by the code of a run: one for each kind of verdict.

Each function returns a report as JSON. Everything that is not a comparison (data, training,
seconds, versions) is that of a real run of the tiny encoder, `golden/before.json`.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).with_name("golden")
DIMENSIONS = FULL, MAIN, SMALL = 64, 32, 16
BEYOND = 0
DOCUMENTS = 120
ROTATION = {"base_truncated": 0.3571, "rotated": 0.3814}
WORDS = ("refund", "invoice", "bucket", "policy", "region", "token", "quota", "alias", "shard")


class TestSet:
    """Queries with one answer each, and rankings with the answer at a given rank."""

    __test__ = False

    def __init__(self, groups, seed=0, *, near_duplicates=0):
        import pyarrow as pa

        from job.data.dataset import Corpus, Queries

        self.count, self.random = len(groups), np.random.default_rng(seed)
        draw = np.random.default_rng(99)
        texts = [" ".join(draw.choice(WORDS, 9)) + f" d{i}" for i in range(DOCUMENTS)]
        # The document after an answer repeats it.
        for answer in range(0, 2 * near_duplicates, 2):
            texts[answer + 1] = f"{texts[answer]} again"
        self.corpus = Corpus(
            pa.array([f"d{i:03}" for i in range(DOCUMENTS)]), pa.array(texts, pa.large_string())
        )
        questions = [
            f"{'how' if i % 2 else 'what'} about {texts[i % DOCUMENTS][:30]}?"
            for i in range(self.count)
        ]
        self.queries = Queries(
            ids=pa.array([f"q{i:03}" for i in range(self.count)]),
            texts=pa.array(questions, pa.large_string()),
            offsets=np.arange(self.count + 1),
            documents=np.arange(self.count) % DOCUMENTS,
            groups=np.asarray(groups),
            segments=pa.array([("billing", "storage")[i // 2 % 2] for i in range(self.count)]),
        )

    def ranks(self, first, beyond=0.1):
        """Draw ranks: a share `first` of the queries has its answer first, some beyond 100."""
        rest = (1 - first - beyond) / 9
        return self.random.choice(
            [BEYOND, *range(1, 11)], self.count, p=[beyond, first, *[rest] * 9]
        )

    def moved(self, ranks, up, down=0.0):
        """Move a share of the answers to rank 1, and a share to rank 5."""
        chance = self.random.random(self.count)
        return np.where(chance < up, 1, np.where(chance > 1 - down, 5, ranks))

    def scores(self, ranks):
        from job.evaluation.metrics import compute_metrics

        ranked = []
        for query, rank in enumerate(ranks):
            answer = int(self.queries.documents[query])
            others = [(answer + 1 + i) % DOCUMENTS for i in range(DOCUMENTS - 1)]
            row = [*others[: rank - 1], answer, *others[rank - 1 :]] if rank else others
            ranked.append(row[:100])
        return compute_metrics(np.array(ranked), self.queries)

    def by_vector(self, ranks_by_dimension, *, smaller=True):
        """Score float32 vectors, and smaller ones: int8 as good, binary worse."""
        found = {}
        for dimension, ranks in ranks_by_dimension.items():
            found[dimension] = {"float32": self.scores(ranks)}
            if smaller:
                codes = {"int8": self.moved(ranks, 0, 0.1), "int8_rescored": ranks}
                codes |= {"binary": self.moved(ranks, 0, 0.5)}
                codes |= {"binary_rescored": self.moved(ranks, 0, 0.3)}
                found[dimension] |= {name: self.scores(code) for name, code in codes.items()}
        return found


def build(test, base, tuned, facts=None, **spec):
    """Build the report of a test set from the ranks of both models by dimension."""
    from job.data.dataset import Dataset
    from job.data.query_groups import count_groups
    from job.evaluation.auxiliary_tests import (
        ARTICLE_VERDICTS,
        OUT_OF_DOMAIN_VERDICTS,
        AuxiliaryTest,
    )
    from job.evaluation.base_vs_tuned import compare, compare_swap
    from job.evaluation.baseline import Baseline, PromptChoice
    from job.evaluation.dimensions import Dimensions
    from job.evaluation.error_analysis import analyze_errors
    from job.evaluation.hybrid import hybrid_search
    from job.evaluation.recommendation import choose
    from job.evaluation.results import Both, NumberFormats, Truncation
    from job.evaluation.significance import GroupedQueries
    from job.model.device import Machine
    from job.model.encoder import Prompts
    from job.report.build import Results, build_report
    from job.report.document import Cost
    from job.report.scope import add_scope
    from job.spec.parse import build_spec
    from job.training.hyperparameters import Hyperparameters
    from job.training.train import Training

    before = json.loads((GOLDEN / "before.json").read_text("utf-8"))
    document = before["spec"] | {"evaluation": before["spec"]["evaluation"] | spec}
    job = build_spec(document, {})
    by_group = GroupedQueries(test.queries.groups, job.evaluation.permutations, 0)
    bm25 = test.scores(test.ranks(0.3))
    scores = test.by_vector(base, smaller=False), test.by_vector(tuned)
    comparison = compare(*scores, bm25, by_group, Dimensions(DIMENSIONS, MAIN))
    swap = compare_swap(*scores, bm25, by_group, choose(comparison.points, job.evaluation)[0])
    data = {name: value for name, value in before["data"].items() if name != "truncation"}
    data |= {
        "queries": {"validation": 40, "test": test.count},
        "corpus": DOCUMENTS,
        "folds": [],
        **(facts or {}),
    }
    data |= {
        "overlap": overlap_of(test, job.data),
        "test_groups": count_groups(test.queries.groups),
    }
    training = before["training"]
    same = test.queries, test.corpus
    opening = "On out-of-domain data (other.jsonl),"
    probe = AuxiliaryTest("other.jsonl", *same, opening, OUT_OF_DOMAIN_VERDICTS, "forgot")
    opening = "By the article's protocol (one document per row, no prompts),"
    article = AuxiliaryTest("pairs.jsonl", *same, opening, ARTICLE_VERDICTS)
    float32 = [{d: found["float32"] for d, found in model.items()} for model in scores]
    results = Results(
        machine=Machine("cpu", "float32", "as the spec says"),
        inputs=before["inputs"],
        dataset=Dataset(test.corpus, None, None, test.queries, None, None, None, None, data),
        base=Baseline(bm25, scores[0], PromptChoice(Prompts(), 0.5, 0.5), Prompts(), None),
        training=Training(
            model=None,
            steps=training["steps"],
            resumed_from_step=0,
            best_step=training["best_step"],
            hyperparameters=Hyperparameters(job.training, {}),
            base_validation=training["base_validation"],
            best_validation=training["best_validation"],
            history=training["history"],
        ),
        tuned_prompts=Prompts(),
        formats=NumberFormats(
            published="float32", weights="float32", activations="float32", stored="float32"
        ),
        attention={"encoding": "sdpa", "training": "eager"},
        tuned=scores[1],
        comparison=comparison,
        swap=swap,
        hybrid=hybrid_search(
            bm25,
            *scores,
            test.queries,
            by_group,
            swap,
            job.evaluation.worth,
            improved=comparison.improved,
        ),
        error_analysis=analyze_errors(
            test.queries,
            test.corpus,
            scores[0][FULL]["float32"],
            scores[1][swap.dimension][swap.precision],
            bm25,
            "topic",
            0.8,
        ),
        truncation=Truncation.model_validate(before["data"]["truncation"]),
        sizes=sizes_of(swap, scores[1]),
        auxiliary={
            "out_of_domain": probe.compare(*float32, swap.dimension, job),
            "article": article.compare(*float32, swap.dimension, job),
        },
    )
    weights = Both[str](base="0ef3a39f1c0284c1", tuned="dd90ce40760f93a7")
    cost = Cost(usd=0.217, basis="217 measured seconds of the job at $3.6 an hour")
    seconds = before["seconds"] | {"proof": 0.3}
    report = build_report("made", job, results, weights, seconds, cost)
    report = add_scope(report, results.dataset, *scores, results.sizes)
    made = json.loads(report.to_json())
    kept = ("finished", "environment", "usage", "repeat", "models", "prompts", "training")
    environment, training = made["environment"], made["training"]
    made |= {name: before[name] for name in kept}
    # Fields that reports of the version before do not have.
    made["environment"] |= {name: environment[name] for name in ("formats", "attention")}
    made["training"] |= {"lora": training["lora"], "rotation": ROTATION}
    return rounded(made)


def overlap_of(test, spec):
    """Return the facts about what the test queries share with training, as of a given test set."""
    from job.data.overlap import Overlap

    none = np.zeros(test.count, dtype=bool)
    is_given = test.queries.seen is not None
    near = np.arange(test.count) % 12 == 1 if is_given else none
    context = test.queries.seen & ~near if is_given else none
    overlap = Overlap(context, near, none, None, is_given)
    return overlap.facts(spec, "grouped", {"under_a_random_split": 0.2})


def sizes_of(swap, tuned):
    """Make up what the recommended vectors keep in a quarter and a half of the corpus."""
    from job.evaluation.metrics import METRIC
    from job.evaluation.scope import AtSize, CorpusSizes

    dimension, precision = swap.dimension, swap.precision
    full = tuned[FULL]["float32"].mean(METRIC)
    share = tuned[dimension][precision].mean(METRIC) / full
    measured = [
        AtSize(documents=n, ndcg=kept * full, full_ndcg=full, share=kept)
        for n, kept in ((30, share + 0.02), (60, share + 0.01), (DOCUMENTS, share))
    ]
    return CorpusSizes(
        dimension=dimension,
        precision=precision,
        full_dimension=FULL,
        measured=measured,
        per_doubling=-0.01,
        ci=(-0.02, -0.001),
    )


def rounded(value):
    """Round numbers, so that the last digits of a machine's arithmetic do not matter."""
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return round(value, 6) if isinstance(value, float) else value


def gained(groups=None, queries=150):
    """Tuning helps at every dimension; int8 vectors are recommended."""
    test = TestSet(np.arange(queries) if groups is None else groups)
    base, tuned = {}, {}
    before, after = test.ranks(0.4), None
    for dimension, worse in ((FULL, 0.0), (MAIN, 0.1), (SMALL, 0.3)):
        base[dimension] = test.moved(before, 0.0, worse)
        after = test.moved(before, 0.4, 0.02) if after is None else test.moved(after, 0.0, worse)
        tuned[dimension] = after
    return build(test, base, tuned)


def gained_at_main_only():
    """At full width nothing is shown; at the main dimension the tuned model is better."""
    test = TestSet(np.arange(150))
    full = test.ranks(0.5)
    short = test.moved(full, 0.0, 0.3)
    base = {FULL: full, MAIN: short, SMALL: test.moved(short, 0.0, 0.3)}
    after = test.moved(full, 0.08, 0.07)
    tuned = {FULL: after, MAIN: test.moved(after, 0.0, 0.02), SMALL: short}
    return build(test, base, tuned)


def tie():
    """As many queries gain as lose."""
    test, places = TestSet(np.arange(60)), np.arange(60) % 24
    ranks, gain, loss = test.ranks(0.5), np.isin(places, (0, 11)), np.isin(places, (1, 10))
    before = np.where(gain, 4, np.where(loss, 1, ranks))
    after = np.where(gain, 1, np.where(loss, 4, ranks))
    return build(test, dict.fromkeys(DIMENSIONS, before), dict.fromkeys(DIMENSIONS, after))


def nothing_changed():
    """The tuned model ranks every answer as the base model does."""
    test = TestSet(np.arange(150))
    ranks = dict.fromkeys(DIMENSIONS, test.ranks(0.5))
    return build(test, ranks, ranks)


def perfect_scores():
    """Both models rank every answer first."""
    test = TestSet(np.arange(40))
    ranks = dict.fromkeys(DIMENSIONS, np.ones(40, dtype=int))
    return build(test, ranks, ranks)


def two_groups():
    """All queries are about two documents."""
    return gained(np.repeat([0, 1], 20), 40)


def uneven_groups():
    """One group holds 62 of 150 queries."""
    return gained(np.maximum(0, np.arange(150) - 61), 150)


def regression():
    """The tuned model is worse at every dimension."""
    test = TestSet(np.arange(150))
    before = test.ranks(0.6)
    base = dict.fromkeys(DIMENSIONS, before)
    return build(test, base, dict.fromkeys(base, test.moved(before, 0.02, 0.35)))


def given_test_set():
    """The given test set shares contexts with training; near-duplicates of answers come first."""
    test = TestSet(np.arange(60), near_duplicates=30)
    seen = np.isin(np.arange(60) % 12, (0, 1, 2))
    test.queries = dataclasses.replace(test.queries, seen=seen)
    before = test.ranks(0.3)
    after = np.where(np.arange(60) % 4 == 0, 2, test.moved(before, 0.5))
    base, tuned = (
        dict.fromkeys(DIMENSIONS, before),
        dict.fromkeys(DIMENSIONS, after),
    )
    leakage = {"test_contexts_in_train": 0.1667, "under_a_random_split": 0.2, "removed_rows": 4}
    return build(test, base, tuned, {"leakage": leakage})


SITUATIONS = (
    gained,
    gained_at_main_only,
    tie,
    nothing_changed,
    perfect_scores,
    two_groups,
    uneven_groups,
    regression,
    given_test_set,
)
