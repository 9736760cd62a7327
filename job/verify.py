"""`verify`: compare an endpoint with the run whose model it should serve."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from job.core.errors import GateNotMet
from job.data.dataset import Corpus, Queries
from job.evaluation.evaluate import Vectors, embed, sample_corpus, score_vectors
from job.evaluation.metrics import METRIC
from job.model.encoder import Model
from job.model.parts import ROLES, Role, max_tokens, token_counts
from job.serving.endpoints import KINDS, Endpoint, FloatArray
from job.serving.findings import (
    BATCH,
    COSINE,
    HALF_COSINE,
    HALVES,
    PLURAL,
    Finding,
    Served,
    cosines,
    inspect_dimensions,
    inspect_long_text,
    inspect_vectors,
)
from job.serving.test_set import read_test_set
from job.stored_run import load_stored_model, read_stored_report

# Texts of each role that are inspected closely: those with the lowest cosines.
SAMPLE = 8
# Queries sent one at a time, to measure the latency.
TIMED = 50
# The largest difference of nDCG@10 between the endpoint and the stored model.
MAX_LOSS = 0.005
SEEN = (
    "Note: the stored model has seen the test queries. The scores below compare "
    "the endpoint with that model; they are too high for new questions."
)
SEED = 42


@dataclass(frozen=True)
class Options:
    """`documents` is the size of the corpus to search; relevant documents always stay in it."""

    documents: int = 2000
    float16: bool = False
    device: str = "auto"


def verify_run(
    folder: Path, endpoint: Endpoint, options: Options, echo: Callable[[str], object]
) -> None:
    """Pass what was measured to `echo`; raise `GateNotMet` if the endpoint serves other vectors."""
    report = read_stored_report(folder)
    queries, corpus = read_test_set(folder / "data")
    part = sample_corpus(queries, corpus, options.documents, SEED)
    queries, corpus = part.queries, part.corpus
    if report.has_seen_test:
        echo(SEEN)
    is_half = options.float16 or endpoint.dtype in HALVES
    model = load_stored_model(folder, report, options.device)
    served = Served(endpoint, model, HALF_COSINE if is_half else COSINE)
    computed = f", computes in {endpoint.dtype}" if endpoint.dtype else ""
    echo(f"Endpoint: {endpoint.target} ({KINDS[endpoint.kind]}{computed})")
    latency = _latency(served, queries)
    measured = _measure(served, queries, corpus, report.recommendation.dimension)
    for line in measured.lines:
        echo(line)
    echo(latency)
    echo(measured.throughput)
    findings = measured.findings
    if all(np.isfinite(found).all() for found in measured.vectors.values()):
        findings = findings + _probe(served, queries, corpus, report.recommendation.dimension)
    for finding in findings:
        echo(f"{'Wrong' if finding.is_wrong else 'Note'}: {finding.sentence}.")
    if wrong := [finding.sentence for finding in findings if finding.is_wrong]:
        msg = f"`{endpoint.target}` does not serve the model of `{folder.name}`: "
        raise GateNotMet(msg + "; ".join(dict.fromkeys(wrong)) + ".")
    echo(f"The endpoint serves the model of `{folder.name}` as it is stored.")


@dataclass(frozen=True)
class _Measured:
    lines: list[str]
    throughput: str
    findings: list[Finding]
    vectors: dict[Role, FloatArray]


def _measure(served: Served, queries: Queries, corpus: Corpus, recommended: int) -> _Measured:
    """Embed all texts by the endpoint and by the model; compare vectors and scores."""
    stored = embed(served.model, queries, corpus, BATCH)
    texts: dict[Role, list[str]] = {
        "query": queries.texts.to_pylist(),
        "document": corpus.texts.to_pylist(),
    }
    found: dict[Role, FloatArray] = {"query": _embed_all(served, texts["query"], "query")}
    started = time.perf_counter()
    found["document"] = _embed_all(served, texts["document"], "document")
    rate = len(corpus) / (time.perf_counter() - started)
    closeness: dict[Role, FloatArray] = {
        "query": cosines(found["query"], stored.queries.cpu().numpy()),
        "document": cosines(found["document"], stored.corpus.cpu().numpy()),
    }
    lines = [
        f"Cosine with the stored model's vectors, {len(values)} {PLURAL[role]}: "
        f"at least {values.min():.5f}, mean {values.mean():.5f}"
        for role, values in closeness.items()
    ]
    worst: dict[Role, list[int]] = {
        role: closeness[role].argsort()[:SAMPLE].tolist() for role in ROLES
    }
    sample = {role: [texts[role][n] for n in worst[role]] for role in ROLES}
    findings = inspect_vectors(served, sample, {r: found[r][worst[r]] for r in ROLES})
    more_lines, losses = _rescore(served, found, stored, queries, recommended)
    return _Measured(
        lines + more_lines,
        f"Throughput: {rate:.0f} documents a second, {BATCH} a request",
        findings + losses,
        found,
    )


def _embed_all(served: Served, texts: list[str], role: Role) -> FloatArray:
    starts = range(0, len(texts), BATCH)
    return np.concatenate([served.vectors(texts[n : n + BATCH], role) for n in starts])


def _rescore(
    served: Served,
    found: dict[Role, FloatArray],
    stored: Vectors,
    queries: Queries,
    recommended: int,
) -> tuple[list[str], list[Finding]]:
    """Score the test set by the endpoint's vectors, by the ruler of the report."""
    width = min(served.model.width, *(vectors.shape[1] for vectors in found.values()))
    query_vectors, corpus_vectors = (
        torch.from_numpy(np.nan_to_num(found[role], posinf=0, neginf=0)) for role in ROLES
    )
    dimensions = sorted({width, min(recommended, width)}, reverse=True)
    actual = score_vectors(
        Vectors(query_vectors, corpus_vectors, stored.device), queries, dimensions
    )
    expected = score_vectors(stored, queries, dimensions)
    lines, findings = [], []
    for dimension in dimensions:
        before = expected[dimension]["float32"].mean(METRIC)
        after = actual[dimension]["float32"].mean(METRIC)
        change = (
            f"nDCG@10 at {dimension} dimensions is {after:.4f}, by the stored model {before:.4f}"
        )
        lines.append(f"{change} ({len(queries)} queries)")
        if abs(after - before) > MAX_LOSS:
            findings.append(Finding(f"{change} ({after - before:+.4f})"))
    return lines, findings


