"""Reports for tests: variants of `golden/run.json`, and those of `situations.py`.

`golden/run.json` is the report of the situation `gained`; `golden/before.json` is a report of the
version before it, of a real run of the tiny encoder. `python tests/reports.py` (`make golden`)
writes all golden files except `before.json`.
"""

import json
import re
import tempfile
from html.parser import HTMLParser
from pathlib import Path

import situations

from job.report.document import Report
from job.report.model_card import write_card
from job.report.render import to_html, to_markdown
from job.spec.schema import ModelSpec

GOLDEN = Path(__file__).with_name("golden")
# Markup, template code, the end of an SVG, quotes, right-to-left text, and a very long word.
HOSTILE = (
    "<script>window.hacked=1</script><img src=x onerror='window.hacked=1'>{{7*7}}{%raw%}"
    '</svg></style></title><script>window.hacked=1</script>" onclick="window.hacked=1" '
    f"javascript:window.hacked=1 `<b>` $x^2$ \u202edesrever {'endless' * 40}"
)
# Keys whose values the code looks up: they are never user text.
LOOKED_UP = ("metric", "format", "precision", "stored_as", "finished")


def before():
    """Return a report of the version before: a real run, with shortened lists."""
    return json.loads((GOLDEN / "before.json").read_text("utf-8"))


def improved(**changes):
    """Return the run's report; `changes` sets fields, `a__b` the field `b` of `a`."""
    report = json.loads((GOLDEN / "run.json").read_text("utf-8"))
    for path, value in changes.items():
        *parents, name = path.split("__")
        section = report
        for parent in parents:
            section = section[parent]
        section[name] = value
    return report


def worse():
    """Return a report with base and tuned swapped, float32 only, and training stopped early."""
    report = improved(verdict__improved=False, spec__evaluation__protocol="article")
    report["verdict"]["sentence"] = "Not improved: the tuned model is worse than the base model."
    for scores in (report["scores"], *(report[of]["scores"] for of in ("fusion", "out_of_domain"))):
        scores["base"], scores["tuned"] = scores["tuned"], scores["base"]
    for model, by_dimension in report["scores"].items():
        if model != "bm25":
            report["scores"][model] = _float32_only(by_dimension)
    report["comparison"] = _float32_only(report["comparison"])
    report["pareto"] = [report["pareto"][-1] | {"precision": "float32", "bytes_per_vector": 128}]
    report["recommendation"] |= {"precision": "float32", "stored_as": "float32"}
    report["swap"]["precision"] = "float32"
    analysis = report["error_analysis"]
    analysis["gained"], analysis["lost"] = analysis["lost"], analysis["gained"]
    report["training"]["stopped_early"] = why = "the loss is nan at step 30"
    report["training"]["remark"] = f"Training was stopped early: {why}."
    report["data"]["leakage"] |= {"test_contexts_in_train": 0.0517, "removed_rows": 3}
    finding = {"finding": "Only 320 pairs were trained on.", "do": "Bring more, with `--data`."}
    return _negated(report) | {"advice": [finding], "article": None}


def _float32_only(by_dimension):
    return {d: {"float32": found["float32"]} for d, found in by_dimension.items()}


def _negated(value):
    """Negate every lift, at any depth."""
    if not isinstance(value, dict):
        return [_negated(inner) for inner in value] if isinstance(value, list) else value
    found = {name: _negated(inner) for name, inner in value.items()}
    if "lift" in found:
        found["lift"] *= -1
        for name in ("ci", "wide_ci") & found.keys():
            low, high = found[name]
            found[name] = [-high, -low]
    for one, other in (("wins", "losses"), ("base", "tuned")):
        if "lift" in found and one in found:
            found[one], found[other] = found[other], found[one]
    return found


def odd():
    """Return a report with one dimension, no training, grades, empty lists, a GPU, inputs."""
    report = improved(verdict__improved=False, advice=[], out_of_domain=None, article=None)
    report["verdict"]["sentence"] = "Not improved: nothing was trained (`training.epochs` is 0)."
    for of in (report, report["fusion"]):
        for name, by_dimension in [*of["scores"].items(), ("comparison", of["comparison"])]:
            if name != "bm25":
                for dimension in ("64", "16"):
                    del by_dimension[dimension]
    report["pareto"] = [point for point in report["pareto"] if point["dimension"] == 32]
    report["error_analysis"] |= {
        name: [] for name in ("gained", "lost", "suspected_label_errors", "segments", "hubs")
    }
    report["training"] |= {"best_step": 0, "steps": 0, "history": [], "pairs_per_second": None}
    report["training"]["hyperparameters"] = {}
    report["training"]["peak_memory"]["device_bytes"] = 11_230_000_000
    report["data"] |= {"dropped": {}, "graded": True}
    report["usage"]["quantized"] = None
    report["cost"] = {"usd": None, "basis": "no `--price-per-hour` was given"}
    pairs = {"uri": "s3://bucket/pairs.jsonl", "version": "3HL4kqtJ", "files": 2, "bytes": 9}
    report["keep_index"] = kept_index()
    report["inputs"] = {"model": {"uri": "some/model", "commit": "c0ffee"}, "data": pairs}
    report["exports"] = [measured_exports()]
    report["stored"] = stored()
    report["data"]["folds"] = [14, 13, 13]
    fold = {"queries": 14, "validation": 0.77, "base": 0.75, "tuned": 0.78, "lift": 0.03}
    report["scope"]["folds"] = [fold, fold | {"lift": 0.04}, fold | {"lift": -0.01}]
    return report


