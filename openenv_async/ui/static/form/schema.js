/**
 * JSON Schema, as far as msgspec and pydantic write it: what a value must be, told as the
 * server would.
 *
 * @import {Json, Schema} from "../types.js"
 */
import { entries, equal, isObject, listOf, own, typeOf, write } from "../render/values.js";

/** References and unions in one another; hostile schemas go in circles. */
const HOPS = 32;
const VARIANTS = 64;
/** Integers that are offered one by one. */
const FEW = 8;
const SCALARS = ["string", "integer", "number", "boolean"];
/** Formats of strings, by examples. @type {Record<string, string>} */
export const EXAMPLES = {
  "date-time": "2026-01-31T12:30:00Z",
  date: "2026-01-31",
  time: "12:30:00Z",
  duration: "P1DT2H30M",
  uuid: "123e4567-e89b-12d3-a456-426614174000",
  decimal: "12.34",
};

/**
 * Follow references; what stands beside one has the last word.
 *
 * @param {Json | undefined} schema
 * @param {Schema} root
 * @returns {Schema}
 */
function resolve(schema, root) {
  let found = isObject(schema) ? schema : {};
  for (let hop = 0; hop < HOPS; hop += 1) {
    const { $ref: reference, allOf: all, ...rest } = found;
    if (!reference && !all) return found;
    const steps = String(reference ?? "").split("/").slice(1);
    const target = reference ? steps.reduce((/** @type {Json | undefined} */ at, step) => own(at, step), root) : listOf(all)[0];
    found = isObject(target) ? { ...target, ...rest } : rest;
  }
  return {};
}

/** The values that a schema allows, where they are listed or few integers. @param {Json | undefined} given */
export function choices(given) {
  const schema = isObject(given) ? given : {};
  const { type, minimum, maximum } = schema;
  if (Object.hasOwn(schema, "const")) return [schema.const];
  if (schema.enum || type !== "integer" || !(Number(maximum ?? NaN) - Number(minimum ?? NaN) < FEW)) return listOf(schema.enum);
  const all = Array.from({ length: FEW }, (_, index) => Math.ceil(Number(minimum)) + index);
  return all.filter((value) => !numberProblem(String(value), schema));
}

/**
 * A type without its null: one schema, or one with `variants`.
 *
 * @param {Json | undefined} given
 * @param {Schema} root
 * @returns {{schema: Schema, variants: Schema[], nullable: boolean}}
 */
export function dissect(given, root) {
  const schema = resolve(given, root);
  /** @type {Schema[]} */
  const variants = [];
  let nullable = false;
  const waiting = [schema];
  for (let at = waiting.shift(), hops = 0; at && hops < VARIANTS; at = waiting.shift(), hops += 1) {
    const { type } = at;
    const united = at.anyOf ?? at.oneOf;
    if (united) waiting.unshift(...listOf(united).map((item) => resolve(item, root)));
    else if (Array.isArray(type)) waiting.unshift(...type.map((one) => ({ .../** @type {Schema} */ (at), type: one })));
    else if (type === "null" || equal(choices(at), [null])) nullable = true;
    else variants.push(at);
  }
  if (variants.length !== 1) return { schema, variants, nullable };
  const { anyOf, oneOf, type, ...notes } = schema;
  return { schema: anyOf || oneOf || Array.isArray(type) ? { ...variants[0], ...notes } : schema, variants: [], nullable };
}

/**
 * The tag of a struct: the properties that it requires and that have one possible value.
 *
 * @param {Schema} schema
 */
export function tags(schema) {
  const required = entries(schema.properties).filter(([name]) => listOf(schema.required).includes(name));
  const only = required.filter(([, property]) => choices(property).length === 1);
  return Object.fromEntries(only.map(([name, property]) => [name, choices(property)[0]]));
}

/** What makes the control of a schema that is no union. @param {Schema} schema */
export function kindOf({ properties, ...schema }) {
  const { type } = schema;
  const others = isObject(schema.additionalProperties);
  if (choices(schema).length) return "choice";
  if (own(own(properties, "data"), "contentEncoding") && own(properties, "dtype")) return "array";
  if (properties) return others ? "json" : "struct";
  if (schema.prefixItems) return isObject(schema.items) ? "json" : "tuple";
  if (type === "array" && isObject(schema.items)) return "list";
  if (type === "object" && others) return "map";
  if (type === "string" && schema.contentEncoding === "base64") return "bytes";
  return SCALARS.includes(String(type)) ? String(type) : "json";
}

