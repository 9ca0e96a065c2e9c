/**
 * JSON Schema, as far as msgspec and pydantic write it.
 *
 * @import {Json, Schema} from "../types.js"
 */
import { count, entries, equal, isObject, listOf, own, write } from "../render/values.js";

/** References and unions in one another; hostile schemas go in circles. */
const HOPS = 32;
const VARIANTS = 64;
const SCALARS = ["string", "integer", "number", "boolean"];

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
    const steps = String(reference ?? "").split("/").slice(1);
    const target = reference ? steps.reduce((/** @type {Json | undefined} */ at, step) => own(at, step), root) : listOf(all)[0];
    if (!reference && !all) return found;
    found = isObject(target) ? { ...target, ...rest } : rest;
  }
  return {};
}

/** The values that a schema allows, where they are listed. @param {Schema} schema */
export function choices(schema) {
  return Object.hasOwn(schema, "const") ? [schema.const] : listOf(schema.enum);
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
  const fixed = entries(schema.properties)
    .map(([name, property]) => /** @type {[string, Json[]]} */ ([name, isObject(property) ? choices(property) : []]))
    .filter(([name, values]) => values.length === 1 && listOf(schema.required).includes(name));
  return Object.fromEntries(fixed.map(([name, [value]]) => [name, value]));
}

/** What makes the control of a schema that is no union. @param {Schema} schema */
export function kindOf({ properties, ...schema }) {
  const { type } = schema;
  if (choices(schema).length) return "choice";
  if (properties) return own(own(properties, "data"), "contentEncoding") && own(properties, "dtype") ? "array" : "struct";
  if (schema.prefixItems) return isObject(schema.items) ? "json" : "tuple";
  if (type === "array" && isObject(schema.items)) return "list";
  if (type === "object" && isObject(schema.additionalProperties)) return "map";
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
  const type = String(schema.type ?? "");
  if (values.length) return values.some((item) => equal(item, value)) ? 4 : 0;
  const kind = Array.isArray(value) ? "array" : count(value) !== null ? "object" : typeof value === "object" ? "number" : typeof value;
  if (type === "integer" && kind === "number") return Number.isInteger(value) || typeof value === "object" ? 3 : 0;
  if (type && type !== kind) return 0;
  const wrong = Object.entries(tags(schema)).some(([name, tag]) => !equal(own(value, name), tag));
  const has = (/** @type {Json} */ name) => own(value, String(name)) !== undefined;
  return wrong ? 0 : 1 + (listOf(schema.required).every(has) ? 1 : 0) + (entries(schema.properties).some(([name]) => has(name)) ? 1 : 0);
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
