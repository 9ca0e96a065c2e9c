/**
 * What a value must be, told as the server would, and where it says it is wrong.
 *
 * @import {Json, Schema} from "../types.js"
 */
import { own } from "../render/values.js";

/** A limit of a schema; null where there is none. @param {Json} schema @param {string} keyword */
export function limit(schema, keyword) {
  const value = own(schema, keyword);
  return typeof value === "number" ? value : null;
}

const TIME = String.raw`\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)?`;
/** Formats of strings: an example, and what they look like. @type {Record<string, [string, RegExp]>} */
export const FORMATS = {
  "date-time": ["2026-01-31T12:30:00Z", RegExp(`^\\d{4}-\\d\\d-\\d\\d[T ]${TIME}$`, "i")],
  date: ["2026-01-31", /^\d{4}-\d\d-\d\d$/],
  time: ["12:30:00Z", RegExp(`^${TIME}$`, "i")],
  duration: ["P1DT2H30M", /^[+-]?P(?=.)(\d+W)?(\d+D)?(T(?=.)(\d+H)?(\d+M)?([\d.]+S)?)?$/i],
  uuid: ["123e4567-e89b-12d3-a456-426614174000", /^[\da-f]{8}(-?[\da-f]{4}){3}-?[\da-f]{12}$/i],
  decimal: ["12.34", /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i],
};

/**
 * What is wrong with a size.
 *
 * @param {number} count
 * @param {Schema} schema
 * @param {"Items" | "Properties" | "Length"} what
 * @param {string} [unit]
 */
export function countProblem(count, schema, what, unit = "item") {
  const units = (/** @type {number} */ bound) => `${bound} ${unit}${bound === 1 ? "" : "s"}`;
  const [least, most] = [limit(schema, `min${what}`), limit(schema, `max${what}`)];
  if (least !== null && count < least) return `expected at least ${units(least)}, got ${count}`;
  return most !== null && count > most ? `expected at most ${units(most)}, got ${count}` : null;
}

/**
 * @param {string} text
 * @param {Schema} schema
 * @returns {string | null}
 */
export function stringProblem(text, schema) {
  const length = [...text].length;
  const format = FORMATS[String(schema.format)];
  const pattern = String(schema.pattern ?? "");
  const wrong = countProblem(length, schema, "Length", "character");
  if (wrong) return wrong;
  if (format && !format[1].test(text)) return `expected a ${schema.format} such as ${format[0]}`;
  // A repeated group may take for ever on a hostile pattern: that is the server's then.
  if (/\)[*+{]/.test(pattern) || length > 1000) return null;
  try {
    return RegExp(pattern, "u").test(text) ? null : `expected text that matches ${pattern}`;
  } catch {
    return null; // Python's patterns know more.
  }
}

/** @type {[string, string, (value: number | bigint, bound: number) => boolean][]} */
const BOUNDS = [
  ["minimum", "at least", (value, bound) => value >= bound],
  ["exclusiveMinimum", "more than", (value, bound) => value > bound],
  ["maximum", "at most", (value, bound) => value <= bound],
  ["exclusiveMaximum", "less than", (value, bound) => value < bound],
];

/**
 * @param {string} text of a number
 * @param {Schema} schema
 * @returns {string | null}
 */
export function numberProblem(text, schema) {
  const whole = /^[+-]?\d+$/.test(text);
  const value = Number(text);
  const plain = whole || (schema.type !== "integer" && Number.isFinite(value) && /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text));
  if (!plain) return `expected ${schema.type === "integer" ? "an integer" : "a number"}${text && `, got ${JSON.stringify(text)}`}`;
  // JavaScript compares integers of any size with numbers exactly.
  const exact = whole ? BigInt(text.replace("+", "")) : value;
  for (const [keyword, words, holds] of BOUNDS) {
    const bound = limit(schema, keyword);
    if (bound !== null && !holds(exact, bound)) return `expected ${words} ${bound}, got ${text}`;
  }
  const factor = limit(schema, "multipleOf");
  const times = factor ? value / factor : 0;
  return Math.abs(times - Math.round(times)) <= 1e-9 * Math.max(1, Math.abs(times)) ? null : `expected a multiple of ${factor}, got ${text}`;
}

/** What a field takes, in a few words. @param {Schema} schema @param {string} kind */
export function expectation(schema, kind) {
  const bounds = BOUNDS.map(([keyword, words]) => [words, limit(schema, keyword)]).filter(([, bound]) => Math.abs(Number(bound ?? NaN)) < 2 ** 53);
  const range = bounds.length === 2 && String(bounds) === `at least,${schema.minimum},at most,${schema.maximum}` && `${schema.minimum} to ${schema.maximum}`;
  const most = limit(schema, "maxLength") ?? limit(schema, "maxItems");
  return [
    ["choice", "boolean", "struct", "json"].includes(kind) ? "" : String(schema.format) in FORMATS ? String(schema.format) : kind,
    range || bounds.map((words) => words.join(" ")).join(", "),
    most !== null && `at most ${most}${kind === "string" ? " characters" : ""}`,
    schema.multipleOf && `multiple of ${schema.multipleOf}`,
  ].filter(Boolean).join(", ");
}

/**
 * Where a server's message says that something is wrong: `… - at `$.a[0].b``.
 *
 * A key of a map comes as `...`, because the server does not tell which.
 *
 * @param {string} text
 * @returns {(string | number)[]}
 */
export function fieldPath(text) {
  const place = /(?:^|`|\s)\$((?:\.[^.[\]`\s]+|\[(?:\d+|\.\.\.)\])*)`?\s*$/.exec(text)?.[1] ?? "";
  const steps = [...place.matchAll(/\.([^.[\]]+)|\[(\d+|\.\.\.)\]/g)];
  const field = /(?:missing required|unknown) field `([^`]+)`/.exec(text)?.slice(1) ?? [];
  return [...steps.map(([, name, index]) => name ?? (index === "..." ? index : Number(index))), ...field];
}