def measured_exports():
    """Return three exports, one of which is not shown to keep the original's nDCG@10."""
    lift = {"lift": 0.0, "ci": [0.0, 0.0], "p_value": 1.0, "wins": 0, "ties": 20, "losses": 0}
    point = {"dimension": 32, "precision": "float32", "original": 0.771, "export": 0.771}
    speed = {"p50_ms": 2.5, "p95_ms": 4.125, "documents_per_second": 180.0}
    scores = {"32": {"float32": 0.771}}
    exports = [
        {
            "name": name,
            "bytes": size,
            "sha256": "c0ffee",
            "speed": speed | {"p50_ms": milliseconds},
            "cosine": cosine,
            "scores": scores,
            "compared": [point | {"lift": lift, "at_least": at_least}],
            "keeps": at_least >= 0.99,
            "sentence": f"`{name}` keeps at least {at_least:.1%}.",
        }
        for name, size, milliseconds, cosine, at_least in (
            ("onnx-float32", 91_000_000, 1.25, 1.0, 1.0),
            ("onnx-int8", 23_000_000, 0.75, 0.98, 0.961),
            ("openvino-float16", 46_000_000, 1.0, 0.99999, 1.0),
        )
    ]
    return {
        "machine": "AMD EPYC",
        "threads": 2,
        "queries": 20,
        "documents": 2000,
        "corpus": 5000,
        "model": "c0ffee",
        "versions": {"onnxruntime": "1.32.0"},
        "original": {"bytes": 92_000_000, "speed": speed, "scores": scores},
        "exports": exports,
    }


def stored():
    """Return the section of a run that stores a model of all pairs."""
    return {
        "kind": "refit",
        "pairs": 400,
        "steps": 39,
        "agreement": {
            "queries": 40,
            "same_first": 0.85,
            "shared_of_ten": 0.775,
            "base_shared_of_ten": 0.5,
        },
        "tested_fingerprint": "dd90ce40760f93a7",
        "sentence": "All scores are those of the tested model. `model/` was trained on 400 pairs; "
        "both rank the same document first for 85.0% of the 40 test queries.",
    }


def kept_index():
    """Return the section of a run with `evaluation.keep_index` and without a gain."""
    lift = {"lift": 0.01, "ci": [-0.02, 0.04], "p_value": 0.5}
    lift |= {"wins": 4, "ties": 30, "losses": 3}
    row = {"ndcg": 0.51, "against_base": lift, "against_tuned": lift}
    adapter = row | {"ndcg": 0.52, "kept": 0.4, "kept_ci": [-0.1, 0.9]}
    return {
        "dimension": 64,
        "base": 0.5,
        "tuned": 0.6,
        "rows": {"tuned_queries": row, "adapter": adapter},
        "pairs": 320,
        "passes": 1,
        "validation": [0.5, 0.55],
        "sentence": "No gain is shown that an index could keep.",
    }


def perfect():
    """Return a report in which all scores are 1, and intervals have no width."""
    report = improved()
    for of in (report, *(report[name] for name in ("fusion", "out_of_domain", "article"))):
        of["scores"] = _all_ones(of["scores"])
    report["pareto"] = [point | {"ndcg@10": 1.0} for point in report["pareto"]]
    for precisions in report["comparison"].values():
        for found in precisions.values():
            kept = {"share": 1.0, "ci": [1.0, 1.0], "at_least": 1.0}
            found |= {"score_ci": [1.0, 1.0], "retention": kept}
        precisions["float32"] |= {"lift": 0.0, "ci": [0.0, 0.0], "p_value": 1.0}
    report["swap"] |= {"base": 1.0, "tuned": 1.0, "lift": 0.0, "ci": [0.0, 0.0], "p_value": 1.0}
    for found in report["error_analysis"]["segments"]:
        found |= {"base": 1.0, "tuned": 1.0, "lift": 0.0, "ci": [0.0, 0.0]}
    report["error_analysis"] |= {"gained": [], "lost": [], "suspected_label_errors": [], "hubs": []}
    return report


