"""A model that the job loads itself: answers in batches, seeds, memory, versions and bad models."""

import json
import shutil
import weakref
from functools import partial

import numpy as np
import pytest
import torch
from conftest import read_jsonl, write_jsonl
from tiny_writers import TEMPLATE, VOCABULARY, build_random, build_writer

from job.core.errors import DataError, ModelError, OutOfMemory
from job.generation.hopeless import HOPELESS
from job.generation.language_models import Fetched, Host
from job.generation.llm import local
from job.generation.llm.protocol import Settings
from job.generation.stage import generate_once
from job.model.device import Machine
from job.report.pairs_page import write_page
from job.spec.parse import build_spec
from job.spec.schema import GenerationSpec, ModelSpec

COUNT = 60
CPU = Machine("cpu", "float32", "")


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    return build_writer(tmp_path_factory.mktemp("writer"))


@pytest.fixture(scope="module")
def babbler(tmp_path_factory):
    return build_random(tmp_path_factory.mktemp("random"))


def open_model(folder, batch_size=8):
    model = local.open_model(str(folder), GenerationSpec(batch_size=batch_size))
    spec = ModelSpec(base=str(folder))
    model.load_with(partial(local.load, spec, folder, CPU))
    return model


def asked(text, temperature=0.0, seed=0, max_tokens=20):
    return [{"role": "user", "content": text}], Settings(temperature, seed, max_tokens)


class Recorder:
    """Fetches local models from their folders, and keeps what was asked of it and loaded."""

    def __init__(self, spec, commit=None):
        self.spec, self.commit = spec, commit
        self.fetched, self.models = [], []

    def __call__(self, field, version):
        self.fetched.append((field, dict(version)))
        base = self.spec.generation.models[field].removeprefix("local:")
        facts = {"uri": base} | ({"commit": self.commit} if self.commit else {})
        return Fetched(ModelSpec(base=base), local.Path(base), dict(version) or facts)


@pytest.fixture
def documents(tmp_path):
    texts = [
        f"This is the page thing{n} of our handbook, which tells its use" for n in range(COUNT)
    ]
    return write_jsonl(tmp_path / "docs" / "chunks.jsonl", [{"text": text} for text in texts])


@pytest.fixture
def run(tmp_path, documents, monkeypatch):
    """Run the stage; returns the facts, the files by name, and what was fetched."""
    loaded = []
    load = local.load

    def remember(*arguments):
        found = load(*arguments)
        loaded.append(weakref.ref(found.model))
        return found

    monkeypatch.setattr(local, "load", remember)

    def stage(llm, *, commit=None, find=find_named, **fields):
        given = {"data.documents": str(documents), "generation.llm": f"local:{llm}"}
        given |= {"generation.kinds": "[natural]", "generation.batch_size": "16"}
        given |= {"generation.max_output_tokens": "20", "data.min_test_queries": "5"}
        # Texts that differ in one word are near-duplicates.
        given |= {"data.near_duplicate_threshold": "null"}
        given |= {key.replace("__", "."): value for key, value in fields.items()}
        spec = build_spec({}, given)
        fetch = Recorder(spec, commit)
        fetch.models = loaded
        folder = tmp_path / "generation"
        searches = [partial(find, loaded), partial(find, loaded)]
        host = Host(CPU, fetch)
        facts = generate_once(
            documents, spec, folder, pytest.fail, lambda: searches, write_page, host
        )
        return facts, {path.name: path for path in folder.iterdir()}, fetch

    return stage


def find_named(_, questions, corpus, depth):
    named = [int(question.split("thing")[1].split()[0]) for question in questions]
    return np.stack([np.array(named), np.array(named) - 1], axis=1)[:, :depth] % len(corpus)


def test_the_writer_answers_about_the_subject_and_grades(writer):
    """What the tests below rely on."""
    prompts = ["page thing7 of it", "Grade how well thing7 does", "thing11"]
    answers = open_model(writer).answer([asked(prompt, 0.7) for prompt in prompts])
    assert [answer.text for answer in answers] == [
        "natural: How do I use thing7 today?",
        "5",
        "natural: How do I use thing11 today?",
    ]
    # Of the prompt with the template's token, and of the answer with its end.
    assert [(answer.tokens_in, answer.tokens_out) for answer in answers] == [(5, 8), (6, 2), (2, 8)]


