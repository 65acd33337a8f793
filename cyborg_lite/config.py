# SPDX-License-Identifier: Apache-2.0
"""Every option, by group, with its unit in the help text. Nothing is read when this is imported."""

from __future__ import annotations

import copy
import functools
import logging
import socket
from collections.abc import Iterable
from typing import Any

from keystoneauth1 import loading as ks_loading
from oslo_config import cfg
from oslo_db import options as db_options
from oslo_log import log
from oslo_middleware import cors
from oslo_policy import opts as policy_opts
from oslo_reports import opts as report_opts

PROJECT = "cyborg-lite"
STATE_PATH = "/var/lib/cyborg-lite"

DEFAULT_OPTIONS = (
    cfg.HostAddressOpt(
        "my_ip", default="127.0.0.1", help="Address of this host. Nothing reads it.",
        deprecated_for_removal=True,
        deprecated_reason="Known for the sake of files that were written for OpenStack Cyborg."),
    cfg.StrOpt(
        "host", default=socket.gethostname(), sample_default="node7", regex=r"^[A-Za-z0-9._-]+$",
        max_length=255,
        help="Name of this host: the one that Nova uses for its compute node. Several agents may "
             "run on one machine under different names."),
)

API_OPTIONS = (
    cfg.HostAddressOpt("host_ip", default="127.0.0.1", help="Address to listen on."),
    cfg.PortOpt("port", default=6666, help="Port to listen on."),
    cfg.IntOpt("api_workers", default=1, min=1, max=64, help="Processes that serve requests."),
    cfg.IntOpt("api_threads", default=16, min=1, max=256, help="Threads of each process."),
    cfg.StrOpt("public_endpoint", sample_default="https://cloud.example.org/accelerator",
               help="Base of the links in answers. When unset, the request's own mount point."),
    cfg.StrOpt("auth_strategy", default="keystone", choices=("keystone", "noauth"),
               help="Who says who the caller is. noauth believes the X-User-Id, X-Project-Id, "
                    "X-Roles and X-Service-Roles headers of any client."),
    cfg.BoolOpt("allow_noauth_beyond_loopback", default=False,
                help="Let noauth listen on an address that is not a loopback address."),
    cfg.StrOpt("api_paste_config", default="api-paste.ini",
               help="The pipeline of middleware; looked for beside the configuration files, then "
                    "the one that came with the package is taken."),
    cfg.IntOpt("max_limit", mutable=True, default=1000, min=1,
               help="Largest page of a list, in entries."),
    cfg.IntOpt("max_accelerators_per_profile", default=64, min=1, max=1000,
               help="Most accelerators that all groups of one device profile may ask for."),
    cfg.IntOpt("rpc_timeout", default=30, min=2, max=300,
               help="Seconds that a request waits for a conductor before it answers 503."),
)

KEYSTONE_URL = (r"(https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?|(?=/))"
                r"(/[A-Za-z0-9._~/-]*)?")
"""An address that a browser can use: of another server, or a path on the one it has come to."""

CONSOLE_OPTIONS = (
    cfg.BoolOpt("enabled", default=True, help="Serve the console, a page, at /console."),
    cfg.StrOpt("keystone_url", regex=rf"^({KEYSTONE_URL})?$",
               sample_default="https://cloud.example.org/identity/v3",
               help="Where browsers sign in: Keystone's address, which has to allow the origin of "
                    "this service ([cors] there), or a path such as /identity/v3 when one proxy "
                    "serves both. When unset, [keystone_authtoken] www_authenticate_uri. When "
                    "empty, the page takes tokens alone, no passwords."),
)

