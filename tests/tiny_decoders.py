"""Tiny decoders with random weights, as embedding models: Qwen3 and Gemma3."""

import torch
from conftest import CONCEPTS, FILLERS
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    Gemma3TextConfig,
    Gemma3TextModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3Model,
)

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
}


def build_decoder(folder, family, positions=2048):
    """Save a sentence-transformers model: last token pooling for Qwen3, mean for Gemma3."""
    words = [f"{stem}{i}" for stem in ("ask", "tell") for i in range(CONCEPTS)]
    specials = ["<pad>", "<eos>", "<unk>"]
    vocabulary = {word: i for i, word in enumerate([*specials, *FILLERS, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("$A <eos>", None, [("<eos>", 1)])
    sizes = SIZES | {"vocab_size": len(vocabulary), "max_position_embeddings": positions}
    torch.manual_seed(7)
    if family == "qwen3":
        transformer, pooling_mode = Qwen3Model(Qwen3Config(**sizes)), "lasttoken"
    else:
        config = Gemma3TextConfig(**sizes, use_bidirectional_attention=True, sliding_window=32)
        transformer, pooling_mode = Gemma3TextModel(config), "mean"
    source = folder.with_name(f"{folder.name}-transformer")
    transformer.save_pretrained(source)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left" if family == "qwen3" else "right",
        model_max_length=positions,
    ).save_pretrained(source)
    inner = modules.Transformer(str(source))
    pooling = modules.Pooling(inner.get_embedding_dimension(), pooling_mode=pooling_mode)
    SentenceTransformer(modules=[inner, pooling], device="cpu").save_pretrained(
        str(folder), create_model_card=False
    )
    return folder
