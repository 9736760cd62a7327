"""Tiny models with random weights: every architecture and shape that people start from.

All are two layers of width 64 and share one small tokenizer. They learn the pairs of `make_pairs`
in a second or two.
"""

import gc
import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from unittest.mock import patch

from conftest import CONCEPTS, FILLERS, make_pairs, read_jsonl, write_jsonl

WIDTH, LAYERS, HEADS, POSITIONS = 64, 2, 2, 64
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (*SPECIALS, *FILLERS, *(f"{stem}{i}" for stem in ("ask", "tell") for i in range(CONCEPTS)))

SIZES = {
    "vocab_size": len(WORDS),
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": WIDTH,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
# RoBERTa and its descendants count positions from the padding index.
ENCODER = SIZES | {"max_position_embeddings": POSITIONS + 1}
DECODER = SIZES | {
    "max_position_embeddings": POSITIONS,
    "num_key_value_heads": 1,
    "head_dim": WIDTH // HEADS,
}
SPECIAL_IDS = {"cls_token_id": 2, "sep_token_id": 3}
# By name: transformers' model type, and its configuration.
ARCHITECTURES = {
    "bert": ("bert", ENCODER),
    "roberta": ("roberta", ENCODER),
    "xlm-r": ("xlm-roberta", ENCODER),
    "camembert": ("camembert", ENCODER),
    "mpnet": ("mpnet", ENCODER),
    "distilbert": (
        "distilbert",
        ENCODER | {"dim": WIDTH, "n_layers": LAYERS, "n_heads": HEADS, "hidden_dim": WIDTH},
    ),
    "albert": ("albert", ENCODER | {"embedding_size": 32}),
    "electra": ("electra", ENCODER | {"embedding_size": 32}),
    "deberta-v2": (
        "deberta-v2",
        ENCODER
        | {"relative_attention": True, "position_buckets": 16, "pos_att_type": ["p2c", "c2p"]},
    ),
    "modernbert": ("modernbert", ENCODER | SPECIAL_IDS),
    "nomic-bert": ("nomic_bert", ENCODER),
    "t5": (
        "t5",
        SIZES
        | {
            "d_model": WIDTH,
            "d_ff": WIDTH,
            "d_kv": WIDTH // HEADS,
            "num_layers": LAYERS,
            "num_heads": HEADS,
        },
    ),
    "qwen3": ("qwen3", DECODER),
    "gemma3": ("gemma3_text", DECODER | {"sliding_window": 32}),
    "mistral": ("mistral", DECODER),
}
# Not in the matrix; their tables of positions have other names than BERT's.
MORE_ARCHITECTURES = {
    "gpt2": (
        "gpt2",
        DECODER | {"n_positions": POSITIONS, "n_embd": WIDTH, "n_layer": 2, "n_head": 2},
    ),
    "bart": (
        "bart",
        {
            "vocab_size": len(WORDS),
            "d_model": WIDTH,
            "max_position_embeddings": POSITIONS,
            "pad_token_id": 0,
        }
        | {f"{part}_layers": 1 for part in ("encoder", "decoder")}
        | {f"{part}_attention_heads": HEADS for part in ("encoder", "decoder")}
        | {f"{part}_ffn_dim": WIDTH for part in ("encoder", "decoder")},
    ),
}
DECODERS = ("qwen3", "gemma3", "mistral")


@dataclass(frozen=True)
class Shape:
    """A model's architecture and the parts around it."""

    architecture: str = "bert"
    pooling: str | tuple[str, ...] = "mean"
    padding_side: str = "right"
    layer_norm: bool = False
    # Width of a dense layer behind the pooling.
    dense: int | None = None
    normalize: bool = False
    # None: no token; decoders often have none.
    pad_token: str | None = "[PAD]"
    # None: the tokenizer states no maximum.
    max_length: int | None = POSITIONS
    dtype: str = "float32"
    shards: bool = False
    # A folder as transformers saves it, without `modules.json`.
    plain: bool = False
    prompts: tuple[tuple[str, str], ...] = ()
    default_prompt: str | None = None


SHAPES = {
    name: Shape(
        name, "lasttoken" if name in DECODERS else "mean", "left" if name in DECODERS else "right"
    )
    for name in ARCHITECTURES
}
BERT, QWEN3 = SHAPES["bert"], SHAPES["qwen3"]
SHAPES |= {
    "cls pooling": replace(BERT, pooling="cls"),
    "max pooling": replace(BERT, pooling="max"),
    "last token, padding right": replace(QWEN3, padding_side="right"),
    "mean pooling of a decoder": replace(QWEN3, pooling="mean"),
    "cls and mean with LayerNorm": replace(BERT, pooling=("cls", "mean"), layer_norm=True),
    "dense layer": replace(BERT, dense=48),
    "T5 with dense layer, normalized": replace(SHAPES["t5"], dense=48, normalize=True),
    "normalized": replace(QWEN3, normalize=True),
    "bfloat16 weights": replace(QWEN3, dtype="bfloat16"),
    "float16 weights": replace(BERT, dtype="float16", dense=48),
    "sharded weights": replace(BERT, shards=True),
    "no padding token": replace(QWEN3, pad_token=None),
    "no maximum length": replace(SHAPES["t5"], max_length=None),
    "prompts": replace(BERT, prompts=(("query", "ask1 is "), ("document", "tell1 is ")),
                       default_prompt="query"),
    "plain encoder": replace(BERT, plain=True),
    "plain decoder": replace(QWEN3, plain=True),
}  # fmt: skip
# Models without one transformer.
OTHERS = ("static embeddings", "model2vec", "router", "router with static queries")


def build_model(name, folder):
    """Save the model of this name in a folder, and return the folder."""
    import torch

    torch.manual_seed(7)
    if name in SHAPES:
        return _build_shape(SHAPES[name], folder)
    if name in MORE_ARCHITECTURES:
        return _build_shape(Shape(name), folder)
    build = {
        "static embeddings": _build_static,
        "model2vec": _build_model2vec,
        "router": _build_router,
        "router with static queries": _build_static_router,
    }[name]
    return build(folder)


def build_tokenizer(shape):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    # Decoders end a text with their end token, encoders also start it with one.
    start = "" if shape.architecture in (*DECODERS, "t5") else "[CLS] "
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start}$A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    limits = {} if shape.max_length is None else {"model_max_length": shape.max_length}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=shape.pad_token,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        eos_token="[SEP]",
        mask_token="[MASK]",
        padding_side=shape.padding_side,
        **limits,
    )