def test_each_chunk_becomes_pairs_and_nothing_is_paid(run, writer):
    facts, files, fetch = run(writer)
    assert (facts.chunks, facts.answers, facts.kept) == (COUNT,) * 3
    assert facts.llm == f"local:{writer}"
    assert (facts.usd, facts.temperature, facts.seed, facts.versions) == (0.0, 0.7, 42, {})
    assert facts.tokens_written == 8 * COUNT
    row = read_jsonl(files["pairs.jsonl"])[0]
    assert row["question"].split()[4] in row["context"]
    assert fetch.fetched == [("llm", {})]


def test_a_second_start_loads_nothing_and_a_cut_one_asks_the_rest(run, writer):
    facts, files, _ = run(writer)
    assert run(writer)[2].fetched == []
    lines = files["journal.jsonl"].read_text("utf-8").splitlines(keepends=True)
    kept = 2 + COUNT // 2
    files["journal.jsonl"].write_text("".join(lines[:kept]), "utf-8")
    files["generation.json"].unlink()
    assert run(writer)[0] == facts
    again = files["journal.jsonl"].read_text("utf-8").splitlines(keepends=True)
    assert again[:kept] == lines[:kept]
    keys = [json.loads(line)["key"] for line in again[2:]]
    assert len(keys) == len({*keys}) == COUNT


def test_a_resumed_start_keeps_the_version_of_the_first(run, writer):
    facts, files, _ = run(writer, commit="c0ffee")
    name = f"local:{writer}"
    assert facts.versions == {name: "c0ffee"}
    lines = files["journal.jsonl"].read_text("utf-8").splitlines(keepends=True)
    files["journal.jsonl"].write_text("".join(lines[:20]), "utf-8")
    files["generation.json"].unlink()
    facts, _, fetch = run(writer, commit="another")
    assert fetch.fetched == [("llm", {"uri": str(writer), "commit": "c0ffee"})]
    assert facts.versions == {name: "c0ffee"}


def test_the_memory_is_free_before_the_base_model_searches(run, writer):
    alive = []

    def find(loaded, *rest):
        alive.append([reference() is not None for reference in loaded])
        return find_named(loaded, *rest)

    run(writer, find=find)
    assert alive == [[False], [False]]


def test_a_judge_that_is_the_same_model_is_loaded_once_and_freed_at_the_end(run, writer):
    alive = []

    def find(loaded, *rest):
        alive.append([reference() is not None for reference in loaded])
        return find_named(loaded, *rest)

    facts, _, fetch = run(writer, find=find, generation__judge=f"local:{writer}")
    assert (facts.kept, facts.judge) == (COUNT, f"local:{writer}")
    assert alive == [[True], [True]]
    assert fetch.fetched == [("llm", {})]
    assert [reference() for reference in fetch.models] == [None]


