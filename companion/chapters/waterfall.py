"""From the published gain to the controlled one: the differences between the two protocols as switches, turned one at a time."""

from dataclasses import asdict, dataclass, replace

import pandas as pd
import torch

from companion import stats, variants
from companion.profiles import Profile
from companion.results import Value
from featint import activations, heldout, metrics, runs
from featint.activations import Activations
from featint.config import ModelConfig, choose

REFERENCES = (
    "own path",
    "sae",
    "sae_bias",
    "sae_tuned",
    "sae_fast_decoder",
    "joint_no_interaction",
)
TEXTS = ("first training windows", "training split", "test articles")
FIRST = ("keep", "drop")
SEES = ("all", "half")
CHUNK_WINDOWS, CHUNK_TOKENS = 79, 1000
"""The released code's last evaluation: so many random tokens of the first so many training windows."""
SPLIT_TOKENS = 40_000
"""Tokens of the whole training split that are evaluated, drawn at random."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How the joint model's gain is measured. The defaults are the published protocol."""

    reference: str = "own path"
    """Whose error the joint model's is compared with: its `own path`, or a model trained for itself (`REFERENCES`)."""
    text: str = "first training windows"
    """The tokens on which both errors are measured (`TEXTS`)."""
    first_position: str = "keep"
    """Whether windows' first positions are among the tokens, in training, normalisation and evaluation. With `keep` a random tenth of the
    training tokens is left out of training, as in the released code."""
    nfm_sees: str = "all"
    """The codes that the NFM sees: all active features, or the larger half of them (the mask in the released code)."""

    def __post_init__(self):
        for name, allowed in (
            ("reference", REFERENCES),
            ("text", TEXTS),
            ("first_position", FIRST),
            ("nfm_sees", SEES),
        ):
            choose(name, getattr(self, name), allowed)


LABELS = {
    ("reference", "sae"): "against an SAE trained alone",
    ("reference", "sae_tuned"): "... at its own learning rate",
    ("reference", "joint_no_interaction"): "against itself without interactions",
    ("text", "training split"): "on the whole training split",
    ("text", "test articles"): "on held-out articles",
    ("first_position", "drop"): "without first positions",
    ("nfm_sees", "half"): "NFM sees half of the codes",
}
"""What each switch does, as the figure says it."""
EXPLAINED = {
    ("reference", "sae"): "/notebooks/two_decoders",
    ("text", "training split"): "/notebooks/reconstruction",
    ("text", "test articles"): "/notebooks/reconstruction",
    ("first_position", "drop"): "/book/deviations",
    ("reference", "sae_tuned"): "/notebooks/baselines",
    ("reference", "joint_no_interaction"): "/notebooks/baselines",
}
"""The page that explains each switch."""
ORDERS = {
    "reference first": (
        ("reference", "sae"),
        ("text", "training split"),
        ("text", "test articles"),
        ("first_position", "drop"),
        ("reference", "sae_tuned"),
        ("reference", "joint_no_interaction"),
    ),
    "text first": (
        ("first_position", "drop"),
        ("text", "training split"),
        ("text", "test articles"),
        ("reference", "sae"),
        ("reference", "sae_tuned"),
        ("reference", "joint_no_interaction"),
    ),
}
"""The two orders in which the switches are turned, from the default `Protocol` on. `reference` passes through its values one by one."""


def steps(order: str) -> list[tuple[str, Protocol]]:
    """The protocols of an order, with their labels, from as published to controlled. Raises ValueError for an unknown order."""
    choose("order", order, tuple(ORDERS))
    protocol = Protocol()
    found = [("as published", protocol)]
    for switch, value in ORDERS[order]:
        protocol = replace(protocol, **{switch: value})
        found.append((LABELS[switch, value], protocol))
    return found


