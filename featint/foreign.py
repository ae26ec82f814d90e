"""Finished SAEs in the formats of SAELens and sparsify: those of others read, ours written.

Theirs read raw activations, models here z-scored ones: the change of units is folded into the
weights, so that the same features fire at the same strength. Neither library is needed, and SAELens
cannot be installed beside the TransformerLens that reads language models here.
"""

import re
from pathlib import Path

import huggingface_hub
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from featint import store
from featint.activations import Activations
from featint.config import SAEConfig, choose
from featint.sae import TopKSAE

WEIGHTS = {"saelens": "sae_weights.safetensors", "sparsify": "sae.safetensors"}
"""By format the file of weights that lies beside `cfg.json`."""
KINDS = ("topk", "standard", "jumprelu", "gated")
"""Architectures that are understood. SAELens saves a finished BatchTopK SAE as JumpReLU."""
NORMALISATIONS = ("none", "expected_average_only_in")


def load(source: str) -> tuple[dict, dict[str, Tensor], Path]:
    """An SAE's settings and weights, both by SAELens' names, and the file of weights: of a folder,
    or of `owner/name` or `owner/name/folder/in/it` on the Hugging Face hub.

    Raises ValueError if there is none or its weights are damaged, StoreError for damaged settings.
    """
    folder, said = Path(source), ""
    if not folder.is_dir() and "/" in source:
        owner, name, *inside = source.split("/", 2)
        only = [f"{part}/*" for part in inside] or None
        try:
            whole = huggingface_hub.snapshot_download(f"{owner}/{name}", allow_patterns=only)
            folder = Path(whole, *inside)
        except Exception as e:  # of the network, the hub, or a name that it refuses
            said = f". {type(e).__name__}: {e}".splitlines()[0][:200]
    library = next((of for of, name in WEIGHTS.items() if (folder / name).is_file()), None)
    if library is None:
        needs = f"with cfg.json and {' or '.join(WEIGHTS.values())}"
        allowed = f"allowed: a folder {needs}, or owner/name/folder on the Hugging Face hub"
        raise ValueError(f"sae = {source!r} holds no SAE; {allowed}{said}")
    file, again = folder / WEIGHTS[library], "copy or download the SAE again"
    cfg = store.read_json(folder / "cfg.json", again, {"d_in": int})
    try:
        found = load_file(file)
        found["W_dec"], found["b_dec"]  # noqa: B018
    except (SafetensorError, KeyError) as e:
        raise ValueError(f"{file} is damaged ({e}): {again}") from e
    if library == "sparsify":
        found |= {"W_enc": found["encoder.weight"].T, "b_enc": found["encoder.bias"]}
        odd = [name for name in ("transcode", "skip_connection") if cfg.get(name)]
        cfg["architecture"] = odd[0] if odd else cfg.get("activation", "topk")
        if site := re.search(r"(?:layers|h)\.(\d+)(\.mlp)?$", folder.resolve().name):
            cfg["hook_name"] = f"blocks.{site[1]}.hook_{'mlp_out' if site[2] else 'resid_post'}"
    elif cfg.get("activation_fn_str", cfg.get("activation_fn")) == "topk":  # before SAELens 6
        cfg |= {"architecture": "topk", "k": cfg["activation_fn_kwargs"]["k"]}
    usual = {"architecture": "standard", "normalize_activations": "none", "hook_name": None}
    return usual | cfg.get("metadata", {}) | cfg, found, file


def config(source: str, hook_point: str, d_in: int) -> SAEConfig:
    """What an SAE is, for models that read `hook_point`, d_in wide.

    Raises as `load`, and ValueError for an SAE of another place, width, kind or normalisation.
    """
    cfg, found, file = load(source)
    fits = {"architecture": KINDS, "normalize_activations": NORMALISATIONS, "d_in": (d_in,)}
    helps = {"d_in": "-p lm=... names the language model that it was trained on"}
    helps["hook_name"] = f"-p hook_point={cfg['hook_name']} reads there, too"
    for name, allowed in (fits | {"hook_name": (hook_point, None)}).items():
        if cfg[name] not in allowed:
            words = " or ".join(repr(value) for value in allowed if value)
            remedy = helps.get(name, "choose another SAE")
            raise ValueError(f"sae = {source!r} has {name} = {cfg[name]!r}, not {words}; {remedy}")
    d_sae, top = len(found["W_dec"]), cfg["architecture"] == "topk"
    size = {"d_sae": d_sae, "k": cfg["k"] if top else d_sae, "threshold": not top}
    sha256 = store.sha256(file, file.stat().st_mtime_ns)
    return SAEConfig(**size, decoder_bias=True, source=source, sha256=sha256)


