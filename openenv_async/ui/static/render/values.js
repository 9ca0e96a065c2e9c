/**
 * JSON values: comparing and writing them without recursion, because a hostile one may be
 * deeper than the stack.
 *
 * @import {Json, JsonObject} from "../types.js"
 * @typedef {(string | number)[]} Path
 */

/** @type {{rawJSON?: (text: string) => Json, isRawJSON?: (value: unknown) => boolean}} */
const exactJson = /** @type {object} */ (JSON);

/**
 * Whether it is a number kept as text, which `JSON.stringify` writes as it is.
 *
 * @param {unknown} value
 * @returns {value is {rawJSON: string}}
 */
export const isRaw = (value) => exactJson.isRawJSON?.(value) ?? false;

/**
 * A number that JSON writes exactly; null where this browser has none such.
 *
 * @param {string} digits
 * @returns {Json}
 */
export function exactInteger(digits) {
  const number = Number(digits);
  return Number.isSafeInteger(number) ? number : (exactJson.rawJSON?.(String(BigInt(digits.replace("+", "")))) ?? null);
}

/** @param {unknown} value */
export const typeOf = (value) => (value === null ? "null" : Array.isArray(value) ? "array" : isRaw(value) ? "number" : typeof value);

/**
 * @param {unknown} value
 * @returns {value is JsonObject}
 */
export const isObject = (value) => typeOf(value) === "object";

/**
 * What an object itself has under a key, never what it inherits.
 *
 * @param {unknown} value
 * @param {string | number} key
 * @returns {Json | undefined}
 */
export function own(value, key) {
  return value && Object.hasOwn(value, key) ? /** @type {JsonObject} */ (value)[key] : undefined;
}

/** @param {unknown} value @returns {Json[]} */
export const listOf = (value) => (Array.isArray(value) ? value : []);

/** What an object has; nothing where it is none. @param {unknown} value @returns {[string, Json][]} */
export const entries = (value) => (isObject(value) ? Object.entries(value) : []);

/** How many items or keys; null for what holds none. @param {Json} value */
export function count(value) {
  return Array.isArray(value) ? value.length : isObject(value) ? Object.keys(value).length : null;
}

/** @param {Json | undefined} left @param {Json | undefined} right */
export function equal(left, right) {
  const pairs = [[left, right]];
  for (let pair = pairs.pop(); pair; pair = pairs.pop()) {
    const [a, b] = pair;
    if (a === b || (isRaw(a) && isRaw(b) && a.rawJSON === b.rawJSON)) continue;
    const size = count(a ?? null);
    if (!a || !b || typeOf(a) !== typeOf(b) || size === null || size !== count(b)) return false;
    for (const key of Object.keys(a)) {
      if (!Object.hasOwn(Object(b), key)) return false;
      pairs.push([own(a, key), own(b, key)]);
    }
  }
  return true;
}

/**
 * Write as JSON, up to about `limit` characters; `…` stands for the rest.
 *
 * @param {Json} value
 * @param {number} [limit]
 * @param {string} [indent] of each level; without it, everything is on one line
 */
export function write(value, limit = Infinity, indent = "") {
  /** @type {string[]} */
  const parts = [];
  let size = 0;
  /** @type {{keys: string[], value: Json, list: boolean, at: number}[]} */
  const stack = [];
  /** @param {string} text */
  const add = (text) => (size += parts.push(text) && text.length);
  const line = () => (indent ? `\n${indent.repeat(Math.min(stack.length, 40))}` : "");
  const quoted = (/** @type {string} */ text) => JSON.stringify(text.slice(0, limit));
  /** @param {Json} item */
  const open = (item) => {
    const list = Array.isArray(item);
    if (!count(item)) return add(typeof item === "string" ? quoted(item) : JSON.stringify(item));
    add(list ? "[" : "{");
    stack.push({ keys: Object.keys(Object(item)), value: item, list, at: 0 });
  };
  open(value);
  for (let top = stack.at(-1); top && size <= limit; top = stack.at(-1)) {
    const { keys, list } = top;
    if (top.at === keys.length) {
      stack.pop();
      add(line() + (list ? "]" : "}"));
      continue;
    }
    const key = keys[top.at];
    add(`${top.at ? (indent ? "," : ", ") : ""}${line()}${list ? "" : `${quoted(key)}: `}`);
    top.at += 1;
    open(own(top.value, key) ?? null);
  }
  const text = parts.join("");
  return stack.length || text.length > limit ? `${text.slice(0, limit)}…` : text;
}

/** @param {Path} path */
export function pathText(path) {
  const steps = path.map((step) => (/^[\p{L}_][\p{L}\p{N}_]*$/u.test(String(step)) ? `.${step}` : `[${JSON.stringify(step)}]`));
  return steps.join("").replace(/^\./, "") || "(whole)";
}
