"""report.json as Markdown: for GitHub, the Hub's card and a terminal without colours."""

import json
from collections.abc import Mapping
from typing import Any

from job.precision import RESCORE_MULTIPLIER
from job.ranking import DEPTH, METRIC
from job.recommendation import DOCUMENTS
from job.where_markdown import plain, where_section
from job.wording import (
    change,
    format_p,
    gigabytes,
    interval,
    on_its_lines,
    score,
    share,
    share_interval,
    spoken,
    usd,
)

Report = Mapping[str, Any]


def to_markdown(report: Report) -> str:
    sections = (
        ("", _decision(report)),
        ("Smaller vectors", f"{precision_table(report)}\n\n{PRECISION_NOTES}"),
        ("Beside BM25", _against(report)),
        ("Where", where_section(report["where"], report["verdict"]["dimension"])),
        ("Data", _data(report)),
        ("Other domains", _probe(report)),
        ("Training", _training(report)),
        ("Run", _run(report)),
        ("How to use it", usage_section(report["usage"])),
    )
    parts = [f"## {title}\n\n{text}" if title else text for title, text in sections if text]
    return on_its_lines(f"# {report['job_name']}\n\n" + "\n\n".join(parts) + "\n")


def _decision(report: Report) -> str:
    advice = "\n".join(f"- {each['finding']} {each['do']}" for each in report["advice"])
    title = "Worth a look" if report["verdict"]["improved"] else "Why it may not have helped"
    return f"""**{report["verdict"]["sentence"]}**

{report["recommendation"]["sentence"]}

{f"**{title}**{chr(10)}{chr(10)}{advice}{chr(10)}{chr(10)}" if advice else ""}{score_table(report)}

Lift is tuned minus base, with its 95 % interval (jackknife over groups of queries) and p-value \
(sign flips), each query paired with itself."""


PRECISION_NOTES = f"""\
Kept: share of the best float32 nDCG@10, with its 95 % interval.
GB: vectors only, of 10 million documents; ids, graphs and texts come on top.
int8 is calibrated on the corpus; rescored: the best {RESCORE_MULTIPLIER * DEPTH} by codes are \
ranked again by the float32 query.
Frontier: nothing as small scores higher."""


def score_table(report: Report) -> str:
    """Tabulate nDCG@10 of each dimension."""
    rows = [
        "| dimension | base | tuned | lift | 95 % interval | p | wins / ties / losses | kept |",
        "|---:|---:|---:|---:|:---:|:---:|:---:|---:|",
    ]
    for dimension, precisions in report["comparison"].items():
        lift = precisions["float32"]
        base, tuned = (
            score(report["scores"][model][dimension]["float32"][METRIC])
            for model in ("base", "tuned")
        )
        rows.append(
            f"| {dimension} | {base} | {tuned} | {_lift(lift)} | "
            f"{lift['wins']} / {lift['ties']} / {lift['losses']} | "
            f"{share(lift['retention']['share'])} |"
        )
    return "\n".join(rows)


def precision_table(report: Report) -> str:
    """Tabulate what vectors of each dimension and precision give and take."""
    rows = [
        "| dimension | precision | nDCG@10 | kept | 95 % interval | bytes | GB | |",
        "|---:|:---|---:|---:|:---:|---:|---:|:---|",
    ]
    advice = report["recommendation"]
    marks = {(str(p["dimension"]), p["precision"]): ["frontier"] for p in report["pareto"]}
    marks.setdefault((str(advice["dimension"]), advice["precision"]), []).append("**recommended**")
    for dimension, precisions in report["comparison"].items():
        for precision, found in precisions.items():
            kept, size = found["retention"], found["bytes_per_vector"]
            reached = report["scores"]["tuned"][dimension][precision][METRIC]
            rows.append(
                f"| {dimension} | {spoken(precision)} | {score(reached)} | "
                f"{share(kept['share'])} | {share_interval(kept['ci'])} | {size} | "
                f"{gigabytes(size * DOCUMENTS[1])} | "
                f"{', '.join(marks.get((dimension, precision), []))} |"
            )
    return "\n".join(rows)


def _against(report: Report) -> str:
    fusion, rows = report["fusion"], []
    for dimension, lift in fusion["comparison"].items():
        base, tuned = (score(fusion["scores"][m][dimension][METRIC]) for m in ("base", "tuned"))
        bm25 = report["comparison"][dimension]["float32"]["against_bm25"]
        rows.append(
            f"| {dimension} | {change(bm25['lift'])} {interval(bm25['ci'])} | {base} | {tuned} | "
            f"{_lift(lift)} |"
        )
    table = "\n".join(rows)
    return f"""BM25, without any model: nDCG@10 {score(report["scores"]["bm25"][METRIC])}.
{fusion["sentence"]}

| dimension | tuned minus BM25 | base, fused | tuned, fused | lift | 95 % interval | p |
|---:|:---:|---:|---:|---:|:---:|:---:|
{table}

Fused: by reciprocal rank (k = {fusion["k"]}) of BM25's and the model's first {fusion["depth"]}."""


