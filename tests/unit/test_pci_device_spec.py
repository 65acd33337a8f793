# SPDX-License-Identifier: Apache-2.0
"""`[pci] device_spec`: what an entry means, and what is said about a bad one."""

from __future__ import annotations

import contextlib
import json

import hypothesis
import os_traits
import pytest
from hypothesis import strategies

from cyborg_lite.drivers import base
from cyborg_lite.drivers import device_spec
from cyborg_lite.drivers import sysfs

HEX_ADDRESSES = strategies.builds(
    "{:04x}:{:02x}:{:02x}.{:x}".format, strategies.integers(0, 0x1ffff),
    strategies.integers(0, 0xff), strategies.integers(0, 0x1f), strategies.integers(0, 7))

JSON = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers() | strategies.text(max_size=8)
    | strategies.sampled_from(["*", "10de", "0000:41:00.0", ":00.", "41:", "[", ".*"]),
    lambda inner: strategies.lists(inner, max_size=3) | strategies.dictionaries(
        strategies.sampled_from(["vendor_id", "product_id", "address", "devname", "domain", "bus",
                                 "slot", "function", "traits", "resource_class", "tag"]),
        inner, max_size=5), max_leaves=12)


def a_function(address: str = "0000:41:00.0", *, vendor: str = "10de", product: str = "20f1",
               physfn: str | None = None) -> sysfs.PciFunction:
    return sysfs.PciFunction(address=address, vendor=vendor, product=product, class_code="030200",
                             path=f"devices/{address}", entries=frozenset(), physfn=physfn)


def spec(**entry: object) -> device_spec.DeviceSpec:
    (only,) = device_spec.parse([json.dumps(entry)])
    return only


@pytest.mark.parametrize(("address", "means", "not_those"), [
    ("*:41:00.*", ["0000:41:00.0", "10000:41:00.7"], ["0000:42:00.0", "0000:41:01.0"]),
    (":00.", ["0000:41:00.0", "0001:02:00.3"], ["0000:41:01.0"]),
    ("41:00", ["0000:41:00.0", "0002:41:00.5"], ["0000:40:00.0"]),
    (".1", ["0000:41:00.1"], ["0000:41:00.0"]),
    ("0000:41:00.0", ["0000:41:00.0"], ["0000:41:00.1", "0001:41:00.0"]),
    ("0:A:0.0", ["0000:0a:00.0"], ["0000:a0:00.0"]),
    ("10000:01:00.0", ["10000:01:00.0"], ["0000:01:00.0"]),
    ("*", ["0000:41:00.0"], []),
    ({"bus": "4[12]", "function": "[0-3]"}, ["0000:41:00.0", "0000:42:1f.3"],
     ["0000:43:00.0", "0000:41:00.4"]),
    # Nova's rule: an expression must match at the start only
    ({"bus": "0"}, ["0000:0a:00.0"], ["0000:a0:00.0"]),
    ({"bus": "4A"}, ["0000:4a:00.0"], []),
])
def test_an_address_means_these_and_not_those(address: object, means: list[str],
                                              not_those: list[str]) -> None:
    wanted = spec(address=address)

    assert [each for each in means if not wanted.matches(a_function(each))] == []
    assert [each for each in not_those if wanted.matches(a_function(each))] == []


def test_the_address_of_a_physical_function_means_its_virtual_ones_too() -> None:
    wanted = spec(address="0000:41:00.0")

    assert wanted.matches(a_function("0000:41:00.4", physfn="0000:41:00.0"))
    assert not wanted.matches(a_function("0000:41:00.4", physfn="0000:42:00.0"))


@pytest.mark.parametrize("written", ["10de", "10DE", "0x10de", " 10de "])
def test_ids_are_compared_as_numbers(written: str) -> None:
    wanted = spec(vendor_id=written, product_id="*")

    assert wanted.matches(a_function())
    assert not wanted.matches(a_function(vendor="8086"))


@pytest.mark.parametrize(("entry", "resource_class", "traits"), [
    ({}, None, ()),
    ({"resource_class": "PGPU"}, "PGPU", ()),
    ({"resource_class": "CUSTOM_GPU_BIG"}, "CUSTOM_GPU_BIG", ()),
    ({"resource_class": "gpu-big"}, "CUSTOM_GPU_BIG", ()),
    ({"traits": "rack 7,,CUSTOM_FAST"}, None, ("CUSTOM_FAST", "CUSTOM_RACK_7")),
    ({"traits": [os_traits.HW_NIC_SRIOV, "hw_nic_sriov"]}, None, ("HW_NIC_SRIOV",)),
])
def test_names_become_what_placement_takes(entry: dict[str, object], resource_class: str | None,
                                           traits: tuple[str, ...]) -> None:
    wanted = spec(vendor_id="10de", **entry)

    assert (wanted.resource_class, wanted.traits) == (resource_class, traits)


