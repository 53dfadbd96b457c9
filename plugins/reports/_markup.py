"""Builds HTML and SVG with everything escaped unless it was built here."""

from __future__ import annotations

from html import escape

from ortforge.api.wording import printable

__all__ = ["Markup", "join", "tag", "text"]

_VOID = frozenset({"br", "col", "input", "meta"})


class Markup(str):
    """Text that is markup already. Any other text is escaped when it goes into a tag."""

    __slots__ = ()


def text(value: object) -> Markup:
    """Return a value as text in a page: inert, whatever it holds."""
    return value if isinstance(value, Markup) else Markup(escape(printable(value), quote=True))


def join(*children: object) -> Markup:
    """Put things one after another; ``None`` and ``""`` are nothing."""
    return Markup("".join(text(child) for child in children if child is not None and child != ""))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """Return an element.

    An attribute's underscores become hyphens, and one at the end is dropped (``class_``). ``True`` gives a bare
    attribute, ``None`` and ``False`` none.

    >>> tag("a", "<b>", class_="x", data_sort=1)
    '<a class="x" data-sort="1">&lt;b&gt;</a>'
    """
    said = [name]
    for key, value in attributes.items():
        if value is True:
            said.append(key.rstrip("_").replace("_", "-"))
        elif value is not None and value is not False:
            said.append(f'{key.rstrip("_").replace("_", "-")}="{text(value)}"')
    opening = f"<{' '.join(said)}>"
    return Markup(opening if name in _VOID else f"{opening}{join(*children)}</{name}>")