CONDUCTOR_OPTIONS = (
    cfg.IntOpt("workers", default=1, min=1, max=64, help="Conductor processes on this host."),
    cfg.IntOpt("bind_timeout", mutable=True, default=120, min=5,
               help="Seconds after which a bind that is not finished has failed. Keep it below "
                    "Nova's arq_binding_timeout (300)."),
    cfg.IntOpt("service_down_time", mutable=True, default=60, min=5,
               help="Seconds without a heartbeat after which an agent counts as down."),
    cfg.IntOpt("unbound_arq_ttl", mutable=True, default=86400, min=60,
               help="Seconds after which an ARQ that is bound to nothing is deleted."),
    cfg.IntOpt("placement_sync_interval", mutable=True, default=600, min=5,
               help="Seconds between two comparisons of a host with Placement when nothing "
                    "changed. What changed is synchronized at once."),
    cfg.IntOpt("placement_sync_concurrency", mutable=True, default=8, min=1, max=64,
               help="Requests to Placement under way at one time, for one host."),
    cfg.IntOpt("agent_rpc_timeout", default=60, min=2, max=600,
               help="Seconds that a conductor waits for an agent to prepare or clean."),
    cfg.IntOpt("event_give_up", mutable=True, default=600, min=1,
               help="Seconds after which an event that Nova refuses (404, 422) is dropped. One "
                    "that Nova could not be given (no answer, 5xx) is kept ten times as long."),
)

RECONCILE_OPTIONS = (
    cfg.BoolOpt("enabled", mutable=True, default=True,
                help="Look for orphans by the clock: what dead hosts and forgotten servers left. "
                     "POST /v2/orphans/sweep works without it."),
    cfg.IntOpt("interval", mutable=True, default=600, min=5,
               help="Seconds between two sweeps of all hosts."),
    cfg.IntOpt("grace_period", mutable=True, default=600, min=0,
               help="Seconds for which something has to look like an orphan, in two sweeps at "
                    "least, before it is cleaned. Keep it above the time that Nova needs for a "
                    "build or a move."),
    cfg.IntOpt("host_gone_after", mutable=True, default=3600, min=60,
               help="Seconds without a heartbeat after which a host is gone for good: its resource "
                    "providers and its rows are deleted, unless something is bound there."),
    cfg.BoolOpt("dry_run", mutable=True, default=False,
                help="Show orphans (GET /v2/orphans) and clean none."),
    cfg.BoolOpt("heal_allocations", mutable=True, default=False,
                help="Delete allocations of our resource providers whose consumer is neither an "
                     "instance nor a migration that Nova knows. Otherwise they are shown only."),
    cfg.IntOpt("batch_size", mutable=True, default=100, min=1, max=5000,
               help="ARQs that are looked at together: hosts are taken until they have so many."),
    cfg.IntOpt("brake_above", mutable=True, default=100, min=0,
               help="Orphans of one kind that sweeps clean, however few accelerators the cloud "
                    "has. When Nova's word makes more than these orphans, and more than "
                    "brake_above_percent, sweeps clean none of them: [nova] may lead to another "
                    "region's Nova, or to one from an old backup. They stay confirmed until an "
                    "administrator has each cleaned, or raises the limits."),
    cfg.IntOpt("brake_above_percent", mutable=True, default=50, min=0, max=100,
               help="Orphans of one kind that sweeps clean, in percent of the ARQs on all hosts; "
                    "see brake_above. With 100 there is no brake for ARQs."),
)

AGENT_OPTIONS = (
    cfg.ListOpt("enabled_drivers", mutable=True, default=["fake_driver"],
                help="Drivers to load, by entry point name. Where two could offer one function, "
                     "the one named first has it."),
    cfg.StrOpt("resource_provider_name", sample_default="node7.example.org",
               help="Name of this host's compute node provider in Placement. When unset, the "
                    "fully qualified host name, then [DEFAULT] host."),
    cfg.FloatOpt("report_interval", mutable=True, default=10, min=0.1,
                 help="Seconds between two heartbeats."),
    cfg.FloatOpt("discover_interval", mutable=True, default=60, min=0.1,
                 help="Seconds between two discoveries when the kernel announces nothing."),
    cfg.StrOpt("sysfs_root", default="/sys", help="Where sysfs is mounted, or a recorded tree."),
    cfg.StrOpt("proc_root", default="/proc", help="Where procfs is mounted, or a recorded tree."),
    cfg.StrOpt("dev_root", default="/dev", help="Where device nodes are."),
    cfg.StrOpt("state_path", default=STATE_PATH, help="Where the agent keeps state."),
    cfg.StrOpt("device_config_dir", mutable=True, default="/etc/cyborg-lite/devices.d",
               help="Directory of device files (*.yaml)."),
)

