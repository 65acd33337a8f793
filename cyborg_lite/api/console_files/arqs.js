// SPDX-License-Identifier: Apache-2.0
// The view of accelerator requests: those that the service shows to whoever asks.

import { badge, choice, el, field, moment } from "./dom.js";
import { filters, listed } from "./listing.js";

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
  const list = await listed({
    caption: title, one: "accelerator request", empty: "There is no such accelerator request.",
    columns: [
      ["Request", (one) => one.uuid, "code"],
      ["State", (one) => badge(one.state, MARKS[one.state] ?? "quiet")],
      ["Device profile", (one) => one.device_profile_name],
      ["Instance", (one) => one.instance_uuid && [el("code", {}, one.instance_uuid), set(one)]],
      ["Host and handle", (one) => one.hostname && [one.hostname, handle(one)]],
      ["Changed", (one) => moment(one.updated_at ?? one.created_at)]],
    first: () => service.list(
      "accelerator_requests", "arqs", { sets: "all", ...wanted }, signal) });
  const input = (key, size) => el("input", { name: key, value: query.get(key) ?? "", size,
    autocomplete: "off", spellcheck: "false" });
  return [
    el("div", { class: "head" }, el("h1", { tabindex: "-1" }, title),
      el("button", { type: "button", onclick: again }, "Refresh")),
    filters("/arqs", [field("Instance", input("instance", 36)),
      field("State", choice("state", Object.keys(MARKS), wanted.state, "any state")),
      field("Host", input("hostname", 18)),
      field("Resource provider", input("device_rp_uuid", 36))]),
    list];
}
