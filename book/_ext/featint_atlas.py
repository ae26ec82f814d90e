"""{atlas} (directive): the searchable list of features on the atlas page, and its data as a script, so that it works from a file without server.

The data are `_build/atlas/<profile>/atlas.json`, which `featint atlas` writes; `book/_static/atlas.js` draws them.
"""

from pathlib import Path

from docutils import nodes
from featint_roles import load
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

LARGEST = 10_000_000  # bytes that a reader may have to load
SORTS = {
    "": "best match, else interaction",
    "interaction": "strongest interaction",
    "rate": "firing rate",
    "norm": "decoder norm",
    "lift": "topic selectivity",
    "id": "number",
}
FRAME = """
<p>{n:,} of {d_sae:,} features fire on at least {min_fired} of {tokens:,} held-out tokens ({articles:,} articles); the others are not shown.</p>
<div id="atlas">
<form role="search">
<label>Search <input type="search" autocomplete="off" placeholder="word, token, title or feature number"></label>
<label>Topic <select name="topic"><option value="">all</option></select></label>
<label>Order <select name="sort">{sorts}</select></label>
</form>
<p class="atlas-count" role="status"></p>
<ol class="atlas-list"></ol>
<button type="button" class="atlas-more" hidden>Show more</button>
<noscript><p>The list needs JavaScript; nothing is sent anywhere.</p></noscript>
</div>
<script defer src="../_static/minisearch/minisearch.js"></script>
<script defer src="../_static/atlas-data.js"></script>
<script defer src="../_static/atlas.js"></script>
"""


def source(app: Sphinx) -> Path:
    return Path(app.srcdir, "_build", "atlas", app.config.featint_profile, "atlas.json")


class Atlas(SphinxDirective):
    def run(self):
        profile = self.config.featint_profile
        content = load(
            self.env, source(self.env.app), f"`featint atlas --profile {profile}` writes it"
        )
        about = content["about"] | {"n": len(content["features"])}
        sorts = "".join(
            f'<option value="{value}">{label}</option>' for value, label in SORTS.items()
        )
        return [nodes.raw("", FRAME.format(**about, sorts=sorts), format="html")]


def write_data(app: Sphinx, error: Exception | None) -> None:
    """At build-finished: the JSON as a script beside the pages. Raises ValueError if it is too large to load."""
    if error is None and app.builder.format == "html" and "book/atlas" in app.env.found_docs:
        text = source(app).read_text(encoding="utf-8")
        if len(text.encode()) > LARGEST:
            raise ValueError(
                f"{source(app)} is larger than {LARGEST:,} bytes; lower MOST in featint/atlas.py"
            )
        Path(app.outdir, "_static", "atlas-data.js").write_text(
            f"window.FEATINT_ATLAS = {text};\n", encoding="utf-8"
        )


def setup(app: Sphinx) -> None:
    app.add_directive("atlas", Atlas)
    app.connect("build-finished", write_data)
