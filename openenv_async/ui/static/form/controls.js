/**
 * Controls of single values.
 *
 * @import {Json, Schema} from "../types.js"
 * @import {Control, Maker} from "./field.js"
 */
import { h } from "../dom.js";
import { box } from "../render/parts.js";
import { line } from "../render/text.js";
import { equal, exactInteger, isRaw, write } from "../render/values.js";
import { FORMATS, limit, numberProblem, stringProblem } from "./checks.js";

/** Names of what is rarely one line. */
const LONG = /^(code|text|prompt|source|script|content|markdown|patch|diff|body|answer|completion)$/i;
const LANGUAGE = /^(code|source|script|patch|diff|sql|query|command)$/i;
/** Choices that are buttons rather than a list. */
const BUTTONS = 8;
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

/** @param {{rows: number, mono?: boolean, placeholder?: string, multi?: boolean}} options */
export function area({ rows, mono = true, placeholder, multi = true }) {
  const data = multi ? { multi: "" } : {};
  return h("textarea", { class: mono ? "input mono" : "input", rows, placeholder, spellcheck: "false", autocomplete: "off", data });
}

/**
 * Keep a value as it came while nobody edits its text: a text area changes line ends, and
 * numbers and JSON may hold more than their text tells.
 *
 * @param {HTMLTextAreaElement | HTMLInputElement} input
 * @param {() => Json | undefined} read
 * @param {(value: Json) => string} show
 */
export function keeping(input, read, show) {
  /** @type {Json | undefined} */
  let kept;
  let shown = "";
  return {
    get: () => (kept !== undefined && input.value === shown ? kept : read()),
    /** @param {Json} value */
    set: (value) => {
      input.value = show(value);
      shown = input.value;
      kept = value;
    },
  };
}

/** @type {Maker} */
export function text(schema, { name }) {
  const format = FORMATS[String(schema.format)];
  const multi = isLong(schema, name);
  const mono = Boolean(format) || LANGUAGE.test(name) || schema.format === "code" || "contentMediaType" in schema;
  const input = area({ rows: multi ? 6 : 1, mono, placeholder: format?.[0], multi });
  const held = keeping(input, () => input.value, (value) => (typeof value === "string" ? value : write(value)));
  return { element: input, ...held, check: () => stringProblem(String(held.get()), schema) };
}

/** A number, written as text so that any integer keeps all its digits. @type {Maker} */
export function number(schema) {
  const input = h("input", { class: "input mono", inputmode: "decimal", autocomplete: "off", spellcheck: "false" });
  const value = () => input.value.trim();
  const whole = () => /^[+-]?\d+$/.test(value());
  input.addEventListener("keydown", (event) => {
    const step = { ArrowUp: 1n, ArrowDown: -1n }[event.key];
    if (!step || event.altKey || event.ctrlKey || event.metaKey || (value() && !whole())) return;
    event.preventDefault();
    const next = String(BigInt(value().replace("+", "")) + step);
    if (numberProblem(next, schema)) return;
    input.value = next;
    input.dispatchEvent(new Event("input", { bubbles: true }));
  });
  const read = () => {
    if (numberProblem(value(), { type: schema.type ?? null })) return undefined;
    return whole() ? (exactInteger(value()) ?? undefined) : Number(value());
  };
  return {
    element: input,
    ...keeping(input, read, (given) => (isRaw(given) ? given.rawJSON : String(Number.isInteger(given) ? BigInt(Number(given)) : given))),
    check: () => {
      const problem = numberProblem(value(), schema);
      if (problem || !whole() || exactInteger(value()) !== null) return problem;
      return `expected an integer within ±2^53, all that this browser sends exactly, got ${value()}`;
    },
  };
}

/** One of few: buttons where they are short, otherwise a list. @param {Json[]} values @returns {Control} */
export function choice(values) {
  const words = values.map((value) => line(typeof value === "string" && value ? value : write(value), 80));
  const short = values.length <= BUTTONS && words.join("").length <= 48;
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
  const input = area({ rows: 3, placeholder: "JSON" });
  input.value = { object: "{}", array: "[]" }[String(type)] ?? "";
  /** @returns {{value?: Json, problem: string | null}} */
  const read = () => {
    try {
      const value = exactly(input.value);
      const kind = value === null ? "null" : Array.isArray(value) ? "array" : typeof value;
      const wrong = (type === "object" || type === "array") && kind !== type;
      return wrong ? { problem: `expected an ${type}, got ${kind}` } : { value, problem: null };
    } catch (error) {
      return { problem: `expected JSON: ${error instanceof Error ? error.message : error}` };
    }
  };
  const show = (/** @type {Json} */ value) => write(value, Infinity, "  ");
  return { element: input, ...keeping(input, () => read().value, show), check: () => read().problem };
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
    typeof value === "number" && !Number.isSafeInteger(value) && /^-?\d+$/.test(digits) ? (exactInteger(digits) ?? value) : value;
  return JSON.parse(source, revive);
}
