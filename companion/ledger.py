"""The ledger: every number of the paper, ours beside it, a verdict by a rule written down first."""

import json
import operator
from dataclasses import is_dataclass
from pathlib import Path

import jsonschema
import pandas as pd

from companion import estimates, places, profiles, results, variants, verdicts
from companion.estimates import number, sentence
from companion.profiles import Profile
from featint import store

FILE, SCHEMA = places.DATA / "paper_values.json", places.DATA / "paper_values.schema.json"
SHOWN = ("as_published", "controlled")
FIELDS = (*SHOWN, "p_value", "in_bounds")
"""An entry's fields that name a result; those whose values the ledger shows."""
COMPARED = dict.fromkeys(("effect", "size", "arithmetic"), SHOWN) | {"reading": SHOWN[:1]}
"""By rule the fields whose number is held against the paper's, in the paper's unit."""
PUBLISHED_RUN = f"published run, `{profiles.PUBLISHED}`"
ADAM_BETAS = (0.9, 0.999)  # PyTorch's default, which training leaves as it is; a test compares them


def entries(file: Path = FILE) -> list[dict]:
    """The paper's numbers: what each is, where it stands, which rule judges it, and under which
    keys, `chapter:id of the result`, our results hold its counterparts.

    Raises StoreError, naming file and entry, if one is not as `data/paper_values.schema.json` asks.
    """
    content = store.read_json(file, f"`git checkout {file.name}` brings it back")
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise store.StoreError(f"{file} must be a list of objects, one per number of the paper")
    validator, seen = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_bytes())), set()
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
    if field in (own := {"p_value": "p", "in_bounds": "x"}):
        return own[field]
    known = field in COMPARED.get(entry["rule"], ())
    return entry.get("compare", entry)["unit"] if known else None


def measured(place: Path) -> dict[str, pd.Series]:
    """The estimates in a folder of results, and those from the author's own tables, by key."""
    found = map(results.load, (places.PUBLISHED / places.AUTHOR, place))
    return {":".join(key): estimate for frame in found for key, estimate in frame.iterrows()}


def check_unit(entry: dict, field: str, ours: pd.Series) -> None:
    """Raise StoreError unless a value that a rule compares is one number in the rule's unit."""
    wanted = expected_unit(entry, field)
    if wanted is not None and ours.unit != wanted:
        against = f"the ledger compares them with {entry['id']} in {wanted!r}"
        raise store.StoreError(f"results of {entry[field]} are in {ours.unit!r}, but {against}")
    read = field in verdicts.reads(entry["rule"]) and entry["rule"] != "setting"
    if read and not isinstance(ours.value, int | float):
        must = f"results of {entry[field]} must be one number to judge {entry['id']}"
        raise store.StoreError(f"{must}, got {ours.value!r}")


def paper_sentence(entry: dict) -> str:
    """The paper's number as words, with its counterpart in our unit where that differs."""
    unit = "" if isinstance(entry["paper"], str) else entry["unit"]
    text, other = f"{number(entry['paper'])} {unit}".strip(), entry.get("compare")
    return text + (f", i.e. {number(other['value'])} {other['unit']}" if other else "")


def setting(config: str, profile: Profile):
    """A setting of this profile: `<model>:<path in its ModelConfig>`, or one that none holds."""
    corpus, train = profile.harvest.corpus, profile.train
    held_out = 100 * (corpus.validation_fraction + corpus.test_fraction)
    derived = {
        "adam_beta1": ADAM_BETAS[0],
        "adam_beta2": ADAM_BETAS[1],
        "lr_end": train.lr * train.lr_end_factor,
        "lr_decay_percent": 100 * train.decay_fraction,
        "sparsity_percent": 100 * profile.sae.k / profile.sae.d_sae,
        "held_out_percent": held_out,
        "train_percent": 100 - held_out,
    }
    if config in derived:
        return results.rounded(float(derived[config]))
    model, _, path = config.partition(":")
    try:
        value = operator.attrgetter(path)(variants.get(model, profile))
    except AttributeError as e:
        raise store.StoreError(f"config = {config!r} is no setting ({e})") from e
    if is_dataclass(value):
        raise store.StoreError(f"config = {config!r} is not one setting but several, {value}")
    return value


def judge(entry: dict, profile: Profile, here: dict[str, pd.Series]) -> dict:
    """One row of the ledger, its measured values as they are in `here`."""
    ours = {field: here.get(entry[field]) for field in FIELDS if entry.get(field)}
    if "config" in entry:
        value = setting(entry["config"], profile)
        unit = "" if isinstance(value, str) else entry["unit"]
        about = {"value": value, "lo": None, "hi": None, "n": None, "of": "", "unit": unit}
        ours["controlled"] = pd.Series(about, dtype=object)  # else pandas makes None a NaN
    verdict, why = decide(entry, ours, here)
    reason = ". ".join(text[0].upper() + text[1:] for text in why if text).removesuffix(".")
    row = {"id": entry["id"], "paper": entry["paper"]} | {f: ours.get(f) for f in SHOWN}
    row |= {"verdict": verdict, "why": f"{reason}.", "chapter": entry["chapter"]}
    seeds = [len(x.get("each_seed") or ()) for x in ours.values() if x is not None]
    each = [decide(entry, alone(ours, i), here)[0] for i in range(max(seeds, default=0))]
    return row | {"each_seed": each}


