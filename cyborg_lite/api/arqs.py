# SPDX-License-Identifier: Apache-2.0
"""/v2/accelerator_requests: create, list, show, bind, unbind, delete.

A patch is understood as a whole or refused; what a bind does is the conductor's.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from cyborg_lite import auth
from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import states
from cyborg_lite.api import device_profiles
from cyborg_lite.api import expose
from cyborg_lite.api import microversions
from cyborg_lite.api import paging
from cyborg_lite.api import parameters

MAX_PATCHED = 500
"""ARQs in one patch; the default limit of a body's size is a little below that."""

UNRESOLVED_NAMED = 100
"""How many of them the refusal names."""

FILTERS = ("hostname", "device_profile_name", "device_rp_uuid")

TEXT = parameters.Text()
UUID = parameters.Uuid()
MIGRATION_TYPES = ("cold", "live")
PATCH_TYPES: dict[str, parameters.Text | parameters.Uuid | parameters.OneOf] = {
    "/hostname": parameters.Text(r"[A-Za-z0-9._-]+", "letters, digits, '.', '_' and '-'"),
    "/device_rp_uuid": UUID,
    "/instance_uuid": UUID,
    "/project_id": parameters.Text(r"[\x21-\x7e]+", "visible ASCII characters"),
    "/migration_uuid": UUID,
    "/migration_type": parameters.OneOf(*MIGRATION_TYPES),
}
NEEDED = ("/hostname", "/device_rp_uuid", "/instance_uuid")


class AcceleratorRequests(expose.Controller):
    """Operations of /v2/accelerator_requests."""

    def _shown(self, call: expose.Call, arq: messages.Arq) -> dict[str, Any]:
        return shown(call, arq)

    @expose.expose("arq:create", body=True, status=201)
    def post(self, call: expose.Call, body: Any) -> dict[str, Any]:
        if not isinstance(body, dict):
            raise errors.Invalid('The body is not an object, {"device_profile_name": NAME}.')
        name = call.known_fields(body).get("device_profile_name")
        if not isinstance(name, str) or len(name) > 255:
            raise errors.Invalid(f"device_profile_name {parameters.shown(name)} is not a text of "
                                 "at most 255 characters.")
        try:
            device_profiles.NAME.frombasetype(name)
        except ValueError as error:  # a name that no profile can have
            raise errors.NotFound(
                f"No device profile has the name {parameters.shown(name)}.") from error
        arqs = self.conductor.create_arqs(name, call.caller.project_id)
        return {"arqs": [self._shown(call, arq) for arq in arqs]}

    @expose.expose("arq:get_all", query={
        "bind_state": parameters.OneOf("resolved"), "instance": parameters.Many(UUID),
        "state": parameters.Many(parameters.OneOf(*states.ARQ_STATES)),
        "migration": UUID, "sets": parameters.OneOf("all"), "hostname": TEXT,
        "project_id": TEXT, "device_profile_name": TEXT,
        "device_rp_uuid": UUID, **paging.PARAMETERS})
    def get_all(self, call: expose.Call, bind_state: str | None = None,
                instance: list[str] | None = None, state: list[str] | None = None,
                project_id: str | None = None, migration: str | None = None,
                sets: str | None = None, **given: Any) -> dict[str, Any]:
        if instance and len(instance) > 1 and not call.supports("queries"):
            raise errors.Invalid("Query parameter instance is one uuid below microversion 2.5.")
        if migration and sets:
            raise errors.Invalid("Give either ?migration=uuid or ?sets=all.")
        state = _states_asked(call, state)
        if bind_state and not instance:
            # of one instance all are wanted, to say whether one is not resolved
            state = sorted(states.RESOLVED_STATES & set(state or states.ARQ_STATES))
        page = paging.page_from(call, given, self.services.max_limit)
        asked = messages.ArqQuery(
            project_id=_scope(call, project_id), instance_uuids=instance, states=state, page=page,
            migration_uuid=migration, all_sets=sets == "all",
            **{name: given[name] for name in FILTERS if name in given})
        if instance and bind_state and call.supports("queries"):
            self._refuse_hidden_unresolved(asked)
        arqs = self.conductor.list_arqs(asked)
        if instance and not call.supports("queries"):
            _refuse_failed(instance[0], arqs)
        if instance and bind_state:
            _refuse_unresolved(arqs)
        return paging.reply(call, "arqs", [self._shown(call, arq) for arq in arqs], page)

    def _refuse_hidden_unresolved(self, asked: messages.ArqQuery) -> None:
        """Refuse also for what a page or another filter would leave out of the list."""
        _refuse_unresolved(self.conductor.list_arqs(dataclasses.replace(
            asked, states=sorted(set(states.ARQ_STATES) - states.RESOLVED_STATES),
            hostname=None, device_profile_name=None, device_rp_uuid=None,
            page=messages.Page(limit=UNRESOLVED_NAMED))))

    @expose.expose("arq:get_one", UUID)
    def get_one(self, call: expose.Call, uuid: str) -> dict[str, Any]:
        arq = self.conductor.get_arq(uuid, call.caller.scope)
        if arq.migration_uuid is not None and not call.supports("instance_operations"):
            raise errors.NotFound(f"Accelerator request {uuid} does not exist.")
        return self._shown(call, arq)

    @expose.expose("arq:update", body=True, status=202)
    def patch(self, call: expose.Call, body: Any) -> None:
        self._patch(call, body)

    @expose.expose("arq:update", UUID, body=True, status=202)
    def patch_one(self, call: expose.Call, uuid: str, body: Any) -> None:
        """Serve openstacksdk, which adds the uuid that the body names to the path."""
        if isinstance(body, dict) and [key.lower() for key in body] != [uuid]:
            raise errors.Invalid(f"The body is not a patch of {uuid}, which the path names.")
        self._patch(call, body)

    def _patch(self, call: expose.Call, body: Any) -> None:
        require_service_token(call.caller, "Binding or unbinding an accelerator request")
        patches = patches_from(body)
        for patch in patches:
            _check_paths(call, patch)
        if patches[0].operation == "remove":
            self.conductor.unbind_arqs([patch.arq_uuid for patch in patches])
            return
        try:
            self.conductor.bind_arqs([patch.bind_request() for patch in patches])
        except errors.AlreadyHasArqs as error:
            if call.supports("instance_operations"):
                error.status = errors.Conflict.status
            raise

    @expose.expose("arq:delete", status=204, query={"arqs": parameters.Several(UUID),
                                                    "instance": UUID, "migration": UUID})
    def delete(self, call: expose.Call, arqs: list[str] | None = None,
               instance: str | None = None, migration: str | None = None) -> None:
        if (arqs is None) == (instance is None):
            raise errors.Invalid("Give either ?arqs=uuid1,uuid2 or ?instance=uuid.")
        if migration and not instance:
            raise errors.Invalid("Query parameter migration needs instance beside it.")
        if instance:
            require_service_token(call.caller,
                                  "Deleting the accelerator requests of an instance")
            self.conductor.delete_arqs_of_instance(instance, migration)
        elif arqs:
            self._delete(call, arqs)

    @expose.expose("arq:delete", UUID, status=204)
    def delete_one(self, call: expose.Call, uuid: str) -> None:
        self._delete(call, [uuid])

    def _delete(self, call: expose.Call, uuids: list[str]) -> None:
        self.conductor.delete_arqs(uuids, call.caller.scope, call.caller.is_service)


