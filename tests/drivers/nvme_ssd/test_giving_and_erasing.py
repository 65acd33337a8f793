# SPDX-License-Identifier: Apache-2.0
"""nvme_ssd_driver between tenants: what is erased, what never, and what a crash leaves."""

from __future__ import annotations

import errno
import json
import pathlib
import threading

import pytest

from cyborg_lite.drivers import nvme_records
from cyborg_lite.drivers import nvme_work
from tests.drivers.nvme_ssd import lab
from tests.drivers.nvme_ssd import model

SECRET = b"what alice wrote"
FORMAT_ONLY = {"oacs": 0b0010, "fna": 0}


class Crash(BaseException):
    """The power goes."""


def crash() -> None:
    raise Crash


def given(folder: pathlib.Path, disk: model.Model | None = None, **wishes: str) -> lab.Lab:
    """A host whose disk a server had, and filled, and gave back."""
    host = lab.Lab(folder, disk, **wishes)
    host.discover()
    host.prepare()
    host.live_as(SECRET)
    assert host.disk.holds(SECRET)
    return host


def stage(host: lab.Lab) -> str:
    return nvme_records.Records(str(host.folder / "state")).of(lab.ADDRESS).stage


@pytest.mark.parametrize(("disk", "clean", "opcode"), [
    (model.Model(sanicap=0b010), "", 0x84),
    (model.Model(sanicap=0b001), "", 0x84),
    (model.Model(sanicap=0b100), "", 0x84),
    (model.Model(sanicap=0b010), "clean: sanitize", 0x84),
    (model.Model(sanicap=0b010), "clean: format", 0x80),
    (model.Model(sanicap=0b010), "clean: format-crypto", 0x80),
    (model.Model(), "", 0x80),
    (model.Model(**FORMAT_ONLY), "", 0x80),
])
def test_a_disk_is_erased_as_wished_or_else_in_its_strongest_way(
        disk: model.Model, clean: str, opcode: int, tmp_path: pathlib.Path) -> None:
    host = given(tmp_path, disk, entry=clean)

    host.clean()

    assert not host.disk.holds(SECRET)
    assert opcode in [sent for sent, _ in host.disk.sent]
    assert stage(host) == nvme_records.CLEAN


@pytest.mark.parametrize(("disk", "clean", "reason"), [
    (model.Model(oacs=0, fna=0), "", "can't do any erase"),
    (model.Model(**FORMAT_ONLY), "clean: format-crypto", "can't do format-crypto"),
    (model.Model(**FORMAT_ONLY), "clean: sanitize", "it can do format"),
    (model.Model(oacs=0b1000, sanicap=0b10), "clean: format", "it can do sanitize"),
])
def test_what_cannot_be_erased_as_wished_is_refused(
        disk: model.Model, clean: str, reason: str, tmp_path: pathlib.Path) -> None:
    host = given(tmp_path, disk, entry=clean)

    with pytest.raises(nvme_work.Refused, match=reason):
        host.clean()

    assert stage(host) != nvme_records.CLEAN


def test_a_format_that_erases_nothing_is_found_out(tmp_path: pathlib.Path) -> None:
    host = given(tmp_path, model.Model(formats_really=False))

    with pytest.raises(nvme_work.Refused, match="can still be read"):
        host.clean()

    assert stage(host) == nvme_records.ERASING


def test_a_sanitize_that_fails_is_refused_and_one_that_then_succeeds_is_taken(
        tmp_path: pathlib.Path) -> None:
    host = given(tmp_path, model.Model(sanicap=0b10, sanitize_fails=1))

    with pytest.raises(nvme_work.Refused, match="sanitize log says status 3"):
        host.clean()
    host.clean()

    assert not host.disk.holds(SECRET)


def test_a_sanitize_that_stands_still_is_given_up(tmp_path: pathlib.Path) -> None:
    host = given(tmp_path, model.Model(sanicap=0b10, sanitize_polls=10 ** 9))

    with pytest.raises(nvme_work.Refused, match="stands at"):
        host.clean()

    assert host.clock.time < 3 * 3600


def test_cleaning_again_does_nothing_until_somebody_had_the_disk(tmp_path: pathlib.Path) -> None:
    host = given(tmp_path)
    host.clean()
    host.disk.sent.clear()

    host.clean()
    assert host.disk.sent == []

    host.prepare("bob")
    host.live_as(b"what bob wrote")
    host.clean()
    assert not host.disk.holds(b"what bob wrote")


