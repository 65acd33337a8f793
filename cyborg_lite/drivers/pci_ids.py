# SPDX-License-Identifier: Apache-2.0
"""What numbers say about a PCI function: the vendor's name, the kind of device.

No file is read here, and nothing is judged: an unknown number gets a plain answer.
"""

from __future__ import annotations

from cyborg_lite.drivers import sysfs

VENDORS = {
    "1002": "AMD", "102b": "MATROX", "1077": "QLOGIC", "10de": "NVIDIA", "10ee": "XILINX",
    "1172": "ALTERA", "144d": "SAMSUNG", "14e4": "BROADCOM", "15b3": "MELLANOX",
    "1af4": "VIRTIO", "1b36": "QEMU", "1bd4": "INSPUR", "1cf2": "ZTE", "1da3": "HABANA",
    "19e5": "HUAWEI", "8086": "INTEL",
}

_GPU_VENDORS = frozenset({"1002", "10de"})
_FPGA_VENDORS = frozenset({"10ee", "1172"})
_AI_VENDORS = frozenset({"19e5", "1da3"})
_FPGAS = frozenset({("8086", "09c4"), ("8086", "09c5"), ("1bd4", "0911")})


def vendor_name(vendor: str) -> str:
    """Return the vendor's name in capitals, or its id in capitals when nobody told us a name."""
    return VENDORS.get(vendor, vendor.upper())


def device_type(function: sysfs.PciFunction) -> str:
    """Return GPU, FPGA, NIC, SSD, QAT, AICHIP or, for all else, PCI.

    The class code decides; where it is as wide as "processing accelerator", the vendor does.
    """
    vendor, code = function.vendor, function.class_code
    if (vendor, function.product) in _FPGAS:
        return "FPGA"
    if code.startswith("03"):
        return "GPU"
    if code.startswith("12"):
        return _processing_accelerator(vendor)
    if code.startswith("0b40") and vendor == "8086":
        return "QAT"
    if code == "010802":
        return "SSD"
    return "NIC" if code.startswith(("0200", "0207")) else "PCI"


def _processing_accelerator(vendor: str) -> str:
    for vendors, kind in ((_GPU_VENDORS, "GPU"), (_FPGA_VENDORS, "FPGA"), (_AI_VENDORS, "AICHIP")):
        if vendor in vendors:
            return kind
    return "PCI"
