"""Tiny causal language models: one that writes questions and grades as it was built to, one random.

Words are tokens. A chat's template ends with `[GEN]`; the writer answers it with one question about
the subject of the prompt (`thing7`), or, if the prompt has the word `Grade`, with a grade.
"""

from itertools import pairwise

SUBJECTS = 120
POSITIONS = 512
PAD, UNKNOWN, END, GENERATE = "[PAD]", "[UNK]", "[END]", "[GEN]"
# Each word follows the one before it; the subject of the prompt follows ABOUT, then BEHIND.
LINE = (GENERATE, "natural:", "How", "do", "I", "use")
ABOUT, BEHIND = "use", "today?"
GRADE, GRADED = "Grade", "5"
NAMES = tuple(f"thing{number}" for number in range(SUBJECTS))
VOCABULARY = (PAD, UNKNOWN, END, *LINE, BEHIND, GRADE, GRADED, *NAMES)
# Words that attention finds in the prompt; each has a second dimension, for the token that looks.
FOUND = (*NAMES, GRADE)
# The last dimension stays empty.
WIDTH = len(VOCABULARY) + len(FOUND) + 1
TEMPLATE = "{% for message in messages %}{{ message.content }} {% endfor %}[GEN]"
# Of queries and keys: no token but the wanted one gets attention.
SHARP = 60.0


def build_tokenizer(template=TEMPLATE, words=VOCABULARY):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {word: place for place, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNKNOWN,
        eos_token=END,
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )


def build_random(folder, *, template=TEMPLATE, positions=POSITIONS):
    """Save a model with random weights, which writes random words, but no question."""
    model = _build(positions)
    model.save_pretrained(folder)
    words = [word.rstrip("?:") for word in VOCABULARY]
    build_tokenizer(template, words).save_pretrained(folder)
    return folder


def build_writer(folder, *, template=TEMPLATE):
    """Save the model that writes questions and grades; return the folder.

    Each dimension stands for a word. Attention tells a token which word of FOUND it looks for is in
    the prompt, and the last layer has a score for each word that may follow.
    """
    import torch

    model = _build(POSITIONS)
    place = {word: number for number, word in enumerate(VOCABULARY)}
    found = {word: len(VOCABULARY) + number for number, word in enumerate(FOUND)}
    block = model.transformer.h[0]
    with torch.no_grad():
        for weights in (*block.parameters(), model.transformer.wpe.weight, model.lm_head.weight):
            weights.zero_()
        block.ln_1.weight.fill_(1)
        model.transformer.wte.weight.copy_(torch.eye(len(VOCABULARY), WIDTH))
        block.attn.c_proj.weight.copy_(torch.eye(WIDTH))
        queries, keys, values = block.attn.c_attn.weight.split(WIDTH, dim=1)
        # Two searches, each in a dimension of its own.
        for dimension, asking, wanted in ((0, ABOUT, NAMES), (1, GENERATE, [GRADE])):
            queries[place[asking], dimension] = SHARP
            keys[[place[word] for word in wanted], dimension] = SHARP
        for word in FOUND:
            values[place[word], found[word]] = 1
        # Layer normalization leaves this much less than 0 in the dimensions of other words.
        block.attn.c_attn.bias[2 * WIDTH :][[*found.values()]] = (WIDTH - 1) ** -0.5
        follows = model.lm_head.weight
        for word, following in [*pairwise(LINE), (BEHIND, END), (GRADED, END)]:
            follows[place[following], place[word]] = 1000
        follows[place[GRADED], found[GRADE]] = 300
        for name in NAMES:
            follows[place[name], found[name]] = 100
            follows[place[BEHIND], place[name]] = 1000
        # With sums of 0, the mean that the last normalization subtracts changes no score.
        follows[:, -1] = -follows.sum(dim=1)
    model.save_pretrained(folder)
    build_tokenizer(template).save_pretrained(folder)
    return folder


def build_encoder(folder):
    """Save a base model with the same words; return the folder."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel

    width, source = 64, folder.with_name(f"{folder.name}-transformer")
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=width,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=width,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(source)
    tokenizer = build_tokenizer(template=None)
    tokenizer.pad_token, tokenizer.model_max_length = PAD, config.max_position_embeddings
    tokenizer.save_pretrained(source)
    modules = [Transformer(str(source)), Pooling(width, "mean")]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder))
    return folder


def _build(positions):
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(7)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(VOCABULARY),
            n_embd=WIDTH,
            n_positions=positions,
            n_layer=1,
            n_head=1,
            bos_token_id=None,
            eos_token_id=VOCABULARY.index(END),
            tie_word_embeddings=False,
        )
    )
