"""The language model: load it, read its activations, splice others in.

The only module that knows transformers and TransformerLens.
"""

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
import transformers
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer

from featint import assets, store
from featint.config import FIRST_POSITIONS, PRECISIONS, LMConfig, choose
from featint.kernels import loops

PACKAGED = "smollm2-135m-instruct"
SEPARATOR = "<|endoftext|>"
SITES = ("hook_resid_pre", "hook_resid_post", "hook_mlp_out")
"""Where a hook both reads and replaces what the rest of the model sees. The bridge's
`hook_resid_mid` is not among them: it is the input of the second layer norm, so that replacing
it would leave the residual stream itself as it was."""
SINK_NORM = 3
BATCH_WINDOWS = 8
"""Windows per forward pass: more are not faster on a CPU, and logits take 25 MB per window of 128
tokens."""

transformers.utils.logging.disable_progress_bar()  # of weights; downloads keep theirs


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model behind TransformerLens' bridge, with its tokenizer."""

    config: LMConfig
    bridge: TransformerBridge
    tokenizer: transformers.PreTrainedTokenizerBase

    @property
    def d_model(self) -> int:
        return self.bridge.cfg.d_model

    @property
    def n_layers(self) -> int:
        return self.bridge.cfg.n_layers

    @cached_property
    def separator(self) -> int:
        """Looked up once: listing the vocabulary takes 50 ms, a tenth of a forward pass."""
        return separator(self.tokenizer)

    def check_length(self, n_tokens: int) -> None:
        """Raise ValueError for more tokens in a row than the model has positions."""
        if n_tokens > (n_ctx := self.bridge.cfg.n_ctx):
            raise ValueError(
                f"{n_tokens} tokens in a row, separator included, are too many for "
                f"{self.config.name} with its {n_ctx} positions: lower seq_len or shorten the text"
            )

    def sinks(
        self, tokens: Int[Tensor, "batch seq"], x: Float[Tensor, "batch seq d_model"]
    ) -> Bool[Tensor, "batch seq"]:
        """Where the attention sinks are: separators, and tokens that the model uses like one.

        A separator is a sink wherever in a window it stands. The norm of x at a sink is up to a
        hundred times the others'; the other sinks, mostly punctuation at a window's beginning, are
        known by a norm of more than `SINK_NORM` times the median of the window.
        """
        norm, separator = x.float().norm(dim=-1), tokens == self.separator
        others = torch.where(separator, torch.nan, norm)
        return separator | (norm > SINK_NORM * others.nanmedian(-1, keepdim=True).values)


class Reading(NamedTuple):
    """What a forward pass up to a hook point leaves behind: enough to go on from there."""

    hook_point: str
    sinks: Tensor
    """(batch, seq) which positions are attention sinks."""
    x: Float[Tensor, "batch seq d_model"]
    """The activation at the hook point, float32."""
    entering: Float[Tensor, "batch seq d_model"]
    """The residual stream that enters the hook point's block, in the model's precision."""


def load(config: LMConfig, dtype: str = "float32") -> LanguageModel:
    """Load a language model in `float32`, `bfloat16`, or `auto`, the faster of the two here.

    Raises ValueError if the name is neither the packaged model's nor a folder's nor one that
    Hugging Face can deliver, if weights are missing, left over or damaged or do not fit the
    tokenizer, and for a model that `probe` refuses.
    """
    dtype = precision(dtype)
    loops.keep_memory()  # a batch's logits take 200 MB, anew for every forward pass
    tokens = tokenizer(config)
    with known(config) as (where, options):
        model, report = AutoModelForCausalLM.from_pretrained(
            where,
            **options,
            dtype=getattr(torch, dtype),
            attn_implementation="eager",  # as in the bridge
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report
        )
        wrong = [f"{len(keys)} {name}: {sorted(keys)[:3]}" for name, keys in report.items() if keys]
        if wrong:
            raise ValueError(f"weights and config.json do not fit; {', '.join(wrong)}")
        n, d_vocab = tokens.vocab_size, model.get_input_embeddings().weight.shape[0]
        if max(n, separator(tokens) + 1) > d_vocab:
            raise ValueError(f"the tokenizer has {n} tokens, of which the model knows {d_vocab}")
        model = model.to(store.device()).eval().requires_grad_(False)
        ids = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 0]], device=store.device()) + d_vocab // 2
        plain = model(ids := ids % d_vocab).logits
        options = {"hf_model": model, "device": store.device(), "dtype": model.dtype}
        bridge = TransformerBridge.boot_transformers(where, tokenizer=tokens, **options)
        probe(found := LanguageModel(config, bridge, tokens), ids, plain)
    return found


