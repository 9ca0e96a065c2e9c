/**
 * Arrays as the wire has them in JSON: dtype, shape and base64.
 *
 * @typedef {{kind: "array", dtype: string, shape: number[], data: string}} Wire
 * @typedef {{dtype: string, shape: number[], size: number, values: ArrayLike<number | bigint>}} Numbers
 */
import { isObject } from "./values.js";

/** Elements that are read; an array with more is shown by its head. */
export const MOST = 4_000_000;

/** Readers of a `DataView` by type, without `get`. @type {Record<string, string>} */
const READERS = {
  i1: "Int8", u1: "Uint8", b1: "Uint8", i2: "Int16", u2: "Uint16", i4: "Int32", u4: "Uint32",
  i8: "BigInt64", u8: "BigUint64", f2: "Float16", f4: "Float32", f8: "Float64",
};

/**
 * @param {unknown} value
 * @returns {value is Wire}
 */
export function isArray(value) {
  if (!isObject(value)) return false;
  const { kind, dtype, shape, data } = value;
  const sizes = Array.isArray(shape) && shape.every((size) => Number.isSafeInteger(size) && Number(size) >= 0);
  return kind === "array" && typeof dtype === "string" && typeof data === "string" && sizes;
}

/** Read base64, or null where it is none. @param {string} text */
export function fromBase64(text) {
  try {
    return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  } catch {
    return null;
  }
}

/** @param {Uint8Array} bytes */
export const toBase64 = (bytes) => btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));

/**
 * A function of `DataView` for a dtype; null for what is no number.
 *
 * @param {string} dtype
 * @param {"get" | "set"} verb
 */
function accessor(dtype, verb) {
  const [, order, code, size] = /^([<>|=])([a-z])(\d)$/.exec(dtype) ?? [];
  const name = /** @type {"setFloat64"} */ (`${verb}${READERS[code + size]}`);
  // Not every browser has half-precision numbers.
  return name in DataView.prototype ? { name, code, size: Number(size), little: order !== ">" } : null;
}

/**
 * The elements of an array, or why they cannot be shown.
 *
 * @param {Wire} wire
 * @returns {Numbers | string}
 */
export function decodeArray({ dtype, shape, data }) {
  const bytes = fromBase64(data);
  const type = accessor(dtype, "get");
  const size = shape.reduce((product, length) => product * length, 1);
  if (!bytes) return "expected base64 as data";
  if (!type) return `elements of type ${dtype} are not shown`;
  if (bytes.length !== size * type.size) return `expected ${size * type.size} bytes, got ${bytes.length}`;
  const shown = Math.min(size, MOST);
  const view = new DataView(bytes.buffer);
  const read = /** @type {(at: number, little: boolean) => number} */ (/** @type {unknown} */ (view[type.name])).bind(view);
  const wide = type.size === 8 && type.code !== "f";
  const values = type.size === 1 && type.code !== "i" ? bytes.subarray(0, shown) : wide ? new Array(shown) : new Float64Array(shown);
  if (values instanceof Uint8Array) return { dtype, shape, size, values };
  for (let at = 0; at < shown; at += 1) values[at] = read(at * type.size, type.little);
  return { dtype, shape, size, values };
}

/**
 * Pack numbers.
 *
 * @param {(number | bigint)[]} values
 * @param {number[]} shape
 * @param {string} dtype
 * @returns {Wire}
 * @throws {Error} they do not fit
 */
export function encodeArray(values, shape, dtype) {
  const type = accessor(dtype, "set");
  if (!type) throw new Error(`expected a dtype of numbers, got ${dtype}`);
  const { name, code, size, little } = type;
  const bytes = new Uint8Array(values.length * size);
  const view = new DataView(bytes.buffer);
  const most = code === "b" ? 1n : 2n ** BigInt(size * 8 - (code === "i" ? 1 : 0)) - 1n;
  const least = code === "i" ? -most - 1n : 0n;
  for (const [at, value] of values.entries()) {
    const whole = typeof value === "bigint" || Number.isInteger(value);
    if (code !== "f" && (!whole || value < least || value > most)) throw new Error(`expected values of ${dtype}, got ${value}`);
    view[name](at * size, /** @type {number} */ (size === 8 && code !== "f" ? BigInt(value) : Number(value)), little);
  }
  return { kind: "array", dtype, shape, data: toBase64(bytes) };
}
