# SPDX-License-Identifier: Apache-2.0
"""Who asks, and what they may: request context, policy rules, `authorize()`.

No database look-ups here.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import sys
from collections.abc import Iterator
from typing import Any

from oslo_config import cfg
from oslo_context import context as oslo_context
from oslo_policy import opts as policy_opts
from oslo_policy import policy

from cyborg_lite import errors

# --- the context of a call --------------------------------------------------------------------

def current_call() -> dict[str, Any]:
    """What travels with an RPC: the request id and who asked, never a token."""
    current = oslo_context.get_current()
    if current is None:
        current = oslo_context.RequestContext(overwrite=False)
    return {"request_id": current.request_id, "global_request_id": current.global_request_id,
            "user_id": current.user_id, "project_id": current.project_id}


def id_for_others() -> str:
    """The request id that other services are told: that of whoever began it all, else our own."""
    call = current_call()
    return str(call["global_request_id"] or call["request_id"])


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
READER_OR_SERVICE = "rule:project_reader_or_service"
MANAGER = "rule:project_manager_or_admin"
MEMBER_OR_SERVICE = "rule:project_member_or_service"

_BASE_RULES = (
    policy.RuleDefault("admin_api", "role:admin", description="Administrators."),
    policy.RuleDefault("project_reader_api",
                       # roles and no rules: a policy file may say a member by a reader
                       "(role:reader or role:member or role:manager) and "
                       "project_id:%(project_id)s",
                       description="Readers of a project, members and managers among them, also "
                                   "where Keystone does not imply one role by the other."),
    policy.RuleDefault("project_member_api",
                       "(role:member or role:manager) and project_id:%(project_id)s",
                       description="Members of a project, managers among them."),
    policy.RuleDefault("project_manager_api", "role:manager and project_id:%(project_id)s",
                       description="Managers of a project."),
    policy.RuleDefault("project_admin_api", "role:admin and project_id:%(project_id)s",
                       description="Administrators of a project; for policy files alone."),
    policy.RuleDefault("service_api", "role:service",
                       description="Other services, such as Nova."),
    policy.RuleDefault("project_reader_or_admin", "rule:project_reader_api or rule:admin_api",
                       description="Readers of a project, or administrators."),
    policy.RuleDefault("project_member_or_admin", "rule:project_member_api or rule:admin_api",
                       description="Members of a project, or administrators; for policy files "
                                   "alone."),
    policy.RuleDefault("project_manager_or_admin", "rule:project_manager_api or rule:admin_api",
                       description="Managers of a project, or administrators."),
    policy.RuleDefault("project_reader_or_service",
                       "rule:project_reader_api or rule:service_api or rule:admin_api",
                       description="Readers of a project, services, or administrators."),
    policy.RuleDefault("project_member_or_service",
                       "rule:project_member_api or rule:service_api or rule:admin_api",
                       description="Members of a project, services, or administrators."),
)

_OLD_NAMES = tuple(
    policy.RuleDefault(
        name, check, description=description, deprecated_for_removal=True,
        deprecated_since="Cyborg Wallaby",
        deprecated_reason="Kept for policy files written for OpenStack Cyborg. Name one of the "
                          "rules above instead.")
    for name, check, description in (
        ("public_api", "is_public_api:True", "Requests that need no token."),
        ("allow", "@", "Anybody."),
        ("deny", "!", "Nobody."),
        ("default", "rule:admin_or_owner", "What Cyborg applied where no rule was written."),
        ("is_admin", "rule:admin_api", "Administrators."),
        ("admin_or_owner", "is_admin:True or project_id:%(project_id)s",
         "Anybody with a role in the project, or administrators."),
        ("admin_or_user", "is_admin:True or user_id:%(user_id)s",
         "The user itself, or administrators."),
    ))

_OWNER = "rule:admin_or_owner"


@policy.register("is_admin")
class _IsAdmin(policy.Check):
    """`is_admin:True` in a policy file: the role admin, whichever the project."""

    def __call__(self, target: Any, creds: Any, enforcer: Any, current_rule: Any = None) -> bool:
        return str("admin" in creds.get("roles", ())) == self.match


def _rule(name: str, check: str, description: str, *operations: tuple[str, str],
          was: tuple[str, str] | None = None) -> Any:
    """Make the rule of an operation; was: Cyborg's earlier default, and the release that left it.

    The earlier one is valid beside the other while [oslo_policy] enforce_new_defaults is false.
    """
    name = f"cyborg:{name}"
    before = was and policy.DeprecatedRule(
        name, was[0], deprecated_since=f"Cyborg {was[1]}",
        deprecated_reason="The personas of Keystone took the place of this default.")
    return policy.DocumentedRuleDefault(
        name=name, check_str=check, description=description, scope_types=["project"],
        operations=[{"method": method, "path": path} for method, path in operations],
        deprecated_rule=before)


RULES = (
    _rule("device_profile:get_all", READER, "List device profiles.",
          ("GET", "/v2/device_profiles"),
          was=(_OWNER, "Wallaby")),
    _rule("device_profile:get_one", READER, "Show a device profile.",
          ("GET", "/v2/device_profiles/{uuid_or_name}"),
          was=(_OWNER, "Wallaby")),
    _rule("device_profile:create", ADMIN, "Create a device profile.",
          ("POST", "/v2/device_profiles"),
          was=("rule:is_admin", "Wallaby")),
    _rule("device_profile:update", ADMIN, "Update a device profile.",
          ("PATCH", "/v2/device_profiles/{uuid_or_name}")),
    _rule("device_profile:delete", ADMIN, "Delete device profiles.",
          ("DELETE", "/v2/device_profiles/{uuid_or_name}"),
          ("DELETE", "/v2/device_profiles?value={name1},{name2}"),
          was=("rule:is_admin", "Wallaby")),
    _rule("arq:get_all", READER_OR_SERVICE, "List accelerator requests.",
          ("GET", "/v2/accelerator_requests"),
          was=(_OWNER, "2026.1")),
    _rule("arq:get_one", READER_OR_SERVICE, "Show an accelerator request.",
          ("GET", "/v2/accelerator_requests/{uuid}"),
          was=(_OWNER, "2026.1")),
    _rule("arq:create", MEMBER_OR_SERVICE, "Create accelerator requests.",
          ("POST", "/v2/accelerator_requests"),
          was=("rule:project_member_or_admin", "2026.1")),
    _rule("arq:delete", MEMBER_OR_SERVICE, "Delete accelerator requests.",
          ("DELETE", "/v2/accelerator_requests"),
          ("DELETE", "/v2/accelerator_requests/{uuid}"),
          was=(_OWNER, "2026.1")),
    _rule("arq:update", MEMBER_OR_SERVICE, "Bind and unbind accelerator requests.",
          ("PATCH", "/v2/accelerator_requests"),
          ("PATCH", "/v2/accelerator_requests/{uuid}"),
          was=(_OWNER, "2026.1")),
    _rule("arq:action", MEMBER_OR_SERVICE,
          "Switch and end migrations, suspend and resume the accelerators of an instance; needs a "
          "service token.",
          ("POST", "/v2/accelerator_requests/action")),
    _rule("device:get_all", MANAGER, "List devices.", ("GET", "/v2/devices")),
    _rule("device:get_one", MANAGER, "Show a device.", ("GET", "/v2/devices/{uuid}")),
    _rule("device:disable", ADMIN, "Disable a device.", ("POST", "/v2/devices/{uuid}/disable")),
    _rule("device:enable", ADMIN, "Enable a device.", ("POST", "/v2/devices/{uuid}/enable")),
    _rule("device:clean", ADMIN, "Clean the failed attach handles of a device again.",
          ("POST", "/v2/devices/{uuid}/clean")),
    _rule("device:get_partitioning", MANAGER, "Show how a device is split.",
          ("GET", "/v2/devices/{uuid}/partitioning")),
    _rule("device:set_partitioning", ADMIN, "Split a device.",
          ("PUT", "/v2/devices/{uuid}/partitioning")),
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
    _rule("service:get_all", MANAGER, "List services.", ("GET", "/v2/services")),
    _rule("service:update", ADMIN, "Enable or disable an agent.", ("PUT", "/v2/services/{id}")),
    # what they tell is of every project: instances, consumers, what Nova answered
    _rule("orphan:get_all", ADMIN, "List orphans.", ("GET", "/v2/orphans")),
    _rule("orphan:get_one", ADMIN, "Show an orphan.", ("GET", "/v2/orphans/{id}")),
    _rule("orphan:clean", ADMIN, "Clean an orphan.", ("POST", "/v2/orphans/{id}/clean")),
    _rule("orphan:get_sweep", ADMIN, "Show the last sweep for orphans.",
          ("GET", "/v2/orphans/sweep")),
    _rule("orphan:sweep", ADMIN, "Begin a sweep for orphans.", ("POST", "/v2/orphans/sweep")),
)


def list_rules() -> list[Any]:
    """Every rule, for oslo.policy's generators."""
    return [*_BASE_RULES, *_OLD_NAMES, *RULES]


