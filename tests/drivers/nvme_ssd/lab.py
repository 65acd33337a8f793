# SPDX-License-Identifier: Apache-2.0
"""A host with one NVMe disk: a tree of sysfs that changes as a kernel would change it.

The disk itself is `model.py`. What a driver may do to it goes through `Kernel`, which takes the
place of the privileged functions and refuses what a kernel refuses.
"""

from __future__ import annotations

import errno
import os
import pathlib
import shutil
from collections.abc import Callable
from collections.abc import Sequence

from cyborg_lite import messages
from cyborg_lite.drivers import base
from cyborg_lite.drivers import device_files
from cyborg_lite.drivers import nvme_erase
from cyborg_lite.drivers import nvme_ssd
from cyborg_lite.drivers import privileged
from cyborg_lite.drivers import sysfs
from tests.drivers import machines
from tests.drivers.nvme_ssd import model

ADDRESS = "0000:41:00.0"
NAME = "nvme3"
DESTROYS = (0x0d, 0x15, 0x80, 0x84)


class Clock:
    """Time that passes when somebody sleeps. at_sleep: called then."""

    def __init__(self) -> None:
        self.time = 0.0
        self.at_sleep: Callable[[], None] = lambda: None

    def sleep(self, seconds: float) -> None:
        self.time += seconds
        self.at_sleep()

    @property
    def clock(self) -> nvme_erase.Clock:
        return nvme_erase.Clock(lambda: self.time, self.sleep)


class Kernel(privileged.Host):
    """A kernel with one disk. log: what it was asked to change."""

    def __init__(self, root: pathlib.Path, disk: model.Model) -> None:
        super().__init__(str(root))
        self.disk = disk
        self.log: list[str] = []
        self.place = root / f"devices/pci0000:41/{ADDRESS}"
        self.block = root / "class/block"
        self.subsystem = root / "class/nvme-subsystem/nvme-subsys3"
        self.holders: list[str] = []
        self.comes_up = True

    @property
    def driver(self) -> str | None:
        link = self.place / "driver"
        return os.path.basename(os.readlink(link)) if link.is_symlink() else None

    def take(self, driver: str | None) -> None:
        """Give the function to a driver, or take it from its own."""
        link = self.place / "driver"
        if link.is_symlink():
            link.unlink()
        shutil.rmtree(self.place / "nvme", ignore_errors=True)
        for path in (self.subsystem, *self.block.glob(f"{NAME}n*")):
            shutil.rmtree(path, ignore_errors=True)
        lines = [line for line in (self.place / "uevent").read_text().splitlines()
                 if not line.startswith("DRIVER=")]
        if driver:
            link.symlink_to(f"../../../bus/pci/drivers/{driver}")
            lines.insert(0, f"DRIVER={driver}")
        write(self.place / "uevent", "\n".join(lines))
        write(self.place / "enable", "1" if driver == "nvme" else "0")
        if driver == "nvme":
            self.show_disk()

    def show_disk(self) -> None:
        """Make the files of the controller and of its namespaces."""
        here = self.place / f"nvme/{NAME}"
        for name, text in {"serial": self.disk.serial, "model": self.disk.name,
                           "firmware_rev": self.disk.firmware, "transport": "pcie",
                           "subsysnqn": f"nqn.lab:{self.disk.serial}",
                           "state": "live" if self.comes_up else "connecting"}.items():
            write(here / name, f"{text}  ")
        write(self.subsystem / NAME / "name", NAME)
        self.scan()

    def scan(self) -> None:
        here = self.place / f"nvme/{NAME}"
        for nsid, namespace in self.disk.namespaces.items():
            if self.disk.controller_id in namespace.attached:
                write(here / f"{NAME}c1n{nsid}/nsid", str(nsid))
                write(self.block / f"{NAME}n{nsid}/dev", f"259:{nsid}")
                for holder in self.holders:
                    write(self.block / f"{NAME}n{nsid}/holders/{holder}/x", "")

    # --- what drivers may ask -----------------------------------------------------------------

    def set_driver_override(self, address: str, driver: str | None) -> None:
        self.log.append(f"override {driver}")
        write(self.place / "driver_override", driver or "(null)")

    def unbind(self, address: str) -> None:
        self.log.append(f"unbind {self.driver}")
        self.take(None)

    def probe(self, address: str) -> None:
        override = (self.place / "driver_override").read_text().strip()
        self.log.append("probe")
        self.take("nvme" if override == "(null)" else override)

    def nvme_rescan(self, address: str) -> None:
        self.scan()

    def nvme_admin(self, address: str, serial: str, opcode: int, nsid: int,
                   words: Sequence[int], data: bytes, length: int,
                   timeout_ms: int) -> tuple[int, int, bytes]:
        if opcode in DESTROYS:
            self._claim(serial)
        elif self.driver != "nvme":
            raise FileNotFoundError(errno.ENOENT, "no controller")
        return self.disk.admin(opcode, nsid, list(words), data, length)

    def nvme_write(self, address: str, serial: str, nsid: int, offset: int, data: bytes) -> None:
        self._claim(serial)
        self.disk.write(nsid, offset, data)

    def nvme_read(self, address: str, serial: str, nsid: int, offset: int, length: int) -> bytes:
        self._claim(serial)
        return self.disk.read(nsid, offset, length)

    def _claim(self, serial: str) -> None:
        if self.driver != "nvme":
            raise FileNotFoundError(errno.ENOENT, "no controller")
        if self.holders:
            raise OSError(errno.EBUSY, "Device or resource busy")
        assert serial == self.disk.serial, "a command for another disk"