def _lift(lift: Mapping[str, Any]) -> str:
    return f"{change(lift['lift'])} | {interval(lift['ci'])} | {format_p(lift['p_value'])}"


def _data(report: Report) -> str:
    data, protocol = report["data"], report["spec"]["evaluation"]["protocol"]
    splits = ", ".join(f"{name} {size}" for name, size in data["splits"].items())
    gone = data["dropped"] | data["dropped_documents"]
    dropped = "; ".join(f"{why} {d['rows']}" for why, d in gone.items()) or "none"
    leakage = data["leakage"]
    by = "random rows, as in the article" if protocol == "article" else "by group"
    inputs = "; ".join(
        f"{role} `{found['uri']}` at `{found.get('commit') or found['version']}`"
        for role, found in report["inputs"].items()
        if len(found) > 1
    )
    lines = [
        (
            f"Source: `{data['source']}`, {data['rows']} rows read, {data['used']} used; dropped: "
            f"{dropped}."
        ),
        f"Fetched: {inputs or 'nothing, all was here'}.",
        (
            f"Splits ({by}): {splits}; corpus: {data['corpus']} documents, those of the training "
            "included."
        ),
        (
            f"Test contexts that are also trained on: {share(leakage['test_contexts_in_train'])} "
            f"(a random split: {share(leakage['under_a_random_split'])})."
        ),
        (
            f"Longer than the {data['truncation']['max_tokens']} tokens that the model reads: "
            f"{_cut(data['truncation'], 'queries')}, {_cut(data['truncation'], 'documents')}."
        ),
        (
            "This test set shows a lift of "
            f"{score(report['verdict']['minimum_detectable_effect'])} or more (with 80 % chance)."
        ),
        report["prompts"]["sentence"],
    ]
    text = "\n".join(f"- {line}" for line in lines)
    return f"{text}\n\n{_side_test(report['article'])}" if report["article"] else text


def _cut(truncation: Mapping[str, Any], name: str) -> str:
    found = truncation[name]
    return f"{found['cut']} of {found['texts']} {name} (longest: {found['longest']})"


def _probe(report: Report) -> str:
    return _side_test(report["probe"]) if report["probe"] else ""


def _side_test(found: Mapping[str, Any]) -> str:
    rows = []
    for dimension, lift in found["comparison"].items():
        base, tuned = (score(found["scores"][m][dimension][METRIC]) for m in ("base", "tuned"))
        rows.append(f"| {dimension} | {base} | {tuned} | {_lift(lift)} |")
    table = "\n".join(rows)
    return f"""{plain(found["sentence"])}

| dimension | base | tuned | lift | 95 % interval | p |
|---:|---:|---:|---:|:---:|:---:|
{table}"""


def _training(report: Report) -> str:
    training = report["training"]
    recipe = "; ".join(
        f"{field} {json.dumps(resolved['value'])} ({resolved['reason']})"
        for field, resolved in training["recipe"].items()
    )
    rate = training["pairs_per_second"]
    lines = [
        (
            f"{training['steps']} steps, checkpoint of step {training['best_step']} (0: the base "
            f"model); preset `{report['spec']['preset']}`."
        ),
        training["remark"],
        f"`auto` became: {recipe or 'nothing, all was given'}.",
        f"Memory: at most {gigabytes(training['peak_memory']['host_bytes'])} GB on the host"
        + _device_memory(training["peak_memory"]["device_bytes"])
        + ("" if rate is None else f"; {rate:.1f} pairs a second, with the validations")
        + ".",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _device_memory(size: int | None) -> str:
    return "" if size is None else f", {gigabytes(size)} GB on the GPU"


def _run(report: Report) -> str:
    environment, models = report["environment"], report["models"]
    seconds = ", ".join(f"{name} {value:.1f}" for name, value in report["seconds"].items())
    versions = ", ".join(f"{name} {found}" for name, found in environment["versions"].items())
    fingerprints = _fingerprints(report["data"]["fingerprint"])
    lines = [
        (
            f"Finished {report['finished']} on {environment['device']}, "
            f"{environment['precision']}: {environment['reason']}."
        ),
        f"Seconds: {seconds}.",
        f"Cost: {usd(report['cost']['usd'])} ({report['cost']['basis']}).",
        f"Versions: {versions}.",
        (
            f"Fingerprints: {fingerprints}; base `{models['base']['fingerprint']}`, stored model "
            f"`{models['tuned']['fingerprint']}`."
        ),
        f"Again: `{report['repeat']['command']}`",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _fingerprints(found: Mapping[str, str]) -> str:
    return ", ".join(f"{name} `{digest}`" for name, digest in found.items())


def usage_section(usage: Mapping[str, Any]) -> str:
    """Show how to use the model, shared with the model's card."""
    parts = [f"```python\n{usage['python']}```"]
    if usage["quantized"]:
        parts.append(f"The recommended vectors:\n\n```python\n{usage['quantized']}```")
    parts.append(f"As a server:\n\n```shell\n{usage['serve']}```")
    return "\n\n".join(parts)
