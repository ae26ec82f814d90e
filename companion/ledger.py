"""The ledger: every number of the paper, the same number measured here, and a verdict by a rule that was written down first."""

import json
import operator
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from companion import places, results, variants
from companion.profiles import Profile
from companion.verdicts import RULES, VERDICTS, in_paper_units, number
from featint import store
from featint.config import choose

FILE = places.DATA / "paper_values.json"
CLAIMS = {
    "C1": "reconstruction",
    "C2": "behaviour",
    "C3": "a small nonlinear path",
    "C4": "two modes of norms",
    "C5": "selective integration features",
    "C6": "clamping",
    "C7": "parameter efficiency",
    "setting": "settings",
}
FIELDS = (
    "id",
    "claim",
    "chapter",
    "label",
    "paper",
    "unit",
    "where",
    "definition",
    "rule",
    "as_published",
    "controlled",
)
NEEDS = {
    "sign": ("side",),
    "reading": ("side",),
    "arithmetic": ("step",),
    "significance": ("p_value",),
    "untestable": ("reason",),
}

ADAM_BETAS = (
    0.9,
    0.999,
)  # PyTorch's default, which training leaves as it is; a test compares the two

# Settings that no config holds as such; the others are named in the entry as `<model>:<path in its ModelConfig>`.
DERIVED: dict[str, Callable[[Profile], float]] = {
    "adam_beta1": lambda _: ADAM_BETAS[0],
    "adam_beta2": lambda _: ADAM_BETAS[1],
    "lr_end": lambda p: p.train.lr * p.train.lr_end_factor,
    "lr_decay_percent": lambda p: 100 * p.train.decay_fraction,
    "sparsity_percent": lambda p: 100 * p.sae.k / p.sae.d_sae,
    "held_out_percent": lambda p: (
        100 * (p.harvest.corpus.validation_fraction + p.harvest.corpus.test_fraction)
    ),
    "train_percent": lambda p: 100 - DERIVED["held_out_percent"](p),
}


def split_key(key: str) -> tuple[str, str]:
    """A key `chapter:value_id` in its two parts; the second is `<model>/<metric>/<protocol>` or `setting/<name>`."""
    chapter, _, name = key.partition(":")
    return chapter, name


def entries(file: Path = FILE) -> list[dict]:
    """The paper's numbers: what each is, where it stands, which rule judges it, and under which keys our results hold its counterparts.

    Raises StoreError, naming the entry and the field, if the file is missing or an entry is not as the rules need it.
    """
    try:
        content = json.loads(file.read_text())
    except FileNotFoundError:
        raise store.StoreError(
            f"{file} is missing; `git checkout {file.name}` brings it back"
        ) from None
    except ValueError as e:
        raise store.StoreError(f"{file} is not JSON: {e}") from e
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise store.StoreError(f"{file} must be a list of objects, one per number of the paper")
    seen = set()
    for i, entry in enumerate(content):
        name = entry.get("id", f"number {i}")
        try:
            check(entry)
            if name in seen:
                raise ValueError("its id appears twice")
        except ValueError as e:
            raise store.StoreError(f"{file}, entry {name}: {e}") from e
        seen.add(name)
    return content


def check(entry: dict) -> None:
    """Raise a ValueError if an entry lacks what its rule needs, or names an unknown claim, rule or kind of key."""
    if lacks := [f for f in FIELDS if f not in entry]:
        raise ValueError(f"it lacks {', '.join(lacks)}")
    choose("claim", entry["claim"], tuple(CLAIMS))
    choose("rule", entry["rule"], tuple(RULES))
    if lacks := [f for f in NEEDS.get(entry["rule"], ()) if f not in entry]:
        raise ValueError(f"the rule {entry['rule']!r} needs {', '.join(lacks)}")
    if entry["rule"] == "setting":
        if ("config" in entry) == (entry["controlled"] is not None):
            raise ValueError("a setting has either `config` or a result key in `controlled`")
        return
    if entry["rule"] in ("effect", "size", "arithmetic", "reading") and not isinstance(
        in_paper_units(entry), int | float
    ):
        raise ValueError(
            f"the rule {entry['rule']!r} needs one number, got paper = {entry['paper']!r}"
        )
    for field in RULES[entry["rule"]].reads:
        optional = field == "controlled" and entry["rule"] in ("size", "arithmetic")
        if entry.get(field) is None and not optional:
            raise ValueError(f"the rule {entry['rule']!r} needs a result key in {field!r}")
    for field, protocol in (
        ("as_published", "as_published"),
        ("controlled", "controlled"),
        ("p_value", "controlled"),
    ):
        key = entry.get(field)
        if key is not None and (
            key.count(":") != 1 or key.count("/") not in (2, 3) or not key.endswith(f"/{protocol}")
        ):
            raise ValueError(
                f"{field} = {key!r} must read 'chapter:model/quantity[/part]/{protocol}'"
            )


