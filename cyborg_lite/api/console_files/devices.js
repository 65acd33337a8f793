// SPDX-License-Identifier: Apache-2.0
// The view of devices, of all hosts or of one.

import { badge, choice, el, field, refresh } from "./dom.js";
import { filters, listed, typed, typedHost } from "./listing.js";

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
  const isNarrowed = Object.values(wanted).some(Boolean);
  const list = await listed({
    caption: "Devices", one: "device",
    empty: isNarrowed ? "There is no such device." : "No host has reported a device yet.",
    columns: [
      ["Device", (one) => el("a", { href: `#/devices/${one.uuid}` }, name(one)), "code"],
      ["Host", (one) => one.hostname, "name"],
      ["Host is", hostState],
      ["Type", (one) => one.type],
      ["Vendor", vendor],
      ["Model", (one) => one.model],
      ["Status", status]],
    first: (more) => service.list("devices", "devices",
      { sort: "hostname", ...wanted, ...more }, signal) });
  return [
    el("div", { class: "head" },
      el("h1", { tabindex: "-1" }, wanted.hostname ? `Devices of ${wanted.hostname}` : title),
      refresh(again)),
    filters("/devices", [typedHost("hostname", wanted.hostname, service, signal),
      field("Type", choice("type", TYPES, wanted.type, "any type")),
      typed("Vendor", "vendor", wanted.vendor, { known: Object.entries(VENDORS) })], isNarrowed),
    list];
}