def test_one_value_may_hold_several_entries() -> None:
    specs = device_spec.parse(['[{"vendor_id": "10de"}, {"vendor_id": "8086"}]',
                               '{"vendor_id": "144d"}'])

    assert [each.vendor_id for each in specs] == ["10de", "8086", "144d"]


def test_novas_other_keys_are_remembered_as_ignored() -> None:
    wanted = spec(vendor_id="10de", physical_network=None, managed="no", mine="x")

    assert wanted.ignored == ("managed", "mine", "physical_network")


@pytest.mark.parametrize(("value", "reason"), [
    ("{", "it is no JSON"),
    ('"10de"', "must be a JSON object or a list"),
    ('[{"vendor_id": "10de"}, 7]', "must be a JSON object or a list"),
    ('{"devname": "eth0"}', "devname can't be used"),
    ("{}", "must have vendor_id, product_id or address; it has nothing"),
    ('{"vendor": "10de"}', "must have vendor_id, product_id or address; it has vendor"),
    ('{"vendor_id": "10deg"}', "vendor_id must be up to four hex digits"),
    ('{"vendor_id": "110de"}', "vendor_id must be up to four hex digits"),
    ('{"product_id": 8433}', "product_id must be text, found 8433"),
    ('{"address": "0000:41:20.0"}', "slot '20' of address"),
    ('{"address": "0000:41:00.8"}', "function '8' of address"),
    ('{"address": "0000:4*:00.0"}', "bus '4[*]' of address"),
    ('{"address": "1:2:3:4.0"}', "must look like domain:bus:slot.function"),
    ('{"address": 7}', "address must be text or an object"),
    ('{"address": {"bus": "["}}', "bus of address, '\\[', is no regular expression"),
    ('{"address": {"bus": 4}}', "bus of address must be a regular expression"),
    ('{"address": {"device": "00"}}', "address knows domain, bus, slot, function, not device"),
    ('{"vendor_id": "10de", "traits": 7}', "traits must be names"),
    ('{"vendor_id": "10de", "resource_class": ""}', "resource_class must be text"),
    ('{"vendor_id": "10de", "resource_class": "--"}', "no name that Placement takes"),
    (json.dumps({"vendor_id": "10de", "traits": "x" * 300}), "no name that Placement takes"),
])
def test_a_bad_value_is_refused_with_option_value_and_reason(value: str, reason: str) -> None:
    with pytest.raises(base.ConfigurationError, match=reason) as refusal:
        device_spec.parse(['{"vendor_id": "8086"}', value])

    assert str(refusal.value).startswith(f"[pci] device_spec = {value}: ")


@hypothesis.given(JSON)
def test_any_json_is_understood_or_refused(data: object) -> None:
    with contextlib.suppress(base.ConfigurationError):
        for wanted in device_spec.parse([json.dumps(data)]):
            wanted.matches(a_function())


@hypothesis.given(strategies.text(max_size=40))
def test_any_text_is_understood_or_refused(text: str) -> None:
    with contextlib.suppress(base.ConfigurationError):
        device_spec.parse([text])
    with contextlib.suppress(base.ConfigurationError):
        device_spec.parse([json.dumps({"address": text, "vendor_id": text})])


@hypothesis.given(HEX_ADDRESSES, HEX_ADDRESSES)
def test_a_full_address_means_exactly_itself(one: str, other: str) -> None:
    wanted = spec(address=one)

    assert wanted.matches(a_function(one))
    assert wanted.matches(a_function(other)) == (one == other)
    assert wanted.single_address == one


@hypothesis.given(HEX_ADDRESSES, strategies.sets(strategies.integers(0, 3)))
def test_stars_in_any_places_still_mean_the_address(address: str, places: set[int]) -> None:
    parts = address.replace(".", ":").split(":")
    for place in places:
        parts[place] = "*"

    assert spec(address="{}:{}:{}.{}".format(*parts)).matches(a_function(address))


@hypothesis.given(strategies.text(min_size=1, max_size=300))
def test_a_name_that_is_taken_is_one_that_placement_takes(name: str) -> None:
    with contextlib.suppress(base.ConfigurationError):
        wanted = spec(vendor_id="10de", resource_class=name, traits=[name])
        for result in (wanted.resource_class, *wanted.traits):
            assert result is not None
            assert set(result) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
            assert len(result) <= 255
