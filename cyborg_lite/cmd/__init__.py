# SPDX-License-Identifier: Apache-2.0
"""The programs. Whatever they import comes after the choice of threads. Nothing else lives here."""

from cyborg_lite import threads

__all__ = ["threads"]