/**
 * How well a value suits a schema: 0 not at all.
 *
 * @param {Json} value
 * @param {Schema} schema
 */
export function suits(value, schema) {
  const values = choices(schema);
  const { type } = schema;
  const kind = typeOf(value);
  if (values.length) return values.some((item) => equal(item, value)) ? 4 : 0;
  if (type === "integer" && kind === "number") return /^-?\d+$/.test(write(value)) ? 3 : 0;
  if (type && type !== kind) return 0;
  const wrong = Object.entries(tags(schema)).some(([name, tag]) => !equal(own(value, name), tag));
  const has = (/** @type {Json} */ name) => own(value, String(name)) !== undefined;
  return wrong ? 0 : 1 + Number(listOf(schema.required).every(has)) + Number(entries(schema.properties).some(([name]) => has(name)));
}

/** What a variant of a union is called. @param {Schema} schema @param {Schema} root @returns {string} */
export function nameOf(schema, root) {
  const kind = kindOf(schema);
  const tag = Object.values(tags(schema));
  if (kind === "array") return kind;
  if (tag.length || schema.title) return tag.join(" ") || String(schema.title);
  if (kind === "choice") return choices(schema).map((value) => write(value)).join(" | ");
  if (kind !== "list") return kind === "json" ? String(schema.type ?? "anything") : kind;
  const item = dissect(schema.items, root);
  return item.variants.length || kindOf(item.schema) === "list" ? "nested list" : `list of ${nameOf(item.schema, root)}`;
}

/** A schema's own words, without the line ends of a docstring. @param {Schema} schema */
export function help({ description }) {
  const paragraphs = typeof description === "string" ? description.slice(0, 4000).split(/\n\s*\n/) : [];
  return paragraphs.map((text) => text.trim().replace(/\s+/g, " ")).join("\n\n");
}

/** A limit of a schema; null where there is none. @param {Json} schema @param {string} keyword */
export function limit(schema, keyword) {
  const value = own(schema, keyword);
  return typeof value === "number" ? value : null;
}

/**
 * What is wrong with a size.
 *
 * @param {number} size
 * @param {Schema} schema
 * @param {"Items" | "Properties" | "Length"} what
 * @param {string} [unit]
 */
export function countProblem(size, schema, what, unit = "item") {
  const units = (/** @type {number} */ bound) => `${bound} ${unit}${bound === 1 ? "" : "s"}`;
  const [least, most] = [limit(schema, `min${what}`), limit(schema, `max${what}`)];
  if (least !== null && size < least) return `expected at least ${units(least)}, got ${size}`;
  return most !== null && size > most ? `expected at most ${units(most)}, got ${size}` : null;
}

/**
 * @param {string} text
 * @param {Schema} schema
 * @returns {string | null}
 */
export function stringProblem(text, schema) {
  const { length } = [...text];
  const pattern = String(schema.pattern ?? "");
  const wrong = countProblem(length, schema, "Length", "character");
  // A repeated group may take for ever on a hostile pattern: that is the server's then.
  if (wrong || /\)[*+{]/.test(pattern) || length > 1000) return wrong;
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

/** Whether it is an integer, of any size. @param {string} text */
export const isWhole = (text) => /^[+-]?\d+$/.test(text);

/**
 * @param {string} text of a number
 * @param {Schema} schema
 * @returns {string | null}
 */
export function numberProblem(text, schema) {
  const value = Number(text);
  const decimal = schema.type !== "integer" && Number.isFinite(value) && /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text);
  if (!decimal && !isWhole(text)) return `expected ${schema.type === "integer" ? "an integer" : "a number"}${text && `, got ${JSON.stringify(text)}`}`;
  // JavaScript compares integers of any size with numbers exactly.
  const exact = isWhole(text) ? BigInt(text.replace("+", "")) : value;
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
  if (["choice", "boolean", "struct", "json"].includes(kind)) return "";
  const bounds = BOUNDS.map(([keyword, words]) => [words, limit(schema, keyword)]).filter(([, bound]) => Math.abs(Number(bound ?? NaN)) < 2 ** 53);
  const most = limit(schema, "maxLength") ?? limit(schema, "maxItems");
  return [
    String(schema.format) in EXAMPLES ? schema.format : kind,
    ...bounds.map((words) => words.join(" ")),
    most !== null && `at most ${most}${kind === "string" ? " characters" : ""}`,
    schema.multipleOf && `multiple of ${schema.multipleOf}`,
  ].filter(Boolean).join(", ");
}
