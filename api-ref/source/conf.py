# SPDX-License-Identifier: Apache-2.0
"""How Sphinx builds the API reference. The pages are prose; tests hold them equal to the code."""

from __future__ import annotations

extensions = ["os_api_ref", "openstackdocstheme"]

project = "cyborg-lite API Reference"
copyright = "the cyborg-lite authors"
master_doc = "index"
source_suffix = {".rst": "restructuredtext"}

html_theme = "openstackdocs"
html_theme_options = {"sidebar_mode": "toc", "show_other_versions": False}
html_show_sourcelink = False
html_last_updated_fmt = None

openstackdocs_auto_name = False
openstackdocs_auto_version = False
openstackdocs_pdf_link = False
