# SPDX-License-Identifier: Apache-2.0
"""Has OpenStack's libraries use threads. Import oslo.messaging from here, never directly.

oslo.messaging imports oslo.service, which takes eventlet unless it was told otherwise before.
Nothing else lives here.
"""

from __future__ import annotations

import sys

from oslo_service import backend

# oslo.service has it installed and futurist imports it wherever it finds it, for 10 MiB and a
# warning; this reads as "not installed"
sys.modules.setdefault("eventlet", None)  # type: ignore[arg-type]

backend.register_backend_default_hook(lambda: backend.BackendType.THREADING)

import oslo_messaging  # noqa: E402  only now

__all__ = ["oslo_messaging"]
