# SPDX-License-Identifier: Apache-2.0
"""Commands as bytes and answers as values: against the specification's numbers, and any bytes."""

from __future__ import annotations

import contextlib
import struct

import hypothesis
import pytest
from hypothesis import strategies as st

from cyborg_lite.drivers import nvme_admin
from tests.drivers.nvme_ssd import model

PAGES = st.binary(min_size=0, max_size=64).flatmap(
    lambda head: st.sampled_from([head, head.ljust(4096, b"\0"), head * 64, head.ljust(8192)]))


@pytest.mark.parametrize("parse", [
    nvme_admin.parse_controller, nvme_admin.parse_namespaces, nvme_admin.parse_controllers,
    nvme_admin.parse_sanitize_log, lambda data: nvme_admin.parse_namespace(1, data)])
@hypothesis.given(data=PAGES)
def test_any_bytes_are_read_or_refused(parse: object, data: bytes) -> None:
    with contextlib.suppress(nvme_admin.BadAnswer):
        parse(data)  # type: ignore[operator]


@hypothesis.given(listed=st.lists(st.integers(1, 0xfffffffe), max_size=1024, unique=True))
def test_a_list_of_namespaces_is_read_as_it_was_written(listed: list[int]) -> None:
    data = struct.pack(f"<{len(listed)}I", *sorted(listed)).ljust(4096, b"\0")

    assert nvme_admin.parse_namespaces(data) == sorted(listed)


@hypothesis.given(listed=st.lists(st.integers(0, 0xffff), max_size=2047))
def test_a_list_of_controllers_is_read_as_it_is_written(listed: list[int]) -> None:
    data = nvme_admin.attach_namespace(1, listed).data

    assert nvme_admin.parse_controllers(data) == listed


def test_a_list_that_goes_back_is_refused() -> None:
    with pytest.raises(nvme_admin.BadAnswer, match="listed after"):
        nvme_admin.parse_namespaces(struct.pack("<2I", 5, 5).ljust(4096, b"\0"))


def test_a_controller_is_read() -> None:
    disk = model.Model(serial="S1", several=True, controller_id=258, oacs=0b1010, fna=0b101,
                       sanicap=0b110)

    found = nvme_admin.parse_controller(disk.admin(0x06, 0, [1], b"", 4096)[2])

    assert (found.serial, found.model, found.controller_id) == ("S1", "INSPUR NVMe", 258)
    assert (found.several, found.can_format, found.can_manage_namespaces) == (True, True, True)
    assert found.can_format_crypto
    assert found.erases_all_namespaces
    assert found.sanitize_action == nvme_admin.BLOCK_ERASE


@pytest.mark.parametrize(("sanicap", "action"), [(0, None), (0b001, 4), (0b011, 2), (0b100, 3)])
def test_the_sanitize_of_a_drive_is_the_best_that_it_can(sanicap: int, action: int) -> None:
    data = model.Model(sanicap=sanicap).admin(0x06, 0, [1], b"", 4096)[2]

    assert nvme_admin.parse_controller(data).sanitize_action == action


def test_a_virtual_functions_controller_reaches_nothing_of_others() -> None:
    data = model.Model(oacs=0b1010, fna=0b1, sanicap=0b111).admin(0x06, 0, [1], b"", 4096)[2]

    own = nvme_admin.parse_controller(data).with_own_namespaces_alone()

    assert (own.can_format, own.can_manage_namespaces, own.sanitize_action) == (False, False, None)


@hypothesis.given(index=st.integers(0, 63), extended=st.booleans(), protection=st.integers(0, 15),
                  settings=st.integers(0, 2))
def test_a_format_says_each_thing_in_its_bits(index: int, extended: bool, protection: int,
                                              settings: int) -> None:
    command = nvme_admin.format_namespace(3, settings, index, extended=extended,
                                          protection=protection)

    word, = command.words
    assert (command.opcode, command.nsid) == (0x80, 3)
    assert (word & 0xf) | (word >> 12 & 0b11) << 4 == index
    assert bool(word & 0x10) == extended
    assert (word >> 5 & 0b111) | (word >> 8 & 1) << 3 == protection
    assert word >> 9 & 0b111 == settings


def test_commands_have_the_specifications_numbers() -> None:
    assert nvme_admin.sanitize(nvme_admin.BLOCK_ERASE).words == (2, 0)
    assert nvme_admin.sanitize(nvme_admin.OVERWRITE).words == (0x13, 0)
    assert nvme_admin.read_sanitize_log().words[0] == 0x007f0081
    assert nvme_admin.delete_namespace(7).words == (1,)
    assert nvme_admin.detach_namespace(7, [3]).words == (1,)
    assert nvme_admin.attach_namespace(7, [3]).data[:4] == b"\x01\x00\x03\x00"
    made = nvme_admin.create_namespace(100, 0x21, extended=True, protection=9, shared=True).data
    assert struct.unpack_from("<QQ", made) == (100, 100)
    assert (made[26], made[29], made[30]) == (0x51, 9, 1)


@pytest.mark.parametrize(("status", "text"), [
    (0x4002, "invalid field"), (0x286, "locked"), (0x7ff, "0x7ff")])
def test_a_refusal_is_told_in_words(status: int, text: str) -> None:
    assert text in (nvme_admin.Answer(status).trouble or "")
    assert nvme_admin.Answer(0).trouble is None
