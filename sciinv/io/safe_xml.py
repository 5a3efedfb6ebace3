"""XML without document types: no entity can be declared, so none can expand (billion laughs) or read a file (XXE)."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from sciinv.errors import InputError
from sciinv.io.limits import MAX_TEXT

MAX_DEPTH = 64


def parse_xml(text: str, *, where: str) -> ElementTree.Element:
    """Parse `text` and strip namespaces from its tags; refuse DTDs, entities, more than 16 MiB and deep nesting.

    The text is already decoded, so an encoding trick cannot hide the word ``<!DOCTYPE`` from the check.
    """
    if len(text) > MAX_TEXT:
        raise InputError(
            "the XML header is too long",
            where=where,
            expected=f"at most {MAX_TEXT:,} characters",
            found=f"{len(text):,}",
        )
    if "<!" in text.replace("<!--", "").replace("<![CDATA[", ""):
        raise InputError(
            "the XML header declares a document type or entities",
            where=where,
            expected="plain XML",
            hint="remove the DOCTYPE",
        )
    parser = ElementTree.XMLParser(target=_Builder(where))
    try:
        parser.feed(text)
        return parser.close()
    except (ElementTree.ParseError, ValueError) as error:
        raise InputError(f"the XML header is malformed ({error})", where=where, expected="well-formed XML") from None


class _Builder(ElementTree.TreeBuilder):
    """Drops namespaces and stops at `MAX_DEPTH`."""

    def __init__(self, where: str):
        super().__init__()
        self.where, self.depth = where, 0

    def start(self, tag: str, attrs: dict[str, str], /) -> ElementTree.Element:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise InputError(
                "the XML header is nested too deeply", where=self.where, expected=f"at most {MAX_DEPTH} levels"
            )
        return super().start(tag.rpartition("}")[2], attrs)

    def end(self, tag: str, /) -> ElementTree.Element:
        self.depth -= 1
        return super().end(tag.rpartition("}")[2])
