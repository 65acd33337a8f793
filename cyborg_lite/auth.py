# SPDX-License-Identifier: Apache-2.0
"""Who asks, and what they may: request context, policy rules, `authorize()`.

No database look-ups here.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

from oslo_config import cfg
from oslo_context import context as oslo_context
from oslo_policy import opts as policy_opts
from oslo_policy import policy

from cyborg_lite import errors

# --- the context of a call --------------------------------------------------------------------

_CALL: contextvars.ContextVar[dict[str, Any] | None] = contextvars.ContextVar("call", default=None)


def current_call() -> dict[str, Any]:
    """What travels with an RPC: the request id and who asked, never a token."""
    current = oslo_context.get_current()
    if current is None:
        current = oslo_context.RequestContext(overwrite=False)
    return {"request_id": current.request_id, "global_request_id": current.global_request_id,
            "user_id": current.user_id, "project_id": current.project_id}


@contextlib.contextmanager
def call_context(call: dict[str, Any]) -> Iterator[None]:
    """Make the caller's request id the current one, so that the log lines carry it."""
    before = oslo_context.get_current()
    oslo_context.RequestContext(
        user_id=call.get("user_id"), project_id=call.get("project_id"),
        request_id=call.get("request_id"), global_request_id=call.get("global_request_id"))
    try:
        yield
    finally:
        if before is not None:
            before.update_store()
        else:
            oslo_context._request_store.__dict__.pop("context", None)


# --- who asks ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Caller:
    """The user of one request and, for a service token, the service that speaks for it."""

    user_id: str | None
    project_id: str | None
    roles: tuple[str, ...]
    is_service: bool
    credentials: dict[str, Any]
    enforcer: Enforcer

    @functools.cached_property
    def is_admin(self) -> bool:
        """Whether rule admin_api holds: asked only where it matters."""
        return self.enforcer.is_admin(self.credentials)

    @property
    def scope(self) -> str | None:
        """The project whose ARQs the caller sees; None means all."""
        return None if self.is_service or self.is_admin else self.project_id or ""


def caller_from(environ: dict[str, Any], service_roles: frozenset[str],
                enforcer: Enforcer) -> Caller:
    """Read what keystonemiddleware (or noauth) put into the WSGI environment."""
    context = oslo_context.RequestContext.from_environ(environ)
    credentials = dict(context.to_policy_values())
    is_service = bool(service_roles & set(context.service_roles or ())) and (
        environ.get("HTTP_X_SERVICE_IDENTITY_STATUS", "Confirmed") == "Confirmed")
    return Caller(
        user_id=context.user_id, project_id=context.project_id, roles=tuple(context.roles),
        is_service=is_service, credentials=credentials, enforcer=enforcer)


# --- policy -----------------------------------------------------------------------------------

ADMIN = "rule:admin_api"
READER = "rule:project_reader_or_admin"
MANAGER = "rule:project_manager_or_admin"
MEMBER_OR_SERVICE = "rule:project_member_or_service"

_BASE_RULES = (
    policy.RuleDefault("admin_api", "role:admin", description="Administrators."),
    policy.RuleDefault("project_reader_api", "role:reader and project_id:%(project_id)s",
                       description="Readers of a project."),
    policy.RuleDefault("project_member_api", "role:member and project_id:%(project_id)s",
                       description="Members of a project."),
    policy.RuleDefault("project_manager_api", "role:manager and project_id:%(project_id)s",
                       description="Managers of a project."),
    policy.RuleDefault("service_api", "role:service",
                       description="Other services, such as Nova."),
    policy.RuleDefault("project_reader_or_admin", "rule:project_reader_api or rule:admin_api",
                       description="Readers of a project, or administrators."),
    policy.RuleDefault("project_manager_or_admin", "rule:project_manager_api or rule:admin_api",
                       description="Managers of a project, or administrators."),
    policy.RuleDefault("project_member_or_service",
                       "rule:project_member_api or rule:service_api or rule:admin_api",
                       description="Members of a project, services, or administrators."),
)


def _rule(name: str, check: str, description: str, *operations: tuple[str, str]) -> Any:
    return policy.DocumentedRuleDefault(
        name=f"cyborg:{name}", check_str=check, description=description, scope_types=["project"],
        operations=[{"method": method, "path": path} for method, path in operations])


