// SPDX-License-Identifier: Apache-2.0
// The frame of the page: who is signed in, which view is shown, what is said when it changes.

import * as arqs from "./arqs.js";
import * as device from "./device.js";
import * as devices from "./devices.js";
import { announce, el, trouble } from "./dom.js";
import * as hosts from "./hosts.js";
import * as identity from "./identity.js";
import * as past from "./past.js";
import { Service } from "./service.js";
import * as signIn from "./sign-in.js";

/** The views by their path; each has title and show(context), which returns what is shown. */
const VIEWS = [
  { path: /^\/hosts$/, view: hosts },
  { path: /^\/devices$/, view: devices },
  { path: /^\/devices\/(?<uuid>[0-9a-fA-F-]+)$/, view: device },
  { path: /^\/arqs$/, view: arqs },
];
const LINKS = [["/hosts", "Hosts"], ["/devices", "Devices"], ["/arqs", "Requests"]];
const LATE_MS = 800;

const main = document.getElementById("main");
// made once: what has the keyboard stays while a view is loaded
const links = new Map(LINKS.map(([to, text]) => [to, el("a", { href: `#${to}` }, text)]));
const name = el("span", { class: "name" });
const out = el("button", { type: "button", class: "plain", onclick: leave }, "Sign out");
let settings = null;
let session = null;
let leaving = new AbortController();
let isFirst = true;
/** The views that policy refused to whoever came without naming one: no links lead there. */
let refused = new Set();
let isLanding = false;
/** The view that is shown, so that the same one drawn again disturbs nobody. */
let shown = null;

async function start() {
  document.getElementById("nav").append(
    el("ul", {}, [...links.values()].map((link) => el("li", {}, link))));
  document.getElementById("who").append(name, out);
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
  // a view is drawn before anybody could scroll it
  history.scrollRestoration = "manual";
  main.addEventListener("click", ({ target }) => {
    const link = target.closest("a[href^='#']");
    if (link) past.remember("left", { by: link.getAttribute("href"), at: scrollY });
  });
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
    isLanding = true;
    land();
    return;
  }
  open(found.view, { ...found.match.groups }, new URLSearchParams(query), leaving.signal);
}

/** Lead to the first view that is not refused; to the first of all when every one is. */
function land() {
  const [to] = LINKS.find(([path]) => !refused.has(path)) ?? LINKS[0];
  isLanding &&= refused.size < LINKS.length;
  location.replace(`#${to}`);
}

async function open(view, variables, query, signal) {
  const service = new Service(session.token, expire);
  const context = { service, session, variables, query, signal, again: show };
  main.setAttribute("aria-busy", "true");
  const late = setTimeout(() => {
    announce("Loading");
    if (!main.querySelector("h1")) main.replaceChildren(el("p", { class: "lead" }, "Loading …"));
  }, LATE_MS);
  try {
    const content = await view.show(context);
    if (!signal.aborted) put(content, view.title);
  } catch (error) {
    if (signal.aborted) return;
    if (error.status === 403 && isLanding) {
      refused.add(location.hash.slice(1));
      land();
      return;
    }
    put([el("h1", { tabindex: "-1" }, view.title), trouble(error),
      error.status === 403 && el("p", {}, "What you may see is decided by the service's policy. ",
        el("a", { href: "#/arqs" }, "The accelerator requests"), " of your project are open to its"
        + " readers and members.")], view.title);
  } finally {
    clearTimeout(late);
    if (!signal.aborted) main.removeAttribute("aria-busy");
  }
}

/** How what has the keyboard is found again when the same view is drawn once more. */
function heldBy(node) {
  if (node.matches("main .head button")) return ".head button";
  if (!node.closest("form.filters")) return null;
  return `form.filters ${node.name ? `[name="${node.name}"]` : "[type=submit]"}`;
}

/** Show a view and bring keyboard and screen reader to its heading, or to where they were. */
function put(content, title) {
  const [was, path] = [shown, session && location.hash.split("?")[0]];
  const held = path && path === was ? heldBy(document.activeElement) : null;
  const top = held ? scrollY : 0;
  main.replaceChildren(...[content].flat().filter(Boolean));
  main.removeAttribute("aria-busy");
  isLanding = false;
  shown = path;
  const heading = main.querySelector("h1");
  document.title = `${heading?.dataset.title ?? title} – Accelerators`;
  const left = past.recalled("left");
  const back = held || !left ? null : main.querySelector(`a[href="${CSS.escape(left.by)}"]`);
  const place = (held ? main.querySelector(held) : back) ?? main.querySelector("[autofocus]")
    // the first view comes with the page itself: its reader begins at the top
    ?? (isFirst ? null : heading);
  place?.focus({ preventScroll: true });
  isFirst = false;
  scrollTo(0, back ? left.at : top);
  const counted = [...main.querySelectorAll(".count, .empty")].map((one) => one.textContent);
  if (held && counted.length) announce(counted.join(", "));
}

function frame() {
  const nav = document.getElementById("nav");
  const who = document.getElementById("who");
  nav.hidden = who.hidden = !session;
  if (!session) return;
  const path = location.hash.slice(1).split("?")[0];
  for (const [to, link] of links) {
    link.parentNode.hidden = refused.has(to) && refused.size < LINKS.length;
    if (path === to) link.setAttribute("aria-current", "page");
    else if (path.startsWith(`${to}/`)) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
  const where = session.project ? ` in ${session.project}` : "";
  name.textContent = session.noauth ? "Open to anybody (noauth)" : `${session.user}${where}`;
  out.hidden = Boolean(session.noauth);
}

function enter(given) {
  session = given;
  refused = new Set();
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
