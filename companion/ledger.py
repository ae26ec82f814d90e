"""The ledger: every number of the paper, the same number measured here, and a verdict by a rule
that was written down first."""

import json
import operator
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pandas as pd

from companion import places, results, variants
from companion.estimates import number, sentence
from companion.profiles import Profile
from companion.verdicts import RULES, VERDICTS
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
PROTOCOLS = {"as_published": "as_published", "controlled": "controlled", "p_value": "controlled"}
"""An entry's fields that name a result, with the protocol that the result must be of."""
NEEDS = {"sign": ["side"], "reading": ["side"], "arithmetic": ["step"]}
NEEDS |= {"significance": ["p_value"], "untestable": ["reason"]}
"""What an entry must hold besides, by rule."""
COMPARED = dict.fromkeys(("effect", "size", "arithmetic"), ("as_published", "controlled"))
COMPARED |= {"reading": ("as_published",)}
"""By rule the fields whose number is held against the paper's, in the paper's unit."""
ADAM_BETAS = (0.9, 0.999)  # PyTorch's default, which training leaves as it is; a test compares them
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
"""Settings that no config holds as such; the others are `<model>:<path in its ModelConfig>`."""


def schema() -> dict:
    """The JSON schema of one entry: what each rule needs, and how keys of results read."""

    def key(protocol: str) -> dict:
        return {"type": ["string", "null"], "pattern": rf"^\w+:\w+/\w+(/\w+)?/{protocol}$"}

    def needs(rule: str) -> dict:
        optional = {"controlled"} if rule in ("size", "arithmetic") else set()
        properties = {f: {"type": "string"} for f in RULES[rule].reads if f not in optional}
        asked = {"required": NEEDS.get(rule, []), "properties": properties}
        if rule in COMPARED:  # held against one number of the paper
            number = {"properties": {"paper": {"type": "number"}}}
            asked["anyOf"] = [{"required": ["compare"]}, number]
        if rule == "setting":
            own, ours = {"controlled": {"type": "null"}}, {"controlled": {"type": "string"}}
            config = {"required": ["config"]}
            one_of = [config | {"properties": own}, {"not": config, "properties": ours}]
            return {"required": asked["required"], "oneOf": one_of}
        for field, protocol in PROTOCOLS.items():
            properties[field] = key(protocol) | properties.get(field, {})
        return asked

    text = "id chapter label unit where definition".split()
    known = {"claim": {"enum": list(CLAIMS)}, "rule": {"enum": list(RULES)}}
    cases = {rule: {"properties": {"rule": {"const": rule}}} for rule in RULES}
    return {
        "type": "object",
        "required": [*text, "claim", "rule", "paper", "as_published", "controlled"],
        "properties": {name: {"type": "string"} for name in text} | known,
        "allOf": [{"if": case, "then": needs(rule)} for rule, case in cases.items()],
    }


def entries(file: Path = FILE) -> list[dict]:
    """The paper's numbers: what each is, where it stands, which rule judges it, and under which
    keys, `chapter:id of the result`, our results hold its counterparts.

    Raises StoreError, naming file and entry, if one is not as `schema` asks.
    """
    try:
        content = json.loads(file.read_text())
    except FileNotFoundError:
        back = f"`git checkout {file.name}` brings it back"
        raise store.StoreError(f"{file} is missing; {back}") from None
    except ValueError as e:
        raise store.StoreError(f"{file} is not JSON: {e}") from e
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise store.StoreError(f"{file} must be a list of objects, one per number of the paper")
    validator, seen = jsonschema.Draft202012Validator(schema()), set()
    for i, entry in enumerate(content):
        name = entry.get("id", f"number {i}")
        wrong = jsonschema.exceptions.best_match(validator.iter_errors(entry))
        if wrong is not None:
            where = wrong.json_path.removeprefix("$.")
            raise store.StoreError(f"{file}, entry {name}, {where}: {wrong.message}")
        if name in seen:
            raise store.StoreError(f"{file}, entry {name}: its id appears twice")
        seen.add(name)
    return content


def expected_unit(entry: dict, field: str) -> str | None:
    """The unit in which a result must come for the rule to compare it; None if any will do."""
    if field == "p_value":
        return "p"
    if field not in COMPARED.get(entry["rule"], ()):
        return None
    return entry.get("compare", entry)["unit"]


def measured_here(profile: Profile) -> dict[str, pd.DataFrame]:
    """The estimates of each chapter that has results in this profile, indexed by id."""
    files = sorted(results.folder(profile).glob("*.json"))
    return {f.stem: results.frame(profile.label, f.stem) for f in files if f.stem != "ledger"}


def measured(key: str, here: dict[str, pd.DataFrame]) -> pd.Series | None:
    """The estimate under a key `chapter:id`, None if it is not there."""
    chapter, _, name = key.partition(":")
    known = chapter in here and name in here[chapter].index
    return here[chapter].loc[name] if known else None


