"""Ask a model that this job loads itself, on the device that trains afterwards."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job.core.errors import ModelError, OutOfMemory, first_line
from job.data.formats.values import encodable
from job.generation.llm.protocol import Answer, Messages, Settings
from job.model.device import Machine, native_precision
from job.model.refusals import explain_load_error
from job.model.settings import read_settings
from job.runtime.logs import tell
from job.runtime.oom import is_out_of_memory, retry_on_oom
from job.runtime.watchdog import record_activity
from job.spec.schema import GenerationSpec, ModelSpec

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

# Ends of the names of architectures that write text.
WRITERS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
SMALLER = "Lower `generation.max_output_tokens` or `chunk_tokens`, or use a smaller model."
INSTRUCTED = "Use a model that was trained to follow instructions, often named `…-Instruct`."

Asked = tuple[Messages, Settings]


@dataclass(frozen=True)
class Loaded:
    model: Any
    tokenizer: "PreTrainedTokenizerBase"
    # Ids of tokens that end an answer.
    ends: tuple[int, ...]
    # Tokens that the model reads and writes at most; None if nothing limits them.
    limit: int | None


class LocalModel:
    """A causal language model that answers requests in batches; loaded when it is first asked."""

    def __init__(self, name: str, spec: GenerationSpec) -> None:
        self.name, self.batch_size = name, spec.batch_size
        self._load: Callable[[], Loaded] | None = None
        self._loaded: Loaded | None = None

    def load_with(self, load: Callable[[], Loaded]) -> None:
        """Set the function that loads the model, which knows its folder and the device."""
        self._load = load

    def answer(self, asked: Sequence[Asked]) -> list[Answer]:
        """Return the answers in the order of the requests."""
        if self._loaded is None:
            assert self._load is not None
            self._loaded = self._load()
        loaded, most = self._loaded, min(self.batch_size, len(asked))

        def work(size: int) -> list[Answer]:
            if size < most:
                # Later batches would not fit either.
                self.batch_size = size
            parts = [asked[start : start + size] for start in range(0, len(asked), size)]
            return [answer for part in parts for answer in _answer(loaded, part)]

        return retry_on_oom(most, work, "generate", SMALLER)

    def free(self) -> None:
        """Give the memory back, so that another model can be loaded."""
        if self._loaded is None:
            return
        from accelerate.utils import release_memory

        self._loaded = None
        # Modules and their hooks refer to each other.
        release_memory()
        tell("generate", f"`{self.name}` is no longer in memory")


def open_model(name: str, spec: GenerationSpec) -> LocalModel:
    return LocalModel(name, spec)


def load(spec: ModelSpec, folder: Path, machine: Machine) -> Loaded:
    """Load the language model `spec.base` from its folder.

    Raises `ModelError` if it writes no text, has no chat template, or cannot be loaded.
    """
    _require_writer(spec.base, folder)
    precision = native_precision(machine.device)[0]
    try:
        tokenizer = _load_tokenizer(spec, folder)
        model = _load_weights(spec, folder, precision)
        model.to(machine.device)
    except ModelError:
        raise
    except Exception as error:  # noqa: BLE001  what a damaged file raises is the library's choice
        if not is_out_of_memory(error):
            raise explain_load_error(spec, folder, error) from None
        msg = f"The memory of the device `{machine.device}` is too small for the model "
        msg += f"`{spec.base}`. Use a smaller one, or a machine with more memory."
        raise OutOfMemory(msg) from None
    model.eval().register_forward_pre_hook(record_activity)
    ends = _ends(model, tokenizer)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = ends[0] if ends else 0
    parameters = round(model.num_parameters() / 1e9, 2)
    tell("generate", f"loaded `{spec.base}`", billion_parameters=parameters, precision=precision)
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return Loaded(model, tokenizer, ends, limit)


def _require_writer(base: str, folder: Path) -> None:
    config = read_settings(folder / "config.json")
    names = config.get("architectures") or ()
    if names and not any(name.endswith(WRITERS) for name in names):
        msg = f"The model `{base}` (`{names[0]}`) is no language model that writes text. "
        raise ModelError(msg + INSTRUCTED)


def _load_tokenizer(spec: ModelSpec, folder: Path) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        folder, trust_remote_code=spec.trust_remote_code, local_files_only=True
    )
    if not tokenizer.chat_template:
        msg = f"The tokenizer of the model `{spec.base}` has no chat template, which says how the "
        raise ModelError(f"{msg}model is asked. {INSTRUCTED}")  # noqa: EM102
    return tokenizer


def _load_weights(spec: ModelSpec, folder: Path, precision: str) -> Any:  # noqa: ANN401  no type
    from transformers import AutoModelForCausalLM, GenerationConfig

    library: Any = AutoModelForCausalLM
    model, info = library.from_pretrained(
        folder,
        dtype=precision,
        use_safetensors=True,
        output_loading_info=True,
        trust_remote_code=spec.trust_remote_code,
        local_files_only=True,
    )
    if missing := info["missing_keys"]:
        msg = f"The weights of the model `{spec.base}` are incomplete: its files lack "
        msg += f"{len(missing)}, such as `{min(missing)}`. Download it again, or use another model."
        raise ModelError(msg)
    # The repository's settings may have penalties and filters. Temperature and seed alone decide.
    ends = model.generation_config.eos_token_id
    model.generation_config = GenerationConfig(eos_token_id=ends)  # type: ignore[no-untyped-call]
    return model


def _ends(model: Any, tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:  # noqa: ANN401
    """Return the tokens that end an answer: the model's, and the tokenizer's, if they differ."""
    own = model.generation_config.eos_token_id
    ids = own if isinstance(own, list) else [own]
    return tuple(sorted({each for each in (*ids, tokenizer.eos_token_id) if each is not None}))


def _answer(loaded: Loaded, asked: Sequence[Asked]) -> list[Answer]:
    """Answer a batch; a request that is longer than the model reads is refused."""
    prompts = [_prompt(loaded.tokenizer, messages) for messages, _ in asked]
    found: dict[int, Answer] = {}
    for place, (prompt, (_, settings)) in enumerate(zip(prompts, asked, strict=True)):
        whole = len(prompt) + settings.max_tokens
        if loaded.limit is not None and whole > loaded.limit:
            why = f"{len(prompt)} tokens and an answer of {settings.max_tokens} "
            why += f"(`generation.max_output_tokens`) are more than the model's {loaded.limit}"
            found[place] = Answer("", refusal=why)
    places = [place for place in range(len(asked)) if place not in found]
    if places:
        wanted = [asked[place][1] for place in places]
        texts = _generate(loaded, [prompts[place] for place in places], wanted)
        for place, (text, written, is_cut) in zip(places, texts, strict=True):
            refusal = "" if text else "an empty answer"
            found[place] = Answer(text, len(prompts[place]), written, refusal, is_cut)
    return [found[place] for place in range(len(asked))]


def _prompt(tokenizer: "PreTrainedTokenizerBase", messages: Messages) -> list[int]:
    """Return the tokens of a prompt."""
    try:
        text = tokenizer.apply_chat_template(
            [*messages],
            tokenize=False,
            add_generation_prompt=True,
            # Known to the templates of models that may think first; others ignore it.
            enable_thinking=False,
        )
    except Exception as error:  # noqa: BLE001  whatever a template's code raises
        msg = f"The chat template of `{tokenizer.name_or_path}` fails: {first_line(error)}. "
        raise ModelError(msg + "Use another model.") from None
    # The template has written the special tokens already.
    ids: list[int] = tokenizer(str(text), add_special_tokens=False)["input_ids"]
    return ids


def _generate(
    loaded: Loaded, prompts: Sequence[list[int]], settings: Sequence[Settings]
) -> list[tuple[str, int, bool]]:
    """Return the text for each prompt, the number of its tokens, and whether the limit cut it."""
    import torch

    from job.generation.llm.sampling import SeededSampling

    model, tokenizer, pad = loaded.model, loaded.tokenizer, loaded.tokenizer.pad_token_id
    width = max(map(len, prompts))
    # Answers follow the last token of the prompt, so it must be in the same place in all rows.
    ids = [[pad] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    with torch.inference_mode():
        rows: Tensor = model.generate(
            torch.tensor(ids, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            do_sample=False,
            logits_processor=[SeededSampling(settings, model.device)],
            max_new_tokens=max(each.max_tokens for each in settings),
            eos_token_id=[*loaded.ends] or None,
            pad_token_id=pad,
        )
    found = []
    for row, each in zip(rows[:, width:].tolist(), settings, strict=True):
        written = row[: each.max_tokens]
        end = next((n for n, token in enumerate(written) if token in loaded.ends), len(written))
        text = str(tokenizer.decode(written[:end], skip_special_tokens=True)).strip()
        is_cut = end == len(written)
        found.append((encodable(text), end + (not is_cut), is_cut))
    return found
