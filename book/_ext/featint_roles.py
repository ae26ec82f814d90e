"""Roles and directives that put measured and printed numbers on a page; none of them is ever typed.

{result}`reconstruction:joint/fvu/all/controlled`           a value of a chapter, here with four significant digits
{result}`reconstruction:joint/fvu/all/controlled:.3f:ci`   with a format spec, and with its interval: 0.312 [0.305, 0.320]
{result}`reconstruction:joint/fvu/all/controlled:n`         how many units stand behind it; `of`: how many of what; `unit`: its unit
{result}`published/seeds:joint/fvu/controlled`      a value of the published run, whatever profile the book shows; so `laptop/...`, of that profile's
{paper}`abs_joint_recon_improvement`                what the paper prints, with its unit, or its name if it is a statistic: F = 5.06; a word has none
{paper}`clamp_interaction_F:value`                  the same without either, where the sentence says it
{setting}`setup_topk`                               what this book has where the paper prints a setting, here k
{verdict}`abs_joint_recon_improvement`              the ledger's verdict on it, linked to the ledger, with the published run's beside it
{ledger} (directive; option `chapter`)              the ledger, whole or of one chapter
{claims} (directive)                                numbers of the paper, a line of `id: claim` each, with ours and the verdict: those of the published run
{disagreements} (directive)                         the numbers on which the published run comes to another verdict than this book's
{stability} (directive)                             the published verdicts that a seed alone, or the quick run, would not have given
{scale} (directive)                                 the sizes of the paper's models, of this book's, and ours as a multiple of the paper's
{rules} (directive)                                 how verdicts are reached
{status} (directive)                                what ran, when, how long
{whole-book} (directive)                            what `make book` took from nothing, step by step
{torture} (directive)                               what was done to the steps, how often, and how often they held
{picture} waterfall (directive; option `alt`)       a figure that a chapter saved, with the content as its caption
"""

import gc
import json
from collections import Counter
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective, SphinxRole

from companion import places, plots, profiles, results
from companion.estimates import interval, number
from companion.verdicts import DECIDED, RULES, VERDICTS
from featint import store

STATISTICS = ("t", "F", "p", "Spearman r")
"""Units that are names: F = 5.06, not 5.06 F."""
QUICK = profiles.laptop.__name__
"""The run of one seed whose results are published beside the five seeds'."""
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
"""The paper's claims, and the settings, in words."""


def in_short(value: dict | None) -> str:
    """A number of the ledger, with its interval."""
    if value is None:
        return number(None)
    return interval(value["value"], *(value["ci"] or (None, None)))


def deciding(entry: dict) -> str:
    """The result that an entry's verdict rests on above all; entries with the same are one claim,
    and count once."""
    named = (entry.get(field) for field in ("p_value", "controlled", "as_published"))
    return next(filter(None, named), entry["id"])


def load(env, file: Path, remedy: str):
    """A JSON file that the current page then depends on. Raises ExtensionError naming the page."""
    env.note_dependency(str(file))
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise ExtensionError(f"{env.docname}: {file} cannot be read ({e}); {remedy}") from e


def results_of(env, run: str = "") -> Path:
    """The results that this book shows, which were computed here; of a run that is named, the published ones."""
    if not run:
        return places.RESULTS / env.config.featint_profile
    return places.PUBLISHED / (profiles.PUBLISHED if run == "published" else run)


def estimates_of(env, run: str, chapter: str, quantity: str):
    """A chapter's estimates of a quantity, a tidy frame by id; the page then depends on their file. Raises ExtensionError if there are none."""
    file = results_of(env, run) / f"{chapter}.json"
    env.note_dependency(str(file))
    try:
        table = results.table(file)
    except store.StoreError as e:
        raise ExtensionError(f"{env.docname}: {e}") from e
    if (table := table[table.quantity == quantity]).empty:
        raise ExtensionError(f"{env.docname}: {file} has no {quantity!r}; run the chapter again")
    return table


