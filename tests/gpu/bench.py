"""Measure a GPU: microseconds a token, and whole jobs beside the article's recipe."""

import os
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from unittest.mock import patch

import torch

KIT = Path(os.environ.get("EMBEDTUNE_KIT", "."))
BUDGETS, WIDTH = (1_024, 4_096, 16_384, 65_536), 64
# On a CPU only to see that it runs through.
EPOCHS = {"cuda": 4, "cpu": 1}


def measure(device, rows):
    """Print the tables of the model of the kit, and of a wider one if it is beside it."""
    for model in (KIT / "model", KIT / "large"):
        if model.is_dir():
            print(f"\n{model.name}")
            measure_tokens(model, device)
            compare_jobs(model, device, rows)


def seconds_of(work, device, times=5):
    def timed():
        started = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    timed()
    return median(timed() for _ in range(times))


def product_speed(device, dtype):
    """Return the floating point operations a second of a large matrix product."""
    size = 8_192 if device == "cuda" else 1_024
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / seconds_of(lambda: left @ right, device)


def measure_tokens(folder, device):
    """Print the time of a forward and backward pass at several numbers of tokens."""
    from job.model.device import choose_machine
    from job.model.encoder import load_model
    from job.spec.schema import ModelSpec

    machine = choose_machine(device, "auto")
    model = load_model(ModelSpec(base=str(folder)), machine)
    model.encoder.train()
    speed = product_speed(device, getattr(torch, machine.precision))
    blocks = [p for n, p in model.encoder.named_parameters() if "embeddings" not in n]
    operations = 6 * sum(weights.numel() for weights in blocks)
    print(f"\n{machine.precision}, matrix products {speed / 1e12:.2f} TFLOP/s\n")
    print("| tokens a pass | µs a token | share of a matrix product's speed | peak MiB |")
    print("|---:|---:|---:|---:|")
    for tokens in BUDGETS if device == "cuda" else BUDGETS[:2]:
        ids = torch.randint(1_000, 2_000, (tokens // WIDTH, WIDTH), device=device)
        features = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

        def step(features=features):
            with machine.autocast(), model.training():
                vectors = model.encoder(dict(features))["sentence_embedding"]
            vectors.square().sum().backward()
            model.encoder.zero_grad()

        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds = seconds_of(step, device)
        peak = f"{torch.cuda.max_memory_allocated() / 2**20:,.0f}" if device == "cuda" else "–"
        share = operations * tokens / seconds / speed
        print(f"| {tokens:,} | {seconds / tokens * 1e6:.2f} | {share:.0%} | {peak} |")


def compare_jobs(folder, device, rows):
    """Print seconds by phase, memory and nDCG@10 of our job and of the article's recipe."""
    import versus_article
    from versus_article import ARTICLE, Task, as_article, as_ours, report_on

    settings = {"training.report_to": "[]", "data.min_test_queries": "10"}
    spec_of = partial(versus_article.spec_of, **settings)
    found = {}
    with patch.object(versus_article, "spec_of", spec_of):
        for side, work in ((ARTICLE, as_article), ("same epochs", as_ours)):
            data = str(KIT / "data/pairs.jsonl")
            task = Task(side, 42, data, str(folder), rows, EPOCHS[device], device)
            with (
                tempfile.TemporaryDirectory() as place,
                patch("job.report.write.to_html", return_value=""),
            ):
                found[side] = [work(task, Path(place), time.perf_counter())]
    report_on(found)