@pytest.mark.parametrize("opcode", [0x80, 0x06])
def test_a_loss_of_power_while_erasing_is_made_good_by_cleaning_again(
        opcode: int, tmp_path: pathlib.Path) -> None:
    host = given(tmp_path)
    host.disk.at_opcode[opcode] = crash
    with pytest.raises(Crash):
        host.clean()
    host.disk.at_opcode.clear()

    host.kernel.take("nvme")
    host.restart()
    host.clean()

    assert not host.disk.holds(SECRET)
    assert stage(host) == nvme_records.CLEAN


def test_a_sanitize_that_survived_a_crash_is_waited_for(tmp_path: pathlib.Path) -> None:
    host = given(tmp_path, model.Model(sanicap=0b10, sanitize_polls=50))
    host.clock.at_sleep = crash
    with pytest.raises(Crash):
        host.clean()
    host.clock.at_sleep = lambda: None

    host.restart()
    host.clean()

    assert not host.disk.holds(SECRET)


def test_a_disk_that_was_not_erased_to_the_end_is_given_to_nobody(tmp_path: pathlib.Path) -> None:
    host = given(tmp_path)
    host.disk.at_opcode[0x80] = crash
    with pytest.raises(Crash):
        host.clean()

    with pytest.raises(nvme_work.Refused, match="not erased to the end"):
        host.prepare("bob")


def test_a_disk_with_a_tenants_data_is_given_to_nobody_else(tmp_path: pathlib.Path) -> None:
    host = given(tmp_path)

    with pytest.raises(nvme_work.Refused, match="still has what instance alice wrote"):
        host.prepare("bob")
    host.prepare("alice")


# --- disks of the host ------------------------------------------------------------------------


def test_a_disk_that_the_host_mounted_is_neither_given_nor_erased(tmp_path: pathlib.Path) -> None:
    host = lab.Lab(tmp_path)
    host.mount("259:1", "/srv")
    with pytest.raises(nvme_work.InUse, match="mounted at /srv"):
        host.prepare()

    other = given(tmp_path / "other")
    other.mount("259:1", "/srv")
    with pytest.raises(nvme_work.InUse, match="mounted at /srv"):
        other.clean()
    assert other.disk.holds(SECRET)


def test_the_kernel_has_the_last_word_on_who_uses_a_disk(tmp_path: pathlib.Path) -> None:
    host = given(tmp_path)

    def claimed_now() -> None:
        host.kernel.holders = ["dm-0"]

    # between the look at the mounts and the erase somebody takes the disk
    host.disk.at_opcode[0x02] = host.disk.at_opcode[0x06] = lambda: None
    sent = host.disk.sent
    host.kernel.nvme_write = lambda *_: claimed_now()  # type: ignore[method-assign]
    with pytest.raises(nvme_work.InUse, match="the kernel says"):
        host.clean()

    assert 0x80 not in [opcode for opcode, _ in sent]
    assert host.disk.holds(SECRET)


def test_another_disk_in_the_place_of_the_given_one_is_not_erased(tmp_path: pathlib.Path) -> None:
    host = given(tmp_path)
    host.disk.serial = "SOMEBODYS"
    host.kernel.take("nvme")

    host.discover()
    with pytest.raises(nvme_work.Refused, match="is not the disk that was given"):
        host.clean()

    assert host.disk.holds(SECRET)
    assert "was not erased since" in host.driver.withheld[lab.ADDRESS]


def test_a_disk_nobody_knew_before_its_server_is_not_erased_by_its_address(
        tmp_path: pathlib.Path) -> None:
    host = lab.Lab(tmp_path, driver="vfio-pci")
    host.discover()
    host.prepare()
    host.kernel.take("nvme")
    host.discover()

    with pytest.raises(nvme_work.Refused, match="never seen before"):
        host.clean()


def test_a_record_that_an_operator_removed_makes_the_disk_be_erased(
        tmp_path: pathlib.Path) -> None:
    host = given(tmp_path)
    host.disk.serial = "REPLACED"
    host.kernel.take("nvme")
    (tmp_path / "state/nvme_ssd_driver.json").unlink()

    host.discover()
    host.clean()

    assert not host.disk.holds(SECRET)


def test_a_replaced_disk_that_nobody_had_counts_as_new(tmp_path: pathlib.Path) -> None:
    host = given(tmp_path)
    host.clean()
    host.disk.serial = "REPLACED"
    host.kernel.take("nvme")

    assert len(host.discover()) == 1
    assert stage(host) == nvme_records.NEW


def test_firmware_that_changed_while_a_server_had_the_disk_is_not_trusted(
        tmp_path: pathlib.Path) -> None:
    host = given(tmp_path)
    host.disk.firmware = "evil"
    host.kernel.take("nvme")

    with pytest.raises(nvme_work.Refused, match=r"was 1\.0 before .* is evil now"):
        host.clean()


