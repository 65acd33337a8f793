# SPDX-License-Identifier: Apache-2.0
"""How Sphinx builds the release notes, which reno collects from ../notes. No text here."""

project = "cyborg-lite release notes"
author = "the cyborg-lite contributors"
copyright = author

extensions = ["reno.sphinxext"]
html_theme = "alabaster"
html_copy_source = False
html_title = project
