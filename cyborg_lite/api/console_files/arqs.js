// SPDX-License-Identifier: Apache-2.0
// The view of accelerator requests: those that the service shows to whoever asks.

import { badge, choice, el, field, moment, refresh } from "./dom.js";
import { filters, listed, typed, typedHost } from "./listing.js";

export const title = "Accelerator requests";

const MARKS = { Initial: "quiet", BindStarted: "busy", Bound: "good", Suspended: "busy",
  BindFailed: "bad", Unbound: "quiet" };
const FILTERS = ["instance", "state", "hostname", "device_rp_uuid"];

/** What Nova attaches: the address of a function, or the uuid of a mediated device. */
function handle(arq) {
  if (!arq.attach_handle_type) return null;
  const { domain, bus, device, function: number } = arq.attach_handle_info ?? {};
  const where = bus === undefined ? arq.attach_handle_uuid : `${domain}:${bus}:${device}.${number}`;
  return el("span", { class: "reason" }, `${arq.attach_handle_type} `,
    where && el("code", {}, where));
}

/** Which set it is in, where that needs a word: the second one, of a migration. */
function set(arq) {
  return arq.migration_uuid && el("span", { class: "reason" }, "for migration ",
    el("code", {}, arq.migration_uuid));
}

export async function show({ service, query, signal, again }) {
  const wanted = Object.fromEntries(FILTERS.map((key) => [key, query.get(key)]));
  const isNarrowed = Object.values(wanted).some(Boolean);
  const list = await listed({
    caption: title, one: "accelerator request",
    empty: isNarrowed ? "There is no such accelerator request."
      : "There are no accelerator requests. Nova makes them for servers whose flavor has a device"
        + " profile.",
    columns: [
      ["Request", (one) => one.uuid, "code"],
      ["State", (one) => badge(one.state, MARKS[one.state] ?? "quiet")],
      ["Device profile", (one) => one.device_profile_name],
      ["Instance", (one) => one.instance_uuid && [el("code", {}, one.instance_uuid), set(one)]],
      ["Host and handle", (one) => one.hostname && [one.hostname, handle(one)]],
      ["Changed", (one) => moment(one.updated_at ?? one.created_at)]],
    first: (more) => service.list("accelerator_requests", "arqs",
      { sets: "all", sort: "created_at:desc", ...wanted, ...more }, signal) });
  return [
    el("div", { class: "head" }, el("h1", { tabindex: "-1" }, title), refresh(again)),
    filters("/arqs", [typed("Instance", "instance", wanted.instance, { size: 36 }),
      field("State", choice("state", Object.keys(MARKS), wanted.state, "any state")),
      typedHost("hostname", wanted.hostname, service, signal),
      typed("Resource provider", "device_rp_uuid", wanted.device_rp_uuid, { size: 36 })],
    isNarrowed),
    list];
}