def ledger(env, run: str = "") -> dict[str, dict]:
    """The ledger's rows by id, in its order."""
    remedy = f"`featint ledger --profile {env.config.featint_profile}` writes it"
    file = results_of(env, run) / results.LEDGER
    rows = load(env, file, "`git checkout data/results` brings it back" if run else remedy)
    return {row["id"]: row for row in rows}


def other_run(env, run: str = "") -> tuple[str, dict[str, dict]]:
    """Beside the published run this book's own, and the other way round: the profile's name and the ledger. There is none in a book of the
    published profile, so that nothing is said twice."""
    if env.config.featint_profile == profiles.PUBLISHED:
        return profiles.PUBLISHED, {}
    name = env.config.featint_profile if run else profiles.PUBLISHED
    return name, ledger(env, "" if run else "published")


def paper_values(env) -> dict[str, dict]:
    return {
        entry["id"]: entry
        for entry in load(
            env, places.DATA / "paper_values.json", "it belongs to the project: restore it"
        )
    }


def pick(env, table: dict, key: str, where: str) -> dict:
    """`table[key]`. Raises ExtensionError naming the page and the key."""
    if key not in table:
        raise ExtensionError(
            f"{env.docname}: {where} has no {key!r}; it has {', '.join(sorted(table))}"
        )
    return table[key]


class Result(SphinxRole):
    """A measured value; hovering shows its unit, n, protocol and where it comes from."""

    def run(self):
        where, _, rest = self.text.partition(":")
        run, _, chapter = where.rpartition("/")
        file, (name, *options) = results_of(self.env, run) / f"{chapter}.json", rest.split(":")
        self.env.note_dependency(str(file))
        try:
            value = results.lookup(file, name)
        except store.StoreError as e:
            raise ExtensionError(f"{self.env.docname}: {{result}}`{self.text}`: {e}") from e
        spec = next((option for option in options if option not in ("ci", "n", "of", "unit")), None)
        try:
            if "n" in options or "unit" in options:
                text = number(value.n) if "n" in options else value.unit
            elif "of" in options:
                text = f"{value.n:,} {value.of}"
            elif "ci" in options:
                text = interval(value.value, value.lo, value.hi, spec)
            else:
                text = number(value.value, spec)
        except ValueError as e:
            raise ExtensionError(
                f"{self.env.docname}: {{result}}`{self.text}`: "
                f"{spec!r} does not format {value.value!r} ({e})"
            ) from e
        of = f"n = {value.n:,} {value.of}".strip()
        origin = f"{value.unit or 'no unit'}; {of}; {value.protocol}; from {where}: {name}"
        return [nodes.abbreviation(text, text, explanation=origin, classes=["result"])], []


class Paper(SphinxRole):
    """A number as the paper prints it; hovering shows where and how it is defined."""

    def run(self):
        key, *options = self.text.split(":")
        if options not in ([], ["value"]):
            raise ExtensionError(
                f"{self.env.docname}: {{paper}}`{self.text}`: the only option is `value`, got {':'.join(options)!r}"
            )
        entry = pick(self.env, paper_values(self.env), key, "data/paper_values.json")
        value, unit = number(entry["paper"]), entry["unit"]
        if options or isinstance(entry["paper"], str):
            text = value
        else:
            text = f"{unit} = {value}" if unit in STATISTICS else f"{value} {unit}".strip()
        return [
            nodes.abbreviation(
                text,
                text,
                explanation=f"the paper, {entry['where']}: {entry['label']}",
                classes=["result"],
            )
        ], []


def settings(env) -> dict[str, dict]:
    """The ledger's rows of settings by id: the paper's value in `paper`, ours in `controlled`."""
    return {key: row for key, row in ledger(env).items() if row["verdict"] == "setting"}


