// SPDX-License-Identifier: Apache-2.0
// Where partitions lie, for pictures: arithmetic alone. What is valid is said by the service.

/** More units than any card has: whoever reports them is not believed, and not drawn. */
export const MOST_UNITS = 256;
/** Steps of a search; published cards need a few hundred. */
const MOST_STEPS = 20_000;

function isSane({ start, size }) {
  return start >= 0 && size >= 1 && start + size <= MOST_UNITS;
}

/** Memory units of the device: up to the end of the last placement that anything has. */
export function unitsOf(profiles) {
  const every = profiles.flatMap((profile) => profile.placements ?? []);
  return every.every(isSane)
    ? every.reduce((most, { start, size }) => Math.max(most, start + size), 0) : 0;
}

/**
 * One way to lay out [{profile, count, vgpu_type?}]: [{profile, vgpu_type, start, size}], or null
 * where the profiles have no placements or nothing fits.
 */
export function place(profiles, partitions) {
  const known = new Map(profiles.map((profile) => [profile.name, profile]));
  const wanted = [];
  for (const { profile, count, vgpu_type: type } of partitions) {
    const places = known.get(profile)?.placements ?? [];
    if (count && !places.length) return null;
    for (let index = 0; index < count; index += 1) {
      wanted.push({ profile, vgpu_type: type ?? null, places });
    }
  }
  if (!unitsOf(profiles) || wanted.length > MOST_UNITS) return null;
  wanted.sort((one, other) => other.places[0].size - one.places[0].size
    || one.profile.localeCompare(other.profile));
  return search(wanted, 0, 0n, [], { left: MOST_STEPS });
}

function search(wanted, at, used, placed, steps) {
  steps.left -= 1;
  if (steps.left < 0) return null;
  if (at === wanted.length) return placed.toSorted((one, other) => one.start - other.start);
  const { profile, vgpu_type, places } = wanted[at];
  const before = placed.at(-1);
  for (const { start, size } of places) {
    const mask = ((1n << BigInt(size)) - 1n) << BigInt(start);
    // equal ones from left to right: other orders look the same
    const isRepeat = before?.profile === profile && before.vgpu_type === vgpu_type
      && start < before.start;
    if (used & mask || isRepeat) continue;
    const found = search(wanted, at + 1, used | mask,
      [...placed, { profile, vgpu_type, start, size }], steps);
    if (found) return found;
  }
  return null;
}

/** The partitions that exist, as place() gives them; null where nobody may see where they lie. */
export function existing(groups) {
  const found = groups.flatMap(({ profile, vgpu_type: type, placements }) => (placements ?? []).map(
    ({ start, size }) => ({ profile, vgpu_type: type ?? null, start, size })));
  const count = groups.reduce((sum, group) => sum + group.count, 0);
  return found.length === count && found.every(isSane) ? found.toSorted((one, other) => one.start - other.start) : null;
}

/**
 * How many of the wished partitions are not among the current ones. A wish without a vGPU type is
 * met by any of its profile, after those that name one.
 */
export function without(wished, current) {
  const here = current.map((one) => ({ ...one }));
  const take = ({ profile, vgpu_type: type, count }) => {
    let left = count;
    for (const one of here.filter((each) => each.profile === profile
      && (!type || each.vgpu_type === type))) {
      const taken = Math.min(left, one.count);
      one.count -= taken;
      left -= taken;
    }
    return left;
  };
  return [...wished.filter((one) => one.vgpu_type), ...wished.filter((one) => !one.vgpu_type)]
    .reduce((sum, one) => sum + take(one), 0);
}

/** What is there after the steps of a plan; null where a step has no place. */
export function after(placed, steps) {
  if (!placed || steps.some((step) => !step.placement)) return null;
  const left = [...placed];
  for (const { action, profile, placement } of steps) {
    if (action === "destroy") {
      const index = left.findIndex((one) => one.profile === profile
        && one.start === placement.start && one.size === placement.size);
      if (index >= 0) left.splice(index, 1);
    } else {
      left.push({ profile, vgpu_type: null, ...placement });
    }
  }
  return left.toSorted((one, other) => one.start - other.start);
}

/** `unit 3`, `units 0 to 3`. */
export function span({ start, size }) {
  return size === 1 ? `unit ${start}` : `units ${start} to ${start + size - 1}`;
}

/** `3g.20gb + 2 × 1g.5gb`, which breaks at a plus alone. */
export function describe(partitions) {
  return partitions.filter(({ count }) => count > 0).map(({ profile, count, vgpu_type: type }) => {
    const name = type && type !== profile ? `${profile} as ${type}` : profile;
    return count === 1 ? name : `${count}\u00a0×\u00a0${name}`;
  }).join(" + ") || "no partitions";
}