class Lab:
    """One host, its agent's state and the driver; `restart` is a crash of the agent."""

    def __init__(self, folder: pathlib.Path, disk: model.Model | None = None, *,
                 driver: str | None = "nvme", entry: str = "", vendor: str = "1bd4") -> None:
        self.folder = folder
        self.disk = disk or model.Model()
        self.clock = Clock()
        function = machines.a_function(
            ADDRESS, vendor=vendor, product="1003", code="010802", driver=None, group=7,
            subsystem=f"{vendor}:0001", files={"reset": ""})
        for each in function:
            place = folder / "sys" / each.path
            place.parent.mkdir(parents=True, exist_ok=True)
            if each.kind == "link":
                place.symlink_to(each.value)
            else:
                write(place, each.value)
        write(folder / "sys/class/block/sda/dev", "8:0")
        self.mounts: list[str] = []
        self.mount("8:0", "/")
        self.kernel = Kernel(folder / "sys", self.disk)
        self.kernel.take(driver)
        if driver and driver != "nvme":
            write(self.kernel.place / "driver_override", driver)
        self.configure(entry)

    def mount(self, number: str, point: str) -> None:
        self.mounts.append(f"36 35 {number} / {point} rw - ext4 /dev/x rw")
        write(self.folder / "proc/1/mountinfo", "\n".join(self.mounts))

    def configure(self, entry: str) -> None:
        """entry: what a device file says of the disk, in one line of YAML; none when empty."""
        folder = self.folder / "files"
        shutil.rmtree(folder, ignore_errors=True)
        if entry:
            write(folder / "nvme.yaml", "version: 1\ndriver: nvme_ssd_driver\ndevices:\n"
                                        f"- {{match: {{address: '{ADDRESS}'}}, {entry}}}")
        self.restart()

    def restart(self) -> None:
        files = device_files.read(str(self.folder / "files"))
        assert not files.bad, files.bad
        reader = sysfs.Sysfs(str(self.folder / "sys"))
        environment = base.Environment(
            reader, devices=files.of(nvme_ssd.NvmeSsdDriver.aliases), host=self.kernel,
            proc_root=str(self.folder / "proc"), state_path=str(self.folder / "state"))
        self.driver = nvme_ssd.NvmeSsdDriver(environment, self.clock.clock)

    def discover(self) -> list[messages.ReportedDevice]:
        self.driver.environment.sysfs.begin_pass()
        return self.driver.discover()

    def prepare(self, instance: str = "alice") -> None:
        self.driver.prepare(task(instance))

    def clean(self) -> None:
        self.driver.clean(task())

    def live_as(self, secret: bytes) -> None:
        """Be the tenant: write everywhere, then go; libvirt gives the function back."""
        for nsid in self.disk.namespaces:
            for offset in (0, 4096, 1 << 20):
                self.disk.namespaces[nsid].data[offset] = secret.ljust(4096, b"\0")
        if self.kernel.driver == "nvme":
            self.kernel.take("nvme")


def task(instance: str | None = None) -> messages.HandleTask:
    return messages.HandleTask(
        handle_uuid="6c1b7d0e-0000-4000-8000-000000000001", deployable_name=ADDRESS,
        device_address=ADDRESS, driver="nvme_ssd_driver", type="PCI", instance_uuid=instance,
        info={"domain": "0000", "bus": "41", "device": "00", "function": "0"})


def write(path: pathlib.Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if text.endswith("\n") else f"{text}\n")