class Setting(SphinxRole):
    """Our counterpart of a setting that the paper prints; hovering shows the paper's."""

    def run(self):
        row = pick(self.env, settings(self.env), self.text, "the ledger's settings")
        entry = pick(self.env, paper_values(self.env), self.text, "data/paper_values.json")
        text = number(row["controlled"]["value"])
        origin = f"{entry['label']}; the paper: {number(entry['paper'])} {entry['unit']}".strip()
        return [nodes.abbreviation(text, text, explanation=origin, classes=["result"])], []


class Verdict(SphinxRole):
    """The verdict on one printed number, linked to its row in the ledger; `published/...` is the published run's."""

    def run(self):
        run, _, key = self.text.rpartition("/")
        row = pick(self.env, ledger(self.env, run), key, "the ledger")
        page = self.env.app.builder.get_relative_uri(self.env.docname, "book/ledger")
        link = nodes.reference(
            "", "", badge(row["verdict"]), internal=True, refuri=f"{page}#{anchor(key)}"
        )
        return [link, *beside(self.env, row, run)], []


class Beside(SphinxRole):
    """What the published run says of a row of this book's ledger."""

    def run(self):
        return beside(self.env, ledger(self.env)[self.text]), []


def beside(env, row: dict, run: str = "") -> list[nodes.Node]:
    """What the other run says of a row of a ledger: its name, `=` or `≠`, the verdict if it is another one, the value."""
    name, theirs = other_run(env, run)
    if (other := theirs.get(row["id"])) is None:
        return []
    same = other["verdict"] == row["verdict"]
    text = f"{'=' if same else '≠'} {name}{':' if same else ''}"
    sign = nodes.inline(text, text, classes=["other-run", "same" if same else "differs"])
    value = in_short(other["controlled"] or other["as_published"])
    value = nodes.inline(value, value, classes=["other-run"])
    shown = [sign, value] if same else [sign, badge(other["verdict"]), value]
    return [node for each in shown for node in (nodes.Text(" "), each)]


class Badge(SphinxRole):
    """The coloured word alone."""

    def run(self):
        return [badge(self.text)], []


def anchor(key: str) -> str:
    """The place of a number's row on the ledger page."""
    return f"ledger-{key}".lower()


def to_row(entry: dict) -> str:
    """A number's name, linked to its row, in a table on the ledger page."""
    label = entry["label"].replace("|", "\\|")
    return f'<a href="#{anchor(entry["id"])}">{label}</a>'


def badge(verdict: str) -> nodes.inline:
    if verdict not in VERDICTS:
        raise ExtensionError(f"{verdict!r} is no verdict; allowed: {', '.join(VERDICTS)}")
    return nodes.inline(
        verdict, verdict, classes=["verdict", "verdict-" + verdict.replace(" ", "-")]
    )


class Markdown(SphinxDirective):
    """A directive whose content is written by `text()` as MyST, headings allowed."""

    def run(self):
        box = nodes.Element()
        box.document = self.state.document
        self.state.nested_parse(
            StringList(self.text().splitlines(), self.env.docname),
            self.content_offset,
            box,
            match_titles=True,
        )
        return box.children


FILTER = """```{raw} html
<form id="ledger-filter" class="offer" role="search" hidden>
<label>Verdict <select name="verdict"><option value="">all</option></select></label>
<label>Seeds of the published run <select name="seeds"><option value="">all</option>
<option value="True">each says so alone</option><option value="False">not each says so alone</option></select></label>
<label>Words <input type="search" name="words" autocomplete="off"></label>
<p><output></output> <button type="reset">Show all</button></p>
</form>
<script defer src="../_static/ledger.js"></script>
```"""


