"""Additional tests of both models: out-of-domain data, written questions, the article's protocol.

They do not decide the verdict.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from job.data.corpus import numbered_ids
from job.data.dataset import Corpus, Dataset, Queries
from job.data.out_of_domain import load_out_of_domain
from job.data.rows import Channels
from job.data.synthetic_test import load_synthetic_test
from job.data.text_keys import text_key
from job.evaluation.conclusions import no_loss, numbers
from job.evaluation.dimensions import Dimensions
from job.evaluation.evaluate import score
from job.evaluation.metrics import METRIC, Scores
from job.evaluation.results import AuxiliaryTest as Results
from job.evaluation.results import Both, Lift
from job.evaluation.significance import GroupedQueries
from job.model.encoder import Model
from job.model.prompts import Prompts
from job.spec.schema import JobSpec
from job.storage.arrow_tables import one_array

# The conclusion from a significant gain and from a significant loss.
OUT_OF_DOMAIN_VERDICTS = ("the tuned model gained there too", "the tuned model forgot")
SYNTHETIC_VERDICTS = ("the tuned model is better on these", "the tuned model is worse on these")
ARTICLE_VERDICTS = (
    "the tuned model is better by that protocol too",
    "the tuned model is worse by that protocol",
)


@dataclass(frozen=True)
class AuxiliaryTest:
    source: str
    queries: Queries
    corpus: Corpus
    # The start of the report's sentence.
    opening: str
    # For a gain and for a loss.
    verdicts: tuple[str, str]
    # The verb of a loss.
    lost: str = "lost"
    # None: each model uses its own prompts.
    prompts: Prompts | None = None
    # Usable rows that were skipped because one of their texts occurs in the job's data.
    left_out: int = 0

    def score(self, model: Model, dimensions: Dimensions, batch_size: int) -> dict[int, Scores]:
        """Score a model with float32 vectors at each dimension."""
        model = model if self.prompts is None else model.with_prompts(self.prompts)
        return score(model, self.queries, self.corpus, dimensions.all, batch_size)

    def compare(
        self, base: Mapping[int, Scores], tuned: Mapping[int, Scores], at: int, spec: JobSpec
    ) -> Results:
        """Compare both models' scores; the sentence of the report is about the dimension `at`."""
        by_group = GroupedQueries(self.queries.groups, spec.evaluation.permutations, spec.data.seed)
        lifts = {
            d: by_group.lift(tuned[d].metrics[METRIC] - found.metrics[METRIC])
            for d, found in base.items()
        }
        means = [{str(d): found[d].means() for d in lifts} for found in (base, tuned)]
        before, after = (found[at].mean(METRIC) for found in (base, tuned))
        outcome = self._outcome(before, after, lifts[at], spec.evaluation.worth)
        return Results(
            source=self.source,
            queries=len(self.queries),
            corpus=len(self.corpus),
            left_out=self.left_out,
            scores=Both(base=means[0], tuned=means[1]),
            comparison={str(d): lift for d, lift in lifts.items()},
            dimension=at,
            sentence=f"{self.opening} nDCG@10 at {at} dimensions: {outcome}",
        )

    def _outcome(self, before: float, after: float, lift: Lift, worth: float) -> str:
        if lift.is_gain or lift.is_loss:
            conclusion = self.verdicts[0 if lift.is_gain else 1]
        else:
            conclusion = no_loss(lift, worth, self.lost)
        return f"{numbers(before, after, lift)}: {conclusion}."


def auxiliary_tests(
    spec: JobSpec, channels: Channels, dataset: Dataset
) -> dict[str, AuxiliaryTest]:
    """Prepare the tests that the run has, by name: `out_of_domain`, `synthetic`, `article`."""
    tests = {}
    if out_of_domain := load_out_of_domain(spec, channels, dataset):
        graded = ", with relevance grades" if out_of_domain.queries.grades is not None else ""
        opening = f"On out-of-domain data ({out_of_domain.source}{graded}),"
        found = (out_of_domain.source, out_of_domain.queries, out_of_domain.corpus)
        tests["out_of_domain"] = AuxiliaryTest(
            *found, opening, OUT_OF_DOMAIN_VERDICTS, "forgot", left_out=out_of_domain.left_out
        )
    if "synthetic_test" in channels:
        queries, lost = load_synthetic_test(channels["synthetic_test"], spec.data.columns, dataset)
        if len(queries):
            written = (str(spec.generation.llm), queries, dataset.corpus)
            opening = f"On the synthetic test questions of `{spec.generation.llm}`,"
            tests["synthetic"] = AuxiliaryTest(*written, opening, SYNTHETIC_VERDICTS, left_out=lost)
    if spec.evaluation.protocol == "both":
        opening = "By the article's protocol (one document per row, no prompts),"
        found = (str(dataset.facts["source"]), *article_test(dataset))
        tests["article"] = AuxiliaryTest(*found, opening, ARTICLE_VERDICTS, prompts=Prompts())
    return tests


def article_test(dataset: Dataset) -> tuple[Queries, Corpus]:
    """Build queries from the test rows, and a corpus from the contexts of all rows.

    As in the article, each row is one query and its context one document. If a context occurs in
    two rows, only the row's own copy counts as relevant. The split is ours, so no tested row was
    trained on.
    """
    test = dataset.test_pairs
    rows = pa.concat_tables([part.select(["id", "positive"]) for part in dataset.tables])
    # Duplicates get equal scores and the first one wins, so order by id, not by split.
    order = np.argsort(np.array(rows["id"].to_pylist(), dtype=object), kind="stable")
    ids, texts = numbered_ids("d", np.arange(len(rows))), one_array(rows["positive"]).take(order)
    # Rows with the same question share its group.
    known = dataset.test
    groups = dict(zip(map(text_key, known.texts.to_pylist()), known.groups, strict=True))
    queries = Queries(
        ids=one_array(test["id"]),
        texts=one_array(test["anchor"]),
        offsets=np.arange(len(test) + 1),
        documents=np.argsort(order)[len(rows) - len(test) :],
        groups=np.array([groups[text_key(text)] for text in test["anchor"].to_pylist()], np.int64),
    )
    return queries, Corpus(ids, texts)
