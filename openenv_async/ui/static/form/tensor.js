/**
 * Controls of arrays and bytes, which JSON carries in base64.
 *
 * @import {Json} from "../types.js"
 * @import {Maker} from "./field.js"
 */
import { h } from "../dom.js";
import { box, span } from "../render/parts.js";
import { decodeArray, encodeArray, fromBase64, isArray, toBase64 } from "../render/ndarray.js";
import { isObject, isRaw, listOf, own } from "../render/values.js";
import { countProblem } from "./checks.js";
import { area, exactly, keeping } from "./controls.js";
import { choices } from "./schema.js";

const DTYPES = ["<f4", "<f8", "<i4", "<i8", "|u1", "|b1", "|i1", "<i2", "<u2", "<u4", "<u8"];
/** Elements that are written out. */
const WRITTEN = 4096;

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
    if (typeof item === "number" || typeof item === "boolean") return Number(item);
    if (isRaw(item)) return BigInt(item.rawJSON);
    throw new Error("expected numbers in nested lists");
  });
  return { values, shape };
}

/**
 * @param {ArrayLike<unknown>} values
 * @param {number[]} shape
 * @returns {string}
 */
function nested(values, [length, ...rest], from = 0) {
  if (length === undefined) return String(values[from]);
  const size = rest.reduce((product, next) => product * next, 1);
  const items = Array.from({ length }, (_, index) => nested(values, rest, from + index * size));
  return `[${items.join(rest.length ? ",\n " : ", ")}]`;
}

/** @type {Maker} */
export function tensor({ properties }) {
  const [types, shapes] = ["dtype", "shape"].map((name) => own(properties, name)).map((part) => (isObject(part) ? choices(part) : []));
  const names = types.length ? types : DTYPES;
  const wanted = shapes.length ? listOf(shapes[0]).map(Number) : null;
  const dtype = h("select", { class: "input mono", "aria-label": "dtype" }, ...names.map((name) => h("option", {}, String(name))));
  const input = area({ rows: 2 });
  input.setAttribute("aria-label", "values as nested lists");
  const [lows, highs] = ["low", "high"].map((name) => [own(own(properties, "data"), name)].flat(8));
  /** @param {(Json | undefined)[]} bounds @param {number} index @param {number} without */
  const bound = (bounds, index, without) => Number((bounds.length > 1 ? bounds[index] : bounds[0]) ?? without);
  const size = (wanted ?? [0]).reduce((product, length) => product * length, 1);
  const start = Array.from({ length: size > WRITTEN ? 0 : size }, (_, at) => Math.min(Math.max(0, bound(lows, at, 0)), bound(highs, at, Infinity)));
  input.value = size > WRITTEN ? "" : nested(start, wanted ?? [0]);
  /** @type {string | undefined} */
  let kept;
  /** @returns {{value?: Json, problem: string | null}} */
  const read = () => {
    try {
      const { values, shape } = flatten(exactly(input.value));
      if (wanted && String(wanted) !== String(shape)) throw new Error(`expected shape [${wanted}], got [${shape}]`);
      for (const [index, value] of values.entries()) {
        const [low, high] = [bound(lows, index, -Infinity), bound(highs, index, Infinity)];
        if (value < low || value > high) throw new Error(`expected ${low} to ${high}, got ${value}`);
      }
      return { value: encodeArray(values, shape, dtype.value), problem: null };
    } catch (error) {
      return { problem: error instanceof Error ? error.message : String(error) };
    }
  };
  // Infinity and NaN have no JSON, so what came stays while nobody edits it.
  const held = keeping(input, () => read().value, (value) => {
    const array = isArray(value) ? decodeArray(value) : "";
    if (typeof array === "string") return "";
    if (![...dtype.options].some((option) => option.value === array.dtype)) dtype.append(h("option", {}, array.dtype));
    kept = dtype.value = array.dtype;
    return array.size > WRITTEN ? `… ${array.size} values, kept as they are` : nested(array.values, array.shape);
  });
  const value = () => (kept === dtype.value ? held.get() : read().value);
  const shape = span("field-hint", wanted ? `shape [${wanted.join(", ")}]` : "as nested lists");
  return {
    element: box("fields", box("row", dtype, shape), input),
    get: value,
    set: held.set,
    check: () => (value() === undefined ? read().problem : null),
  };
}

/** Bytes, typed as text or as base64. @type {Maker} */
export function bytes(schema) {
  const written = h("select", { class: "input small", "aria-label": "written as" }, h("option", {}, "text"), h("option", {}, "base64"));
  const input = area({ rows: 2 });
  const read = () => (written.value === "text" ? new TextEncoder().encode(input.value) : fromBase64(input.value.replace(/\s/g, "")));
  /** @param {Uint8Array} data */
  const show = (data) => {
    const text = new TextDecoder().decode(data);
    // Line ends, a byte order mark and what is no UTF-8 would not come back from text.
    const same = !text.includes("\r") && toBase64(new TextEncoder().encode(text)) === toBase64(data);
    if (!same) written.value = "base64";
    input.value = written.value === "text" ? text : toBase64(data);
  };
  written.addEventListener("change", () => {
    const data = written.value === "text" ? fromBase64(input.value) : new TextEncoder().encode(input.value);
    if (data) show(data);
  });
  return {
    element: box("fields", input, box("row", written)),
    get: () => {
      const data = read();
      return data ? toBase64(data) : undefined;
    },
    set: (value) => show(fromBase64(String(value)) ?? new Uint8Array()),
    check: () => {
      const data = read();
      return data ? countProblem(data.length, schema, "Length", "byte") : "expected base64";
    },
  };
}
