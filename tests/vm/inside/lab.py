# SPDX-License-Identifier: Apache-2.0
"""What the virtual machine has, by PCI address; `machine.py` gives it so.

Nothing is read here. Addresses of virtual functions, names of disks and numbers of IOMMU groups
differ from boot to boot.
"""

CARD = "0000:00:10.0"
"""A card that holds four frames of vGPU, as mediated devices; alone in its IOMMU group."""

OTHER_CARD = "0000:00:11.0"

PAIR = ("0000:00:12.0", "0000:00:12.1")
"""Two functions of one device, and in one IOMMU group."""

NVME = "0000:01:00.0"
"""SR-IOV, 4 virtual functions; namespaces 1 (shared), 2 (private), 3 (detached)."""

NVME_DETACHED = 3
NVME_BACKING = {1: "nd1", 2: "nd2", 3: "nd3"}

PLUGGED = "0000:02:00.0"
"""An NVMe disk that the host can pull and plug; it has namespace 1."""

PLUGGED_BACKING, IMPOSTOR_BACKING = "nd4", "nd5"
"""The impostor is another disk, that can be plugged in the place of the first."""

NIC = "0000:81:00.0"
"""SR-IOV, 7 virtual functions, behind a bridge on NUMA node 1."""

NIC_VFS = 7
FAR_NODE = 1

WITH_VFS = (NVME, NIC)

ROOT_DISK = "0000:00:18.0"

LPC_BRIDGE = "0000:00:1f.0"

FRAMES = 4
"""What a card holds. Frames of each type of vGPU, by id:"""

VGPU_TYPES = {471: 1, 472: 2, 473: 4}

MTTY_PORTS = 24
MTTY_TYPES = {"mtty-1": 1, "mtty-2": 2}
"""Ports of each type of the sample driver mtty."""
