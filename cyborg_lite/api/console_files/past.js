// SPDX-License-Identifier: Apache-2.0
// What a place in the browser's history had: how long its lists were, where one left it. It ends
// with that place; Refresh and Back find it, a new visit does not.

/** What was noted of this place, or null. */
export function recalled(key) {
  return history.state?.[key] ?? null;
}

export function remember(key, value) {
  try {
    history.replaceState({ ...history.state, [key]: value }, "");
  } catch {
    // some browsers refuse the hundredth time within seconds; the next one is noted
  }
}