def in_units(mean: Tensor, std: Tensor, W: Tensor, b: Tensor, D: Tensor, c: Tensor) -> tuple:
    """W_enc, b_enc, W_dec and b_dec of an SAE of x as those of one of (x - mean) / std."""
    return std[:, None] * W, b + mean @ W, D / std, (c - mean) / std


@torch.no_grad()
def read(source: str, acts: Activations) -> dict[str, Tensor]:
    """The state of a `TopKSAE` that does with z-scored activations what this SAE does with raw
    ones. If it expects an average norm, that of these activations becomes it."""
    cfg, found, _ = load(source)
    found = {name: tensor.double() for name, tensor in found.items()}
    W, b, D, c = (found.get(name) for name in ("W_enc", "b_enc", "W_dec", "b_dec"))
    gain, offset = torch.ones(len(D)).double(), torch.zeros(len(D)).double()
    if cfg["architecture"] == "jumprelu":
        b, offset = b - found["threshold"], found["threshold"]
    elif cfg["architecture"] == "gated":
        b, gain = found["b_gate"], found["r_mag"].exp()
        offset = found["b_mag"] - gain * b
    if cfg.get("apply_b_dec_to_input", True):
        b = b - c @ W
    if cfg.get("rescale_acts_by_decoder_norm"):
        norm = D.norm(dim=1)
        W, b, D = W * norm, b * norm, D / norm[:, None]
    if cfg["normalize_activations"] == "expected_average_only_in":
        norms = torch.cat([acts.denormalise(x).norm(dim=1) for x in acts.pieces()])
        scale = len(c) ** 0.5 / norms.double().mean().cpu()
        W, D, c = W * scale, D / scale, c / scale
    folded = in_units(acts.mean.double(), acts.std.double(), W, b, D, c)
    state = dict(zip(("W_enc", "b_enc", "W_dec", "b_dec"), folded, strict=True))
    state |= {"gain": gain, "offset": offset}
    return {name: tensor.float() for name, tensor in state.items()}


@torch.no_grad()
def write(model: TopKSAE, acts: Activations, library: str, folder: Path) -> None:
    """Write an SAE that was trained on such activations in the format of `saelens` or `sparsify`,
    for raw ones. Raises ValueError for another format."""
    choose("to", library, tuple(WEIGHTS))
    mean, std, at = acts.mean.double(), acts.std.double(), acts.config
    b_dec = torch.zeros(acts.d_in) if model.b_dec is None else model.b_dec
    own = (t.double().cpu() for t in (model.W_enc, model.b_enc, model.W_dec, b_dec))
    W, b, D, c = in_units(-mean / std, 1 / std, *own)
    tensors, cfg = {"W_dec": D, "b_dec": c}, {"d_in": acts.d_in, "k": model.config.k}
    if library == "saelens":
        tensors |= {"W_enc": W, "b_enc": b}
        site = {"model_name": at.lm.name, "hook_name": at.hook_point, "sae_lens_version": "6.0.0"}
        cfg |= {"architecture": "topk", "d_sae": len(D), "dtype": "float32", "metadata": site}
        cfg |= {"apply_b_dec_to_input": False, "normalize_activations": "none"}
    else:  # which takes b_dec from what it reads
        tensors |= {"encoder.weight": W.T, "encoder.bias": b + c @ W}
        cfg |= {"num_latents": len(D), "activation": "topk", "normalize_decoder": False}
    tensors = {name: tensor.float().contiguous() for name, tensor in tensors.items()}
    store.write_bytes(folder / WEIGHTS[library], save(tensors))
    store.write_json(folder / "cfg.json", cfg)
