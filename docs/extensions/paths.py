"""Paths of documents that stand in the text as code, `docs/versions.md`, become links there."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx import addnodes


def link_documents(app: Any, doctree: nodes.document) -> None:
    for literal in list(doctree.findall(nodes.literal)):
        path = re.fullmatch(r"docs/(.+)(?:\.md|/)", literal.astext())
        # docs/decisions/ is the page with their list
        if path and path[1] in app.env.found_docs:
            options = {"refdomain": "std", "reftype": "doc", "reftarget": f"/{path[1]}"}
            link = addnodes.pending_xref("", refexplicit=True, refwarn=True, **options)
            link["refdoc"] = app.env.docname
            literal.replace_self(link)
            link += literal


def setup(app: Any) -> dict[str, bool]:
    app.connect("doctree-read", link_documents)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
