/** Numbers for people. */

const NANOSECONDS = /** @type {const} */ ([["s", 1e9], ["ms", 1e6], ["µs", 1e3], ["ns", 1]]);
const BYTES = /** @type {const} */ ([["GB", 1e9], ["MB", 1e6], ["KB", 1e3], ["B", 1]]);

/**
 * Three significant digits, never in exponential form.
 *
 * @param {number} value
 */
function short(value) {
  const size = Math.abs(value);
  return value.toFixed(size >= 100 || Number.isInteger(value) ? 0 : size >= 10 ? 1 : 2);
}

/**
 * @param {number} value
 * @param {readonly (readonly [string, number])[]} units
 */
function scaled(value, units) {
  // 999.7 rounds to 1000 of a unit, which is 1 of the next
  const [unit, size] = units.find(([, least]) => Math.abs(value) >= least * 0.9995) ?? ["", 1];
  return unit ? `${short(value / size)} ${unit}` : `0 ${units[units.length - 1]?.[0] ?? ""}`;
}

/** @param {number | null | undefined} ns nanoseconds */
export function duration(ns) {
  if (ns === null || ns === undefined || !Number.isFinite(ns)) return "–";
  return Math.abs(ns) >= 60e9 ? seconds(ns / 1e9) : scaled(ns, NANOSECONDS);
}

/** @param {number | null | undefined} value seconds, up to days */
export function seconds(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value < 1e-3) return "0 s";
  if (value < 60) return value < 10 ? scaled(value * 1e9, NANOSECONDS) : `${Math.floor(value)} s`;
  const whole = Math.floor(value);
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const first = parts.findIndex(([size]) => whole >= Number(size));
  return parts
    .slice(first, first + 2)
    .map(([size, unit], index) => {
      const above = index === 0 ? Infinity : Number(parts[first]?.[0]);
      return `${Math.floor((whole % above) / Number(size))} ${unit}`;
    })
    .join(" ");
}

/** @param {number | null | undefined} value */
export function bytes(value) {
  return value === null || value === undefined || !Number.isFinite(value) ? "–" : scaled(value, BYTES);
}

/** @param {number | null | undefined} value at most four digits after the point */
export function number(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e15)) return value.toExponential(3);
  return value.toLocaleString("en", { maximumFractionDigits: 4 });
}

/** @param {number | null | undefined} at milliseconds since 1970 */
export function clockTime(at) {
  return at === null || at === undefined ? "–" : new Date(at).toLocaleTimeString("en-GB");
}

/**
 * @param {number} count
 * @param {string} word regular noun, singular
 */
export function plural(count, word) {
  return `${number(count)} ${count === 1 ? word : word.endsWith("ss") ? `${word}es` : `${word}s`}`;
}