def _probe(served: Served, queries: Queries, corpus: Corpus, recommended: int) -> list[Finding]:
    """Ask for the recommended dimension, and for the vector of a long text."""
    findings = []
    if recommended < served.model.width:
        texts = queries.texts[:SAMPLE].to_pylist()
        findings += inspect_dimensions(served, texts, recommended)
    limit = max_tokens(served.model.encoder, "document")
    if np.isfinite(limit):
        findings += inspect_long_text(served, _long_text(served.model, corpus, limit), int(limit))
    return findings


def _long_text(model: Model, corpus: Corpus, limit: float) -> str:
    """Join documents to a text of twice the tokens that the model reads."""
    texts = corpus.texts.to_pylist()
    text = ""
    while token_counts(model.encoder, [text], "document")[0] < 2 * limit:
        text = f"{text} {' '.join(texts)}" if text else texts[0]
        words = text.split()
        text = " ".join(words[: int(4 * limit)])
    return text


def _latency(served: Served, queries: Queries) -> str:
    texts = queries.texts[: TIMED + 1].to_pylist()
    seconds = []
    for text in texts:
        started = time.perf_counter()
        served.vectors([text], "query")
        seconds.append(time.perf_counter() - started)
    # The first request may start something.
    timed = np.array(seconds[1:] or seconds) * 1000
    middle, high = np.percentile(timed, [50, 95])
    return (
        f"Latency of one of {len(timed)} {PLURAL['query']}: p50 {middle:.1f} ms, p95 {high:.1f} ms"
    )
