"""From raw measurements to the values that the page Performance shows: one row each, of a quantity,
with whatever names it (model, size, phase, axis and x, precision, way, name), its value, n, what n
is of, and its unit."""

import statistics
from collections.abc import Iterator

from companion import results

D_IN = 576


def rows(raw: dict, peer_versions: dict[str, str]) -> list[dict]:
    """Every row of `speed.json` from the stages' measurements."""
    limits = dict(raw["limits"])
    made = [
        row("machine", results.processor(), 1, "", "name", name="processor"),
        row("machine", limits.pop("threads"), 1, "", "threads", name="threads"),
        *(row("version", v, 1, "", "version", name=name) for name, v in peer_versions.items()),
        *(row("limit", v, 10, "tries", unit_of(name), name=name) for name, v in limits.items()),
    ]
    for stage, measured in raw.items():
        kind, _, label = stage.partition("/")
        if kind in MAKERS:
            made += MAKERS[kind](label, measured, raw)
    return made


def row(quantity: str, value, n: int, of: str, unit: str, **names) -> dict:
    return {"quantity": quantity, **names, "value": value, "n": n, "of": of, "unit": unit}


def unit_of(limit: str) -> str:
    return "GFLOP/s" if limit.endswith("gflops") else "GB/s"


def of_race(size: str, samples: dict[str, list[float]], raw: dict) -> Iterator[dict]:
    """Tokens per second of each contestant, and the ratios of times that matter."""
    d_sae, _, batch = map(int, size.split("-"))
    step = {name: statistics.median(seconds) for name, seconds in samples.items()}
    n = {name: len(seconds) for name, seconds in samples.items()}
    for name, s in step.items():
        speed = {"model": name, "size": size}
        yield row("tokens_per_second", batch / s, n[name], "clean samples", "tokens/s", **speed)
    theirs = ("saelens", "dictionary", "sparsify")
    peers = {name: s for name, s in step.items() if name.startswith(theirs)}
    floor = 2 * batch * D_IN * d_sae / (raw["limits"]["float32_gflops"] * 1e9)
    yield row("fastest_peer", min(peers, key=peers.get), 1, "", "name", size=size)
    for suffix in ("", "-plain"):
        key, sae, joint = suffix.replace("-", "_"), f"sae{suffix}", f"joint{suffix}"
        for quantity, ratio, model in (
            (f"sae{key}_vs_fastest_peer", min(peers.values()) / step[sae], sae),
            (f"joint{key}_vs_naive", step["naive-joint"] / step[joint], joint),
            (f"encode_floor_fraction{key}", floor / step[sae], sae),
            (f"joint{key}_vs_sae", step[joint] / step[sae], joint),
        ):
            yield row(quantity, ratio, n[model], "clean samples", "ratio of times", size=size)


def of_phases(size: str, measured: dict, raw: dict) -> Iterator[dict]:
    for model, phases in measured.items():
        for phase, seconds in phases.items():
            names = {"model": model, "size": size, "phase": phase}
            yield row("ms_of_phase", 1000 * seconds, 20, "steps", "ms", **names)


def of_memory(size: str, measured: dict, raw: dict) -> Iterator[dict]:
    gib = {name: b / 2**30 for name, b in measured.items()}
    state = "GiB of parameters, gradients and moments"
    yield row("memory_peak", gib["peak"], 1, "runs", "GiB beyond a tiny model's", size=size)
    yield row("memory_state", gib["state"], 1, "", state, size=size)
    yield row("memory_beyond_state", gib["peak"] - gib["state"], 1, "runs", "GiB", size=size)


def of_growth(axis: str, measured: list[dict], raw: dict) -> Iterator[dict]:
    for step in measured:
        names = {"axis": axis, "x": step[axis], "model": step["model"]}
        unit = "ms a step of 1,024 tokens"
        yield row("ms_of_step", 1000 * step["seconds"], 5, "samples", unit, **names)


def of_harvest(precision: str, speed: dict[str, float], raw: dict) -> Iterator[dict]:
    same = {"n": 6, "of": "rounds", "precision": precision}
    for way, s in speed.items():
        yield row("harvest_tokens_per_second", s, unit="tokens/s", way=way, **same)
    for name, way in (
        ("full_forward", "transformers forward"),
        ("trunk", "transformers trunk"),
        ("bare_blocks", "bare blocks"),
    ):
        ratio = speed["ours"] / speed[way]
        yield row(f"harvest_vs_{name}", ratio, unit="ratio of speeds", **same)


def of_loss(model: str, loss: dict[str, float], raw: dict) -> Iterator[dict]:
    ratio = loss["fast"] / loss["dense"]
    yield row("held_out_loss_vs_dense", ratio, 1, "seeds", "ratio", model=model)


MAKERS = {
    "race": of_race,
    "phases": of_phases,
    "memory": of_memory,
    "growth": of_growth,
    "harvest": of_harvest,
    "loss": of_loss,
}