def check_unit(entry: dict, field: str, ours: pd.Series) -> None:
    """Raise StoreError unless a value that a rule compares is one number in the rule's unit."""
    wanted = expected_unit(entry, field)
    if wanted is not None and ours.unit != wanted:
        against = f"the ledger compares them with {entry['id']} in {wanted!r}"
        raise store.StoreError(f"results of {entry[field]} are in {ours.unit!r}, but {against}")
    read = field in RULES[entry["rule"]].reads and entry["rule"] != "setting"
    if read and not isinstance(ours.value, int | float):
        must = f"results of {entry[field]} must be one number to judge {entry['id']}"
        raise store.StoreError(f"{must}, got {ours.value!r}")


def paper_sentence(entry: dict) -> str:
    """The paper's number as words, with its counterpart in our unit where that differs."""
    if isinstance(entry["paper"], str):
        text = entry["paper"]
    else:
        text = f"{number(entry['paper'])} {entry['unit']}".strip()
    other = entry.get("compare")
    return text + (f", i.e. {number(other['value'])} {other['unit']}" if other else "")


def setting(config: str, profile: Profile):
    """A setting of this profile: a name in `DERIVED`, or `<model>:<path in its ModelConfig>`."""
    if config in DERIVED:
        return results.rounded(float(DERIVED[config](profile)))
    model, _, path = config.partition(":")
    return operator.attrgetter(path)(variants.get(model, profile))


def judge(entry: dict, profile: Profile, here: dict[str, pd.DataFrame]) -> dict:
    """One row of the ledger."""
    rule, ours = RULES[entry["rule"]], {}
    if "config" in entry:
        value = setting(entry["config"], profile)
        unit = "" if isinstance(value, str) else entry["unit"]
        about = {"value": value, "lo": None, "hi": None, "n": None, "of": "", "unit": unit}
        ours["controlled"] = pd.Series(about, dtype=object)  # else pandas makes None a NaN
    else:
        ours = {field: measured(entry[field], here) for field in PROTOCOLS if entry.get(field)}

    def row(verdict: str, *why: str) -> dict:
        choose("verdict", verdict, VERDICTS)
        shown = {f: plain(ours.get(f)) for f in ("as_published", "controlled")}
        reason = ". ".join(text[0].upper() + text[1:] for text in why if text).removesuffix(".")
        about = {"verdict": verdict, "why": f"{reason}.", "chapter": entry["chapter"]}
        return {"id": entry["id"], "paper": entry["paper"]} | shown | about

    for field, estimate in ours.items() if entry["rule"] != "untestable" else ():
        if estimate is None:
            chapter, _, name = entry[field].partition(":")
            what = f"reported {name}" if chapter in here else "been run"
            return row("pending", f"chapter {chapter} has not {what} in this profile")
        if estimate.value is None and field in rule.reads:
            why = f"there is no value for {entry[field]} ({estimate.unit})"
            return row("not testable here", why)
        if estimate.value is not None and "config" not in entry:
            check_unit(entry, field, estimate)
    verdict, reason = rule.judge(entry, *(ours.get(field) for field in rule.reads))
    words = [f"paper: {paper_sentence(entry)}"]
    controlled = "here" if verdict == "setting" else "controlled"
    for field, name in {"as_published": "as published", "controlled": controlled}.items():
        if ours.get(field) is not None and ours[field].value is not None:
            words.append(f"{name}: {sentence(ours[field])}")
    beside = [(label, measured(key, here)) for key, label in entry.get("beside", {}).items()]
    more = [f"Beside it, {label}: {sentence(x)}" for label, x in beside if x is not None]
    return row(verdict, "; ".join(words), reason, *more)


def plain(estimate: pd.Series | None) -> dict | None:
    """An estimate as JSON: value, ci, n, of, unit."""
    if estimate is None:
        return None
    ci = None if estimate.lo is None else [estimate.lo, estimate.hi]
    n = None if estimate.n is None else int(estimate.n)
    return {"value": estimate.value, "ci": ci, "n": n, "of": estimate.of, "unit": estimate.unit}


def build(profile: Profile) -> list[dict]:
    """The ledger of a profile, one row per number of the paper, in the paper's order:
    {id, paper, as_published, controlled, verdict, why, chapter}."""
    here = measured_here(profile)
    return [judge(entry, profile, here) for entry in entries()]


def write(profile: Profile) -> Path:
    """Write the ledger to the profile's results folder and return the file's path."""
    file = results.folder(profile) / "ledger.json"
    store.write_json(file, build(profile))
    return file


def chapter(profile: Profile, name: str) -> pd.DataFrame:
    """The ledger's rows of one chapter, as a table for its last page: what, paper, ours,
    verdict."""
    here, rows = measured_here(profile), []
    for entry in entries():
        if entry["chapter"] == name:
            row = judge(entry, profile, here)
            about = {"what": entry["label"], "paper": paper_sentence(entry)}
            about["ours, as published"] = short(row["as_published"])
            about["ours, controlled"] = short(row["controlled"])
            rows.append(about | {"verdict": row["verdict"]})
    return pd.DataFrame(rows)


def short(value: dict | None) -> str | None:
    """What a table's cell says of a ledger's value: as `estimates.sentence`."""
    if value is None or value["value"] is None:
        return None
    lo, hi = value["ci"] or (None, None)
    return sentence(pd.Series(value | {"lo": lo, "hi": hi}, dtype=object))