def expected_unit(entry: dict, field: str) -> str | None:
    """The unit in which a result must come for the rule to compare it; None if any will do."""
    if field == "p_value":
        return "p"
    both = ("as_published", "controlled")
    compares = {"effect": both, "size": both, "arithmetic": both, "reading": ("as_published",)}
    if field not in compares.get(entry["rule"], ()):
        return None
    return entry["compare"]["unit"] if "compare" in entry else entry["unit"]


def chapters(profile: Profile) -> dict[str, dict]:
    """The values of each chapter that has results in this profile."""
    files = sorted(results.folder(profile).glob("*.json"))
    return {file.stem: results.read(file)["values"] for file in files if file.stem != "ledger"}


def measured(entry: dict, field: str, found: dict[str, dict]) -> dict | None:
    """The result that an entry's field names as {"value", "ci", "n", "unit"}, or None if it is not there.

    Raises StoreError if its unit is not the one that the rule compares with, or a number is expected and something else is there.
    """
    chapter, name = split_key(entry[field])
    if name not in found.get(chapter, {}):
        return None
    value = {x: found[chapter][name][x] for x in ("value", "ci", "n", "unit")}
    unit, wanted = value["unit"].split(";")[0].strip(), expected_unit(entry, field)
    if value["value"] is None:
        return value
    if wanted is not None and unit != wanted:
        raise store.StoreError(
            f"results of {entry[field]} are in {unit!r}, but the ledger compares them with {entry['id']} in {wanted!r}"
        )
    if (
        field in RULES[entry["rule"]].reads
        and entry["rule"] != "setting"
        and not isinstance(value["value"], int | float)
    ):
        raise store.StoreError(
            f"results of {entry[field]} must be one number to judge {entry['id']}, got {value['value']!r}"
        )
    return value


def said(value: dict) -> str:
    """A measured value as words: `26.1 % (95 % interval 25 to 27, n = 1505 articles)`."""
    unit, _, of = (part.strip() for part in value["unit"].partition(";"))
    known = (
        []
        if value["ci"] is None
        else [f"95 % interval {number(value['ci'][0])} to {number(value['ci'][1])}"]
    )
    of = of.removeprefix("n ").removesuffix("s" if value["n"] == 1 else "")
    known += [] if value["n"] is None else [f"n = {number(value['n'])} {of}".strip()]
    return f"{number(value['value'])} {unit}".strip() + (f" ({', '.join(known)})" if known else "")


def said_by_paper(entry: dict) -> str:
    """The paper's number as words, with its counterpart in our unit where that differs; what the paper says in words has no unit."""
    text = (
        entry["paper"]
        if isinstance(entry["paper"], str)
        else f"{number(entry['paper'])} {entry['unit']}".strip()
    )
    return text + (
        f", i.e. {number(entry['compare']['value'])} {entry['compare']['unit']}"
        if "compare" in entry
        else ""
    )


