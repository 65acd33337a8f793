# SPDX-License-Identifier: Apache-2.0
"""Keeps the tests of `inside/` to the virtual machine: on this host they would change devices.

No fixtures here; the machine's own are in `inside/conftest.py`, which doesn't see this file.
"""

collect_ignore = ["inside"]