METRICS_OPTIONS = (
    cfg.BoolOpt("enabled", default=False,
                help="Answer Prometheus: GET /metrics, on ports of their own, without a login. "
                     "The answers name hosts and drivers, and no projects, users or instances."),
    cfg.HostAddressOpt("host_ip", default="127.0.0.1",
                       help="Address to listen on. Whoever reaches it may read the metrics."),
    cfg.PortOpt("api_port", default=9610,
                help="Port of the first API process, and of cyborg-lite-standalone. Each further "
                     "process of [api] api_workers takes the next one that is free."),
    cfg.PortOpt("conductor_port", default=9630,
                help="Port of the first conductor process; each further one of [conductor] "
                     "workers takes the next one that is free."),
    cfg.PortOpt("agent_port", default=9650,
                help="Port of the agent. Several agents on one machine need one each."),
)

PCI_OPTIONS = (
    cfg.MultiStrOpt(
        "device_spec", mutable=True, default=[],
        deprecated_name="passthrough_whitelist",
        help="Which PCI functions pci_driver offers: a JSON object, or a list of them, as in "
             "Nova's [pci] device_spec. May be given several times. Keys: vendor_id, product_id, "
             "address (globs, or an object of regular expressions), resource_class, traits. "
             'Example: {"vendor_id": "10de", "product_id": "1eb8"}'),
)

FAKE_OPTIONS = (
    cfg.IntOpt("num_devices", mutable=True, default=1, min=0, max=4096,
               help="Devices that fake_driver reports."),
    cfg.IntOpt("num_handles", mutable=True, default=16, min=1, max=4096,
               help="Attach handles of each device."),
)

GPU_OPTIONS = (
    cfg.ListOpt(
        "enabled_vgpu_types", mutable=True, default=[],
        help="vGPU types that nvidia_gpu_driver offers, each by its id (nvidia-556), full name or "
             "short name (T4-2B). [vgpu_<type>] device_addresses says for which cards; one type "
             "may go without and is for all the others. When empty, each card that shows vGPUs is "
             "offered as the type that is in use on it, or one that cuts it into four."),
    cfg.BoolOpt(
        "offer_vendor_vfio", mutable=True, default=True,
        help="Offer vGPUs that are virtual functions of NVIDIA's VFIO framework (no mediated "
             "devices). Nova has to attach them with managed='no', as their handles say: one that "
             "doesn't takes the function from the nvidia driver, and the vGPU is lost."),
)

VGPU_TYPE_OPTIONS = (
    cfg.ListOpt(
        "device_addresses", mutable=True, default=[],
        help="PCI addresses of the cards, or of their virtual functions, that are for this type."),
)

MDEV_OPTIONS = (
    cfg.StrOpt(
        "created_by", mutable=True, default="agent", choices=("agent", "nova"),
        help="Who makes mediated devices for handles, also those of NVIDIA's GPUs. With nova the "
             "agent checks that one can be made, and removes none."),
    cfg.ListOpt(
        "enabled_types", mutable=True, default=[],
        help="Types that mdev_driver offers, such as i915-GVTg_V5_4. [mdev_<type>] "
             "device_addresses says on which parents; a type without is for every parent that has "
             "it. When empty, each parent is offered with the type that is in use on it, or one "
             "that cuts it into four."),
    cfg.StrOpt(
        "resource_class", mutable=True,
        help="Resource class of mediated devices. When unset, VGPU where the parent is a display "
             "controller, else CUSTOM_MDEV."),
    cfg.ListOpt("traits", mutable=True, default=[],
                help="Traits of all mediated devices, beside CUSTOM_MDEV_<type>."),
    cfg.IntOpt("max_handles", mutable=True, default=64, min=1, max=4096,
               help="Most attach handles of one parent: some (s390 AP) name tens of thousands."),
)