def _all_ones(scores):
    if isinstance(scores, dict):
        return {name: _all_ones(inner) for name, inner in scores.items()}
    return 1.0


def hostile(report=None, text=HOSTILE):
    """Append hostile text to every string."""
    return _with_text(report or improved(), text)


def _with_text(value, text, key=""):
    if isinstance(value, dict):
        return {name: _with_text(inner, text, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [_with_text(inner, text) for inner in value]
    return f"{value} {text}" if isinstance(value, str) and key not in LOOKED_UP else value


def runs():
    """Return three runs of one test set with different scores, and one of another test set."""
    quick = _scored(-0.03, "quick", 0.5)
    one = {"aws-20261123-101112": _scored(0.0, "balanced", 2), "quick": quick}
    best = {"with-more-epochs": _scored(0.012, "best", 4)}
    return {"a123cee2b45957c6": one | best, "0000cee2b45957c6": {"alone": quick}}


def hostile_runs():
    """Return seven runs, more than there are colors, with hostile text everywhere."""
    seven = (hostile(_scored(number / 100, "balanced", number)) for number in range(7))
    return {
        f"a123cee2b45957c6 {HOSTILE}": {f"run {n} {HOSTILE}": run for n, run in enumerate(seven)}
    }


def _scored(shift, preset, epochs):
    report = improved(spec__preset=preset, spec__training={"epochs": epochs})
    for dimension, precisions in report["comparison"].items():
        report["scores"]["tuned"][dimension]["float32"]["ndcg@10"] += shift
        found = precisions["float32"]
        for name in ("ci", "score_ci"):
            found[name] = [bound + shift for bound in found[name]]
        found["lift"] += shift
    return report


SNIPPET = re.compile("```.*?```", re.DOTALL)
LINES = ("h1", "h2", "h3", "dl", "ol", "ul", "table")
MARKS = {"tr": " /", "td": " |", "th": " |", "dt": " /", "dd": ": ", "li": " -"}
MARKS |= dict.fromkeys(("p", "pre", "summary", "figcaption"), " ¶ ")


class TextLines(HTMLParser):
    """Extracts a page's text: one line per heading with its paragraphs, per table and per list."""

    def __init__(self, html):
        super().__init__()
        self.lines, self.inside = [""], []
        self.feed(html)

    def handle_starttag(self, tag, _):
        self.inside += [tag] if tag in ("svg", "style") else []
        self.lines += [""] if tag in LINES else []
        self.lines[-1] += MARKS.get(tag, "")

    def handle_endtag(self, tag):
        if tag in self.inside:
            self.inside.remove(tag)

    def handle_data(self, data):
        if not self.inside:
            self.lines[-1] += data


def card_of(report):
    """Return the card without its metadata."""
    with tempfile.TemporaryDirectory() as folder:
        write_card(Path(folder), ModelSpec(base="some/tiny"), Path(folder), report)
        return (Path(folder) / "README.md").read_text("utf-8").partition("\n---\n\n")[2]


def golden_files(make):
    """Yield the golden file and the text of each view of a report, one line per block."""
    report = Report.model_validate(make())
    for view, kind in ((to_markdown, "md"), (card_of, "card")):
        yield GOLDEN / f"{make.__name__}.{kind}", as_lines(view(report))
    lines = (" ".join(line.split()) for line in TextLines(to_html(report)).lines)
    yield GOLDEN / f"{make.__name__}.page", "".join(f"{line}\n" for line in lines if line)


def golden_markdown(make):
    """Return the golden file and the text of a situation: what its report says of the models."""
    text = to_markdown(Report.model_validate(make())).partition("## Training")[0]
    return GOLDEN / f"{make.__name__}.md", as_lines(text)


def as_lines(text):
    # Snippets are tested elsewhere.
    blocks = SNIPPET.sub("```…```", text).strip().split("\n\n")
    return "".join(block.replace("\n", " ⏎ ") + "\n" for block in blocks)


SHOWN = (improved, worse, odd, before)

if __name__ == "__main__":
    run = json.dumps(situations.gained(), indent=1, ensure_ascii=False)
    (GOLDEN / "run.json").write_text(run + "\n", "utf-8")
    written = [file for make in SHOWN for file in golden_files(make)]
    for golden, text in [*written, *map(golden_markdown, situations.SITUATIONS)]:
        golden.write_text(text, "utf-8")
