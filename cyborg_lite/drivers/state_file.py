# SPDX-License-Identifier: Apache-2.0
"""A small JSON file below `[agent] state_path` that is whole at any moment, also after a crash.

What is in it, its users know.
"""

from __future__ import annotations

import json
import os
from typing import Any

VERSION = 1


class Unusable(OSError):
    """The file can't be read or written; the text says which and what follows."""


def load(path: str) -> Any:
    """Return the content; None when there is no such file. Raises Unusable."""
    try:
        with open(path, encoding="utf-8") as stream:
            data = json.load(stream)
        if data["version"] != VERSION:
            raise ValueError(f"its version is {data['version']!r}, not {VERSION}")
        return data["content"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise Unusable(f"{path} can't be read: {error}") from error


def store(path: str, content: Any) -> None:
    """Write the content; when this returns it survives a loss of power. Raises Unusable."""
    new = f"{path}.new"
    folder = os.path.dirname(path)
    try:
        os.makedirs(folder, mode=0o750, exist_ok=True)
        with open(new, "w", encoding="utf-8") as stream:
            json.dump({"version": VERSION, "content": content}, stream, indent=1, sort_keys=True)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(new, path)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Unusable(f"{path} can't be written: {error.strerror}") from error