MDEV_TYPE_OPTIONS = (
    cfg.ListOpt("device_addresses", mutable=True, default=[],
                help="Parents that are for this type: PCI addresses, or names such as mtty."),
    cfg.StrOpt("resource_class", mutable=True, help="Resource class of this type."),
    cfg.ListOpt("traits", mutable=True, default=[], help="More traits of this type."),
)

NIC_OPTIONS = (
    cfg.ListOpt(
        "enabled_nic_types", mutable=True, default=[], sample_default=["x710_static"],
        help="Names of groups, each with physical_device_mappings and function_device_mappings, "
             "that say what ports of intel_nic_driver are connected to and have loaded."),
)

NIC_TYPE_OPTIONS = (
    cfg.ListOpt(
        "physical_device_mappings", mutable=True, default=[],
        help="Physical networks and the ports that are in them: physnet1:eth2|eth3. A port is the "
             "interface or the PCI address of a physical function. As in the Neutron SR-IOV "
             "agent's physical_device_mappings."),
    cfg.ListOpt(
        "function_device_mappings", mutable=True, default=[],
        help="Functions, such as protocols of a loaded DDP package, and the ports that have them: "
             "GTPv1:eth2|eth3. Each becomes a trait, CUSTOM_GTPV1; nothing is loaded or checked."),
)

TYPE_GROUPS = {
    "gpu_devices": ("enabled_vgpu_types", "vgpu_", VGPU_TYPE_OPTIONS),
    "mdev": ("enabled_types", "mdev_", MDEV_TYPE_OPTIONS),
    "nic_devices": ("enabled_nic_types", "", NIC_TYPE_OPTIONS),
}
"""Groups of which an option names others, one a type: that option, their prefix, their options."""

OWN_OPTIONS: dict[str | None, tuple[Any, ...]] = {
    None: DEFAULT_OPTIONS, "api": API_OPTIONS, "console": CONSOLE_OPTIONS,
    "conductor": CONDUCTOR_OPTIONS, "reconcile": RECONCILE_OPTIONS,
    "agent": AGENT_OPTIONS, "metrics": METRICS_OPTIONS, "pci": PCI_OPTIONS, "fake": FAKE_OPTIONS,
    "gpu_devices": GPU_OPTIONS, "mdev": MDEV_OPTIONS, "nic_devices": NIC_OPTIONS,
}

_CLIENT_GROUPS = {"placement": "placement", "nova": "compute"}

SERVICE_USER_OPTIONS = (
    cfg.BoolOpt(
        "send_service_user_token", default=False,
        help="Send a token of this user as X-Service-Token, beside that of [nova] or [placement], "
             "for clouds whose policies ask services for it. Calls are never made with a user's "
             "token, so nothing expires on the way without it."),
)


def _client_options(service_type: str) -> list[Any]:
    adapter = copy.deepcopy(ks_loading.get_adapter_conf_options(include_deprecated=False))
    for option in adapter:
        if option.dest == "service_type":
            option.default = service_type
        if option.dest == "valid_interfaces":
            option.default = ["internal", "public"]
    return [*adapter, *ks_loading.get_session_conf_options()]


LOG_LEVELS = ("oslo.messaging=INFO", "alembic=WARN", "WSME=WARN", "keystoneauth.session=ERROR")


