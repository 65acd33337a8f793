# SPDX-License-Identifier: Apache-2.0
"""A kernel that answers the privileged functions on a tree of files, as the real one would.

The functions themselves run as they are: what they write is what this kernel reacts to.
"""

from __future__ import annotations

import os
import pathlib

from cyborg_lite.drivers import privileged
from cyborg_lite.drivers import sysfs
from tests.drivers import machines


class PlayedKernel(privileged.Host):
    """Moves functions between drivers and makes virtual functions; notes what was written.

    modules: the drivers that are loaded. short_of: virtual functions that don't appear.
    """

    def __init__(self, root: str, modules: tuple[str, ...] = ("vfio-pci",)) -> None:
        super().__init__(root)
        privileged.run_here()
        self.written: list[tuple[str, ...]] = []
        self.short_of = 0
        self.reset_error: OSError | None = None
        self.modules = modules
        for name in {*modules, *(each.driver for each in self._functions() if each.driver)}:
            folder = pathlib.Path(root, "bus/pci/drivers", name)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "unbind").touch()
            (folder / "bind").touch()
        pathlib.Path(root, "bus/pci/drivers_probe").touch()
        for function in self._functions():
            # as the helper sees it, which is root
            for file in self._place(function.address).iterdir():
                if file.is_file() and not file.is_symlink():
                    file.chmod(0o644)

    def _functions(self) -> tuple[sysfs.PciFunction, ...]:
        return sysfs.Sysfs(self.root).pci_functions()

    def _place(self, address: str) -> pathlib.Path:
        return pathlib.Path(self.root, sysfs.PCI_DEVICES, address).resolve()

    def set_driver_override(self, address: str, driver: str | None) -> None:
        super().set_driver_override(address, driver)
        self.written.append(("override", address, driver or ""))

    def unbind(self, address: str) -> None:
        super().unbind(address)
        self.written.append(("unbind", address))
        self._give(address, None)

    def probe(self, address: str) -> None:
        super().probe(address)
        self.written.append(("probe", address))
        wanted = (self._place(address) / "driver_override").read_text().strip()
        if wanted in self.modules:
            self._give(address, wanted)

    def reset(self, address: str) -> None:
        super().reset(address)
        self.written.append(("reset", address))
        if self.reset_error:
            raise self.reset_error

    def set_num_vfs(self, address: str, count: int) -> None:
        place = self._place(address)
        before = int((place / "sriov_numvfs").read_text())
        if before and count:
            raise OSError(16, "Device or resource busy")
        super().set_num_vfs(address, count - self.short_of)
        self.written.append(("num_vfs", address, str(count)))
        for number in range(1, count + 1 - self.short_of):
            child = f"{address[:-1]}{number}"
            machines.add(self.root, machines.a_function(
                child, physfn=address, vendor="8086", product="154c", code="020000",
                driver=None, group=100 + number))

    def _give(self, address: str, driver: str | None) -> None:
        place = self._place(address)
        link = place / "driver"
        if link.is_symlink():
            link.unlink()
        lines = [line for line in (place / "uevent").read_text().splitlines()
                 if not line.startswith("DRIVER=")]
        if driver:
            link.symlink_to(os.path.relpath(
                pathlib.Path(self.root, "bus/pci/drivers", driver), place))
            lines.insert(0, f"DRIVER={driver}")
        (place / "uevent").write_text("\n".join([*lines, ""]))