def test_a_record_that_cannot_be_read_stops_everything(tmp_path: pathlib.Path) -> None:
    host = given(tmp_path)
    (tmp_path / "state/nvme_ssd_driver.json").write_text("{")

    for act in (host.discover, host.prepare, host.clean):
        with pytest.raises(nvme_records.Unusable, match="restore it, or remove it"):
            act()


# --- namespaces -------------------------------------------------------------------------------


def shapes(disk: model.Model) -> list[tuple[int, bool]]:
    return sorted((each.bytes_long, bool(each.attached)) for each in disk.namespaces.values())


def test_namespaces_that_a_tenant_made_hid_or_deleted_are_as_before(
        tmp_path: pathlib.Path) -> None:
    disk = model.Model(namespaces={
        1: model.Namespace(1 << 16), 2: model.Namespace(1 << 14)})
    host = given(tmp_path, disk)
    before = shapes(disk)
    disk.namespaces[5] = model.Namespace(1 << 10, attached=set(), data={0: SECRET})
    disk.namespaces[1].attached.clear()
    del disk.namespaces[2]
    host.kernel.take("nvme")

    host.clean()

    assert not disk.holds(SECRET)
    assert shapes(disk) == before


def test_what_is_hidden_is_erased_before_it_is_deleted(tmp_path: pathlib.Path) -> None:
    host = given(tmp_path)
    hidden = model.Namespace(1 << 10, attached=set(), data={0: SECRET})
    host.disk.namespaces[7] = hidden

    host.clean()

    assert hidden.data == {}
    assert host.disk.sent.index((0x80, 7)) < host.disk.sent.index((0x0d, 7))


def test_a_block_format_that_a_tenant_changed_is_changed_back(tmp_path: pathlib.Path) -> None:
    host = given(tmp_path)
    host.disk.namespaces[1].format_index = 2
    host.disk.namespaces[1].blocks >>= 3

    host.clean()

    assert host.disk.namespaces[1].format_index == 0
    assert host.disk.namespaces[1].blocks == 1 << 16


def test_a_namespace_that_takes_no_sentinel_as_the_tenant_left_it_is_erased_twice(
        tmp_path: pathlib.Path) -> None:
    host = given(tmp_path)
    host.disk.namespaces[1].format_index = 1
    host.disk.namespaces[1].extended = True

    host.clean()

    assert [opcode for opcode, _ in host.disk.sent].count(0x80) == 2
    assert not host.disk.holds(SECRET)
    assert not host.disk.namespaces[1].extended


def test_a_namespace_that_a_tenant_protected_is_a_failure(tmp_path: pathlib.Path) -> None:
    host = given(tmp_path)
    host.disk.namespaces[1].protected = True

    with pytest.raises(nvme_work.Refused, match="write protected"):
        host.clean()


def test_a_namespace_of_another_controller_is_not_erased(tmp_path: pathlib.Path) -> None:
    host = given(tmp_path, model.Model(several=True))
    host.disk.namespaces[1].attached.add(9)

    with pytest.raises(nvme_work.Refused, match="attached to controller 9 too"):
        host.clean()

    assert host.disk.holds(SECRET)


# --- kernel drivers ---------------------------------------------------------------------------


def test_a_disk_on_vfio_comes_to_nvme_for_its_erase_and_goes_back(tmp_path: pathlib.Path) -> None:
    host = lab.Lab(tmp_path, driver="vfio-pci")
    host.prepare()
    host.disk.namespaces[1].data[0] = SECRET

    host.clean()

    assert not host.disk.holds(SECRET)
    assert host.kernel.driver == "vfio-pci"
    assert (host.kernel.place / "driver_override").read_text().strip() == "vfio-pci"
    assert host.kernel.log == ["override nvme", "unbind vfio-pci", "probe", "override vfio-pci",
                               "unbind nvme", "probe", "override vfio-pci"]


def test_a_disk_goes_back_to_its_driver_after_a_failure_too(tmp_path: pathlib.Path) -> None:
    host = lab.Lab(tmp_path, model.Model(oacs=0), driver="vfio-pci")
    host.prepare()

    with pytest.raises(nvme_work.Refused):
        host.clean()

    assert host.kernel.driver == "vfio-pci"


def test_a_disk_left_on_nvme_by_a_crash_goes_back_when_cleaned_again(
        tmp_path: pathlib.Path) -> None:
    host = lab.Lab(tmp_path, driver="vfio-pci")
    host.prepare()
    host.disk.at_opcode[0x80] = crash
    with pytest.raises(Crash):
        host.clean()
    assert host.kernel.driver == "nvme"
    host.disk.at_opcode.clear()

    host.restart()
    host.clean()

    assert host.kernel.driver == "vfio-pci"
    assert stage(host) == nvme_records.CLEAN


