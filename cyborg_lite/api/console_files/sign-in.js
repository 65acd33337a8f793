// SPDX-License-Identifier: Apache-2.0
// The view to sign in: by password with Keystone, or with a token that somebody has already.

import { el, field, trouble } from "./dom.js";
import * as identity from "./identity.js";
import { Service } from "./service.js";

/** why: what ended the session before. onSession: gets the new one. */
export function show({ settings, onSession, why }) {
  const said = el("div", { class: "said-here" }, why && [trouble(why),
    el("p", { class: "hint" }, "Sign in again, and you are back where you were.")]);
  const byPassword = settings.keystone_url
    ? passwordForm(settings.keystone_url, said, onSession)
    : el("p", { class: "notice" }, "This service names no Keystone for browsers ([console] "
      + "keystone_url), so it takes tokens alone.");
  return el("div", { class: "sign-in" },
    el("h1", { tabindex: "-1" }, "Sign in"), said, byPassword,
    tokenForm(said, onSession, !settings.keystone_url));
}

function passwordForm(keystone, said, onSession) {
  const text = (name, more) => el("input", { name, required: true, spellcheck: "false",
    autocapitalize: "none", ...more });
  const form = el("form", { method: "post", class: "card" },
    field("Keystone", text("keystone", { readonly: true, autocomplete: "off",
      value: new URL(keystone, document.baseURI).href })),
    field("User", text("user", { autocomplete: "username", autofocus: true })),
    field("Password", text("password", { type: "password", autocomplete: "current-password" })),
    field("Project", text("project", { required: false, autocomplete: "on" }),
      "Empty: your default project"),
    el("div", { class: "pair" },
      field("Domain of the user", text("domain", { value: "Default", autocomplete: "off" })),
      field("Domain of the project", text("projectDomain",
        { value: "Default", autocomplete: "off" }))),
    el("button", { type: "submit", class: "main" }, "Sign in"));
  handle(form, said, async (values) => {
    const session = await identity.signIn(keystone, values);
    form.reset();
    onSession(session);
  });
  return form;
}

function tokenForm(said, onSession, isOpen) {
  const form = el("form", { method: "post" },
    field("Token", el("input", { name: "token", type: "password", required: true,
      autocomplete: "off", spellcheck: "false" }),
    "As openstack token issue prints it. Signing out forgets it here and leaves it valid."),
    el("button", { type: "submit" }, "Use this token"));
  handle(form, said, async ({ token }) => {
    const pasted = token.trim();
    if (!/^[\x21-\x7e]+$/.test(pasted)) {
      throw Object.assign(new Error("A token is one word of letters, digits, - and _: what"
        + " openstack token issue -f value -c id prints."), { title: "This is no token" });
    }
    await new Service(pasted, () => {}).list("accelerator_requests", "arqs", { limit: 1 })
      .catch((error) => {
        // what else the token may see, each view says
        if (error.status !== 403) throw error;
      });
    form.reset();
    onSession(identity.keep({ token: pasted, byPassword: false, user: "A pasted token",
      project: null, roles: [] }));
  });
  return el("details", { class: "card", open: isOpen },
    el("summary", {}, "Sign in with a token"), form);
}

/** Run `act` when the form is sent, once at a time, and show what goes wrong. */
function handle(form, said, act) {
  const button = form.querySelector("button[type=submit]");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (button.getAttribute("aria-disabled")) return;
    button.setAttribute("aria-disabled", "true");
    said.replaceChildren();
    try {
      await act(Object.fromEntries(new FormData(form)));
    } catch (error) {
      said.replaceChildren(trouble(error));
      form.querySelector("[type=password]").focus();
    } finally {
      button.removeAttribute("aria-disabled");
    }
  });
}
