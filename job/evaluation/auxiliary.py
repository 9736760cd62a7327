"""Other tests of both models, beside the one that decides: another domain, other rules."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from job.core.formatting import change, format_p, interval
from job.data.corpus import numbered_ids
from job.data.dataset import Corpus, Dataset, Queries
from job.data.out_of_domain import load_out_of_domain
from job.data.rows import Channels
from job.data.text_keys import text_key
from job.evaluation.evaluate import Dimensions, score
from job.evaluation.metrics import METRIC, Scores
from job.evaluation.results import AuxiliaryTest as Results
from job.evaluation.results import Both, Lift
from job.evaluation.significance import GroupedQueries
from job.model.encoder import Model, Prompts
from job.spec.schema import JobSpec
from job.storage.arrow_tables import one_array

# What a gain, a loss and a difference within chance mean in each test.
FORGETTING = ("it gained there too", "it forgot", "no loss beyond chance")
OTHER_RULES = (
    "the gain holds under them",
    "a loss under them",
    "no difference beyond chance under them",
)


@dataclass(frozen=True)
class AuxiliaryTest:
    source: str
    queries: Queries
    corpus: Corpus
    # What its sentence begins with.
    opening: str
    verdicts: tuple[str, str, str]
    # None: each model's own.
    prompts: Prompts | None = None
    # Usable rows that were not taken, as a text of theirs is in the job's own data.
    left_out: int = 0

    def score(self, model: Model, dimensions: Dimensions, batch_size: int) -> dict[int, Scores]:
        """Score a model by float32 vectors at each dimension."""
        model = model if self.prompts is None else model.with_prompts(self.prompts)
        return score(model, self.queries, self.corpus, dimensions.all, batch_size)

    def facts(
        self,
        base: Mapping[int, Scores],
        tuned: Mapping[int, Scores],
        dimensions: Dimensions,
        spec: JobSpec,
    ) -> Results:
        """Compare both models' scores."""
        by_group = GroupedQueries(self.queries.groups, spec.evaluation.permutations, spec.data.seed)
        main = dimensions.main
        lifts = {
            d: by_group.lift(tuned[d].metrics[METRIC] - base[d].metrics[METRIC])
            for d in dimensions.all
        }
        means = [{str(d): found[d].means() for d in dimensions.all} for found in (base, tuned)]
        outcome = self._outcome(base[main].mean(METRIC), tuned[main].mean(METRIC), lifts[main])
        return Results(
            source=self.source,
            queries=len(self.queries),
            corpus=len(self.corpus),
            left_out=self.left_out,
            scores=Both(base=means[0], tuned=means[1]),
            comparison={str(d): lift for d, lift in lifts.items()},
            sentence=f"{self.opening} nDCG@10 at {main} dimensions {outcome}",
        )

    def _outcome(self, before: float, after: float, lift: Lift) -> str:
        if lift.wins == lift.losses == 0:
            return f"stayed at {after:.3f}: no query changed."
        numbers = f"{change(lift.lift)} {interval(lift.ci)}, {format_p(lift.p_value)}"
        verdict = self.verdicts[0 if lift.is_gain else 1 if lift.is_loss else 2]
        return f"went from {before:.3f} to {after:.3f}, {numbers}: {verdict}."


def auxiliary_tests(
    spec: JobSpec, channels: Channels, dataset: Dataset
) -> dict[str, AuxiliaryTest]:
    """Prepare those that the spec asks for: `out_of_domain`, `article`."""
    tests = {}
    if out_of_domain := load_out_of_domain(spec, channels, dataset):
        opening = f"On {out_of_domain.source}, which was not trained on,"
        found = (out_of_domain.source, out_of_domain.queries, out_of_domain.corpus)
        tests["out_of_domain"] = AuxiliaryTest(
            *found, opening, FORGETTING, left_out=out_of_domain.left_out
        )
    if spec.evaluation.protocol == "both":
        opening = "By the article's rules (each row's context a document of its own, no prompts)"
        found = (str(dataset.facts["source"]), *article_test(dataset))
        tests["article"] = AuxiliaryTest(*found, opening, OTHER_RULES, Prompts())
    return tests


def article_test(dataset: Dataset) -> tuple[Queries, Corpus]:
    """Arrange the test rows, and the contexts of all rows, as the article does.

    Each row is a query of its own, each row's context a document of its own: a context that stands
    twice is wrong under its other id. Our split stays, so nothing tested was trained on.
    """
    test = dataset.test_pairs
    rows = pa.concat_tables([part.select(["id", "positive"]) for part in dataset.tables])
    # Duplicates score alike, and the first one wins: none of the splits may come first.
    order = np.argsort(np.array(rows["id"].to_pylist(), dtype=object), kind="stable")
    ids, texts = numbered_ids("d", np.arange(len(rows))), one_array(rows["positive"]).take(order)
    # A row has the group of its question, which several rows may ask.
    asked = dataset.test
    groups = dict(zip(map(text_key, asked.texts.to_pylist()), asked.groups, strict=True))
    queries = Queries(
        ids=one_array(test["id"]),
        texts=one_array(test["anchor"]),
        offsets=np.arange(len(test) + 1),
        documents=np.argsort(order)[len(rows) - len(test) :],
        groups=np.array([groups[text_key(text)] for text in test["anchor"].to_pylist()], np.int64),
    )
    return queries, Corpus(ids, texts)