def set_library_defaults() -> None:
    """Set our defaults for options that libraries own; the sample generator calls this too."""
    log.set_defaults(default_log_levels=[
        *(level for level in log.get_default_log_levels() if level not in LOG_LEVELS),
        *LOG_LEVELS])
    cors.set_defaults(
        allow_headers=["X-Auth-Token", "OpenStack-API-Version", "X-OpenStack-Request-ID",
                       "Content-Type", "If-Match"],
        expose_headers=["OpenStack-API-Version", "OpenStack-API-Minimum-Version",
                        "OpenStack-API-Maximum-Version", "X-OpenStack-Request-ID", "ETag"],
        allow_methods=["GET", "HEAD", "PUT", "POST", "DELETE", "PATCH"])
    # as many as a conductor has threads: a connection beyond the pool is made for one transaction
    # alone, which costs more than the transaction
    cfg.set_defaults(db_options.database_opts, max_pool_size=40)
    # for the sample; `auth.Enforcer` says why
    policy_opts.set_defaults(cfg.ConfigOpts(), policy_default_rule="deny")


def register(conf: cfg.ConfigOpts) -> cfg.ConfigOpts:
    """Register every option of ours, and the libraries' whose defaults we set; returns `conf`."""
    for group, options in OWN_OPTIONS.items():
        conf.register_opts(options, group=group)
    for group, service_type in _CLIENT_GROUPS.items():
        conf.register_opts(_client_options(service_type), group=group)
        ks_loading.register_auth_conf_options(conf, group)
    conf.register_opts(SERVICE_USER_OPTIONS, group="service_user")
    ks_loading.register_auth_conf_options(conf, "service_user")
    log.register_options(conf)
    conf.register_opts(db_options.database_opts, group="database")
    policy_opts.set_defaults(conf)
    report_opts.set_defaults(conf)
    set_library_defaults()
    return conf


def type_groups(conf: cfg.ConfigOpts, group: str) -> dict[str, dict[str, Any]]:
    """Read the groups that a group of `TYPE_GROUPS` names: their values, by type."""
    naming, prefix, options = TYPE_GROUPS[group]
    found: dict[str, dict[str, Any]] = {}
    for name in conf[group][naming]:
        conf.register_opts(options, group=f"{prefix}{name}")
        found[name] = {option.dest: conf[f"{prefix}{name}"][option.dest] for option in options}
    return found


def load(arguments: list[str], conf: cfg.ConfigOpts | None = None, *,
         program: str = PROJECT) -> cfg.ConfigOpts:
    """Read command line and configuration files into a registered `conf`.

    Without --config-file and --config-dir, cyborg-lite.conf and `<program>.conf` are read where
    they are found in /etc/cyborg-lite and the other usual places. Raises cfg.Error.
    """
    conf = register(conf or cfg.CONF)
    conf(arguments, project=PROJECT, prog=program, version=version())
    return conf


@functools.cache
def version() -> str:
    """The installed version, or 0 when run from a checkout that was never installed.

    Looked up once: a report on SIGUSR2 asks too, at any moment, also while it is looked up.
    """
    from importlib import metadata
    try:
        return metadata.version("cyborg-lite")
    except metadata.PackageNotFoundError:
        return "0"


_WHERE_TO_LOG = ("log_config_append", "log_dir", "log_file")


def set_up_logging(conf: cfg.ConfigOpts) -> None:
    """Start oslo.log; Python warnings go to the log too.

    Raises cfg.Error, naming the option, when the log can't be written where it should be.
    """
    logging.captureWarnings(True)
    try:
        log.setup(conf, PROJECT)
    except (OSError, log.LogConfigError) as error:
        given = ", ".join(f"{name} = {conf[name]}" for name in _WHERE_TO_LOG if conf[name])
        raise cfg.Error(f"[DEFAULT] {given}: {error}. This user has to be able to write the log "
                        "and to read its configuration.") from error


def list_options() -> Iterable[tuple[str | None, list[Any]]]:
    """Every option of ours, for oslo.config's sample generator."""
    yield from ((group, list(options)) for group, options in OWN_OPTIONS.items())
    auth = [*ks_loading.get_auth_common_conf_options(),
            *ks_loading.get_auth_plugin_conf_options("password")]
    for group, service_type in _CLIENT_GROUPS.items():
        yield group, [*_client_options(service_type), *auth]
    yield "service_user", [*SERVICE_USER_OPTIONS, *auth]
