"""Roles and directives that put measured and printed numbers on a page; none of them is ever typed.

{result}`reconstruction:joint/fvu/all/controlled`           a value of a chapter, here with four significant digits
{result}`reconstruction:joint/fvu/all/controlled:.3f:ci`   with a format spec, and with its interval: 0.312 [0.305, 0.320]
{result}`reconstruction:joint/fvu/all/controlled:n`         how many units stand behind it; `unit` gives the unit
{result}`full/seeds:joint/fvu/controlled`           a value of another profile's published run
{paper}`abs_joint_recon_improvement`                what the paper prints, with its unit, or its name if it is a statistic: F = 5.06; a word has none
{paper}`clamp_interaction_F:value`                  the same without either, where the sentence says it
{setting}`setup_topk`                               what this book has where the paper prints a setting, here k
{verdict}`abs_joint_recon_improvement`              the ledger's verdict on it, linked to the ledger
{ledger} (directive; option `chapter`)              the ledger, whole or of one chapter
{disagreements} full (directive)                    the numbers on which another profile's published ledger comes to another verdict
{scale} (directive)                                 the sizes of the paper's models, of this book's, and ours as a multiple of the paper's
{rules} (directive)                                 how verdicts are reached
{status} (directive)                                what ran, when, how long
{picture} waterfall (directive; option `alt`)       a figure that a chapter saved, with the content as its caption
"""

import gc
import json
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective, SphinxRole

from companion import places, profiles, results
from companion.estimates import interval, number
from companion.ledger import CLAIMS, deciding
from companion.verdicts import RULES, VERDICTS
from featint import store

STATISTICS = ("t", "F", "p", "Spearman r")
"""Units that are names: F = 5.06, not 5.06 F."""


def in_short(value: dict | None) -> str:
    """A number of the ledger, with its interval."""
    if value is None:
        return number(None)
    return interval(value["value"], *(value["ci"] or (None, None)))


def load(env, file: Path, remedy: str):
    """A JSON file that the current page then depends on. Raises ExtensionError naming the page."""
    env.note_dependency(str(file))
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise ExtensionError(f"{env.docname}: {file} cannot be read ({e}); {remedy}") from e


def results_of(env, profile: str | None = None) -> Path:
    """The results that this book shows, those computed here; of another profile the published ones."""
    own = env.config.featint_profile
    return places.RESULTS / own if profile in (None, own) else places.PUBLISHED / profile


def ledger(env, profile: str | None = None) -> list[dict]:
    return load(env, results_of(env, profile) / "ledger.json", "`featint ledger` writes it")


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
        file, (name, *options) = (
            results_of(self.env, run or None) / f"{chapter}.json",
            rest.split(":"),
        )
        self.env.note_dependency(str(file))
        try:
            value = results.lookup(file, name)
        except store.StoreError as e:
            raise ExtensionError(f"{self.env.docname}: {{result}}`{self.text}`: {e}") from e
        spec = next((option for option in options if option not in ("ci", "n", "unit")), None)
        try:
            if "n" in options or "unit" in options:
                text = number(value.n) if "n" in options else value.unit
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
    return {row["id"]: row for row in ledger(env) if row["verdict"] == "setting"}


class Setting(SphinxRole):
    """Our counterpart of a setting that the paper prints; hovering shows the paper's."""

    def run(self):
        row = pick(self.env, settings(self.env), self.text, "the ledger's settings")
        entry = pick(self.env, paper_values(self.env), self.text, "data/paper_values.json")
        text = number(row["controlled"]["value"])
        origin = f"{entry['label']}; the paper: {number(entry['paper'])} {entry['unit']}".strip()
        return [nodes.abbreviation(text, text, explanation=origin, classes=["result"])], []


class Verdict(SphinxRole):
    """The verdict on one printed number, linked to its row in the ledger."""

    def run(self):
        entry = pick(
            self.env, {entry["id"]: entry for entry in ledger(self.env)}, self.text, "the ledger"
        )
        page = self.env.app.builder.get_relative_uri(self.env.docname, "book/ledger")
        link = nodes.reference(
            "", "", badge(entry["verdict"]), internal=True, refuri=f"{page}#{anchor(self.text)}"
        )
        return [link], []


class Badge(SphinxRole):
    """The coloured word alone."""

    def run(self):
        return [badge(self.text)], []


def anchor(key: str) -> str:
    """The place of a number's row on the ledger page."""
    return f"ledger-{key}".lower()


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


class Ledger(Markdown):
    """Tables of printed numbers, ours and the verdicts: all, one per claim, or those of one chapter."""

    option_spec = {"chapter": directives.unchanged_required}

    def text(self) -> str:
        printed, claims, chapters = paper_values(self.env), {claim: [] for claim in CLAIMS}, {}
        for row in ledger(self.env):
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
                f"{{badge}}`{row['verdict']}`",
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


class Disagreements(Markdown):
    """Where the ledger of the profile that is named comes to another verdict than this book's."""

    required_arguments = 1

    def text(self) -> str:
        (other,) = self.arguments
        if other == self.config.featint_profile:
            return f"This book shows `{other}` itself."
        printed, theirs = (
            paper_values(self.env),
            {row["id"]: row for row in ledger(self.env, other)},
        )
        rows = [
            (row, pick(self.env, theirs, row["id"], f"the ledger of {other}"))
            for row in ledger(self.env)
        ]
        lines = []
        for a, b in rows:
            if a["verdict"] != b["verdict"]:
                label = f'<a href="#{anchor(a["id"])}">{pick(self.env, printed, a["id"], "data/paper_values.json")["label"]}</a>'.replace(
                    "|", "\\|"
                )
                ours = [
                    f"{{badge}}`{row['verdict']}`<br>{in_short(row['controlled'] or row['as_published'])}"
                    for row in (a, b)
                ]
                lines.append(f"| {label} | " + " | ".join(ours) + " |")
        if not lines:
            return f"The two ledgers agree on all {len(rows)} numbers."
        head = f"| number | `{self.config.featint_profile}` | `{other}` |\n|:--|:--|:--|"
        return f"They differ on {len(lines)} of {len(rows)} numbers.\n\n" + "\n".join(
            [head, *lines]
        )


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
            given = ", ".join(f"`{k} = {v!r}`" for k, v in run["parameters"].items())
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


def moment(stamp: str) -> str:
    """Date and time to the minute, in a tag that keeps them on one line."""
    return f"<time>{stamp[:16].replace('T', ' ')}</time>"


class Picture(Markdown):
    """A chapter's figure on another page, of the profile that the book shows."""

    required_arguments = 1
    has_content = True
    option_spec = {"alt": directives.unchanged_required}

    def text(self) -> str:
        file = f"_build/figures/{self.config.featint_profile}/{self.arguments[0]}.svg"
        if not Path(self.env.srcdir, file).exists():
            raise ExtensionError(
                f"{self.env.docname}: there is no figure {file}; run the chapter that draws it"
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
    }.items():
        app.add_role(name, role())
    app.add_directive("ledger", Ledger)
    app.add_directive("disagreements", Disagreements)
    app.add_directive("scale", Scale)
    app.add_directive("rules", Rules)
    app.add_directive("status", Status)
    app.add_directive("picture", Picture)
