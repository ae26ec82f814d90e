"""The measurements that are not races: phases of a step, harvest, memory, exactness. Each prints one JSON object:
`python -m benchmarks.stages NAME ARGUMENTS`."""

import json
import statistics
import sys
import time
from collections import defaultdict

import torch
from torch import nn

from benchmarks import formulas, machine
from benchmarks.contestants import D_FACTOR, D_IN
from featint import train
from featint.config import NFMConfig, SAEConfig, TrainConfig
from featint.joint import JointSAE
from featint.kernels import loops, sparse
from featint.nfm import NFM
from featint.sae import TopKSAE


def model_of(kind: str, d_sae: int, k: int) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    sae = TopKSAE(D_IN, SAEConfig(d_sae=d_sae, k=k), generator)
    return (
        sae
        if kind == "sae"
        else JointSAE(sae, NFM(D_IN, d_sae, NFMConfig(d_factor=D_FACTOR, dropout=0.0), generator))
    )


def phases(kind: str, d_sae: int, k: int, batch: int, plain: int) -> dict[str, float]:
    """Median seconds of each phase of a step, in the order in which `fit` runs them."""
    if plain:
        loops.library = lambda: None
    sparse.prepare_cpu()
    model = model_of(kind, d_sae, k)
    config = TrainConfig(n_tokens=100 * batch, batch_tokens=batch)
    optimizer = train.optimizer_for(model, config)
    run = train.Run(model, optimizer, config)
    spent = defaultdict(list)
    for step in range(25):
        x = torch.randn(batch, D_IN, generator=torch.Generator().manual_seed(step % 4))
        clock = [time.perf_counter()]

        def lap(name, clock=clock):
            clock.append(time.perf_counter())
            spent[name].append(clock[-1] - clock[-2])

        optimizer.zero_grad(set_to_none=True)
        codes = model.encode(x)
        lap("encode")
        x_hat = model.decode(codes)
        loss = train.mse(x_hat, x)
        lap("decode and loss")
        loss.backward()
        lap("gradients")
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        lap("clip")
        optimizer.step()
        lap("Adam")
        run.count(codes, batch, loss.detach(), norm)
        lap("counts")
    return {name: statistics.median(seconds[5:]) for name, seconds in spent.items()}


def loss(
    kind: str, dense: int, d_sae: int = 4096, k: int = 84, steps: int = 150, batch: int = 1024
) -> dict[str, float]:
    """Held-out loss after training on sums of 20 of 1,024 known directions and a little noise; `dense` with the dense formulas instead."""
    if dense:
        sparse.encode, sparse.decode, sparse.decode_sum = (
            formulas.encode,
            formulas.decode,
            formulas.decode_sum,
        )
        sparse.bi_interaction = lambda codes, V: (
            (dense_product(codes, V).square() - dense_product(squared(codes), V.square())) / 2
        )
    generator = torch.Generator().manual_seed(1)
    directions = nn.functional.normalize(torch.randn(1024, D_IN, generator=generator))

    def draw():
        active = torch.rand(batch, 1024, generator=generator).argsort(1)[:, :20]
        strength = torch.rand(batch, 20, generator=generator)
        noise = 0.02 * torch.randn(batch, D_IN, generator=generator)
        return sparse.Codes(strength, active).dense(1024) @ directions + noise

    batches = [draw() for _ in range(steps)]
    model = model_of(kind, d_sae, k)
    result = train.fit(
        model, batches, TrainConfig(n_tokens=steps * batch, batch_tokens=batch), validation=draw()
    )
    return {"held_out_loss": result.history["validation_loss"].iloc[-1]}


def dense_product(codes, W):
    return codes.dense(len(W)) @ W


def squared(codes):
    return sparse.Codes(codes.acts.square(), codes.indices)


def harvest(dtype: str, rounds: int = 6) -> dict[str, float]:
    """Median tokens per second of reading block 15's output, 8 windows of 128 tokens at a time: five ways, in turn."""
    from featint import lm
    from featint.config import HarvestConfig

    config = HarvestConfig()
    language_model = lm.load(config.lm, dtype)
    whole = lm.AutoModelForCausalLM.from_pretrained(
        lm.folder(config.lm), dtype=getattr(torch, dtype), local_files_only=True
    ).eval()
    bare = (
        lm.AutoModelForCausalLM.from_pretrained(
            lm.folder(config.lm), dtype=getattr(torch, dtype), local_files_only=True
        )
        .eval()
        .model
    )
    bare.layers, bare.norm = (
        bare.layers[: lm.block_of(language_model, config.hook_point) + 1],
        nn.Identity(),
    )
    tokens = torch.randint(
        whole.config.vocab_size, (8, 128), generator=torch.Generator().manual_seed(0)
    )
    ways = {
        "transformers forward": lambda: whole(tokens, use_cache=False),
        "transformers trunk": lambda: whole.model(tokens, use_cache=False),
        "TransformerLens cache": lambda: language_model.bridge.run_with_cache(
            tokens, names_filter=config.hook_point
        ),
        "bare blocks": lambda: bare(tokens, use_cache=False),
        "ours": lambda: lm.read(language_model, tokens, config.hook_point),
    }
    spent = defaultdict(list)
    with torch.no_grad():
        for r in range(rounds + 1):
            for name in list(ways) if r % 2 else reversed(ways):
                began = time.perf_counter()
                ways[name]()
                if r:  # the first round warms up
                    spent[name].append(time.perf_counter() - began)
    return {name: tokens.numel() / statistics.median(seconds) for name, seconds in spent.items()}


def state(d_sae: int, k: int) -> dict[str, int]:
    """Bytes of the joint model's parameters, their gradients and both moments."""
    return {"bytes": 4 * 4 * sum(p.numel() for p in model_of("joint", d_sae, k).parameters())}


def limits() -> dict[str, float]:
    """The machine's own speed, and the threads that PyTorch uses."""
    return machine.limits() | {"threads": torch.get_num_threads()}


if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    print(json.dumps(globals()[name](*(int(a) if a.isdigit() else a for a in arguments))))