def test_another_local_judge_takes_the_memory_of_the_writer(run, writer, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(writer, other)
    facts, _, fetch = run(writer, generation__judge=f"local:{other}")
    assert facts.kept == COUNT
    assert [field for field, _ in fetch.fetched] == ["llm", "judge"]
    assert [reference() for reference in fetch.models] == [None, None]


def test_random_words_end_the_run_after_a_few_batches(run, babbler, tmp_path):
    with pytest.raises(DataError, match=rf"None of {HOPELESS} answers.*Such as.*larger model"):
        run(babbler)
    journal = read_jsonl(tmp_path / "generation" / "journal.jsonl")
    assert len(journal) == 2 + HOPELESS


def test_a_failure_frees_the_memory(run, writer):
    """The error is kept while the next stage, such as the report of the failure, runs."""
    models = []

    def find(loaded, *_):
        models.extend(loaded)
        msg = "no search"
        raise DataError(msg)

    with pytest.raises(DataError, match="no search"):
        run(writer, find=find, generation__judge=f"local:{writer}")
    assert [reference() for reference in models] == [None]


def test_a_request_depends_on_its_seed_and_not_on_the_requests_beside_it(babbler):
    """Otherwise an interruption would change the answers."""
    model = open_model(babbler)
    prompts = ["How do I", "Grade thing3 of the long page about thing4 and thing5", "use"]
    together = model.answer([asked(text, 1.0, seed) for seed, text in enumerate(prompts)])
    alone = [model.answer([asked(text, 1.0, seed)])[0] for seed, text in enumerate(prompts)]
    assert together == alone
    backwards = model.answer([asked(text, 1.0, n) for n, text in [*enumerate(prompts)][::-1]])
    assert backwards == together[::-1]
    (other,) = model.answer([asked(prompts[0], 1.0, seed=99)])
    assert other.text != together[0].text


def test_without_a_temperature_the_seed_does_not_matter(babbler):
    first, second = open_model(babbler).answer([asked("use", 0.0, seed) for seed in (1, 2)])
    assert first.text == second.text


def test_samples_follow_the_probabilities_at_the_temperature():
    """10,000 draws from three tokens, whose shares have a standard error below half a percent."""
    from job.generation.llm.sampling import SeededSampling

    count, temperature = 10_000, 0.5
    scores = torch.tensor([[0.0, 1.0, 2.0]]).expand(count, 3)
    settings = [Settings(temperature, seed, 1) for seed in range(count)]
    drawn = SeededSampling(settings, torch.device("cpu"))(None, scores).argmax(dim=1)
    expected = torch.softmax(torch.tensor([0.0, 1.0, 2.0]) / temperature, dim=0)
    found = torch.bincount(drawn, minlength=3) / count
    assert torch.allclose(found, expected, atol=0.02)
    assert torch.equal(scores[0], torch.tensor([0.0, 1.0, 2.0]))


def test_each_request_ends_at_its_own_limit(babbler):
    answers = open_model(babbler).answer([asked("use", 1.0, 5, n) for n in (3, 12)])
    assert answers[0].tokens_out <= 3
    assert answers[1].text.startswith(answers[0].text)
    assert len(answers[0].text.split()) == answers[0].tokens_out


def test_a_request_that_is_too_long_is_refused_and_the_others_are_answered(writer):
    answers = open_model(writer).answer([asked("word " * 600), asked("thing3")])
    assert answers[0].text == ""
    assert "601 tokens" in answers[0].refusal
    assert "512" in answers[0].refusal
    assert answers[1].text == "natural: How do I use thing3 today?"


def test_batches_shrink_when_memory_runs_out_and_stay_small(writer, monkeypatch):
    sizes, generate = [], local._generate

    def limited(loaded, prompts, settings):
        sizes.append(len(prompts))
        if len(prompts) > 2:
            msg = "CUDA out of memory"
            raise torch.OutOfMemoryError(msg)
        return generate(loaded, prompts, settings)

    monkeypatch.setattr(local, "_generate", limited)
    model = open_model(writer, batch_size=8)
    answers = model.answer([asked(f"thing{n}") for n in range(5)])
    assert [answer.text.split()[5] for answer in answers] == [f"thing{n}" for n in range(5)]
    assert sizes == [5, 2, 2, 1]
    assert model.batch_size == 2


def test_memory_for_no_single_request_is_an_error_with_advice(writer, monkeypatch):
    def fail(*_):
        msg = "out of memory"
        raise torch.OutOfMemoryError(msg)

    monkeypatch.setattr(local, "_generate", fail)
    with pytest.raises(OutOfMemory, match=r"generation\.max_output_tokens"):
        open_model(writer).answer([asked("thing1")])


def without_weights(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["transformer.h.0.attn.c_attn.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def with_damaged_template(folder):
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no user') }}", "utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: (folder / "chat_template.jinja").unlink(),
            "has no chat template.*Instruct",
        ),
        (with_damaged_template, "chat template.*fails: no user"),
        (without_weights, r"incomplete: its files lack 1, such as `transformer\.h\.0"),
        (lambda folder: (folder / "config.json").unlink(), "has no `config.json`"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no"), "cannot be loaded"),
    ],
)
def test_a_model_that_cannot_be_asked_is_named_with_the_reason(writer, tmp_path, damage, message):
    folder = tmp_path / "model"
    shutil.copytree(writer, folder)
    damage(folder)
    with pytest.raises(ModelError, match=message) as caught:
        open_model(folder).answer([asked("thing1")])
    assert str(folder) in str(caught.value)


def test_an_encoder_is_no_language_model(tiny_encoder):
    with pytest.raises(ModelError, match="is no language model that writes text"):
        open_model(tiny_encoder).answer([asked("thing1")])


def test_the_template_is_the_one_of_the_tokenizer(writer, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(writer, folder)
    thinking = "{% if enable_thinking %}Grade {% endif %}" + TEMPLATE
    (folder / "chat_template.jinja").write_text(thinking, "utf-8")
    (answer,) = open_model(folder).answer([asked("thing1")])
    assert answer.text.startswith("natural:")
    assert "natural:" in VOCABULARY
