/**
 * Controls of single values.
 *
 * @import {Json, Schema} from "../types.js"
 * @import {Control, Maker} from "./field.js"
 */
import { h } from "../dom.js";
import { decodeArray, encodeArray, fromBase64, isArray, product } from "../render/arrays.js";
import { box, line, span } from "../render/text.js";
import { equal, exactInteger, isRaw, listOf, own, write } from "../render/values.js";
import { choices, EXAMPLES, isWhole, limit, numberProblem, stringProblem } from "./schema.js";

/** Names of what is rarely one line. */
const LONG = /^(code|text|prompt|source|script|content|markdown|patch|diff|body|answer|completion)$/i;
const LANGUAGE = /^(code|source|script|patch|diff|sql|query|command)$/i;
/** Choices that are buttons rather than a list, and their letters. */
const BUTTONS = 8;
const LETTERS = 64;
const DTYPES = ["<f4", "<f8", "<i4", "<i8", "|u1", "|b1", "|i1", "<i2", "<u2", "<u4", "<u8"];
/** Elements of an array that are written out. */
const WRITTEN = 4096;
let groups = 0;

/**
 * Whether a text has many lines, by its schema or, without a word there, by its name.
 *
 * @param {Schema} schema
 * @param {string} name
 */
function isLong(schema, name) {
  if (typeof schema["x-multiline"] === "boolean") return schema["x-multiline"];
  if (typeof schema.format === "string") return /^(multiline|textarea|code|markdown)$/.test(schema.format);
  return /^text\/|json|xml|yaml/.test(String(schema.contentMediaType)) || (limit(schema, "maxLength") ?? 0) > 1000 || LONG.test(name);
}

/** A text area, which grows with its text. @param {{mono?: boolean, placeholder?: string, multi?: boolean}} [options] */
function area({ mono = true, placeholder, multi = true } = {}) {
  const data = multi ? { multi: "" } : {};
  return h("textarea", { class: mono ? "input mono" : "input", rows: multi ? 3 : 1, placeholder, spellcheck: "false", autocomplete: "off", data });
}

/**
 * A control of a text, which keeps a value as it came while nobody edits it: a text area
 * changes line ends, and numbers and JSON may hold more than their text tells.
 *
 * @param {HTMLTextAreaElement | HTMLInputElement} element
 * @param {() => Json | undefined} read
 * @param {(value: Json) => string} show
 */
function keeping(element, read, show) {
  /** @type {Json | undefined} */
  let kept;
  let shown = "";
  return {
    element,
    get: () => (kept !== undefined && element.value === shown ? kept : read()),
    /** @param {Json} value */
    set: (value) => {
      element.value = show(value);
      shown = element.value;
      kept = value;
    },
  };
}

/**
 * What reads a text by a function that throws where there is something wrong with it.
 *
 * @param {() => Json} parse
 * @param {string} [prefix]
 */
function reading(parse, prefix = "") {
  /** @returns {{value?: Json, problem: string | null}} */
  return () => {
    try {
      return { value: parse(), problem: null };
    } catch (error) {
      return { problem: prefix + (error instanceof Error ? error.message : error) };
    }
  };
}

/** A text, or bytes in base64. @type {Maker} */
export function text(schema, { name }) {
  const base64 = schema.contentEncoding === "base64";
  const placeholder = base64 ? "base64" : EXAMPLES[String(schema.format)];
  const mono = Boolean(placeholder) || LANGUAGE.test(name) || schema.format === "code" || "contentMediaType" in schema;
  const input = area({ mono, placeholder, multi: isLong(schema, name) });
  const read = () => (base64 ? input.value.replace(/\s/g, "") : input.value);
  const held = keeping(input, read, (value) => (typeof value === "string" ? value : write(value)));
  const check = () => {
    const value = String(held.get());
    return base64 && !fromBase64(value) ? "expected base64" : stringProblem(value, schema);
  };
  return { ...held, check };
}

/** A number, written as text so that any integer keeps all its digits. @type {Maker} */
export function number(schema) {
  const input = h("input", { class: "input mono", inputmode: "decimal", autocomplete: "off", spellcheck: "false" });
  const value = () => input.value.trim();
  const read = () => {
    if (numberProblem(value(), { type: schema.type ?? null })) return undefined;
    return isWhole(value()) ? (exactInteger(value()) ?? undefined) : Number(value());
  };
  const show = (/** @type {Json} */ given) => (isRaw(given) ? given.rawJSON : String(Number.isInteger(given) ? BigInt(Number(given)) : given));
  const check = () => {
    const problem = numberProblem(value(), schema);
    if (problem || read() !== undefined) return problem;
    return `expected an integer within ±2^53, all that this browser sends exactly, got ${value()}`;
  };
  return { ...keeping(input, read, show), check };
}