class Ledger(Markdown):
    """Tables of printed numbers, ours and the verdicts: all, one per claim, or those of one chapter."""

    option_spec = {"chapter": directives.unchanged_required}

    def text(self) -> str:
        printed, claims, chapters = paper_values(self.env), {claim: [] for claim in CLAIMS}, {}
        for row in ledger(self.env).values():
            row["entry"] = pick(self.env, printed, row["id"], "data/paper_values.json")
            claims[row["entry"]["claim"]].append(row)
            chapters.setdefault(row["chapter"], []).append(row)
        if chapter := self.options.get("chapter"):
            return self.table(pick(self.env, chapters, chapter, "the ledger"))
        counts = {
            claim: [
                len({deciding(row["entry"]) for row in rows if row["verdict"] == verdict})
                for verdict in VERDICTS
            ]
            for claim, rows in claims.items()
        }
        parts = [
            "## In numbers",
            "| claim | "
            + " | ".join(VERDICTS)
            + " |\n|:--"
            + "|--:" * len(VERDICTS)
            + "|\n"
            + "\n".join(
                f"| {self.heading(claim)} | " + " | ".join(str(n or "–") for n in row) + " |"
                for claim, row in counts.items()
            ),
        ]
        parts.append(FILTER)
        for claim, rows in claims.items():
            pages = ", ".join(dict.fromkeys(self.page(row["chapter"]) for row in rows))
            parts += [
                f"## {self.heading(claim)}",
                f"Measured in: {pages}.",
                self.table(rows, targets=True),
            ]
        return "\n\n".join(parts)

    def heading(self, claim: str) -> str:
        return f"{claim}: {CLAIMS[claim]}" if claim != "setting" else CLAIMS[claim].capitalize()

    def page(self, chapter: str) -> str:
        page = f"notebooks/{chapter}"
        return (
            f"{{doc}}`/{page}`" if page in self.env.found_docs else f"*{chapter}* (not written yet)"
        )

    def table(self, rows: list[dict], targets: bool = False) -> str:
        published = ledger(self.env, "published")
        lines = [
            "::::{div} ledger full-width",
            "| number | verdict | paper | as published | controlled | why |",
            "|:--|:--|--:|--:|--:|:--|",
        ]
        for row in rows:
            label = row["entry"]["label"]
            if targets:
                label = f'<span id="{anchor(row["id"])}"></span>{label}'
            ours = [in_short(row[protocol]) for protocol in ("as_published", "controlled")]
            if "incomparable" in row["entry"]:
                ours[0] += "<br>not comparable"
            cells = [
                label,
                f"{{badge}}`{row['verdict']}`{{beside}}`{row['id']}`{seeds_alone(published[row['id']])}",
                f"{{paper}}`{row['id']}`",
                *ours,
                row["why"],
            ]
            lines.append(
                "| "
                + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells)
                + " |"
            )
        return "\n".join([*lines, "::::"])


def seeds_alone(row: dict) -> str:
    """How many of its seeds would each have given a published verdict alone; nothing where one stands behind it."""
    same, n = row["each_seed"].count(row["verdict"]), len(row["each_seed"])
    text = f"{same} of {n} seeds alone say so"
    return f' <span class="seeds" data-firm="{same == n}">{text}</span>' if n else ""


class Claims(Markdown):
    """A table of claims, each a number of the paper: `id: what is claimed`, a line each. Ours and the verdict are the published run's."""

    has_content = True

    def text(self) -> str:
        printed, rows = paper_values(self.env), ledger(self.env, "published")
        lines = []
        for line in self.content:
            key, _, claim = map(str.strip, line.partition(":"))
            entry = pick(self.env, printed, key, "data/paper_values.json")
            pick(self.env, rows, key, "the published ledger")
            ours = [self.ours(entry.get(field)) for field in ("as_published", "controlled")]
            cells = [f"**{entry['claim']}** {claim}", f"{{paper}}`{key}`", *ours]
            lines.append(" | ".join(["", *cells, f"{{verdict}}`published/{key}`", ""]).strip())
        head = "| claim | paper | ours, as published | ours, controlled | verdict |\n|:--|:--|:--|:--|:--|"
        return "\n".join(["::::{div} claims full-width", head, *lines, "::::"])

    def ours(self, key: str | None) -> str:
        """A value of the published run, with unit and interval; a dash where there is none."""
        if key is None:
            return number(None)
        chapter, _, name = key.partition(":")
        unit = results.lookup(results_of(self.env, "published") / f"{chapter}.json", name).unit
        value = f"{{result}}`published/{key}:.3g:ci`"
        return f"{unit} = {value}" if unit in STATISTICS else f"{value} {unit}"


