"""Other tests of both models, beside the one that decides: another domain, other rules."""

from collections.abc import Mapping
from dataclasses import dataclass

from job.article_rules import article_test
from job.data import Corpus, Dataset, Queries
from job.evaluate import Dimensions, score
from job.model import Model, Prompts
from job.probe import load_probe
from job.ranking import METRIC, Scores
from job.report_scores import Both, Lift
from job.report_scores import SideTest as Results
from job.rows import Channels
from job.significance import GroupedQueries
from job.spec import JobSpec
from job.wording import change, format_p, interval


@dataclass(frozen=True)
class Verdicts:
    """What a difference means here, if it is beyond chance and if it is not."""

    gain: str
    loss: str
    neither: str

    def of(self, lift: Lift) -> str:
        if lift.is_gain:
            return self.gain
        return self.loss if lift.is_loss else self.neither


FORGETTING = Verdicts("it gained there too", "it forgot", "no loss beyond chance")
OTHER_RULES = Verdicts(
    "the gain holds under them", "a loss under them", "no difference beyond chance under them"
)


@dataclass(frozen=True)
class SideTest:
    source: str
    queries: Queries
    corpus: Corpus
    # What its sentence begins with.
    opening: str
    verdicts: Verdicts
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
        outcome = self._outcome(base[main].mean(METRIC), tuned[main].mean(METRIC), lifts[main])
        return Results(
            source=self.source,
            queries=len(self.queries),
            corpus=len(self.corpus),
            left_out=self.left_out,
            scores=Both(
                base={str(d): base[d].means() for d in dimensions.all},
                tuned={str(d): tuned[d].means() for d in dimensions.all},
            ),
            comparison={str(d): lift for d, lift in lifts.items()},
            sentence=f"{self.opening} nDCG@10 at {main} dimensions {outcome}",
        )

    def _outcome(self, before: float, after: float, lift: Lift) -> str:
        if lift.wins == lift.losses == 0:
            return f"stayed at {after:.3f}: no query changed."
        numbers = f"{change(lift.lift)} {interval(lift.ci)}, {format_p(lift.p_value)}"
        return f"went from {before:.3f} to {after:.3f}, {numbers}: {self.verdicts.of(lift)}."


def side_tests(spec: JobSpec, channels: Channels, dataset: Dataset) -> dict[str, SideTest]:
    """Prepare those that the spec asks for: `probe`, `article`."""
    tests = {}
    if probe := load_probe(spec, channels, dataset):
        opening = f"On {probe.source}, which was not trained on,"
        tests["probe"] = SideTest(
            probe.source,
            probe.queries,
            probe.corpus,
            opening,
            FORGETTING,
            left_out=probe.left_out,
        )
    if spec.evaluation.protocol == "both":
        queries, corpus = article_test(dataset)
        tests["article"] = SideTest(
            str(dataset.facts["source"]),
            queries,
            corpus,
            "By the article's rules (each row's context a document of its own, no prompts)",
            OTHER_RULES,
            Prompts(),
        )
    return tests