def trained_as(name: str, protocol: Protocol, p: Profile) -> ModelConfig:
    """The config of a named model under a protocol: first positions and mask as it says. Where a named variant is the same, so is its config."""
    config = variants.get(name, p)
    if protocol.first_position == "keep":
        config = replace(
            config,
            train=replace(
                config.train, first_position="keep", holdout_share=variants.HOLDOUT_SHARE
            ),
        )
    if protocol.nfm_sees == "half" and config.nfm is not None:
        config = replace(config, nfm=replace(config.nfm, top_n=max(1, config.sae.k // 2)))
    return config


def models(protocol: Protocol, p: Profile) -> tuple[ModelConfig, ModelConfig | None]:
    """The joint model and its reference; None if that is the joint model's own path."""
    reference = (
        None if protocol.reference == "own path" else trained_as(protocol.reference, protocol, p)
    )
    return trained_as("joint", protocol, p), reference


def tokens(protocol: Protocol, p: Profile) -> Activations:
    """The training activations on which a protocol measures."""
    generator = torch.Generator().manual_seed(p.seeds[0])
    acts = activations.load(p.harvest, "train", protocol.first_position)
    if protocol.text == "first training windows":
        chunk = (acts.where < CHUNK_WINDOWS * p.harvest.corpus.seq_len).nonzero().squeeze(1)
        return acts.subset(
            chunk[torch.randperm(len(chunk), generator=generator)[:CHUNK_TOKENS]].sort().values
        )
    return acts.subset(torch.randperm(len(acts), generator=generator)[:SPLIT_TOKENS].sort().values)


def measure(protocol: Protocol, p: Profile) -> pd.Series:
    """The joint model's gain under a protocol, per cent of the reference's error: value, lo, hi (articles drawn anew), n (articles), tokens."""
    ours, reference = models(protocol, p)
    both = {"ours": ours} if reference is None else {"ours": ours, "reference": reference}
    if protocol.text == "test articles":
        sums = heldout.sums(both)
    else:
        acts = tokens(protocol, p)
        trained = {name: runs.get(config).model for name, config in both.items()}
        sums = metrics.by_article(metrics.paths(trained), acts.pieces(), acts.article)
    theirs = "sse/ours/own_path" if reference is None else "sse/reference/all"
    row = stats.bootstrap(
        sums, lambda t: {"gain": 100 * (1 - t["sse/ours/all"] / t[theirs])}, p.bootstrap
    ).loc["gain"]
    return pd.concat([row, pd.Series({"tokens": int(sums["tokens"].sum())})])


def bars(p: Profile) -> dict[str, pd.DataFrame]:
    """Every bar of the waterfall by order: columns label, the switches, value, lo, hi, n, tokens and change (from the bar before)."""
    seen: dict[Protocol, pd.Series] = {}
    found = {}
    for order in ORDERS:
        rows = []
        for label, protocol in steps(order):
            seen[protocol] = seen[protocol] if protocol in seen else measure(protocol, p)
            rows.append({"label": label, **asdict(protocol), **seen[protocol]})
        frame = pd.DataFrame(rows)
        found[order] = frame.assign(change=frame["value"].diff())
    return found


def table(found: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """What each switch changes in each order, in points, in the sequence of the first."""
    changes = {order: frame.iloc[1:].set_index("label")["change"] for order, frame in found.items()}
    first = next(iter(changes.values())).index
    columns = {
        f"{order}, points": change.reindex(first).to_numpy() for order, change in changes.items()
    }
    pages = {LABELS[switch]: f"{{doc}}`{page}`" for switch, page in EXPLAINED.items()}
    return pd.DataFrame(
        {"switch": first, **columns, "explained in": [pages[label] for label in first]}
    )


def values(found: dict[str, pd.DataFrame]) -> dict[str, Value]:
    """The chapter's results file: `<order>/<step>/...`."""
    result = {}
    for order, frame in found.items():
        for i, row in frame.iterrows():
            protocol = "as published" if i == 0 else "controlled"
            key = f"{order.replace(' ', '_')}/gain_{i}/{protocol.replace(' ', '_')}"
            result[key] = Value(
                row.value, int(row.n), f"%; n articles; {row.label}", protocol, (row.lo, row.hi)
            )
    return result


def combination(protocol: Protocol, p: Profile) -> pd.DataFrame:
    """One protocol's gain as a table of one row."""
    row = measure(protocol, p)
    interval = f"{row.lo:.2f} to {row.hi:.2f}"
    return pd.DataFrame(
        [
            asdict(protocol)
            | {
                "gain, %": row.value,
                "95 % interval": interval,
                "n": int(row.n),
                "tokens": int(row.tokens),
            }
        ]
    )