def probe(lm: LanguageModel, ids: Int[Tensor, "2 seq"], plain: Float[Tensor, "2 seq d_vocab"]):
    """Compare transformers' logits of two windows, which differ in their last token alone, with
    each other and with those of the bridge, which reads and puts back what leaves the last block.

    Raises ValueError if earlier tokens see later ones, or if the bridge's logits are others.
    """
    rounding = (1e-4 if plain.dtype == torch.float32 else 0.1) * plain.abs().max()
    kind = lm.bridge.cfg.architecture
    if (plain[0, :-1] - plain[1, :-1]).abs().max() > rounding:
        raise ValueError(f"{kind} is not causal: earlier tokens see later ones, as in an encoder")
    try:
        reading = read(lm, ids, f"blocks.{lm.n_layers - 1}.hook_resid_post")
        differ = (resume(lm, reading, lambda x: x) - plain).abs().max()
    except Exception as e:
        raise ValueError(f"the bridge cannot read and splice {kind} ({e})") from e
    if not differ <= rounding:  # NaN is none
        raise ValueError(f"the bridge computes other logits than transformers for {kind}")


def precision(dtype: str) -> str:
    """The precision itself; for `auto` bfloat16 where that is faster here, else float32.

    Raises ValueError for a name that is none of the three.
    """
    choose("dtype", dtype, PRECISIONS)
    fast = store.device() == "cuda" or loops.fast_bfloat16()
    return ("bfloat16" if fast else "float32") if dtype == "auto" else dtype


def tokenizer(config: LMConfig) -> transformers.PreTrainedTokenizerBase:
    """The tokenizer alone; the separator, spelt out in a text, is text to it. Raises as `load`."""
    with known(config) as (where, options):
        return AutoTokenizer.from_pretrained(where, **options, split_special_tokens=True)


def encoder(config: LMConfig) -> tuple[Callable[[list[str]], list[list[int]]], int]:
    """A function from texts to token ids, and the separator's id: what `corpora.windows` takes."""
    tokens = tokenizer(config)
    return lambda texts: tokens(texts, add_special_tokens=False)["input_ids"], separator(tokens)


def separator(tokens: transformers.PreTrainedTokenizerBase) -> int:
    """The token between articles: `<|endoftext|>`, else the one that begins or ends a text. Raises
    ValueError if the tokenizer has none."""
    found = [tokens.get_vocab().get(SEPARATOR), tokens.bos_token_id, tokens.eos_token_id]
    if found := [i for i in found if i is not None]:
        return found[0]
    raise ValueError(f"the tokenizer has no {SEPARATOR}, nor a token that begins or ends a text")


@contextmanager
def known(config: LMConfig) -> Iterator[tuple[str, dict]]:
    """What `from_pretrained` opens, with options. Turns its many ways of not finding, not reading
    or not understanding one into one ValueError."""
    where, local = folder(config), config.name == PACKAGED or Path(config.name).is_dir()
    try:
        for file in sorted(Path(where).glob("*.*")) if local else ():
            check_file(file)
        yield where, {"local_files_only": local, "trust_remote_code": False}
    except Exception as e:
        said = f"{type(e).__name__}: {e}".splitlines()[0][:300]
        raise ValueError(
            f"lm = {config.name!r} cannot be loaded. Allowed: {PACKAGED!r}, a folder with a "
            "Hugging Face causal LM, or the name of one on the Hugging Face hub (needs the "
            f"network), of a kind that TransformerLens' bridge knows. {said}"
        ) from e


def check_file(file: Path) -> None:
    """Raise ValueError if a file of a model is empty, a pointer of Git LFS or cut short."""
    small = file.is_file() and file.stat().st_size < 200
    if small and file.read_bytes().startswith(b"version https://git-lfs"):
        raise ValueError(f"{file} is a pointer: `git lfs pull` fetches what it stands for")
    if file.suffix == ".safetensors":
        try:
            safe_open(file, "pt")
        except SafetensorError as e:
            raise ValueError(f"{file} is damaged ({e}): copy or download it again") from e


def folder(config: LMConfig) -> str:
    """Name or folder of a model: of the packaged model a safetensors copy, made on first use."""
    if config.name != PACKAGED:
        return config.name
    identity = {"lm": assets.identity(PACKAGED)}
    if not store.exists("lm", identity):
        convert(assets.path(PACKAGED), identity)
    artefact = store.load("lm", identity)
    for name in artefact.manifest["files"]:
        artefact.file(name)
    return str(artefact.path)