class Disagreements(Markdown):
    """Where the published run comes to another verdict than this book's."""

    def text(self) -> str:
        name, theirs = other_run(self.env)
        if not theirs:
            return f"This book shows `{name}` itself."
        printed, own, lines = paper_values(self.env), ledger(self.env), []
        for key, row in own.items():
            other = theirs.get(key)
            if other and other["verdict"] != row["verdict"]:
                both = [
                    f"{{badge}}`{x['verdict']}`<br>{in_short(x['controlled'] or x['as_published'])}"
                    for x in (row, other)
                ]
                lines.append(f"| {to_row(printed[key])} | {' | '.join(both)} |")
        if not lines:
            return f"The two ledgers agree on all {len(own)} numbers."
        head = f"| number | `{self.config.featint_profile}` | `{name}` |\n|:--|:--|:--|"
        return f"They differ on {len(lines)} of {len(own)} numbers.\n\n" + "\n".join([head, *lines])


class Stability(Markdown):
    """The published verdicts that one of their seeds alone, or the quick run that is published beside them, would not have given."""

    def text(self) -> str:
        printed, rows = paper_values(self.env), ledger(self.env, "published")
        quick, lines = ledger(self.env, QUICK), []
        seeded = [row for row in rows.values() if row["each_seed"]]
        for key, row in rows.items():
            others = [*row["each_seed"], quick[key]["verdict"]]
            if set(others) != {row["verdict"]}:
                same = row["each_seed"].count(row["verdict"])
                alone = Counter(v for v in row["each_seed"] if v != row["verdict"])
                cells = [
                    to_row(printed[key]),
                    f"{{badge}}`{row['verdict']}`",
                    f"{same} of {len(row['each_seed'])}" if row["each_seed"] else number(None),
                    "<br>".join(f"{n} x {{badge}}`{v}`" for v, n in alone.items()),
                    f"{{badge}}`{others[-1]}`" if others[-1] != row["verdict"] else "=",
                ]
                lines.append(f"| {' | '.join(cells)} |")
        firm = sum(set(row["each_seed"]) == {row["verdict"]} for row in seeded)
        apart = sum(len({row["verdict"], *row["each_seed"]} & set(DECIDED)) > 1 for row in seeded)
        runs = sum(against(row["verdict"], quick[key]["verdict"]) for key, row in rows.items())
        said = (
            f"{len(seeded)} of {len(rows)} published verdicts rest on several seeds. {firm} of them each seed would have given alone. "
            f"In {apart} two of them, or one and all together, would have decided differently; in the others that differ, some leave open what others decide. "
            f"The run `{QUICK}`, one seed and less text, decides otherwise in {runs}."
        )
        head = f"| number | verdict | seeds that say so alone | the others say | `{QUICK}` |\n|:--|:--|--:|:--|:--|"
        return "\n".join([said, "", head, *lines])


def against(verdict: str, other: str) -> bool:
    """Whether both are decided, and differently."""
    return verdict != other and {verdict, other} <= set(DECIDED)


SCALE = {
    "features, d_sae": ("setup_n_features", None),
    "features per dimension, d_sae / d_in": ("setup_n_features", "d_in"),
    "active features per dimension, k / d_in": ("setup_topk", "d_in"),
    "active share of the features, k / d_sae": ("setup_topk", "setup_n_features"),
    "training tokens, joint model": ("setup_joint_tokens", None),
    "training tokens per feature": ("setup_joint_tokens", "setup_n_features"),
}
"""Rows of a table of sizes: a setting that the paper prints, and the one that divides it."""


