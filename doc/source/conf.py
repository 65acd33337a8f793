# SPDX-License-Identifier: Apache-2.0
"""How Sphinx builds the documentation. No text of it here."""

import importlib.metadata

from cyborg_lite import config

project = "cyborg-lite"
author = "the cyborg-lite contributors"
copyright = author
try:
    release = importlib.metadata.version("cyborg-lite")
except importlib.metadata.PackageNotFoundError:
    release = "0"
version = ".".join(release.split(".")[:2])

extensions = ["oslo_config.sphinxext", "oslo_policy.sphinxext"]
exclude_patterns = ["drivers/examples"]
nitpicky = True
# oslo.config's options are of its own domain; what libraries write in their help is theirs
nitpick_ignore_regex = [("oslo.config:.*", ".*")]
suppress_warnings = ["config.cache"]

html_theme = "alabaster"
html_theme_options = {
    "description": "Accelerators for OpenStack, from discovery to the server",
    "page_width": "1100px", "sidebar_width": "240px", "fixed_sidebar": True}
html_sidebars = {"**": ["about.html", "searchbox.html", "navigation.html"]}
html_copy_source = False

# helps are plain text for a terminal; here they are read as reStructuredText
for options in config.OWN_OPTIONS.values():
    for option in options:
        option.help = option.help.replace("*", "\\*")