def shown(call: expose.Call, arq: messages.Arq) -> dict[str, Any]:
    """Return an ARQ as the request's version shows it; Suspended is Bound to an older one."""
    if arq.state == states.SUSPENDED and not call.supports("instance_operations"):
        arq = dataclasses.replace(arq, state=states.BOUND)
    return microversions.render("arq", arq, call.version, active=arq.migration_uuid is None,
                                links=[call.link(f"v2/accelerator_requests/{arq.uuid}")])


def _states_asked(call: expose.Call, state: list[str] | None) -> list[str] | None:
    if call.supports("instance_operations") or state is None:
        return state
    if states.SUSPENDED in state:
        known = [one for one in states.ARQ_STATES if one != states.SUSPENDED]
        raise errors.Invalid(f"state {states.SUSPENDED} needs microversion "
                             f"{microversions.text(microversions.since('instance_operations'))}; "
                             f"allowed: {', '.join(known)}.")
    return [*state, states.SUSPENDED] if states.BOUND in state else state


def require_service_token(caller: auth.Caller, what: str) -> None:
    """Raise ServiceTokenMissing; what: the beginning of a sentence."""
    if not caller.is_service:
        raise errors.ServiceTokenMissing(
            f"{what} requires a service token; use the Compute API to manage the accelerators of "
            "an instance.")


def _refuse_failed(instance: str, arqs: list[messages.Arq]) -> None:
    """Refuse to show a failed bind: Nova, which asks at 2.0, would take it for done.

    It would build the guest without its device.
    """
    failed = [f"{arq.uuid}: {arq.state_reason or 'no reason is known'}" for arq in arqs
              if arq.state == states.BIND_FAILED]
    if failed:
        raise errors.BindFailed(f"The accelerators of instance {instance} could not be bound. "
                                f"{'; '.join(failed)}")