/** One of few: buttons where they are short, otherwise a list. @param {Json[]} values @returns {Control} */
export function choice(values) {
  const words = values.map((value) => line(typeof value === "string" && value ? value : write(value), 80));
  const short = values.length <= BUTTONS && words.join("").length <= LETTERS;
  const name = `choice-${(groups += 1)}`;
  const radios = values.map((_, value) => h("input", { type: "radio", name, value, checked: !value }));
  const select = h("select", { class: "input" }, ...words.map((word) => h("option", {}, word)));
  const labels = radios.map((input, index) => h("label", {}, input, h("span", {}, words[index])));
  const at = () => (short ? radios.findIndex((input) => input.checked) : select.selectedIndex);
  return {
    element: short ? h("div", { class: "choices", role: "radiogroup" }, ...labels) : select,
    get: () => values[at()],
    set: (value) => {
      select.selectedIndex = values.findIndex((item) => equal(item, value));
      radios.forEach((input, index) => (input.checked = index === select.selectedIndex));
    },
    check: () => (at() < 0 ? "expected one of these" : null),
  };
}

/** @type {Maker} */
export function boolean() {
  const input = h("input", { type: "checkbox" });
  return { element: box("switch", input), get: () => input.checked, set: (value) => (input.checked = value === true) };
}

/** Anything, as JSON: for what no other control can tell. @type {Maker} */
export function json({ type }) {
  const input = area({ placeholder: "JSON" });
  input.value = { object: "{}", array: "[]" }[String(type)] ?? "";
  const read = reading(() => exactly(input.value), "expected JSON: ");
  return { ...keeping(input, () => read().value, (value) => write(value, Infinity, "  ")), check: () => read().problem };
}

/**
 * Read JSON; integers beyond 2^53 keep their digits where the browser can.
 *
 * @param {string} source
 * @returns {Json}
 */
export function exactly(source) {
  /** @type {(key: string, value: Json, context?: {source?: string}) => Json} */
  const revive = (_, value, { source: digits = "" } = {}) =>
    typeof value === "number" && !Number.isSafeInteger(value) && isWhole(digits) ? (exactInteger(digits) ?? value) : value;
  return JSON.parse(source, revive);
}

/**
 * Numbers of nested lists with their shape; throws where they are none.
 *
 * @param {Json} lists
 */
function flatten(lists) {
  const shape = [];
  let level = [lists];
  while (Array.isArray(level[0]) && shape.length < 32) {
    const { length } = level[0];
    if (!level.every((item) => Array.isArray(item) && item.length === length)) throw new Error("expected lists of equal length");
    shape.push(length);
    level = level.flat(1);
  }
  const values = level.map((item) => {
    if (isRaw(item)) return BigInt(item.rawJSON);
    if (typeof item !== "number" && typeof item !== "boolean") throw new Error("expected numbers in nested lists");
    return Number(item);
  });
  return { values, shape };
}

/**
 * @param {ArrayLike<unknown>} values
 * @param {number[]} shape
 * @returns {string}
 */
function nested(values, [length, ...rest], from = 0) {
  if (length === undefined) return String(values[from] ?? 0);
  const items = Array.from({ length }, (_, index) => nested(values, rest, from + index * product(rest)));
  return `[${items.join(rest.length ? ",\n " : ", ")}]`;
}

/** An array, as nested lists. @type {Maker} */
export function tensor({ properties }) {
  const types = choices(own(properties, "dtype"));
  const [only] = choices(own(properties, "shape"));
  const wanted = only === undefined ? null : listOf(only).map(Number);
  const names = (types.length ? types : DTYPES).map((name) => h("option", {}, String(name)));
  const dtype = h("select", { class: "input mono", "aria-label": "dtype" }, ...names);
  const input = area();
  input.setAttribute("aria-label", "values as nested lists");
  input.value = product(wanted ?? []) > WRITTEN ? "" : nested([], wanted ?? [0]);
  const read = reading(() => {
    const { values, shape } = flatten(exactly(input.value));
    if (wanted && String(wanted) !== String(shape)) throw new Error(`expected shape [${wanted}], got [${shape}]`);
    return encodeArray(values, shape, dtype.value);
  });
  // Infinity and NaN have no JSON, so what came stays while nobody edits it.
  /** @type {string | undefined} */
  let kept;
  const held = keeping(input, () => read().value, (value) => {
    const array = isArray(value) ? decodeArray(value) : "";
    if (typeof array === "string") return "";
    if (![...dtype.options].some((option) => option.value === array.dtype)) dtype.append(h("option", {}, array.dtype));
    kept = dtype.value = array.dtype;
    return array.size > WRITTEN ? `… ${array.size} values, kept as they are` : nested(array.values, array.shape);
  });
  const get = () => (kept === dtype.value ? held.get() : read().value);
  const shape = span("field-hint", wanted ? `shape [${wanted.join(", ")}]` : "as nested lists");
  const check = () => (get() === undefined ? read().problem : null);
  return { ...held, element: box("fields", box("row", dtype, shape), input), get, check };
}