class Scale(Markdown):
    """A table of the sizes of the paper's models and of this book's."""

    def text(self) -> str:
        rows, here = settings(self.env), profiles.get(self.config.featint_profile)
        size = {"d_in": (profiles.paper().d_in, here.d_in), None: (1, 1)}
        lines = ["| | paper | here | here / paper |", "|:--|--:|--:|--:|"]
        for label, parts in SCALE.items():
            for key in set(parts) - set(size):
                row = pick(self.env, rows, key, "the ledger's settings")
                size[key] = row["paper"], row["controlled"]["value"]
            theirs, ours = (a / b for a, b in zip(*map(size.get, parts), strict=True))
            spec = ".3g" if parts[1] else ",.0f"
            cells = label, number(theirs, spec), number(ours, spec), number(ours / theirs, ".2g")
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines)


class Rules(Markdown):
    """The rules of the verdicts, from the program that applies them."""

    def text(self) -> str:
        self.env.note_dependency(str(places.PROJECT / "companion" / "verdicts.py"))
        return "\n\n".join(
            f"{name}\n: {' '.join(rule.__doc__.split())}" for name, rule in RULES.items()
        )


class Status(Markdown):
    """What ran, when and how long: the stamps in results files and executed notebooks."""

    def text(self) -> str:
        profile = self.config.featint_profile
        folders = {
            "results": (results_of(self.env), "*.json"),
            "notebooks": (
                Path(self.env.srcdir, "_build", "executed", profile, "notebooks"),
                "*.ipynb",
            ),
        }
        found = {
            name: [f for f in sorted(folder.glob(pattern)) if f.stem.isidentifier()]
            for name, (folder, pattern) in folders.items()
        }
        for folder, _ in folders.values():
            self.env.note_dependency(str(folder))  # its time changes when a file comes or goes
        runs = ["| notebook | started (UTC) | seconds | parameters |", "|:--|:--|--:|:--|"]
        for file in found["notebooks"]:
            run = load(self.env, file, "run it again")["metadata"]["papermill"]
            given = ", ".join(
                f"{k} = {plots.literal(repr(v))}" for k, v in run["parameters"].items()
            )
            runs.append(
                f"| {file.stem} | {moment(run['start_time'])} | {number(run['duration'], '.0f')} | {given} |"
            )
        chapters = [
            "| results of | written (UTC) | commit | seed | computed on |",
            "|:--|:--|:--|--:|:--|",
        ]
        versions = {}
        for file in found["results"]:
            content = load(self.env, file, "run the chapter again")
            if isinstance(content, dict) and "provenance" in content:
                stamp = content["provenance"]
                versions |= {"python": stamp["python"], **stamp["versions"]}
                chapters.append(
                    f"| {content['chapter']} | {moment(stamp['time'])} | `{stamp['commit']}` | {stamp.get('seed')} "
                    f"| {stamp['device']}; {stamp['machine']} |"
                )
        packages = [
            "| package | version |",
            "|:--|:--|",
            *(f"| {name} | {version} |" for name, version in versions.items()),
        ]
        return "\n".join(
            [
                f"## Notebooks, profile `{profile}`",
                "",
                *runs,
                "",
                "## Results",
                "",
                *chapters,
                "",
                "## Versions",
                "",
                *packages,
            ]
        )


class Torture(Markdown):
    """What `make torture` did, as it was published: cases, and how many held."""

    def text(self) -> str:
        file = places.PUBLISHED / "bench" / "torture.json"
        self.env.note_dependency(str(file))
        if not file.exists():
            return (
                "Nothing is published yet: `make torture` writes it, in half an hour on two cores."
            )
        content = load(self.env, file, "`make torture` writes it")
        rows, stamp = content["rows"], content["provenance"]
        lines = ["| | what | step | cases | held |", "|:--|:--|:--|--:|--:|"]
        for row in rows:
            cells = row["kind"], row["what"], row["part"], row["cases"], row["held"]
            lines.append(f"| {' | '.join(map(str, cells))} |")
        cases, held = (sum(row[name] for row in rows) for name in ("cases", "held"))
        said = f"{held:,} of {cases:,} cases held, {moment(stamp['time'])} UTC, in {stamp['minutes']} minutes, {stamp['processor_minutes']} of processor time, on {stamp['machine']}, commit `{stamp['commit']}`."
        return "\n".join([said, "", *lines])


