// SPDX-License-Identifier: Apache-2.0
// The view of one device: what it is, its deployables with their attach handles, its partitions.

import { el, facts, moment, table } from "./dom.js";
import { hostState, name, status, vendor } from "./devices.js";
import * as partitioning from "./partitioning.js";
import * as pictures from "./pictures.js";

export const title = "Device";

const STATES = [["total", "Total"], ["free", "Free"], ["reserved", "Reserved"],
  ["in_use", "In use"], ["cleaning", "Cleaning"], ["failed", "Failed"], ["missing", "Missing"]];
const ALWAYS = ["total", "free", "in_use"];

export async function show({ service, variables, signal, again }) {
  const path = `devices/${variables.uuid}`;
  const device = await service.get(path, {}, signal);
  const parts = el("div", {}, deployables(device.deployables));
  const heading = el("h1", { tabindex: "-1", "data-title": `${device.model} ${name(device)}` },
    el("span", { class: "over" }, `${vendor(device)} ${device.type}`), device.model);
  const refresh = async () => {
    const fresh = await service.get(path, {}, signal);
    parts.replaceChildren(deployables(fresh.deployables));
  };
  return [
    el("p", { class: "path" }, el("a", { href: "#/devices" }, "Devices"), " / ",
      el("a", { href: `#/devices?hostname=${encodeURIComponent(device.hostname)}` },
        device.hostname)),
    el("div", { class: "head" }, heading,
      el("button", { type: "button", onclick: again }, "Refresh")),
    facts([
      ["Host", el("span", {}, device.hostname, " ", hostState(device))],
      ["Status", el("span", {}, status(device))],
      ["Disabled since", moment(device.disabled_at)],
      ["PCI address", device.pci_address && el("code", {}, device.pci_address)],
      ["NUMA node", device.numa_node],
      ["Driver", device.driver_name],
      ["UUID", el("code", {}, device.uuid)]]),
    await partitioning.section({ service, device, signal, onApplied: refresh }),
    el("section", { "aria-labelledby": "deployables" },
      el("h2", { id: "deployables" }, "Deployables and attach handles"), parts)];
}

function deployables(found) {
  if (!found?.length) return el("p", { class: "empty" }, "This device offers nothing at present.");
  const shown = STATES.filter(([key]) => ALWAYS.includes(key)
    || found.some((one) => one.attach_handles[key]));
  return table("Deployables and attach handles", [
    ["Deployable", (one) => one.name, "code"],
    ["Resource class", (one) => one.resource_class],
    ["Traits", (one) => one.traits.length ? el("ul", { class: "words" },
      one.traits.map((trait) => el("li", {}, trait))) : null],
    ["Attach handles", (one) => pictures.handles(one.attach_handles)],
    ["Held by", (one) => one.rp_uuid && el("a", { href: `#/arqs?device_rp_uuid=${
      encodeURIComponent(one.rp_uuid)}` }, "Requests",
    el("span", { class: "out-of-sight" }, ` of ${one.name}`))],
    ...shown.map(([key, text]) => [text, (one) => one.attach_handles[key], "number"])],
  found).node;
}
