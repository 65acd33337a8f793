// SPDX-License-Identifier: Apache-2.0
// The frame of the page: who is signed in, which view is shown, what is said when it changes.

import * as arqs from "./arqs.js";
import * as device from "./device.js";
import * as devices from "./devices.js";
import { announce, el, trouble } from "./dom.js";
import * as hosts from "./hosts.js";
import * as identity from "./identity.js";
import { Service } from "./service.js";
import * as signIn from "./sign-in.js";

/** The views by their path; each has title and show(context), which returns what is shown. */
const VIEWS = [
  { path: /^\/hosts$/, view: hosts },
  { path: /^\/devices$/, view: devices },
  { path: /^\/devices\/(?<uuid>[0-9a-fA-F-]+)$/, view: device },
  { path: /^\/arqs$/, view: arqs },
];
const START = "/hosts";
const LINKS = [["/hosts", "Hosts"], ["/devices", "Devices"], ["/arqs", "Requests"]];

const main = document.getElementById("main");
let settings = null;
let session = null;
let leaving = new AbortController();
let isFirst = true;

async function start() {
  document.getElementById("skip").addEventListener("click", (event) => {
    event.preventDefault();
    main.focus();
  });
  try {
    settings = await (await fetch(new URL("settings.json", import.meta.url))).json();
  } catch (error) {
    main.replaceChildren(trouble(error));
    return;
  }
  session = settings.auth_strategy === "noauth" ? { user: "anybody", noauth: true }
    : identity.current();
  addEventListener("hashchange", show);
  show();
}

function show() {
  leaving.abort();
  leaving = new AbortController();
  frame();
  if (!session) {
    put(signIn.show({ settings, onSession: enter }), "Sign in");
    return;
  }
  const [path, query = ""] = location.hash.slice(1).split("?");
  const found = VIEWS.map(({ path: pattern, view }) => ({ view, match: pattern.exec(path) }))
    .find(({ match }) => match);
  if (!found) {
    location.replace(`#${START}`);
    return;
  }
  open(found.view, { ...found.match.groups }, new URLSearchParams(query), leaving.signal);
}

async function open(view, variables, query, signal) {
  const service = new Service(session.token, expire);
  const context = { service, session, variables, query, signal, again: show };
  main.setAttribute("aria-busy", "true");
  const late = setTimeout(() => announce("Loading"), 800);
  try {
    const content = await view.show(context);
    if (!signal.aborted) put(content, view.title);
  } catch (error) {
    if (signal.aborted) return;
    put([el("h1", { tabindex: "-1" }, view.title), trouble(error),
      error.status === 403 && el("p", {}, "What you may see is decided by the service's policy. ",
        el("a", { href: "#/arqs" }, "The accelerator requests"), " of your project are open to its"
        + " readers and members.")], view.title);
  } finally {
    clearTimeout(late);
    if (!signal.aborted) main.removeAttribute("aria-busy");
  }
}

/** Show a view and bring keyboard and screen reader to its heading. */
function put(content, title) {
  main.replaceChildren(...[content].flat().filter(Boolean));
  main.removeAttribute("aria-busy");
  const heading = main.querySelector("h1");
  document.title = `${heading?.dataset.title ?? title} – Accelerators`;
  // the first view comes with the page itself: its reader begins at the top
  if (!isFirst) (main.querySelector("[autofocus]") ?? heading)?.focus({ preventScroll: true });
  else main.querySelector("[autofocus]")?.focus({ preventScroll: true });
  isFirst = false;
  scrollTo(0, 0);
}

function frame() {
  const nav = document.getElementById("nav");
  const who = document.getElementById("who");
  nav.hidden = who.hidden = !session;
  if (!session) return;
  const path = location.hash.slice(1).split("?")[0] || START;
  nav.replaceChildren(el("ul", {}, LINKS.map(([to, text]) => el("li", {}, el("a", {
    href: `#${to}`,
    "aria-current": path === to ? "page" : path.startsWith(`${to}/`) ? "true" : null }, text)))));
  const where = session.project ? ` in ${session.project}` : "";
  who.replaceChildren(
    el("span", {}, session.noauth ? "Open to anybody (noauth)" : `${session.user}${where}`),
    session.noauth ? "" : el("button", { type: "button", class: "plain", onclick: leave },
      "Sign out"));
}

function enter(given) {
  session = given;
  isFirst = false;
  show();
}

async function leave() {
  const old = session;
  session = null;
  show();
  announce("Signed out");
  await identity.signOut(settings.keystone_url, old);
}

/** The service knows the token no more. */
function expire(error) {
  if (!session || session.noauth) return;
  identity.forget();
  session = null;
  leaving.abort();
  frame();
  put(signIn.show({ settings, onSession: enter, why: error }), "Sign in");
}

start();
