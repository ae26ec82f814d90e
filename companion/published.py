"""Which text the released code measures on: windows that the models were trained on."""

import torch

from companion.profiles import Profile
from featint.activations import Activations

CHUNK_WINDOWS, JOINT_TOKENS = 79, 1000
"""The released code's last evaluation of the joint model: so many random tokens of the first so
many windows."""
HELD_OUT_TOKENS = 10 * 1024
"""And of its SAE and sequential model: at most ten batches of tokens left out at random."""


def joint_tokens(acts: Activations, p: Profile) -> Activations:
    """Of the training split's activations, those on which the joint model is evaluated."""
    chunk = (acts.where < CHUNK_WINDOWS * p.harvest.corpus.seq_len).nonzero().squeeze(1)
    order = torch.randperm(len(chunk), generator=torch.Generator().manual_seed(p.seeds[0]))
    return acts.subset(chunk[order[:JOINT_TOKENS]].sort().values)


def first_tokens(acts: Activations) -> Activations:
    """The first `HELD_OUT_TOKENS`, or all if there are fewer."""
    return acts.subset(torch.arange(min(HELD_OUT_TOKENS, len(acts))))
