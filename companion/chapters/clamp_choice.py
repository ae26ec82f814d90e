"""Which features are clamped: those that answer to the design, fire on prompts held apart for this choice, and can move anything there."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from companion.chapters.interactions import Discovery
from featint import interventions
from featint.interventions import Site
from featint.joint import JointSAE
from featint.kernels.sparse import Codes
from featint.secondary import SecondarySAE

MULTIPLIERS = (-4.0, 0.0, 1.0, 4.0)
SELECTION_PROMPTS = 8
"""Prompts held apart: they decide which features are clamped, and the sign of the contrast."""
N_SECONDARY, N_PRIMARY = 5, 3


def selection(prompts: Sequence[str], seed: int = 0) -> list[str]:
    """The held-apart prompts, drawn at random."""
    chosen = np.random.default_rng(seed).permutation(len(prompts))[:SELECTION_PROMPTS]
    return [prompts[i] for i in sorted(chosen)]


def firing(site: Site, codes: Codes, d_sae: int) -> Bool[Tensor, "prompts d_sae"]:
    """Which features are active on any token of each prompt; `codes` are those of `site.tokens`."""
    counts = torch.zeros(len(site.prompts), d_sae, device=site.mean.device)
    fires = (codes.dense(d_sae) > 0).to(counts)
    return counts.index_add_(0, (~site.reading.sinks).nonzero()[:, 0], fires) > 0


@torch.no_grad()
def moving(site: Site, model: JointSAE, inside: SecondarySAE) -> Bool[Tensor, "prompts d_sae"]:
    """Which secondary features fire on any token of each prompt *and* change what the path writes there when they are clamped.

    A feature may point where all ReLUs stay shut at every multiplier: it fires, but there is nothing it could move.
    """
    u = model.nfm.hidden(model.encode(site.tokens))
    acts, indices = inside.encode(u)
    moved = torch.zeros_like(acts)
    for m in MULTIPLIERS:
        more = (
            (m - 1) * acts[..., None] * inside.sae.W_dec[indices] * inside.std
        )  # (tokens, k, d_factor)
        moved += ((u[:, None] + more).relu() != u[:, None].relu()).any(-1)
    return firing(site, Codes(moved, indices), inside.d_sae)


@torch.no_grad()
def clampable(site: Site, model: JointSAE, inside: SecondarySAE) -> Bool[Tensor, "prompts d_sae"]:
    """Where secondary features move anything; in a path that has died, so that none does, where they fire: clamping them then shows just that."""
    moves = moving(site, model, inside)
    return (
        moves
        if moves.any()
        else firing(site, inside.encode(model.nfm.hidden(model.encode(site.tokens))), inside.d_sae)
    )


class Chosen(NamedTuple):
    """Features of one dictionary to clamp. A feature that does not fire on the prompts has nothing to be multiplied, nor one that moves nothing."""

    selective: list[int]
    """The largest interaction F on the discovery half, among those that fire on at least half of the held-apart prompts (or, where none does, on as many as any)."""
    unselective: int
    """Of the same features the one whose largest F is smallest."""
    inactive: int | None
    """The first that fired in training but fires on no prompt."""


def choose(
    found: Discovery,
    fires: Bool[Tensor, "prompts d_sae"],
    fired_tokens: Tensor,
    apart: list[bool],
    n: int,
    wanted: int | None = None,
) -> Chosen:
    """The features to clamp; `wanted` goes before the selected ones.

    Raises ValueError if no live feature fires on any of the held-apart prompts, or `wanted` is out of range or dead.
    """
    if wanted is not None:
        interventions.check_feature(wanted, fired_tokens)
    trained = pd.Index((fired_tokens > 0).nonzero().squeeze(1).tolist())
    able = found.live.intersection(trained)
    share = fires[torch.tensor(apart)].float().mean(0)[able].numpy(force=True)
    if not share.any():
        raise ValueError(
            "no live feature fires on any held-apart prompt, so that there is nothing to clamp: train for more tokens or with a larger k"
        )
    among = able[share >= min(0.5, share.max())]
    effect = found.selection.effect.iloc[-1]
    ranked = found.ranked(effect).index
    silent = [i for i in trained if not fires[:, i].any()]
    selective = [i for i in ranked.tolist() if i in among and i != wanted][:n]
    return Chosen(
        selective if wanted is None else [wanted, *selective],
        found.least_selective(among),
        silent[0] if silent else None,
    )
