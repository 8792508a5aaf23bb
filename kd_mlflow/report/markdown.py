"""Names, shares and blocks of text, safe wherever Markdown is read. Values in, text out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

NAME_LENGTH = 60
"""Characters shown of a name that somebody else chose."""

MARKUP = re.compile(
    r"""[\\`*\[\]<>&|~$]       # emphasis, code, links, HTML, entities, cells of a table
    | ^[-#+=]                 # headings and lists, where a name opens a line
    | (?<![^\W_])_|_(?![^\W_]) # underscores at the end of a word
    | :(?=//|\S*:)            # addresses, and names of emoji
    | (?<=www)\.              # addresses
    | (?<!\S)@|@(?=\S*\.)     # names of people, and their addresses""",
    re.VERBOSE | re.IGNORECASE,
)
"""Characters that Markdown, and the dialect of MLflow's pages, may take for structure."""


def one_line(text: str, length: int = NAME_LENGTH) -> str:
    r"""Write a text without line breaks or control characters, cut with an ellipsis.

    >>> one_line("two\nlines")
    'two lines'
    >>> one_line("abcdef", 4)
    'abc…'
    """
    flat = " ".join("".join(c if c.isprintable() else " " for c in text).split()) or "(blank)"
    return flat if len(flat) <= length else f"{flat[: length - 1]}…"


def first_of(texts: Sequence[str], most: int) -> str:
    """Texts with commas, the first ones of many.

    >>> first_of(["a", "b", "c"], 2)
    'a, b, and 1 more'
    """
    more = [f"and {len(texts) - most:,} more"] if len(texts) > most else []
    return ", ".join([*texts[:most], *more])


def safe(text: str, length: int = NAME_LENGTH) -> str:
    """Write a name that somebody else chose so that it is text anywhere in Markdown.

    A name full of markup is cut earlier: what is returned has at most twice ``length`` characters.

    >>> safe("customers_2024.csv")
    'customers_2024.csv'
    >>> safe("<b>|*")
    '&#60;b&#62;&#124;&#42;'
    """
    shown = one_line(text, length)
    while len(escaped := MARKUP.sub(lambda found: f"&#{ord(found.group())};", shown)) > 2 * length:
        shown = one_line(shown, len(shown) - 1)
    return escaped


def whole_blocks(blocks: Sequence[str], length: int, spare: Sequence[str] = ()) -> str:
    """Join blocks of Markdown by blank lines, empty ones left out, and the last of too many.

    Those that are ``spare`` go before any other, in their own order.

    >>> whole_blocks(["one", "two", "three"], 12).split()
    ['one', 'two']
    >>> whole_blocks(["one", "two", "three"], 12, ["two"]).split()
    ['one', 'three']
    """
    kept, first = list(filter(None, blocks)), list(filter(None, spare))
    while len(text := "\n\n".join(kept) + "\n") > length and len(kept) > 1:
        kept.remove(first.pop(0) if first else kept[-1])
    return text


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lines of cells as a table in Markdown.

    >>> print(markdown_table(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    first, *lines = (f"| {' | '.join(line)} |" for line in (heads, *rows))
    return "\n".join([first, "|---" * len(heads) + "|", *lines])


def percent(share: float) -> str:
    """Write a share with two decimals.

    >>> percent(0.978)
    '97.80 %'
    """
    return f"{100 * share:.2f} %"
