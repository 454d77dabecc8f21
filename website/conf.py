"""Settings of Sphinx for the pages that website/build.py gathers."""

project = "pegasus_green"
html_title = "pegasus_green"
author = "The authors of pegasus_green"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
# The anchors that the pages link to.
myst_heading_anchors = 4
# Docstrings and pages quote values, such as "" and "ERR_BUSY".
smartquotes = False
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
pygments_style = "friendly"
pygments_dark_style = "monokai"


def setup(_app: object) -> None:
    """Let the search find Chinese words."""
    from sphinx.search import languages
    from sphinx.search.en import SearchEnglish

    from website.search import JAVASCRIPT, words

    class Search(SearchEnglish):
        js_splitter_code = JAVASCRIPT

        def split(self, input: str) -> list[str]:  # noqa: A002 - the name of the base class
            return words(input)

    languages["en"] = Search
