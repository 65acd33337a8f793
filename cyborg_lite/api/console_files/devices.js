// SPDX-License-Identifier: Apache-2.0
// The view of devices, of all hosts or of one.

import { badge, choice, el, field } from "./dom.js";
import { filters, listed } from "./listing.js";

export const title = "Devices";

const FILTERS = ["hostname", "type", "vendor"];
const TYPES = ["GPU", "FPGA", "AICHIP", "QAT", "NIC", "SSD", "PCI"];
const VENDORS = { "10de": "NVIDIA", 8086: "Intel", 1002: "AMD", "1bd4": "Inspur" };

/** The vendor as the service tells it, with its name where that is well known. */
export function vendor(device) {
  const name = Object.hasOwn(VENDORS, device.vendor) ? VENDORS[device.vendor] : null;
  return name ? `${name} (${device.vendor})` : device.vendor;
}

/** What a device is called here: where it sits, or its uuid. */
export function name(device) {
  return device.pci_address ?? device.uuid;
}

export function status(device) {
  return [badge(device.status, device.status === "enabled" ? "good" : "busy"),
    device.status_reason && el("span", { class: "reason" }, device.status_reason)];
}

export function hostState(device) {
  const marks = { up: "good", down: "bad", gone: "quiet" };
  return device.host_state && badge(device.host_state, marks[device.host_state] ?? "quiet");
}

export async function show({ service, query, signal, again }) {
  const wanted = Object.fromEntries(FILTERS.map((key) => [key, query.get(key)]));
  const list = await listed({
    caption: "Devices", one: "device", empty: "There is no such device.",
    columns: [
      ["Device", (one) => el("a", { href: `#/devices/${one.uuid}` }, name(one)), "code"],
      ["Host", (one) => one.hostname],
      ["Host is", hostState],
      ["Type", (one) => one.type],
      ["Vendor", vendor],
      ["Model", (one) => one.model],
      ["Status", status]],
    first: () => service.list("devices", "devices", wanted, signal) });
  const input = (key) => el("input", { name: key, value: query.get(key) ?? "", size: 18,
    autocomplete: "off", spellcheck: "false" });
  return [
    el("div", { class: "head" },
      el("h1", { tabindex: "-1" }, wanted.hostname ? `Devices of ${wanted.hostname}` : title),
      el("button", { type: "button", onclick: again }, "Refresh")),
    filters("/devices", [field("Host", input("hostname")),
      field("Type", choice("type", TYPES, wanted.type, "any type")),
      field("Vendor", input("vendor"))]),
    list];
}
