# SPDX-License-Identifier: Apache-2.0
"""Reports devices to a conductor of ours, as the agent does: a heartbeat with the digest, and the
whole report when it is wanted. Orders and answers are JSON lines; see README.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from typing import Any

from cyborg_lite import codec
from cyborg_lite import config
from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import rpc

TIMEOUT_S = 60


def report(host: str, devices: int, changed: int) -> messages.HostReport:
    found = [device(number, number < changed) for number in range(devices)]
    digest = hashlib.sha256(json.dumps(codec.encode(found), sort_keys=True).encode()).hexdigest()
    return messages.HostReport(host=host, resource_provider_name=host, digest=digest,
                               devices=found, drivers=["fake_driver"])


def device(number: int, changed: bool) -> messages.ReportedDevice:
    address = {"domain": "0000", "bus": f"{number:02x}", "device": "00", "function": "1"}
    trait = "CUSTOM_BENCH_CHANGED" if changed else "CUSTOM_FAKE_DEVICE"
    deployable = messages.ReportedDeployable(
        name=f"bench{number}", resource_class="FPGA", traits=[trait], driver_name="fake_driver",
        handles=[messages.ReportedHandle(type="TEST_PCI", info=address)],
        attributes={"rc": "FPGA"})
    return messages.ReportedDevice(
        address=f"0000:{number:02x}:00.0", type="FPGA", vendor="0xABCD", model="bench",
        driver="fake_driver", deployables=[deployable],
        std_board_info=json.dumps({"class": "bench"}), vendor_board_info="bench")


def send(conductor: rpc.ConductorClient, order: dict[str, Any]) -> dict[str, Any]:
    whole = report(order["host"], order["devices"], order["changed"])
    began = time.perf_counter()
    try:
        if order.get("whole") or conductor.heartbeat(messages.Heartbeat(
                host=whole.host, resource_provider_name=whole.resource_provider_name,
                digest=whole.digest)).report_wanted:
            conductor.report(whole)
    except errors.Error as error:
        return {"error": f"{type(error).__name__}: {error.detail}"[:500]}
    return {"seconds": time.perf_counter() - began}


def main() -> None:
    answers = sys.stdout
    sys.stdout = sys.stderr
    conductor = rpc.ConductorClient(rpc.bus_from(config.load(sys.argv[1:])), TIMEOUT_S)
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(send(conductor, json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
