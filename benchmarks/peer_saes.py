"""SAEs as SAELens and sparsify have them, run by the peers' Python: `python -m benchmarks.peer_saes save|load FOLDER`.

`save` writes one SAE of every kind, with random weights; `load` reads what others wrote. Both leave beside each what it makes of `x`.
"""

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

os.environ["SPARSIFY_DISABLE_TRITON"] = "1"
D_IN, D_SAE, K = 16, 64, 5
ANSWER = "answer.safetensors"


def saelens():
    """By name an SAE of every kind that SAELens knows, as its own training starts them."""
    import sae_lens as lens

    site = lens.saes.sae.SAEMetadata(hook_name="blocks.1.hook_resid_post", model_name="tiny")
    size = {"d_in": D_IN, "d_sae": D_SAE, "metadata": site}
    yield "topk", lens.TopKSAE(lens.TopKSAEConfig(k=K, **size))
    rescaled = lens.TopKSAEConfig(k=K, rescale_acts_by_decoder_norm=True, **size)
    yield "topk_rescaled", lens.TopKSAE(rescaled)
    yield "standard", lens.StandardSAE(lens.StandardSAEConfig(apply_b_dec_to_input=False, **size))
    yield "jumprelu", lens.JumpReLUSAE(lens.JumpReLUSAEConfig(**size))
    yield "gated", lens.GatedSAE(lens.GatedSAEConfig(**size))
    batch = lens.BatchTopKTrainingSAE(lens.BatchTopKTrainingSAEConfig(k=K, **size))
    batch.topk_threshold += 2.0
    yield "batchtopk", batch


@torch.no_grad()
def save(folder: Path) -> None:
    """Write the SAEs."""
    from sparsify import SparseCoder, SparseCoderConfig

    torch.manual_seed(0)
    x = 3 * torch.randn(200, D_IN) + torch.randn(D_IN)
    sparse = SparseCoder(D_IN, SparseCoderConfig(num_latents=D_SAE, k=K))
    for name, sae in [*saelens(), ("sparsify", sparse)]:
        for parameter in sae.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        if name == "sparsify":
            sae.save_to_disk(folder / name)
        else:
            getattr(sae, "save_inference_model", sae.save_model)(folder / name)
        save_file({"x": x}, folder / name / ANSWER)
    load(folder)


@torch.no_grad()
def load(folder: Path) -> None:
    """Read the SAEs, each with its `x`, and write what they make of it: `acts` of all features, and `x_hat`."""
    from sae_lens import SAE
    from sparsify import SparseCoder

    for file in folder.glob(f"*/{ANSWER}"):
        x = load_file(file)["x"]
        if (file.parent / "sae.safetensors").exists():
            sae = SparseCoder.load_from_disk(file.parent)
            top, at, _ = sae.encode(x)
            acts, x_hat = (
                torch.zeros(len(x), sae.num_latents).scatter(1, at, top),
                sae.decode(top, at),
            )
        else:
            sae = SAE.load_from_disk(file.parent)
            acts = sae.encode(x)
            x_hat = sae.decode(acts)
        save_file({"x": x, "acts": acts.contiguous(), "x_hat": x_hat.contiguous()}, file)


if __name__ == "__main__":
    {"save": save, "load": load}[sys.argv[1]](Path(sys.argv[2]))
