# SPDX-License-Identifier: Apache-2.0
"""POST /v2/accelerator_requests/action: migrations, suspend and resume of an instance's ARQs.

What an action does is the conductor's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cyborg_lite import errors
from cyborg_lite.api import arqs
from cyborg_lite.api import expose
from cyborg_lite.api import parameters

UUID = parameters.Uuid()
SIDES = ("destination", "source")

FIELDS: dict[str, dict[str, parameters.Uuid | parameters.OneOf]] = {
    "begin_migration": {"instance_uuid": UUID, "migration_uuid": UUID,
                        "migration_type": parameters.OneOf(*arqs.MIGRATION_TYPES)},
    "switch_migration": {"instance_uuid": UUID, "migration_uuid": UUID,
                         "to": parameters.OneOf(*SIDES)},
    "end_migration": {"instance_uuid": UUID, "migration_uuid": UUID},
    "suspend": {"instance_uuid": UUID},
    "resume": {"instance_uuid": UUID},
}
"""Action: what its object holds."""

OPTIONAL = frozenset({"migration_type"})


class InstanceOperations(expose.Controller):
    """Operations of /v2/accelerator_requests/action."""

    @expose.expose("arq:action", body=True)
    def act(self, call: expose.Call, body: Any) -> dict[str, Any]:
        arqs.require_service_token(
            call.caller, "Acting on the accelerator requests of an instance")
        action, given = _action(call, body)
        asked = self.conductor
        instance = given["instance_uuid"]
        if action == "begin_migration":
            found = asked.begin_migration(instance, given["migration_uuid"],
                                          given.get("migration_type"))
        elif action == "switch_migration":
            found = asked.switch_migration(instance, given["migration_uuid"], given["to"])
        elif action == "end_migration":
            found = asked.end_migration(instance, given["migration_uuid"])
        elif action == "suspend":
            found = asked.suspend_instance(instance)
        else:
            found = asked.resume_instance(instance)
        return {"arqs": [arqs.shown(call, arq) for arq in found]}


def _action(call: expose.Call, body: Any) -> tuple[str, Mapping[str, str]]:
    """Return the one action of a body and what it holds; Invalid."""
    if not isinstance(body, dict) or len(call.known_fields(body)) != 1:
        raise errors.Invalid("The body is not an object with exactly one action, one of "
                             f"{', '.join(FIELDS)}.")
    (action, given), = body.items()
    known = FIELDS[action]
    if not isinstance(given, dict):
        raise errors.Invalid(f"{action} {parameters.shown(given)} is not an object with "
                             f"{', '.join(known)}.")
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise errors.Invalid(f"{action} has {parameters.shown(unknown[0])}; allowed: "
                             f"{', '.join(known)}.")
    missing = [name for name in known if name not in given and name not in OPTIONAL]
    if missing:
        raise errors.Invalid(f"{action} lacks {', '.join(missing)}.")
    return action, {name: parameters.convert(known[name], f"{action}: {name}", value)
                    for name, value in given.items()}
