"""How Sphinx makes the documentation: `scripts/docs`."""

from __future__ import annotations

import sys
from pathlib import Path

import quire

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "Quire"
author = "The Quire authors"
release = version = quire.__version__
copyright = author
extensions = ["myst_parser", "sphinx.ext.autodoc", "cpp_reference", "docstrings", "paths"]
exclude_patterns = ["extensions", "decisions/README.md"]  # decisions.md includes it

myst_enable_extensions = ["attrs_inline"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # shapes and dtypes stand in the docstrings, types in _core.pyi
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"Quire {release}"
html_static_path = ["_static"]
html_css_files = ["reference.css"]
html_copy_source = False