def alone(ours: dict, i: int) -> dict:
    """Our counterparts as they are from the i-th seed alone, where several stand behind them."""
    found = dict(ours)
    for field, estimate in ours.items():
        if estimate is not None and estimate.get("each_seed"):
            numbers = dict(zip(estimates.NUMBERS, estimate.each_seed[i], strict=True))
            about = numbers | {"of": estimate.of.partition(" x ")[0], "each_seed": None}
            found[field] = pd.Series(dict(estimate) | about, dtype=object)
    return found


def decide(entry: dict, ours: dict, here: dict[str, pd.Series]) -> tuple[str, list[str]]:
    """The verdict on a number of the paper and the sentences that explain it; `ours` are our
    counterparts by field, None for those that are not in `here`."""
    reads = verdicts.reads(entry["rule"])
    for field, estimate in ours.items() if entry["rule"] != "untestable" else ():
        if estimate is None:
            chapter, _, name = entry[field].partition(":")
            ran = any(key.startswith(f"{chapter}:") for key in here)
            what = f"reported {name}" if ran else "been run"
            return "pending", [f"chapter {chapter} has not {what} in this profile"]
        if estimate.value is None and field in reads:
            why = f"there is no value for {entry[field]} ({estimate.unit})"
            return "not testable here", [why]
        if estimate.value is not None and "config" not in entry:
            check_unit(entry, field, estimate)
    judged, apart = ours, entry.get("incomparable", "")
    if apart:
        judged, apart = ours | {"as_published": None}, f"As published not comparable: {apart}"
    if apart and judged.get("controlled") is None:
        return "not comparable", [paper_sentence(entry), apart]
    verdict, reason = verdicts.RULES[entry["rule"]](entry, *map(judged.get, reads))
    said = {
        "paper": paper_sentence(entry),
        "as published": in_words(ours.get("as_published")),
        "here" if verdict == "setting" else "controlled": in_words(ours.get("controlled")),
    }
    numbers = "; ".join(f"{whose}: {text}" for whose, text in said.items() if text)
    beside = {label: here[key] for key, label in entry.get("beside", {}).items() if key in here}
    more = [f"Beside it, {label}: {sentence(x)}" for label, x in beside.items()]
    return verdict, [numbers, reason, apart, *more]


def in_words(estimate: pd.Series | None) -> str | None:
    """An estimate as `estimates.sentence`; None where there is none or it has no value."""
    return None if estimate is None or estimate.value is None else sentence(estimate)


def build(profile: Profile, place: Path | None = None) -> list[dict]:
    """The ledger of a profile's results, those of this machine or those in a folder, one row per
    number of the paper, in the paper's order:
    {id, paper, as_published, controlled, verdict, why, chapter, each_seed}; the last are the
    verdicts that each seed would give alone, none where one stands behind them."""
    here = measured(place or results.folder(profile))
    rows = [judge(entry, profile, here) for entry in entries()]
    for row in rows:
        row.update({f: results.plain(row[f]) for f in SHOWN if row[f] is not None})
    return rows


def write(profile: Profile) -> Path:
    """Write the ledger to the profile's results folder and return the file's path."""
    file = results.folder(profile) / results.LEDGER
    store.write_json(file, build(profile))
    return file


def chapter(profile: Profile, name: str) -> pd.DataFrame:
    """The ledger's rows of one chapter, as a table for its last page: what, paper, ours, verdict,
    and that of the published profile where it is another one."""
    here, rows = measured(results.folder(profile)), []
    theirs = measured(places.PUBLISHED / profiles.PUBLISHED)
    for entry in entries():
        if entry["chapter"] == name:
            row = judge(entry, profile, here)
            about = {"what": entry["label"], "paper": paper_sentence(entry)}
            about["ours, as published"] = in_words(row["as_published"])
            about["ours, controlled"] = in_words(row["controlled"])
            about["verdict"] = row["verdict"]
            if profile.label != profiles.PUBLISHED:
                other = judge(entry, profiles.get(profiles.PUBLISHED), theirs)
                sign = "=" if other["verdict"] == row["verdict"] else "≠"
                value = in_words(other["controlled"]) or in_words(other["as_published"])
                about[PUBLISHED_RUN] = f"{sign} {other['verdict']}: {value or 'no value'}"
            rows.append(about)
    return pd.DataFrame(rows)