def policy_enforcer() -> policy.Enforcer:
    """For oslo.policy's programs: an enforcer of the configuration that they were given."""
    conf = cfg.CONF
    conf(_files_given(sys.argv[1:]), project="cyborg-lite")
    return Enforcer(conf).oslo


def _files_given(arguments: list[str]) -> list[str]:
    """Return what names files among the arguments of a program that has others of its own."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--config-file", "--config-dir"):
        parser.add_argument(name, action="append", default=[])
    given, _ = parser.parse_known_args(arguments)
    return [*(f"--config-file={name}" for name in given.config_file),
            *(f"--config-dir={name}" for name in given.config_dir)]


def _is_of_a_project(caller: Caller) -> bool:
    others = (caller.credentials.get("system_scope"), caller.credentials.get("domain_id"))
    return caller.project_id is not None and not any(others)


class Enforcer:
    """The rules, with what the operator's policy file changed."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        policy_opts.set_defaults(conf)
        # a rule that a policy file names and nobody wrote: the library would take `default`
        conf.set_default("policy_default_rule", "deny", group="oslo_policy")
        self.oslo = policy.Enforcer(conf)
        self.oslo.register_defaults(list_rules())

    def authorize(self, rule: str, caller: Caller) -> None:
        """Raise Forbidden unless the caller may do `rule` in its own project."""
        # a caller without a project is in no project, not in one called None
        target = {"user_id": caller.user_id}
        if caller.project_id:
            target["project_id"] = caller.project_id
        if not self.oslo.authorize(rule, target, caller.credentials):
            raise errors.Forbidden(
                f"Policy does not allow {rule} to be performed with the roles "
                f"{', '.join(sorted(caller.roles))[:200] or '(none)'}"
                f"{'' if _is_of_a_project(caller) else ' and a token that is not of a project'}.")

    def is_admin(self, credentials: dict[str, Any]) -> bool:
        """Say whether rule admin_api holds."""
        return bool(self.oslo.enforce("admin_api", {}, credentials))
