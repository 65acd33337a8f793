# SPDX-License-Identifier: Apache-2.0
"""The mappings of ports: what Cyborg's syntax means, and that nothing else is guessed at."""

from __future__ import annotations

import contextlib

import hypothesis
import pytest
from hypothesis import strategies as st

from cyborg_lite import config
from cyborg_lite.agent import settings
from cyborg_lite.drivers import base
from cyborg_lite.drivers import nic_mappings

NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789_.-", min_size=1, max_size=12)


def test_a_key_has_its_ports_and_a_port_its_keys() -> None:
    found = nic_mappings.parse(["physnet1:eth2|eth3", " GTPv1 : eth2 | 0000:AF:00.0 "], "[x] y")

    assert found == {"eth2": ("GTPv1", "physnet1"), "eth3": ("physnet1",),
                     "0000:af:00.0": ("GTPv1",)}


@pytest.mark.parametrize(("values", "reason"), [
    (["physnet1"], "is no mapping"), ([":eth2"], "is no mapping"), (["physnet1:"], "is no mapping"),
    (["physnet1:eth2||eth3"], "is no mapping"), ([""], "is no mapping"),
    (["physnet1:eth2", "physnet1:eth3"], "stands there twice"),
    (["---:eth2"], "is no name that Placement takes"),
    (["x" * 250 + ":eth2"], "at most 255"),
])
def test_what_is_no_mapping_is_refused_with_its_option(values: list[str], reason: str) -> None:
    with pytest.raises(base.ConfigurationError, match=r"^\[x710_static\] physical") as caught:
        nic_mappings.of_types({"x710_static": {"physical_device_mappings": values}})

    assert reason in str(caught.value)


def test_a_port_in_two_networks_is_refused_whichever_groups_say_so() -> None:
    with pytest.raises(base.ConfigurationError, match="eth2 is in physnet1 and physnet2"):
        nic_mappings.of_types({"a": {"physical_device_mappings": ["physnet1:eth2"]},
                               "b": {"physical_device_mappings": ["physnet2:eth2"]}})
    with pytest.raises(base.ConfigurationError, match="eth2 is in physnet1 and physnet2"):
        nic_mappings.of_types({"a": {"physical_device_mappings": [
            "physnet1:eth2", "physnet2:eth2"]}})


def test_functions_of_all_types_are_added_up() -> None:
    found = nic_mappings.of_types({"a": {"function_device_mappings": ["GTPv1:eth2"]},
                                   "b": {"function_device_mappings": ["PPPoE:eth2|eth3"]}})

    assert found.functions_of(["0000:81:00.0", "eth2"]) == ("GTPv1", "PPPoE")
    assert found.functions_of(["eth9"]) == ()
    assert found.network_of(["eth2"]) is None


@hypothesis.given(st.dictionaries(NAMES, st.lists(NAMES, min_size=1, max_size=4, unique=True),
                                  max_size=4))
def test_what_was_written_is_read_back(wanted: dict[str, list[str]]) -> None:
    values = [f"{key}:{'|'.join(devices)}" for key, devices in wanted.items()]
    hypothesis.assume(all(key.strip("_.-") for key in wanted))

    found = nic_mappings.parse(values, "[x] y")

    assert {(key, port) for port, keys in found.items() for key in keys} == {
        (key, port) for key, ports in wanted.items() for port in ports}


@hypothesis.given(st.lists(st.text(max_size=40), max_size=5))
def test_any_text_is_read_or_refused(values: list[str]) -> None:
    with contextlib.suppress(base.ConfigurationError):
        nic_mappings.parse(values, "[x] y")


def test_the_groups_that_the_configuration_names_reach_the_driver(tmp_path: object) -> None:
    place = tmp_path / "nic.conf"  # type: ignore[operator]
    place.write_text("[DEFAULT]\nhost = node7\n[nic_devices]\nenabled_nic_types = x710_static\n"
                     "[x710_static]\nphysical_device_mappings = physnet1:eth2|eth3\n"
                     "function_device_mappings = GTPv1:eth3|eth2\n")
    conf = config.load(["--config-file", str(place)], config.cfg.ConfigOpts())

    types = settings.read(conf, lambda: "node7").options["nic_devices"]["types"]

    found = nic_mappings.of_types(types)
    assert found.network_of(["eth3"]) == "physnet1"
    assert found.functions_of(["eth2"]) == ("GTPv1",)
