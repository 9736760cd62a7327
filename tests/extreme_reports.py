"""Reports as bad, as good, as small and as hostile as reports can be, from the made-up one."""

from made_report import made_report

# Markup, a template, the end of a drawing, quotes, text that turns around, a word without end.
HOSTILE = (
    "<script>window.hacked=1</script><img src=x onerror='window.hacked=1'>{{7*7}}{%raw%}"
    '</svg></style></title><script>window.hacked=1</script>" onclick="window.hacked=1" '
    f"javascript:window.hacked=1 `<b>` $x^2$ \u202edesrever {'endless' * 40}"
)
# Names that code looks up: no stranger writes them.
LOOKED_UP = ("metric", "precision", "stored_as")


def usual():
    return made_report()


def regression():
    """The base model's scores are the tuned one's, and the other way round."""
    report = made_report()
    scores, comparison = report["scores"], report["comparison"]
    for dimension, compared in comparison.items():
        base, tuned = scores["base"][dimension], scores["tuned"][dimension]
        base["float32"], tuned["float32"] = tuned["float32"], base["float32"]
        _turn_round(compared["float32"])
    _turn_round(report["verdict"])
    report["verdict"]["improved"] = False
    report["verdict"]["sentence"] = "Not improved: the tuned model is worse than the base model."
    report["where"]["gained"] = []
    return report


def _turn_round(found):
    low, high = found["ci"]
    found |= {"lift": -found["lift"], "ci": [-high, -low]}


def perfect():
    """Every score is 1, of every model: nothing is left to gain, and intervals are points."""
    report = made_report()
    report["scores"] = _full_marks(report["scores"])
    for part in ("fusion", "probe", "article"):
        report[part]["scores"] = _full_marks(report[part]["scores"])
    for precisions in report["comparison"].values():
        for found in precisions.values():
            found |= {"score_ci": [1.0, 1.0], "retention": {"share": 1.0, "ci": [1.0, 1.0]}}
        precisions["float32"] |= {"lift": 0.0, "ci": [0.0, 0.0], "p_value": 1.0}
    for point in report["pareto"]:
        point["ndcg@10"] = 1.0
    for found in report["where"]["slices"]:
        found |= {"base": 1.0, "tuned": 1.0, "lift": 0.0, "ci": [0.0, 0.0]}
    report["where"] |= {"gained": [], "lost": [], "suspects": [], "hubs": []}
    return report


def _full_marks(scores):
    if isinstance(scores, dict):
        return {name: _full_marks(inner) for name, inner in scores.items()}
    return 1.0


def single():
    """One dimension, one query, nothing trained, nothing asked beyond that."""
    report = made_report((64,))
    report["data"]["queries"]["test"] = 1
    for found in report["comparison"]["64"].values():
        found |= {"score_ci": [-1.0, 1.0], "retention": {"share": 1.0, "ci": [-1.0, 1.0]}}
    report["comparison"]["64"]["float32"] |= {"ci": [-1.0, 1.0], "p_value": 1.0}
    report["verdict"] |= {"improved": False, "minimum_detectable_effect": 1.0}
    report["where"] = {name: [] for name in report["where"]}
    report["training"] |= {"steps": 0, "best_step": 0, "history": [], "pairs_per_second": None}
    report["training"]["peak_memory"]["device_bytes"] = None
    report["usage"]["quantized"] = None
    report["cost"] = {"usd": None, "basis": "no `--price-per-hour` was given"}
    return report | {"advice": [], "probe": None, "article": None}


def hostile():
    """Wherever a text can stand, a hostile one does."""
    return _hostile(made_report())


def runs():
    """Three runs of one test set, which scored otherwise, and one of another."""
    best, quick = _scored(0.012, "best", 4), _scored(-0.03, "quick", 0.5)
    one = {"aws-20261123-101112": _scored(0.0, "balanced", 2), "with-more-epochs": best}
    return {"a123cee2b45957c6": one | {"quick": quick}, "0000cee2b45957c6": {"alone": quick}}


def _scored(shift, preset, epochs):
    report = made_report()
    report["spec"] |= {
        "preset": preset,
        "model": {"base": "some/model"},
        "training": {"epochs": epochs},
    }
    for dimension, precisions in report["comparison"].items():
        report["scores"]["tuned"][dimension]["float32"]["ndcg@10"] += shift
        found = precisions["float32"]
        for name in ("ci", "score_ci"):
            found[name] = [bound + shift for bound in found[name]]
        found["lift"] += shift
    return report


def hostile_runs():
    """Seven runs, which more than the colours are, and all texts are hostile, names too."""
    reports = {f"run {number} {HOSTILE}": _hostile(report) for number, report in _seven()}
    return {f"a123cee2b45957c6 {HOSTILE}": reports}


def _seven():
    return enumerate(_scored(number / 100, "balanced", number) for number in range(7))


def _hostile(value, key=""):
    if isinstance(value, dict):
        return {name: _hostile(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [_hostile(inner) for inner in value]
    return f"{value} {HOSTILE}" if isinstance(value, str) and key not in LOOKED_UP else value
