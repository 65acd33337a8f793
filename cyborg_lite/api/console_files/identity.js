// SPDX-License-Identifier: Apache-2.0
// Signs in and out with Keystone. The token lives in this tab: in memory and in sessionStorage,
// which ends with the tab; it is written nowhere else.

const KEY = "accelerator-console";

/** What Keystone, or the way to it, has against a sign-in. */
export class SignInFailed extends Error {
  constructor(message, title = "Keystone refuses this") {
    super(message);
    this.title = title;
  }
}

/** The session that this tab has: {token, user, project, roles, byPassword}, or null. */
export function current() {
  try {
    // whether the token is still good, the service says: the clock here may be wrong
    return JSON.parse(sessionStorage.getItem(KEY));
  } catch {
    forget();
  }
  return null;
}

export function keep(session) {
  sessionStorage.setItem(KEY, JSON.stringify(session));
  return session;
}

export function forget() {
  sessionStorage.removeItem(KEY);
}

/** Ask Keystone for a token. Throws SignInFailed with Keystone's words. */
export async function signIn(keystone, { user, password, domain, project, projectDomain }) {
  const auth = { identity: { methods: ["password"], password: {
    user: { name: user, domain: { name: domain }, password } } } };
  if (project) auth.scope = { project: { name: project, domain: { name: projectDomain } } };
  const reply = await ask(keystone, { method: "POST", body: JSON.stringify({ auth }),
    headers: { "Content-Type": "application/json" } });
  const said = await reply.json().catch(() => null);
  if (!reply.ok) {
    throw new SignInFailed(said?.error?.message ?? `Keystone answered ${reply.status}.`);
  }
  const token = reply.headers.get("X-Subject-Token");
  if (!token || !said?.token) {
    throw new SignInFailed("The answer has no token that this page may read: Keystone's [cors]"
      + " expose_headers has to have X-Subject-Token.", "Keystone's answer can't be used");
  }
  return keep({ token, byPassword: true, user: said.token.user.name,
    project: said.token.project?.name ?? null,
    roles: (said.token.roles ?? []).map((role) => role.name) });
}

/** Forget the session; a token that was made for it is revoked. */
export async function signOut(keystone, session) {
  forget();
  if (!session?.byPassword) return;
  try {
    await ask(keystone, { method: "DELETE", keepalive: true, headers: {
      "X-Auth-Token": session.token, "X-Subject-Token": session.token } });
  } catch {
    // the token ends by itself; this tab has it no more
  }
}

async function ask(keystone, options) {
  const url = new URL(`${keystone}/auth/tokens`, document.baseURI);
  try {
    return await fetch(url, { ...options, credentials: "omit", cache: "no-store",
      redirect: "error" });
  } catch {
    throw new SignInFailed(
      `No answer of ${url.origin} could be read. Either it does not run, or it does not allow`
      + ` pages of ${location.origin} (its option [cors] allowed_origin). A token, pasted below,`
      + " needs neither.", "Keystone can't be reached from this page");
  }
}