def judge(entry: dict, profile: Profile, found: dict[str, dict]) -> dict:
    """One row of the ledger."""
    row = {"id": entry["id"], "paper": entry["paper"], "as_published": None, "controlled": None}

    def verdict(verdict: str, why: str) -> dict:
        choose("verdict", verdict, VERDICTS)
        return row | {
            "verdict": verdict,
            "why": why[0].upper() + why[1:] + ".",
            "chapter": entry["chapter"],
        }

    if "config" in entry:
        value = ours(entry["config"], profile)
        row["controlled"] = {
            "value": value,
            "ci": None,
            "n": None,
            "unit": "" if isinstance(value, str) else entry["unit"],
        }
        return verdict("setting", f"paper: {said_by_paper(entry)}; here: {said(row['controlled'])}")
    values = {
        field: measured(entry, field, found)
        for field in ("as_published", "controlled", "p_value")
        if entry.get(field)
    }
    row |= {field: value for field, value in values.items() if field in row}
    rule = RULES[entry["rule"]]
    if entry["rule"] != "untestable":
        for field, value in values.items():
            if value is None:
                chapter, name = split_key(entry[field])
                return verdict(
                    "pending",
                    f"chapter {chapter} has not "
                    + (f"reported {name}" if chapter in found else "been run")
                    + " in this profile",
                )
        for field in rule.reads:
            if (value := values.get(field)) is not None and value["value"] is None:
                return verdict(
                    "not testable here", f"there is no value for {entry[field]} ({value['unit']})"
                )
    outcome, reason = rule.judge(entry, *(values.get(field) for field in rule.reads))
    words = [f"paper: {said_by_paper(entry)}"]
    names = {
        "as_published": "as published",
        "controlled": "here" if outcome == "setting" else "controlled",
    }
    words += [
        f"{name}: {said(row[field])}"
        for field, name in names.items()
        if row[field] and row[field]["value"] is not None
    ]
    why = "; ".join(words) + (f". {reason[0].upper()}{reason[1:]}" if reason else "")
    for key, label in entry.get("beside", {}).items():
        chapter, name = split_key(key)
        if name in found.get(chapter, {}):
            why += f". Beside it, {label}: {said(found[chapter][name])}"
    return verdict(outcome, why.removesuffix("."))


def ours(config: str, profile: Profile):
    """A setting of this profile: a name in `DERIVED`, or `<model>:<path in its ModelConfig>`."""
    if config in DERIVED:
        return results.rounded(float(DERIVED[config](profile)))
    model, path = split_key(config)
    return operator.attrgetter(path)(variants.get(model, profile))


def build(profile: Profile) -> list[dict]:
    """The ledger of a profile, one row per number of the paper, in the paper's order: {id, paper, as_published, controlled, verdict, why, chapter}."""
    found = chapters(profile)
    return [judge(entry, profile, found) for entry in entries()]


def write(profile: Profile) -> Path:
    """Write the ledger to the profile's results folder and return the file's path."""
    file = results.folder(profile) / "ledger.json"
    store.write_json(file, build(profile))
    return file


def frame(profile: Profile) -> pd.DataFrame:
    """The ledger for readers: claim, label, where, definition, paper, as_published, controlled (as words), verdict, why, chapter; indexed by id."""
    rows = []
    for entry, row in zip(entries(), build(profile), strict=True):
        words = {
            field: said(row[field]) if row[field] and row[field]["value"] is not None else ""
            for field in ("as_published", "controlled")
        }
        about = {
            field: entry[field] for field in ("id", "claim", "label", "where", "definition", "rule")
        }
        rows.append(
            about
            | {"note": entry.get("note", ""), "paper": said_by_paper(entry)}
            | words
            | {f: row[f] for f in ("verdict", "why", "chapter")}
        )
    return pd.DataFrame(rows).set_index("id")


def chapter(profile: Profile, name: str) -> pd.DataFrame:
    """The ledger's rows of one chapter, as a table for its last page: what, paper, as published, controlled, verdict."""
    rows = frame(profile)
    columns = {
        "label": "what",
        "paper": "paper",
        "as_published": "ours, as published",
        "controlled": "ours, controlled",
        "verdict": "verdict",
    }
    return (
        rows.loc[rows["chapter"] == name, list(columns)]
        .rename(columns=columns)
        .replace("", None)
        .reset_index(drop=True)
    )


def summary(profile: Profile) -> pd.DataFrame:
    """How many numbers of each claim got each verdict: rows are claims, columns verdicts."""
    rows = frame(profile)
    return pd.crosstab(rows["claim"], rows["verdict"]).reindex(
        index=list(CLAIMS), columns=list(VERDICTS), fill_value=0
    )
