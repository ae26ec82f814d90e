"""From raw measurements to the values that the book shows."""

import statistics

from benchmarks import machine
from companion.results import Value

D_IN = 576


def values(raw: dict, peer_versions: dict[str, str]) -> dict[str, Value]:
    """Every value of `speed.json` from the stages' measurements."""
    limits = dict(raw["limits"])
    out = {
        "machine/processor": setting(machine.processor(), "name"),
        "machine/threads": setting(limits.pop("threads"), "threads"),
    }
    out |= {
        f"version/{name}": setting(version, "version") for name, version in peer_versions.items()
    }
    out |= {
        f"limit/{name}": Value(value, 10, f"{unit_of(name)}; n tries, the best", "controlled")
        for name, value in limits.items()
    }
    for stage, measured in raw.items():
        kind, _, label = stage.partition("/")
        out |= MAKERS.get(kind, lambda label, measured, raw: {})(label, measured, raw)
    return out


def setting(value, unit: str) -> Value:
    return Value(value, 1, unit, "setting")


def unit_of(limit: str) -> str:
    return "GFLOP/s" if limit.endswith("gflops") else "GB/s"


def of_race(label: str, samples: dict[str, list[float]], raw: dict) -> dict[str, Value]:
    """Tokens per second of each contestant, and the ratios that matter."""
    d_sae, _, batch = map(int, label.split("-"))
    step = {name: statistics.median(seconds) for name, seconds in samples.items()}
    n = {name: len(seconds) for name, seconds in samples.items()}
    out = {
        f"tokens_per_second/{label}/{name}": Value(
            batch / s, n[name], "tokens/s; n clean samples", "controlled"
        )
        for name, s in step.items()
    }
    peers = {
        name: s
        for name, s in step.items()
        if name.startswith(("saelens", "dictionary", "sparsify"))
    }
    floor = 2 * batch * D_IN * d_sae / (raw["limits"]["float32_gflops"] * 1e9)

    def ratio(key: str, slow: float, fast: str) -> None:
        out[f"{key}/{label}"] = Value(
            slow / step[fast], n[fast], "ratio of times; n clean samples", "controlled"
        )

    out[f"fastest_peer/{label}"] = setting(min(peers, key=peers.get), "name")
    for suffix in ("", "-plain"):
        key = suffix.replace("-", "_")
        ratio(f"sae{key}_vs_fastest_peer", min(peers.values()), f"sae{suffix}")
        ratio(f"joint{key}_vs_naive", step["naive-joint"], f"joint{suffix}")
        ratio(f"encode_floor_fraction{key}", floor, f"sae{suffix}")
        out[f"joint{key}_vs_sae/{label}"] = Value(
            step[f"joint{suffix}"] / step[f"sae{suffix}"],
            n[f"joint{suffix}"],
            "ratio of times; n clean samples",
            "controlled",
        )
    return out


def of_phases(label: str, measured: dict, raw: dict) -> dict[str, Value]:
    return {
        f"phase/{label}/{model}/{phase}": Value(1000 * seconds, 20, "ms; n steps", "controlled")
        for model, phases in measured.items()
        for phase, seconds in phases.items()
    }


def of_memory(label: str, measured: dict, raw: dict) -> dict[str, Value]:
    gib = {name: b / 2**30 for name, b in measured.items()}
    return {
        f"memory_peak/{label}": Value(
            gib["peak"], 1, "GiB beyond a tiny model's; n runs", "controlled"
        ),
        f"memory_state/{label}": setting(gib["state"], "GiB of parameters, gradients and moments"),
        f"memory_beyond_state/{label}": Value(
            gib["peak"] - gib["state"], 1, "GiB; n runs", "controlled"
        ),
    }


def of_growth(axis: str, rows: list[dict], raw: dict) -> dict[str, Value]:
    return {
        f"growth/{axis}/{row[axis]}/{row['model']}": Value(
            1000 * row["seconds"], 5, "ms a step of 1,024 tokens; n samples", "controlled"
        )
        for row in rows
    }


def of_harvest(dtype: str, speed: dict[str, float], raw: dict) -> dict[str, Value]:
    out = {
        f"harvest_tokens_per_second/{dtype}/{way}": Value(s, 6, "tokens/s; n rounds", "controlled")
        for way, s in speed.items()
    }
    against = {
        "full_forward": "transformers forward",
        "trunk": "transformers trunk",
        "bare_blocks": "bare blocks",
    }
    suffix = "" if dtype == "bfloat16" else f"/{dtype}"  # bfloat16 is what a harvest uses
    return out | {
        f"harvest_vs_{name}{suffix}": Value(
            speed["ours"] / speed[way], 6, "ratio of speeds; n rounds", "controlled"
        )
        for name, way in against.items()
    }


def of_loss(kind: str, loss: dict[str, float], raw: dict) -> dict[str, Value]:
    return {
        f"held_out_loss_vs_dense/{kind}": Value(
            loss["fast"] / loss["dense"], 1, "ratio; n seeds", "controlled"
        )
    }


MAKERS = {
    "race": of_race,
    "phases": of_phases,
    "memory": of_memory,
    "growth": of_growth,
    "harvest": of_harvest,
    "loss": of_loss,
}
