// SPDX-License-Identifier: Apache-2.0
// What a place in the browser's history had: how long its lists were, where one left it. It ends
// with that place; Refresh and Back find it, a new visit does not.

/** What was noted of this place, or null. */
export function recalled(key) {
  return history.state?.[key] ?? null;
}

export function remember(key, value) {
  history.replaceState({ ...history.state, [key]: value }, "");
}
