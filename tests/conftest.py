"""A tiny real encoder and data it can learn: whole jobs run in seconds on one core."""

import gzip
import json
import os
import random
import signal

import pytest
from filelock import FileLock
from recorded_calls import pytest_configure, pytest_sessionfinish  # noqa: F401  hooks, by name
from tiers import pytest_collection_modifyitems  # noqa: F401  a hook, found by its name

# Before the import of torch: two workers with two threads each would compete for two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A thread that spins while waiting blocks a core for the others.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Set here like in the job: forked processes, which already have torch, do not read it again.
os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# Programs that a shell starts in the background ignore Ctrl-C, and so would the jobs we start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Each concept has one word for questions and another for contexts: an untrained encoder cannot
# know which belong together, a trained one can.
CONCEPTS = 24
FILLERS = ("the", "a", "of", "and", "in", "is")


def make_pairs(count, seed=0):
    """Make distinct question-context pairs whose texts share only filler words."""
    draw = random.Random(seed)
    pairs = {}
    while len(pairs) < count:
        concepts = draw.sample(range(CONCEPTS), 4)
        question = " ".join(f"ask{i}" for i in concepts) + f" {draw.choice(FILLERS)}"
        answered = draw.sample(concepts, 4)
        context = " ".join(f"tell{i} {draw.choice(FILLERS)}" for i in answered)
        pairs[frozenset(concepts)] = {"question": question, "context": context}
    return list(pairs.values())


def distinct_rows(count, word="word"):
    """Make rows in which no two texts are similar."""
    texts = ((f"{word}{n} asks{n} this{n}?", f"{word}{n} says{n} that{n}.") for n in range(count))
    return [{"question": question, "context": context} for question, context in texts]


def write_jsonl(path, rows):
    """Write rows, compressed if the name ends in `.gz`; create the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def build_encoder(folder, width=64):
    """Save a sentence-transformers model: two layers, random weights, a small vocabulary."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = [f"{stem}{i}" for stem in ("ask", "tell") for i in range(CONCEPTS)]
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: i for i, word in enumerate([*specials, *FILLERS, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    torch.manual_seed(7)
    encoder = BertModel(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=width,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=width,
            max_position_embeddings=64,
        )
    )
    source = folder.with_name(f"{folder.name}-transformer")
    encoder.save_pretrained(source)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    ).save_pretrained(source)
    transformer = modules.Transformer(str(source))
    pooling = modules.Pooling(transformer.get_embedding_dimension(), pooling_mode="mean")
    SentenceTransformer(modules=[transformer, pooling], device="cpu").save_pretrained(
        str(folder), create_model_card=False
    )
    return folder


@pytest.fixture(scope="session", autouse=True)
def nobodys_account():
    """Unset the AWS account and the settings of the user who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("AWS_") or name in ("EMBEDTUNE_OUTPUT", "HF_TOKEN"):
                patch.delenv(name)
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


@pytest.fixture(scope="session")
def made_once(tmp_path_factory, worker_id):
    """`made_once(name, make)` fills a folder once for all pytest-xdist workers and returns it."""
    base = tmp_path_factory.getbasetemp()
    base = base if worker_id == "master" else base.parent

    def once(name, make):
        folder, made = base / name, base / f"{name}.made"
        with FileLock(f"{folder}.lock"):
            if not made.exists():
                folder.mkdir()
                make(folder)
                made.touch()
        return folder

    return once


@pytest.fixture(scope="session")
def tiny_encoder(made_once):
    """Folder of an encoder of width 64; tests that modify it must copy it."""
    return made_once("encoder", lambda folder: build_encoder(folder / "tiny")) / "tiny"


@pytest.fixture(scope="session")
def pairs_file(made_once):
    """File of 400 pairs that the tiny encoder can learn."""
    folder = made_once("pairs", lambda new: write_jsonl(new / "pairs.jsonl", make_pairs(400)))
    return folder / "pairs.jsonl"


@pytest.fixture(scope="session")
def tiny_settings():
    """Settings with which the tiny encoder learns in a second or two."""
    return {
        "training.epochs": "3",
        "training.batch_size": "32",
        "training.learning_rate": "3e-3",
        "evaluation.dimensions": "[64, 32, 16]",
        "evaluation.main_dimension": "32",
        "evaluation.permutations": "1000",
        "model.precision": "float32",
    }


@pytest.fixture
def tiny_spec(tiny_encoder, pairs_file, tiny_settings, tmp_path):
    """Make a spec of a job in `tmp_path`, with any field overridden."""
    from job.spec.parse import build_spec

    def make(**fields):
        given = {
            "data.source": str(pairs_file),
            "model.base": str(tiny_encoder),
            "output.uri": str(tmp_path / "runs"),
        }
        settings = given | tiny_settings | {k.replace("__", "."): v for k, v in fields.items()}
        return build_spec({}, settings)

    return make


@pytest.fixture
def forbidden(tmp_path):
    """A folder that cannot be entered; root becomes the user `nobody` during the test."""
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0)
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    yield folder
    os.seteuid(was)