def convert(gguf: Path, identity: dict) -> None:
    """Copy the packaged GGUF into safetensors, which load twenty times as fast."""
    source = {
        "pretrained_model_name_or_path": gguf.parent,
        "gguf_file": gguf.name,
        "local_files_only": True,
    }
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    plain = model.config.to_dict()
    plain.pop("quantization_config", None)
    # A model read from GGUF counts as quantised and refuses to be saved; a fresh one does not.
    fresh = AutoModelForCausalLM.from_config(
        type(model.config).from_dict(plain), dtype=torch.float32
    )
    fresh.load_state_dict(model.state_dict())
    with store.create("lm", identity) as draft:
        fresh.save_pretrained(draft)
        AutoTokenizer.from_pretrained(**source).save_pretrained(draft)


def block_of(lm: LanguageModel, hook_point: str) -> int:
    """The block of a hook point.

    Raises ValueError for a place that the model does not have or that cannot be both read and
    written.
    """
    sites = [site for site in SITES if f"blocks.0.{site}" in lm.bridge.hook_dict]
    found = re.fullmatch(rf"blocks\.(\d+)\.({'|'.join(sites)})", hook_point)
    if not found or int(found[1]) >= lm.n_layers:
        raise ValueError(
            f"hook_point = {hook_point!r} is not known; allowed: blocks.N.SITE with N from 0 to "
            f"{lm.n_layers - 1} ({lm.config.name} has {lm.n_layers} blocks) and SITE one of "
            f"{', '.join(sites)}"
        )
    return int(found[1])


@torch.no_grad()
def activations(
    lm: LanguageModel, tokens: Int[Tensor, "batch seq"], hook_points: Collection[str]
) -> dict[str, Tensor]:
    """Run the model as far as the last hook point's block, and return what is at each.

    (batch, seq, d_model) in the model's precision. Raises ValueError as `block_of` and
    `check_length`.
    """
    lm.check_length(tokens.shape[1])
    last, got = max(block_of(lm, name) for name in hook_points), {}
    hooks = [(name, lambda x, hook, name=name: got.__setitem__(name, x)) for name in hook_points]
    # after the last block there is nothing to stop before
    stop = last + 1 if last + 1 < lm.n_layers else None
    lm.bridge.run_with_hooks(
        tokens.to(store.device()), fwd_hooks=hooks, stop_at_layer=stop, return_type=None
    )
    return got


def read(lm: LanguageModel, tokens: Int[Tensor, "batch seq"], hook_point: str) -> Reading:
    """Run the model as far as the hook point's block and return what is there.

    Raises ValueError as `block_of`.
    """
    entering = f"blocks.{block_of(lm, hook_point)}.hook_resid_pre"
    got = activations(lm, tokens, {entering, hook_point})
    x = got[hook_point].float()
    return Reading(hook_point, lm.sinks(tokens.to(x.device), x), x, got[entering])


@torch.no_grad()
def resume(
    lm: LanguageModel,
    reading: Reading,
    edit: Callable[[Tensor], Tensor] | None = None,
    first_position: str = "drop",
) -> Float[Tensor, "batch seq d_vocab"]:
    """Run the model on from a reading, with the activation x replaced by `edit(x)`, to its logits;
    None runs it clean.

    `edit` takes and returns (batch, seq, d_model) in float32. `first_position="drop"` leaves all
    attention sinks (`LanguageModel.sinks`; every window's first position is one) as they were,
    `"keep"` replaces them too. The hooks are gone afterwards, whatever happens.
    """
    choose("first_position", first_position, FIRST_POSITIONS)
    block = block_of(lm, reading.hook_point)

    def replace(x: Tensor, hook) -> Tensor:
        edited = edit(x.to(torch.float32, copy=True)).to(x.dtype)
        kept = reading.sinks[..., None] & (first_position == "drop")
        return torch.where(kept, x, edited)

    hooks = [] if edit is None else [(reading.hook_point, replace)]
    with skipping(lm.bridge.blocks[:block]):
        return lm.bridge.run_with_hooks(
            reading.entering, fwd_hooks=hooks, start_at_layer=block, return_type="logits"
        )


@contextmanager
def skipping(blocks) -> Iterator[None]:
    """Let blocks pass their input on.

    With `start_at_layer` alone the bridge would compute them and throw the result away.
    """
    for block in blocks:  # past its own __setattr__, which would hand this on to the original block
        vars(block)["forward"] = lambda hidden_states, *args, **kwargs: hidden_states
    try:
        yield
    finally:
        for block in blocks:
            del vars(block)["forward"]