def build_transformer(shape, folder):
    """Save the transformer alone, as transformers does."""
    import torch
    from transformers import AutoConfig, AutoModel, T5EncoderModel

    kind, sizes = (ARCHITECTURES | MORE_ARCHITECTURES)[shape.architecture]
    if shape.max_length is None:
        sizes = sizes | {"max_position_embeddings": 2**20}
    config = AutoConfig.for_model(kind, **sizes)
    model = T5EncoderModel(config) if kind == "t5" else AutoModel.from_config(config)
    model = model.to(getattr(torch, shape.dtype))
    model.save_pretrained(folder, max_shard_size="40KB" if shape.shards else "1GB")
    build_tokenizer(shape).save_pretrained(folder)
    return folder


def modules_of(shape, folder):
    from sentence_transformers.sentence_transformer import modules

    transformer = modules.Transformer(
        str(build_transformer(shape, folder)), model_kwargs={"dtype": shape.dtype}
    )
    pooling = modules.Pooling(transformer.get_embedding_dimension(), shape.pooling)
    width = pooling.get_embedding_dimension()
    parts = [transformer, pooling]
    if shape.layer_norm:
        parts.append(modules.LayerNorm(width))
    if shape.dense:
        parts.append(modules.Dense(width, shape.dense))
    if shape.normalize:
        parts.append(modules.Normalize())
    return parts


def save(modules, folder, **options):
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(modules=modules, device="cpu", **options)
    encoder.save_pretrained(str(folder), create_model_card=False)
    return folder


def _build_shape(shape, folder):
    source = folder.with_name(f"{folder.name}-transformer")
    if shape.plain:
        return build_transformer(shape, folder)
    options = {"prompts": dict(shape.prompts), "default_prompt_name": shape.default_prompt}
    save(modules_of(shape, source), folder, **options)
    if shape.shards:
        _shard(folder)
    return folder


def _shard(folder):
    """Replace the weights by shards: sentence-transformers saves one file."""
    from transformers import AutoModel

    (folder / "model.safetensors").unlink()
    source = folder.with_name(f"{folder.name}-transformer")
    AutoModel.from_pretrained(source).save_pretrained(folder, max_shard_size="40KB")


def _static(width=WIDTH):
    import torch
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    tokenizer = build_tokenizer(Shape())
    return StaticEmbedding(tokenizer, embedding_weights=torch.randn(len(WORDS), width))


def _build_static(folder):
    return save([_static()], folder)


