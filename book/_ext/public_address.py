"""Where a build is public: launch buttons lead only where somebody can go, and no page has an empty index or roles that readers reject.

The repository's address stands in _config.yml (`repository: url`), once it is public; the notebooks' Colab cells repeat it. Without one a
build has no launch buttons: they would lead to nothing. Nor has the build of a fork, which says in BOOK_REPOSITORY that its address is
another: the notebook's cell would fetch the original. BOOK_URL is the address of the published book, for previews of links.
"""

import os


def settle(app, config) -> None:
    """Take the two variables into the configuration."""
    config.html_baseurl = os.environ.get("BOOK_URL", "") or config.html_baseurl
    options = config.html_theme_options
    address = str(options.get("repository_url") or "").rstrip("/")
    if not address or os.environ.get("BOOK_REPOSITORY", address).rstrip("/") != address:
        options["launch_buttons"] = {}


ROLES = {  # what docutils and myst-nb write -> what readers and voice control can use
    ' role="doc-biblioentry"': "",  # deprecated
    '<div role="list" class="citation-list">': '<div class="citation-list">',  # a list must have items
    '<summary aria-label="Toggle hidden content">': "<summary>",  # its text is its name
}


def plain_roles(app, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Replace roles and names that do not fit what is shown."""
    for written, better in ROLES.items():
        context["body"] = context.get("body", "").replace(written, better)


def setup(app) -> dict[str, bool]:
    app.connect("config-inited", settle)
    app.connect("html-page-context", plain_roles)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
