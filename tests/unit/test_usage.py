# SPDX-License-Identifier: Apache-2.0
"""What the host does with a function: disks, display, guests; doubt is no permission."""

from __future__ import annotations

import pathlib

import pytest

from cyborg_lite.drivers import recorded
from cyborg_lite.drivers import usage
from tests.drivers import machines

ADDRESS = "0000:01:00.0"
CONTROLLER = f"pci0000:01/{ADDRESS}/nvme/nvme0"
MOUNTS = "22 1 0:21 / /proc rw - proc proc rw\n"
PARTITIONS = {"nvme0n1p1": "259:1", "nvme0n1p2": "259:2"}


def a_controller(**fields: object) -> list[recorded.Entry]:
    return machines.a_function(ADDRESS, vendor="144d", product="a80a", code="010802",
                               driver="nvme", **fields)  # type: ignore[arg-type]


def a_host(tmp_path: pathlib.Path, *entries: list[recorded.Entry],
           **proc: str) -> usage.HostUse:
    """Return the judgement of a host; `proc` has files with _ for a slash."""
    reader = machines.tree(tmp_path, *entries)
    for name, text in proc.items():
        place = tmp_path / "proc" / name.removeprefix("of_").replace("_", "/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return usage.HostUse(reader, str(tmp_path / "proc"))


def of_disks(use: usage.HostUse) -> str | None:
    function = use.reader.pci_function(ADDRESS)
    assert function is not None
    return use.of(function)


@pytest.mark.parametrize(("disk", "proc", "reason"), [
    (machines.a_disk(CONTROLLER), {"of_1_mountinfo": f"{MOUNTS}9 1 259:0 / /data rw - ext4 x rw"},
     "its disk nvme0n1 is mounted at /data"),
    (machines.a_disk(CONTROLLER, partitions=PARTITIONS),
     {"self_mountinfo": f"{MOUNTS}9 1 259:2 / / rw - ext4 /dev/x rw"},
     "its disk nvme0n1p2 is mounted at /"),
    (machines.a_disk(CONTROLLER, partitions=PARTITIONS),
     {"of_1_mountinfo": f"{MOUNTS}9 1 0:50 /@ /home rw shared:7 - btrfs /dev/nvme0n1p1 rw"},
     "its disk nvme0n1p1 is mounted at /home"),
    (machines.a_disk(CONTROLLER, partitions=PARTITIONS),
     {"mounts": "/dev/nvme0n1p1 /boot/efi vfat rw 0 0\n"},
     "its disk nvme0n1p1 is mounted at /boot/efi"),
    (machines.a_disk(CONTROLLER, partitions=PARTITIONS),
     {"of_1_mountinfo": MOUNTS, "swaps": "Filename Type\n/dev/nvme0n1p1\tpartition\t1\n"},
     "its disk nvme0n1p1 is swap space"),
    (machines.a_disk(CONTROLLER, partitions=PARTITIONS, holders={"nvme0n1p2": "dm-0"}),
     {"of_1_mountinfo": MOUNTS}, "its disk nvme0n1p2 is held by dm-0"),
    (machines.a_disk(CONTROLLER, holders={"nvme0n1": "md127"}), {"of_1_mountinfo": MOUNTS},
     "its disk nvme0n1 is held by md127"),
    (machines.a_disk(CONTROLLER, partitions=PARTITIONS),
     {"of_1_mountinfo": MOUNTS, "cmdline": "quiet root=/dev/nvme0n1p2 ro"},
     "its disk nvme0n1p2 has the root file system"),
    ([*machines.a_disk(CONTROLLER), recorded.Entry("fs/xfs/nvme0n1", "directory")],
     {"of_1_mountinfo": MOUNTS}, "its disk nvme0n1 has a xfs file system in use"),
    (machines.a_disk(CONTROLLER), {},
     "whether its disks are mounted can't be told: no mount table can be read"),
    ([recorded.Entry(f"devices/{CONTROLLER}/nvme0n1/size", "file", "1\n"),
      recorded.Entry("class/block/sda", "directory")], {"of_1_mountinfo": MOUNTS},
     "whether its disk nvme0n1 is in use can't be told: class/block doesn't list it"),
    ([recorded.Entry(f"devices/{CONTROLLER}/state", "file", "live\n")],
     {"of_1_mountinfo": MOUNTS},
     "whether its disks are in use can't be told: there is no class/block"),
])
def test_a_disk_in_use_or_in_doubt_is_a_reason(
        disk: list[recorded.Entry], proc: dict[str, str], reason: str,
        tmp_path: pathlib.Path) -> None:
    use = a_host(tmp_path, a_controller(), disk, **proc)

    assert of_disks(use) == reason


def test_a_disk_that_nobody_uses_is_none_though_it_has_partitions(tmp_path: pathlib.Path) -> None:
    use = a_host(tmp_path, a_controller(), machines.a_disk(CONTROLLER, partitions=PARTITIONS),
                    of_1_mountinfo=f"{MOUNTS}9 1 259:7 / / rw - ext4 /dev/nvme1n1p2 rw\n",
                    swaps="Filename\n/dev/nvme1n1p3 partition\n", cmdline="root=/dev/nvme1n1p2")

    assert of_disks(use) is None
    assert use.partitions_of("nvme0n1") == ("nvme0n1p1", "nvme0n1p2")


def test_a_namespace_with_several_paths_is_judged_as_the_host_uses_it(
        tmp_path: pathlib.Path) -> None:
    path = [recorded.Entry(f"devices/{CONTROLLER}/nvme0c0n1/size", "file", "1\n")]
    head = machines.a_disk("virtual/nvme-subsystem/nvme-subsys0", holders={"nvme0n1": "dm-3"})
    use = a_host(tmp_path, a_controller(), path, head, of_1_mountinfo=MOUNTS)

    assert of_disks(use) == "its disk nvme0n1 is held by dm-3"


def test_disks_behind_any_controller_are_seen(tmp_path: pathlib.Path) -> None:
    sata = machines.a_function(ADDRESS, vendor="8086", product="a182", code="010601",
                               driver="ahci")
    disk = machines.a_disk(f"pci0000:01/{ADDRESS}/ata1/host0/target0:0:0/0:0:0:0/block", "sda",
                           number="8:0", partitions={"sda1": "8:1"})
    use = a_host(tmp_path, sata, disk, of_1_mountinfo="9 1 8:1 / / rw - ext4 /dev/sda1 rw\n")

    assert of_disks(use) == "its disk sda1 is mounted at /"


def test_a_framebuffer_makes_a_function_the_display(tmp_path: pathlib.Path) -> None:
    use = a_host(tmp_path, machines.a_function(
        ADDRESS, code="030000", driver="ast", files={"drm/card0/graphics/fb0/name": "astdrmfb"}))

    assert of_disks(use) == "it has a framebuffer of the host"


@pytest.mark.parametrize(("driver", "enable", "reason"), [
    ("vfio-pci", "1", f"{ADDRESS} is open through vfio: a guest has it"),
    ("vfio-pci", "0", None),
    ("mlx5_vfio_pci", "2", f"{ADDRESS} is open through vfio: a guest has it"),
    ("vfio-pci", "", f"whether a guest has {ADDRESS} can't be told"),
    ("i40e", "1", None)])
def test_an_open_vfio_function_is_in_a_guest(driver: str, enable: str, reason: str | None,
                                             tmp_path: pathlib.Path) -> None:
    use = a_host(tmp_path, machines.a_function(ADDRESS, driver=driver,
                                                  files={"enable": enable}))
    function = use.reader.pci_function(ADDRESS)

    assert function is not None
    assert use.of_guest(function) == reason


def test_mounts_are_read_once_a_pass_and_anew_in_the_next(tmp_path: pathlib.Path) -> None:
    use = a_host(tmp_path, a_controller(), machines.a_disk(CONTROLLER), of_1_mountinfo=MOUNTS)
    mounted = f"{MOUNTS}9 1 259:0 / /data rw - ext4 x rw\n"

    before = of_disks(use)
    (tmp_path / "proc/1/mountinfo").write_text(mounted)
    same_pass = of_disks(use)
    use.reader.begin_pass()

    assert (before, same_pass) == (None, None)
    assert of_disks(use) == "its disk nvme0n1 is mounted at /data"