def _build_model2vec(folder):
    """Save a model as the library model2vec does: quantized rows, in half precision."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    save_file({"embeddings": torch.randn(len(WORDS), WIDTH).half()}, folder / "model.safetensors")
    build_tokenizer(Shape()).backend_tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(
        json.dumps({"model_type": "model2vec", "architectures": ["StaticModel"], "normalize": True})
    )
    kinds = ("sentence_transformer.modules.StaticEmbedding", "base.modules.Normalize")
    parts = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.{kind}"}
        for i, (kind, path) in enumerate(zip(kinds, (".", "1_Normalize"), strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(parts))
    return folder


def _build_router(folder, query_modules=None):
    from sentence_transformers.sentence_transformer.modules import Router

    query_modules = query_modules or modules_of(BERT, folder.with_name(f"{folder.name}-query"))
    documents = modules_of(
        replace(BERT, architecture="mpnet"), folder.with_name(f"{folder.name}-document")
    )
    return save([Router.for_query_document(query_modules, documents)], folder)


def _build_static_router(folder):
    return _build_router(folder, [_static()])


@dataclass(frozen=True)
class TinyRun:
    """A finished job: the base model's folder, and the run's."""

    base: Path
    folder: Path

    @property
    def model(self):
        return self.folder / "model"

    @property
    def report(self):
        return json.loads((self.folder / "report" / "report.json").read_text("utf-8"))

    def weights(self):
        """Return the bytes of every file of weights, by name."""
        paths = self.model.rglob("*.safetensors")
        return {path.relative_to(self.model).as_posix(): path.read_bytes() for path in paths}


class TinyJobs:
    """Runs whole jobs of tiny models in this process, each one once."""

    def __init__(self, folder):
        self.folder = folder
        # Each run collects garbage, which takes long with all of the libraries' objects.
        gc.freeze()
        self.pairs = write_jsonl(folder / "pairs.jsonl", make_pairs(200))
        self.finished = cache(self._finish)

    def build(self, name):
        folder = self.folder / "models" / name
        return folder if folder.exists() else build_model(name, folder)

    def _finish(self, name, precision):
        return self.run(name, name, model__precision=precision)

    def run(self, name, run_name, stop=None, **fields):
        """Train two epochs, which is enough for every tiny model to beat its random weights."""
        from job.pipeline import RunContext, run
        from job.runtime.signals import StopSignal
        from job.spec.parse import build_spec
        from job.storage.workspace import Workspace

        base, run_name = self.build(name), run_name.replace(" ", "-")
        settings = {
            "data.source": str(self.pairs),
            "data.min_test_queries": "10",
            "model.base": str(base),
            "output.uri": str(self.folder / "runs"),
            "training.epochs": "2",
            "training.batch_size": "32",
            "training.learning_rate": "0.2"
            if name in ("static embeddings", "model2vec")
            else "3e-3",
            "evaluation.dimensions": "[32, 16]",
            "evaluation.main_dimension": "32",
            "evaluation.permutations": "100",
            "evaluation.precisions": '["float32"]',
        }
        fields = {key.replace("__", "."): value for key, value in fields.items()}
        spec = build_spec({}, settings | fields)
        workspace = Workspace(self.folder / "work" / run_name)
        # Drawing the page takes a third of such a run, and does not depend on the model.
        with patch("job.report.write.to_html", return_value=""):
            run(spec, workspace, RunContext(run_name, "cpu"), stop or StopSignal())
        return TinyRun(base, self.folder / "runs" / run_name)


def library_score(finished, dimension):
    """Return nDCG@10 of the stored model, as sentence-transformers evaluates it.

    The model is loaded by the line of its card.
    """
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    data = finished.folder / "data"
    relevant = {}
    for line in (data / "qrels.tsv").read_text("utf-8").splitlines()[1:]:
        query, document, _ = line.split("\t")
        relevant.setdefault(query, set()).add(document)
    questions = {row["id"]: row["anchor"] for row in read_jsonl(data / "test.jsonl")}
    evaluator = InformationRetrievalEvaluator(
        queries={query: questions[query] for query in relevant if query in questions},
        corpus={row["id"]: row["text"] for row in read_jsonl(data / "corpus.jsonl")},
        relevant_docs={query: relevant[query] for query in relevant if query in questions},
        truncate_dim=dimension,
        write_csv=False,
    )
    code = finished.report["usage"]["python"]
    assert code in (finished.model / "README.md").read_text("utf-8")
    lines = [line for line in code.splitlines() if line.startswith(("from ", "model = "))]
    names = {}
    exec("\n".join(lines), names)
    return evaluator(names["model"].to("cpu"))["cosine_ndcg@10"]


def own_score(finished, precision, dimension):
    """Return nDCG@10 of the stored model, loaded and scored as a job does it."""
    from job.data.dataset import load_dataset
    from job.evaluation.evaluate import score
    from job.model.device import Machine
    from job.model.encoder import load_model
    from job.spec.parse import build_spec

    spec = build_spec(json.loads((finished.folder / "spec.json").read_text("utf-8")), {})
    dataset = load_dataset(spec.data, {})
    stored = spec.model.model_copy(update={"base": str(finished.model)})
    model = load_model(stored, Machine("cpu", precision, ""))
    return score(model, dataset.test, dataset.corpus, [dimension], 64)[dimension].mean("ndcg@10")