def _refuse_unresolved(arqs: list[messages.Arq]) -> None:
    open_arqs = [f"{arq.uuid} of instance {arq.instance_uuid} is {arq.state}" for arq in arqs
                 if arq.state not in states.RESOLVED_STATES]
    if open_arqs:
        raise errors.NotResolved(f"{', '.join(open_arqs)}; ask again after the event "
                                 "accelerator-request-bound.")


def _scope(call: expose.Call, project_id: str | None) -> str | None:
    """Return the project whose ARQs are listed; only who sees all may choose."""
    if project_id is None:
        return call.caller.scope
    if call.caller.scope is not None:
        raise errors.Forbidden("Only an administrator may list by project_id.")
    return project_id


# --- the patch --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Patch:
    """The JSON patch of one ARQ; values: by path, empty for a removal."""

    arq_uuid: str
    operation: str
    values: dict[str, str]

    def bind_request(self) -> messages.BindRequest:
        """Return what it asks for, when the operation is add."""
        return messages.BindRequest(
            arq_uuid=self.arq_uuid, hostname=self.values["/hostname"],
            device_rp_uuid=self.values["/device_rp_uuid"],
            instance_uuid=self.values["/instance_uuid"],
            project_id=self.values.get("/project_id"),
            migration_uuid=self.values.get("/migration_uuid"),
            migration_type=self.values.get("/migration_type"))


def patches_from(body: Any) -> list[Patch]:
    """Return the patches of a whole map, all adding or all removing; Invalid."""
    if not isinstance(body, dict) or not body:
        raise errors.Invalid("The body is not a map from the uuid of an accelerator request to "
                             "its JSON patch, of at least one.")
    if len(body) > MAX_PATCHED:
        raise errors.Invalid(f"The body patches {len(body)} accelerator requests; {MAX_PATCHED} "
                             "are allowed.")
    patches = [_patch_of(key, operations) for key, operations in body.items()]
    uuids = {patch.arq_uuid for patch in patches}
    if len(uuids) < len(patches):
        raise errors.Invalid("The body patches one accelerator request twice, written "
                             "differently.")
    if len({patch.operation for patch in patches}) > 1:
        raise errors.Invalid("The body adds to some accelerator requests and removes from "
                             "others; every op has to be add, or every op remove.")
    return patches


def _patch_of(key: str, operations: Any) -> Patch:
    arq_uuid = parameters.convert(UUID, "Accelerator request", key)
    if not isinstance(operations, list) or not operations:
        raise errors.Invalid(f"The patch of {arq_uuid} is not a list of at least one operation.")
    values: dict[str, str] = {}
    kinds = set()
    for operation in operations:
        kind, path = _operation(arq_uuid, operation)
        if path in values:
            raise errors.Invalid(f"The patch of {arq_uuid} has path {path} twice.")
        kinds.add(kind)
        values[path] = parameters.convert(
            PATCH_TYPES[path], f"The patch of {arq_uuid}: {path}",
            operation.get("value")) if kind == "add" else ""
    if len(kinds) > 1:
        raise errors.Invalid(f"The patch of {arq_uuid} has add and remove; every op has to be "
                             "add, or every op remove.")
    missing = [path for path in NEEDED if path not in values]
    if "add" in kinds and missing:
        raise errors.Invalid(f"The patch of {arq_uuid} lacks {', '.join(missing)}.")
    if "/migration_type" in values and "/migration_uuid" not in values:
        raise errors.Invalid(f"The patch of {arq_uuid} has /migration_type and lacks "
                             "/migration_uuid.")
    return Patch(arq_uuid, kinds.pop(), values)


def _operation(arq_uuid: str, operation: Any) -> tuple[str, str]:
    if not isinstance(operation, dict):
        raise errors.Invalid(f"The patch of {arq_uuid} has {parameters.shown(operation)}, which "
                             "is not an object with path, op and value.")
    kind, path = operation.get("op"), operation.get("path")
    if kind not in ("add", "remove"):
        raise errors.Invalid(f"The patch of {arq_uuid} has op {parameters.shown(kind)}; allowed: "
                             "add, remove.")
    if not isinstance(path, str) or path not in PATCH_TYPES:
        raise errors.Invalid(f"The patch of {arq_uuid} has path {parameters.shown(path)}; "
                             f"allowed: {', '.join(microversions.patch_since())}.")
    return kind, path


def _check_paths(call: expose.Call, patch: Patch) -> None:
    """Refuse paths of later microversions, and a new owner from anybody but an administrator."""
    for path in patch.values:
        since = microversions.patch_since()[path]
        if since > call.version:
            raise errors.VersionNotAcceptable(
                f"Path {path} needs microversion {microversions.text(since)}; the request speaks "
                f"{microversions.text(call.version)}.")
    if "/project_id" in patch.values and not call.caller.is_admin:
        raise errors.Forbidden("Only an administrator may set /project_id.")
