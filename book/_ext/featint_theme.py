"""What has to be put right in the pages that Jupyter Book 1 and its theme write."""

from sphinx.application import Sphinx
from sphinx.config import Config


def launch_only_if_public(app: Sphinx, config: Config) -> None:
    """With `repository.url` in _config.yml, buttons for the repository and its issues; without, none that would need it.

    Jupyter Book itself refuses to be asked for buttons while there is no address.
    """
    options = config.html_theme_options
    if options.get("repository_url"):
        options |= {"use_repository_button": True, "use_issues_button": True}
    else:
        for name in ("launch_buttons", "repository_url", "path_to_docs", "repository_branch"):
            options.pop(name, None)


def tidy_page(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Drop sphinx-thebe's scripts, which are loaded although it is off and declare their constants twice; mend a role.

    docutils puts `doc-biblioentry` items, which WAI-ARIA 1.2 deprecates, into a list that may only hold list items.
    """
    context["script_files"] = [
        script for script in context.get("script_files", []) if "thebe" not in str(script)
    ]
    if "body" in context:
        context["body"] = context["body"].replace('role="doc-biblioentry"', 'role="listitem"')


def keep_previews(app: Sphinx, env, added: set, changed: set, removed: set) -> list[str]:
    """sphinx-tippy knows only the pages written in this build: write the glossary again, so that its previews stay on changed pages."""
    return ["book/glossary"] if changed or added else []


def setup(app: Sphinx) -> None:
    app.connect("config-inited", launch_only_if_public, priority=100)
    app.connect("html-page-context", tidy_page, priority=900)
    app.connect("env-get-outdated", keep_previews)
