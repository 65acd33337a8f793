# SPDX-License-Identifier: Apache-2.0
"""Reports devices to an openstack-cyborg conductor, as its agent does; run it where that is
installed, with its configuration file. Orders and answers are JSON lines; see README.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from cyborg import context
from cyborg.common import constants
from cyborg.common import service
from cyborg.conductor import rpcapi
from cyborg.objects.driver_objects import driver_attach_handle
from cyborg.objects.driver_objects import driver_attribute
from cyborg.objects.driver_objects import driver_controlpath_id
from cyborg.objects.driver_objects import driver_deployable
from cyborg.objects.driver_objects import driver_device


def device(host: str, number: int, changed: bool) -> Any:
    address = {"domain": "0000", "bus": f"{number:02x}", "device": "00", "function": "0"}
    handle = driver_attach_handle.DriverAttachHandle(
        attach_type=constants.AH_TYPE_TEST_PCI, in_use=False,
        attach_info=json.dumps({**address, "function": "1"}))
    trait = "CUSTOM_BENCH_CHANGED" if changed else "CUSTOM_FAKE_DEVICE"
    attributes = [driver_attribute.DriverAttribute(key="traits1", value=trait),
                  driver_attribute.DriverAttribute(key="rc", value="FPGA")]
    deployable = driver_deployable.DriverDeployable(
        name=f"{host}_bench{number}", driver_name="fake", num_accelerators=1,
        attach_handle_list=[handle], attribute_list=attributes)
    return driver_device.DriverDevice(
        vendor="0xABCD", model="bench", type=constants.DEVICE_FPGA, stub=False,
        std_board_info=json.dumps({"class": "bench"}), vendor_board_info="bench",
        controlpath_id=driver_controlpath_id.DriverControlPathID(
            cpid_type="PCI", cpid_info=json.dumps(address)),
        deployable_list=[deployable])


def main() -> None:
    answers = sys.stdout
    sys.stdout = sys.stderr
    service.prepare_service([sys.argv[0], *sys.argv[1:]])
    conductor = rpcapi.ConductorAPI()
    caller = context.get_admin_context()
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if order.get("whole"):
            # each report is a whole one here: nothing else to measure
            print('{"skip": true}', file=answers, flush=True)
            continue
        devices = [device(order["host"], number, number < order["changed"])
                   for number in range(order["devices"])]
        began = time.perf_counter()
        try:
            conductor.report_data(caller, order["host"], devices)
            answer = {"seconds": time.perf_counter() - began}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