def test_a_device_file_can_put_the_disk_on_vfio_for_its_server(tmp_path: pathlib.Path) -> None:
    host = lab.Lab(tmp_path, entry="driver_override: vfio-pci")

    host.discover()
    host.prepare()

    assert host.kernel.driver == "vfio-pci"


def test_a_disk_that_a_guest_has_open_is_not_touched(tmp_path: pathlib.Path) -> None:
    host = lab.Lab(tmp_path, driver="vfio-pci")
    host.prepare()
    lab.write(host.kernel.place / "enable", "1")

    with pytest.raises(nvme_work.Refused, match="a guest has it"):
        host.clean()

    assert host.kernel.log == []


def test_a_controller_that_does_not_come_up_is_waited_for_and_then_given_up(
        tmp_path: pathlib.Path) -> None:
    host = lab.Lab(tmp_path, driver="vfio-pci")
    host.prepare()
    host.kernel.comes_up = False

    with pytest.raises(nvme_work.Refused, match="connecting after 60 s"):
        host.clean()

    assert host.kernel.driver == "vfio-pci"


def test_a_disk_that_is_gone_is_an_error(tmp_path: pathlib.Path) -> None:
    host = given(tmp_path)
    (tmp_path / f"sys/bus/pci/devices/{lab.ADDRESS}").unlink()

    with pytest.raises(nvme_work.Refused, match="there is no function"):
        host.clean()


def test_commands_that_are_not_permitted_refuse_the_bind_already(tmp_path: pathlib.Path) -> None:
    def denied() -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    host = lab.Lab(tmp_path)
    host.disk.at_opcode[0x06] = denied

    with pytest.raises(nvme_work.Refused, match="could not be erased after a server"):
        host.prepare()


# --- what device files say --------------------------------------------------------------------


def test_a_disk_that_is_not_to_be_erased_goes_on_as_it_is(tmp_path: pathlib.Path) -> None:
    host = lab.Lab(tmp_path, entry="clean: none")
    device, = host.discover()
    host.prepare()
    host.live_as(SECRET)
    host.prepare("bob")

    assert (device.deployables[0].prepares, device.deployables[0].cleans) == (True, False)
    assert host.disk.holds(SECRET)


def test_a_file_that_begins_to_ask_for_an_erase_counts_for_what_was_written_before(
        tmp_path: pathlib.Path) -> None:
    host = given(tmp_path, entry="clean: none")

    host.configure("clean: format")
    host.clean()

    assert not host.disk.holds(SECRET)


# --- discovery meanwhile ----------------------------------------------------------------------


def test_a_disk_that_is_being_erased_stays_reported(tmp_path: pathlib.Path) -> None:
    host = given(tmp_path, model.Model(sanicap=0b10))
    before = host.discover()
    seen = []

    def look() -> None:
        host.kernel.comes_up = False
        host.kernel.show_disk()
        seen.append(host.discover())

    host.clock.at_sleep = look
    host.clean()

    assert seen[0] == before


def test_two_calls_to_clean_one_disk_come_after_each_other(tmp_path: pathlib.Path) -> None:
    host = given(tmp_path, model.Model(sanicap=0b10))
    reached, go_on = threading.Event(), threading.Event()

    def pause() -> None:
        reached.set()
        assert go_on.wait(20)

    host.clock.at_sleep = pause
    first = threading.Thread(target=host.clean)
    first.start()
    assert reached.wait(20)
    second = threading.Thread(target=host.clean)
    second.start()
    go_on.set()
    for thread in (first, second):
        thread.join(20)

    assert [opcode for opcode, _ in host.disk.sent].count(0x84) == 1


def test_the_report_is_the_same_while_a_guest_has_the_disk(tmp_path: pathlib.Path) -> None:
    host = lab.Lab(tmp_path)
    before = host.discover()
    host.prepare()
    host.kernel.take("vfio-pci")

    assert host.discover() == before


def test_the_preflight_writes_no_record(tmp_path: pathlib.Path) -> None:
    records = nvme_records.Records(str(tmp_path), read_only=True)

    records.put(lab.ADDRESS, stage=nvme_records.GIVEN)

    assert list(tmp_path.iterdir()) == []


def test_a_record_of_a_stage_that_is_not_known_is_not_guessed_at(tmp_path: pathlib.Path) -> None:
    place = tmp_path / "nvme_ssd_driver.json"
    place.write_text(json.dumps({"version": 1, "content": {lab.ADDRESS: {"stage": "lent"}}}))

    with pytest.raises(nvme_records.Unusable, match="'lent'"):
        nvme_records.Records(str(tmp_path)).all()
