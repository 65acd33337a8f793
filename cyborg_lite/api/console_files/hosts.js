// SPDX-License-Identifier: Apache-2.0
// The view of hosts: the agents that answer for them, and the conductors.

import { badge, choice, el, field, moment, refresh } from "./dom.js";
import { filters, listed, typedHost } from "./listing.js";

export const title = "Hosts";

const AGENT = "cyborg-lite-agent";
const CONDUCTOR = "cyborg-lite-conductor";
const MARKS = { up: "good", down: "bad", gone: "quiet" };

function state(service) {
  return badge(service.state, MARKS[service.state] ?? "quiet");
}

function status(service) {
  if (service.status === "enabled") return "enabled";
  return [badge(service.status, "busy"),
    service.disabled_reason && el("span", { class: "reason" }, service.disabled_reason)];
}

const SHARED = [["State", state], ["Status", status], ["Last seen", (one) => moment(one.last_seen)],
  ["Version", (one) => one.version]];

export async function show({ service, query, signal, again }) {
  const wanted = { host: query.get("host"), state: query.get("state") };
  const isNarrowed = Object.values(wanted).some(Boolean);
  const [agents, others] = await Promise.all([
    listed({
      caption: "Hosts", one: "host",
      empty: isNarrowed ? "There is no such host." : "No agent has reported yet.",
      columns: [
        ["Host", (one) => el("a", {
          href: `#/devices?hostname=${encodeURIComponent(one.host)}` }, one.host)],
        ...SHARED, ["Drivers", (one) => one.drivers?.join(", ") || null]],
      first: (more) => service.list("services", "services",
        { binary: AGENT, sort: "host", ...wanted, ...more }, signal) }),
    listed({
      caption: "Conductors", one: "conductor", empty: "No conductor has been seen.",
      columns: [["Host", (one) => one.host], ...SHARED],
      first: (more) => service.list("services", "services",
        { binary: CONDUCTOR, sort: "host", ...more }, signal) })]);
  return [
    el("div", { class: "head" }, el("h1", { tabindex: "-1" }, title), refresh(again)),
    el("p", { class: "lead" }, "Each host has an agent that finds its accelerators. Choose a host "
      + "to see its devices."),
    filters("/hosts", [typedHost("host", wanted.host, service, signal),
      field("State", choice("state", Object.keys(MARKS), wanted.state, "any state"))], isNarrowed),
    agents,
    el("section", { "aria-labelledby": "conductors" },
      el("h2", { id: "conductors" }, "Conductors"), others)];
}
