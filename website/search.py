"""Split the text of pages and queries into the words of the search index.

Chinese text has no spaces between words. Each character and each pair of neighbouring characters is a word of the
index, and a query is split into pairs, so any part of a Chinese text is found.
"""

from __future__ import annotations

import re

HAN = "\u3400-\u4dbf\u4e00-\u9fff"
RUNS = re.compile(rf"[{HAN}]+|[^\W{HAN}]+")

# The same for a query in the browser; Sphinx copies it into the site. Only pairs, as each pair is in the index.
JAVASCRIPT = rf"""
var splitQuery = (query) => query
  .split(/[^\p{{Letter}}\p{{Number}}_\p{{Emoji_Presentation}}]+/gu)
  .flatMap((part) => part.match(/[{HAN}]+|[^{HAN}]+/gu) || [])
  .flatMap((run) => /^[{HAN}]{{3,}}/u.test(run) ? [...run].slice(1).map((_, at) => run.slice(at, at + 2)) : [run]);
"""


def words(text: str) -> list[str]:
    """Return the words of a text for the index."""
    found = []
    for run in RUNS.findall(text):
        if re.match(f"[{HAN}]", run):
            found += [*run, *(run[at : at + 2] for at in range(len(run) - 1))]
        else:
            found.append(run)
    return found
