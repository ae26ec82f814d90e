"""One training loop per contestant, each the library's own, fed by `Feed`. Run as `python -m benchmarks.contestants NAME D_SAE K BATCH`.

The peers' loops run in an environment of their own (see requirements.txt); nothing of the project is imported there.
"""

import os
import sys
import tempfile
from functools import partial
from types import SimpleNamespace

import torch

from benchmarks import naive
from benchmarks.feed import Feed

D_IN, D_FACTOR = 576, 54
FOREVER = 1_000_000  # steps


def ours(
    feed, d_sae: int, k: int, kind: str, plain: bool = False, d_factor: int = D_FACTOR
) -> None:
    """`featint.train.fit` on the project's models; `plain` without the compiled kernels."""
    from featint import train
    from featint.config import NFMConfig, SAEConfig, TrainConfig
    from featint.joint import JointSAE
    from featint.kernels import loops
    from featint.nfm import NFM
    from featint.sae import TopKSAE

    if plain:
        loops.library = lambda: None
    elif loops.library() is None:
        sys.exit("there is no C++ compiler: only the plain contestants can run")
    generator = torch.Generator().manual_seed(0)
    model = TopKSAE(D_IN, SAEConfig(d_sae=d_sae, k=k), generator)
    if kind != "sae":
        model = JointSAE(model, NFM(D_IN, d_sae, NFMConfig(d_factor=d_factor), generator))
    batch = len(feed.batches[0])
    frozen = {"sae.": 0.0} if kind == "sequential" else {}
    train.fit(
        model, feed, TrainConfig(n_tokens=FOREVER * batch, batch_tokens=batch, lr_scale=frozen)
    )


def saelens(feed, d_sae: int, k: int, sparse: bool) -> None:
    """SAELens' `SAETrainer.fit` with its defaults; `sparse` with its option for sparse codes, which on the CPU works only without rescaling."""
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    options = (
        {"use_sparse_activations": True, "rescale_acts_by_decoder_norm": False} if sparse else {}
    )
    batch = len(feed.batches[0])
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=D_IN, d_sae=d_sae, k=k, **options))
    SAETrainer(
        SAETrainerConfig(
            total_training_samples=FOREVER * batch, train_batch_size_samples=batch, lr_end=3e-5
        ),
        sae,
        feed,
    ).fit()


def dictionary_learning(feed, d_sae: int, k: int) -> None:
    """dictionary_learning's `TopKTrainer.update`, which its training loop calls for each batch."""
    sys.modules["nnsight"] = SimpleNamespace(
        LanguageModel=None
    )  # only its activation buffer, not used here, needs an old nnsight
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(
        steps=FOREVER,
        activation_dim=D_IN,
        dict_size=d_sae,
        k=k,
        layer=0,
        lm_name="none",
        seed=0,
        device="cpu",
    )
    for step, x in enumerate(feed):
        trainer.update(step, x)


def sparsify(feed, d_sae: int, k: int, optimizer: str) -> None:
    """sparsify's `Trainer.fit`, on a language model whose one layer returns the batch; `signum` is its default optimiser."""
    os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # its Triton path needs a GPU
    from sparsify import SparseCoderConfig, TrainConfig, Trainer

    batch = len(feed.batches[0])

    class Layer(torch.nn.Module):
        def forward(self, input_ids):
            return torch.zeros(1, 1, D_IN) if input_ids.numel() == 1 else next(feed)[None]

    class Model(torch.nn.Module):
        device, config, dummy_inputs = (
            torch.device("cpu"),
            None,
            {"input_ids": torch.zeros(1, 1, dtype=torch.long)},
        )

        def __init__(self):
            super().__init__()
            self.layer = Layer()

        @property
        def base_model(self):
            return self

        def forward(self, input_ids):
            return self.layer(input_ids)

    class Tokens(torch.utils.data.Dataset):
        def __len__(self):
            return FOREVER

        def __getitem__(self, i):
            return {"input_ids": torch.zeros(batch, dtype=torch.long)}

    sae = SparseCoderConfig(num_latents=d_sae, k=k)
    config = TrainConfig(
        sae,
        batch_size=1,
        optimizer=optimizer,
        hookpoints=["layer"],
        log_to_wandb=False,
        save_every=FOREVER,
    )
    with tempfile.TemporaryDirectory() as folder:
        config.save_dir = folder
        Trainer(config, Tokens(), Model()).fit()


def product(feed, d_sae: int, k: int) -> None:
    """The encoder's product alone, float32, in the blocks that fit the cache best: what every method must spend."""
    W, out = torch.randn(d_sae, D_IN), torch.empty(256, d_sae)
    for x in feed:
        for rows in x.split(256):
            torch.mm(rows, W.T, out=out[: len(rows)])


OURS = {
    "sae": partial(ours, kind="sae"),
    "sequential": partial(ours, kind="sequential"),
    "joint": partial(ours, kind="joint"),
    "sae-plain": partial(ours, kind="sae", plain=True),
    "joint-plain": partial(ours, kind="joint", plain=True),
    "naive-joint": partial(naive.train, d_factor=D_FACTOR),
    "product": product,
}
PEERS = {
    "saelens": partial(saelens, sparse=False),
    "saelens-sparse": partial(saelens, sparse=True),
    "dictionary_learning": dictionary_learning,
    "sparsify": partial(sparsify, optimizer="signum"),
    "sparsify-adam": partial(sparsify, optimizer="adam"),
}


def main(name: str, d_sae: str, k: str, batch: str, *more: str) -> None:
    """Train until standard input ends. `more` are further settings of our own models, as `d_factor=32`."""
    settings = {key: int(value) for key, value in (setting.split("=") for setting in more)}
    (OURS | PEERS)[name](Feed(int(batch), D_IN), int(d_sae), int(k), **settings)


if __name__ == "__main__":
    main(*sys.argv[1:])