class WholeBook(Markdown):
    """What `make book` took from nothing where it was timed: a row per step, one for all trainings."""

    def text(self) -> str:
        file = places.PUBLISHED / "bench" / f"whole_book_{QUICK}.json"
        self.env.note_dependency(str(file))
        if not file.exists():
            return "It was not timed yet: `python -m benchmarks.whole_book` does it."
        content = load(self.env, file, "`python -m benchmarks.whole_book` writes it")
        stamp, steps = content["provenance"], {}
        n = sum(row["step"].startswith("train ") for row in content["rows"])
        for row in content["rows"]:
            name = f"training, {n} models" if row["step"].startswith("train ") else row["step"]
            known = steps.setdefault(name, {"seconds": 0, "processor_seconds": 0, "gb": 0})
            known["gb"] = max(known["gb"], row["gb"])
            for spent in ("seconds", "processor_seconds"):
                known[spent] += row[spent]
        lines = ["| step | seconds | processor seconds | GB at most |", "|:--|--:|--:|--:|"]
        for name, row in steps.items():
            cells = name, row["seconds"], row["processor_seconds"], f"{row['gb']:.1f}"
            lines.append(f"| {' | '.join(map(str, cells))} |")
        said = (
            f"From nothing, installation included: {stamp['seconds'] / 60:.0f} minutes, {stamp['gb']:.1f} GB of memory at most, "
            f"{moment(stamp['time'])} UTC on {stamp['machine']}, commit `{stamp['commit']}`. A second `make book`: {stamp['second_run_seconds']:.1f} s. "
            "Two steps run at a time; memory is proportional set size, in which what processes share counts once."
        )
        return "\n".join([said, "", *lines])


def moment(stamp: str) -> str:
    """Date and time to the minute, in a tag that keeps them on one line."""
    return f"<time>{stamp[:16].replace('T', ' ')}</time>"


class Picture(Markdown):
    """A chapter's figure on another page, of the profile that the book shows, or a walkthrough's."""

    required_arguments = 1
    has_content = True
    option_spec = {"alt": directives.unchanged_required}

    def text(self) -> str:
        folders = (self.config.featint_profile, "walkthroughs")
        files = [f"_build/figures/{folder}/{self.arguments[0]}.svg" for folder in folders]
        file = next((f for f in files if Path(self.env.srcdir, f).exists()), None)
        if file is None:
            raise ExtensionError(
                f"{self.env.docname}: there is no figure {files[0]}; run the chapter that draws it"
            )
        caption = "\n".join(self.content)
        return f":::{{figure}} /{file}\n:alt: {self.options['alt']}\n:class: dark-light\n\n{caption}\n:::"


def setup(app: Sphinx) -> None:
    gc.set_threshold(
        100_000
    )  # a build makes millions of nodes and drops few: looking for garbage less often saves a seventh of its time
    for name, role in {
        "result": Result,
        "paper": Paper,
        "setting": Setting,
        "verdict": Verdict,
        "badge": Badge,
        "beside": Beside,
    }.items():
        app.add_role(name, role())
    app.add_directive("ledger", Ledger)
    app.add_directive("claims", Claims)
    app.add_directive("disagreements", Disagreements)
    app.add_directive("stability", Stability)
    app.add_directive("scale", Scale)
    app.add_directive("rules", Rules)
    app.add_directive("status", Status)
    app.add_directive("torture", Torture)
    app.add_directive("whole-book", WholeBook)
    app.add_directive("picture", Picture)