RULES = (
    _rule("device_profile:get_all", READER, "List device profiles.",
          ("GET", "/v2/device_profiles")),
    _rule("device_profile:get_one", READER, "Show a device profile.",
          ("GET", "/v2/device_profiles/{uuid_or_name}")),
    _rule("device_profile:create", ADMIN, "Create a device profile.",
          ("POST", "/v2/device_profiles")),
    _rule("device_profile:update", ADMIN, "Update a device profile.",
          ("PATCH", "/v2/device_profiles/{uuid_or_name}")),
    _rule("device_profile:delete", ADMIN, "Delete device profiles.",
          ("DELETE", "/v2/device_profiles/{uuid_or_name}"),
          ("DELETE", "/v2/device_profiles?value={name1},{name2}")),
    _rule("arq:get_all", READER, "List accelerator requests.",
          ("GET", "/v2/accelerator_requests")),
    _rule("arq:get_one", READER, "Show an accelerator request.",
          ("GET", "/v2/accelerator_requests/{uuid}")),
    _rule("arq:create", MEMBER_OR_SERVICE, "Create accelerator requests.",
          ("POST", "/v2/accelerator_requests")),
    _rule("arq:delete", MEMBER_OR_SERVICE, "Delete accelerator requests.",
          ("DELETE", "/v2/accelerator_requests"),
          ("DELETE", "/v2/accelerator_requests/{uuid}")),
    _rule("arq:update", MEMBER_OR_SERVICE, "Bind and unbind accelerator requests.",
          ("PATCH", "/v2/accelerator_requests"),
          ("PATCH", "/v2/accelerator_requests/{uuid}")),
    _rule("device:get_all", MANAGER, "List devices.", ("GET", "/v2/devices")),
    _rule("device:get_one", MANAGER, "Show a device.", ("GET", "/v2/devices/{uuid}")),
    _rule("device:disable", ADMIN, "Disable a device.", ("POST", "/v2/devices/{uuid}/disable")),
    _rule("device:enable", ADMIN, "Enable a device.", ("POST", "/v2/devices/{uuid}/enable")),
    _rule("device:clean", ADMIN, "Clean the failed attach handles of a device again.",
          ("POST", "/v2/devices/{uuid}/clean")),
    _rule("deployable:get_all", MANAGER, "List deployables.", ("GET", "/v2/deployables")),
    _rule("deployable:get_one", MANAGER, "Show a deployable.",
          ("GET", "/v2/deployables/{uuid}")),
    _rule("deployable:program", ADMIN, "Program a deployable.",
          ("PATCH", "/v2/deployables/{uuid}/program"),
          ("PATCH", "/v2/deployables/{uuid}/program/{uuid}")),
    _rule("attribute:get_all", MANAGER, "List attributes.", ("GET", "/v2/attributes")),
    _rule("attribute:get_one", MANAGER, "Show an attribute.", ("GET", "/v2/attributes/{uuid}")),
    _rule("attribute:create", ADMIN, "Create an attribute.", ("POST", "/v2/attributes")),
    _rule("attribute:delete", ADMIN, "Delete an attribute.", ("DELETE", "/v2/attributes/{uuid}")),
)


def list_rules() -> list[Any]:
    """Every rule, for oslo.policy's generators."""
    return [*_BASE_RULES, *RULES]


def policy_enforcer() -> policy.Enforcer:
    """For oslo.policy's generators: an enforcer built from the command line's configuration."""
    conf = cfg.CONF
    conf([], project="cyborg-lite")
    return Enforcer(conf).oslo


class Enforcer:
    """The rules, with what the operator's policy file changed."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        policy_opts.set_defaults(conf)
        self.oslo = policy.Enforcer(conf)
        self.oslo.register_defaults(list_rules())

    def authorize(self, rule: str, caller: Caller) -> None:
        """Raise Forbidden unless the caller may do `rule` in its own project."""
        # a caller without a project is in no project, not in one called None
        target = {"user_id": caller.user_id}
        if caller.project_id is not None:
            target["project_id"] = caller.project_id
        if not self.oslo.authorize(rule, target, caller.credentials):
            raise errors.Forbidden(
                f"Policy does not allow {rule} to be performed with the roles "
                f"{', '.join(sorted(caller.roles))[:200] or '(none)'}.")

    def is_admin(self, credentials: dict[str, Any]) -> bool:
        """Say whether rule admin_api holds."""
        return bool(self.oslo.enforce("admin_api", {}, credentials))
