// SPDX-License-Identifier: Apache-2.0
// The view of one device: what it is, its deployables with their attach handles, its partitions.

import { el, facts, moment, refresh, table } from "./dom.js";
import { hostState, name, status, vendor } from "./devices.js";
import * as partitioning from "./partitioning.js";
import * as pictures from "./pictures.js";

export const title = "Device";

const STATES = [["total", "Total"], ["free", "Free"], ["reserved", "Reserved"],
  ["in_use", "In use"], ["cleaning", "Cleaning"], ["failed", "Failed"], ["missing", "Missing"]];
const ALWAYS = ["total", "free", "in_use"];

export async function show({ service, variables, signal, again }) {
  const path = `devices/${variables.uuid}`;
  const parts = el("div", {});
  const draw = ({ deployables }) => {
    const held = parts.contains(document.activeElement) && document.activeElement;
    parts.replaceChildren(offered(deployables));
    // by whoever follows a link just then, or scrolls
    if (held) {
      const same = [...parts.querySelectorAll("a")].find((link) => link.href === held.href);
      (same ?? parts.querySelector("[tabindex]") ?? subheading).focus({ preventScroll: true });
    }
  };
  const subheading = el("h2", { id: "deployables", tabindex: "-1" },
    "Deployables and attach handles");
  const [device, split] = await Promise.all([
    service.get(path, {}, signal),
    partitioning.sections({ service, uuid: variables.uuid, signal,
      onApplied: async () => draw(await service.get(path, {}, signal)) })]);
  draw(device);
  split.begin();
  const heading = el("h1", { tabindex: "-1", "data-title": `${device.model} ${name(device)}` },
    el("span", { class: "over" }, `${vendor(device)} ${device.type}`), device.model);
  return [
    el("p", { class: "path" }, el("a", { href: "#/devices" }, "Devices"), " / ",
      el("a", { href: `#/devices?hostname=${encodeURIComponent(device.hostname)}` },
        device.hostname)),
    el("div", { class: "head" }, heading, refresh(again)),
    facts([
      ["Host", el("span", {}, device.hostname, " ", hostState(device))],
      ["Status", el("span", {}, status(device))],
      ["Disabled since", moment(device.disabled_at)],
      ["PCI address", device.pci_address && el("code", {}, device.pci_address)],
      ["NUMA node", device.numa_node],
      ["Driver", device.driver_name],
      ["UUID", el("code", {}, device.uuid)]]),
    split.now,
    el("section", { "aria-labelledby": "deployables" }, subheading, parts),
    split.otherwise];
}

function offered(found) {
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
