"""A training step asks the device for few values, so that the host can work ahead."""

from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

import pytest
import torch
from device_reads import Reads
from tiny_training import tiny_training

from job.model.device import PASS_COSTS, Machine
from job.model.encoder import load_model
from job.model.features import Mask
from job.model.passes import PassCost
from job.storage.workspace import Workspace
from job.training.padding import LengthCollator


@dataclass(frozen=True)
class LikeGpu(Machine):
    """A CPU that divides batches and attends like a GPU."""

    @property
    def training_attention(self):
        return "sdpa"

    @property
    def pass_cost(self):
        return PASS_COSTS["cuda"]

    @property
    def packed_cost(self):
        return None


@pytest.mark.slow
def test_a_training_step_reads_at_most_four_values_from_the_device(
    tiny_spec, tmp_path, monkeypatch
):
    """Neither lengths nor masks are asked for, at any number of dimensions and passes."""
    # Limited, so that a batch of short texts has eight passes.
    monkeypatch.setitem(PASS_COSTS, "cuda", PassCost(4, 1, max_tokens=64))
    prepared = tiny_training(tiny_spec(training__epochs="1"), tmp_path)
    model = load_model(prepared.spec.model, LikeGpu("cpu", "float32", ""))
    trainer, reads, seen, passes = prepared.trainer(model=model), Reads(), [], []
    step, collate = trainer.training_step, LengthCollator.__call__

    def count(*given):
        seen.append(reads.count)
        passes.append(0)
        return step(*given)

    def record(module, given):
        passes[-1] += module.training

    def collate_uncounted(self, rows):
        with reads.paused():
            return collate(self, rows)

    trainer.training_step = count
    monkeypatch.setattr(LengthCollator, "__call__", collate_uncounted)
    model.encoder[0].register_forward_pre_hook(record)
    with reads:
        trainer.train()

    assert min(passes) >= 8
    per_step = [after - before for before, after in pairwise(seen)]
    assert median(per_step) <= 4, per_step


@pytest.mark.slow
@pytest.mark.parametrize("mini_batch_size", ["auto", "8"])
def test_a_training_without_padding_learns_the_same(tiny_spec, tmp_path, mini_batch_size):
    """Only the share of padding changes, also with cached gradients."""
    spec = tiny_spec(training__epochs="2", training__mini_batch_size=mini_batch_size)
    prepared, found = tiny_training(spec, tmp_path), {}
    for packs in (True, False):
        workspace = Workspace(tmp_path / str(packs))
        model = replace(prepared.load(), packs=packs)
        found[packs] = prepared.train(model=model, workspace=workspace)
    packed, padded = found[True], found[False]
    assert packed.tokens["padding_share"] == 0 < padded.tokens["padding_share"]
    assert packed.best_validation == pytest.approx(padded.best_validation, abs=0.01)
    for one, other in zip(packed.history, padded.history, strict=True):
        assert one == pytest.approx(other, rel=0.01)


def test_a_mask_knows_whether_it_is_full_without_reading():
    """Also once converted; everything else is computed as usual."""
    reads, plain = Reads(), torch.tensor([[1, 1], [1, 0]])
    for is_full in (True, False):
        mask = Mask.of(plain, is_full=is_full)
        with reads:
            assert bool(mask.all()) == is_full
            assert bool(mask.to(torch.bool).all()) == is_full
            assert bool(mask.bool().all()) == is_full
        assert type(mask[:, 0]) is type(mask.sum(dim=1)) is torch.Tensor
        assert mask.sum(dim=1).tolist() == [2, 1]
        assert mask.all(dim=1).tolist() == [True, False]
    assert reads.count == 0
