/**
 * Arrays as the wire has them in JSON, and images: both as pictures.
 *
 * @typedef {{kind: "array", dtype: string, shape: number[], data: string}} Wire
 * @typedef {{dtype: string, shape: number[], size: number, values: ArrayLike<number | bigint>}} Numbers
 */
import { h, svg } from "../dom.js";
import { box, counted, line, scrolls } from "./text.js";
import { isObject } from "./values.js";

/** Elements that are read; an array with more is shown by its head. */
const MOST = 4_000_000;
/** Pixels that are decoded or drawn at most: a few bytes may claim to be gigabytes. */
const PIXELS = 16_000_000;
const BASE64 = 64_000_000;
/** Values that are written out. */
const WRITTEN = 100;
const WIDTH = 320;
/** Colours of a heat map, from least to most. */
const SCALE = [[68, 1, 84, 255], [33, 145, 140, 255], [253, 231, 37, 255]];

/** Not every browser has half-precision numbers. @type {Record<string, Float64ArrayConstructor>} */
const TYPES = Object({
  i1: Int8Array, u1: Uint8Array, b1: Uint8Array, i2: Int16Array, u2: Uint16Array, i4: Int32Array, u4: Uint32Array,
  i8: BigInt64Array, u8: BigUint64Array, f2: Reflect.get(window, "Float16Array"), f4: Float32Array, f8: Float64Array,
});

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

/** @param {number[]} lengths */
export const product = (lengths) => lengths.reduce((size, length) => size * length, 1);

/** How the elements of a dtype are kept; null for what is no number. @param {string} dtype */
function format(dtype) {
  const [, order, code = ""] = /^([<>|=])([a-z]\d)$/.exec(dtype) ?? [];
  const Type = TYPES[code];
  /** Turn the bytes of each element round where the order asks for it. @param {Uint8Array} bytes */
  const ordered = (bytes) => {
    const size = Type.BYTES_PER_ELEMENT;
    for (let at = 0; order === ">" && at < bytes.length; at += size) bytes.subarray(at, at + size).reverse();
    return bytes;
  };
  return Type ? { Type, code, ordered } : null;
}

/**
 * The elements of an array, or why they cannot be shown.
 *
 * @param {Wire} wire
 * @returns {Numbers | string}
 */
export function decodeArray({ dtype, shape, data }) {
  const bytes = fromBase64(data);
  const found = format(dtype);
  const size = product(shape);
  if (!bytes) return "expected base64 as data";
  if (!found) return `elements of type ${dtype} are not shown`;
  const { Type, ordered } = found;
  const wanted = size * Type.BYTES_PER_ELEMENT;
  if (bytes.length !== wanted) return `expected ${wanted} bytes, got ${bytes.length}`;
  return { dtype, shape, size, values: new Type(ordered(bytes).buffer, 0, Math.min(size, MOST)) };
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
  const found = format(dtype);
  if (!found) throw new Error(`expected a dtype of numbers, got ${dtype}`);
  const { Type, code, ordered } = found;
  const wide = Type.name.startsWith("Big");
  const packed = Type.from(values, (value) => /** @type {number} */ (wide ? BigInt(typeof value === "number" ? Math.trunc(value) : value) : Number(value)));
  // What does not fit comes back as something else.
  const wrong = values.find((value, at) => (code === "b1" && value > 1) || String(packed[at]) !== String(value));
  if (wrong !== undefined && !code.startsWith("f")) throw new Error(`expected values of ${dtype}, got ${wrong}`);
  const letters = Array.from(ordered(new Uint8Array(packed.buffer)), (byte) => String.fromCharCode(byte));
  return { kind: "array", dtype, shape, data: btoa(letters.join("")) };
}

/**
 * Type and size of an encoded image, from its first bytes; null for what is none.
 *
 * @param {Uint8Array} bytes
 */
function sniff(bytes) {
  const view = new DataView(bytes.buffer);
  const magic = String.fromCharCode(...bytes.subarray(0, 6));
  if (bytes.length < 30) return null;
  if (magic === "\x89PNG\r\n") return { type: "png", width: view.getUint32(16), height: view.getUint32(20) };
  if (/^GIF8[79]a/.test(magic)) return { type: "gif", width: view.getUint16(6, true), height: view.getUint16(8, true) };
  for (let at = 2; at + 9 < bytes.length && bytes[at] === 0xff; at += 2 + view.getUint16(at + 2))
    // A start of frame, of any kind of JPEG.
    if (bytes[at + 1] >> 4 === 0xc && ![0xc4, 0xc8, 0xcc].includes(bytes[at + 1]))
      return { type: "jpeg", width: view.getUint16(at + 7), height: view.getUint16(at + 5) };
  return null;
}

/** @param {string} text */
const warning = (text) => h("p", { class: "notice warn" }, line(text, 300));

/**
 * A PNG, JPEG or GIF in base64, alone or as a data URL.
 *
 * @param {string} text
 * @returns {HTMLElement | null} null where the text is no image
 */
export function renderImage(text) {
  const begin = /^(?:data:image\/[\w.+-]{1,20};base64,)?(?=iVBORw0KGgo|\/9j\/|R0lGOD)/.exec(text);
  if (!begin || text.length > BASE64) return null;
  const data = text.slice(begin[0].length);
  const bytes = fromBase64(data);
  const found = bytes && sniff(bytes);
  if (!found) return null;
  const { type, width, height } = found;
  const words = `${type.toUpperCase()}, ${width} × ${height}, ${counted(bytes.length)} bytes`;
  if (!width || !height || width * height > PIXELS) return warning(`Too large to show: ${words}`);
  const image = h("img", { src: `data:image/${type};base64,${data}`, alt: `Image, ${words}`, class: "picture" });
  image.addEventListener("error", () => image.replaceWith(warning("A broken image")));
  return h("figure", {}, fit(image, width, height), h("figcaption", { class: "muted" }, words));
}

/**
 * Enlarge what is small by a whole factor.
 *
 * @param {HTMLElement} element
 * @param {number} width
 * @param {number} height
 */
function fit(element, width, height) {
  element.style.width = `${width * Math.max(1, Math.floor(WIDTH / Math.max(width, height)))}px`;
  element.style.aspectRatio = `${width} / ${height}`;
  return element;
}

/** @param {number | bigint} value */
export const short = (value) => String(typeof value === "bigint" ? value : Number(value.toPrecision(6)));

/**
 * @param {ArrayLike<number | bigint>} values
 * @returns {{least: number, span: number, words: string}}
 */
function statistics(values) {
  let [least, most, sum, odd] = [Infinity, -Infinity, 0, 0];
  for (let at = 0; at < values.length; at += 1) {
    const value = Number(values[at]);
    if (Number.isFinite(value)) [least, most, sum] = [Math.min(least, value), Math.max(most, value), sum + value];
    else odd += 1;
  }
  const range = odd < values.length && `${short(least)} to ${short(most)}, mean ${short(sum / (values.length - odd))}`;
  const words = [range, odd && `${counted(odd)} not finite`].filter(Boolean).join(", ");
  return { least, span: most - least || 1, words };
}

/**
 * Draw pixels; those of a large picture are thinned out.
 *
 * @param {number} width
 * @param {number} height
 * @param {string} label
 * @param {(at: number) => number[]} colour of a pixel: red, green, blue and opacity
 */
function drawn(width, height, label, colour) {
  const every = Math.ceil(Math.max(1, Math.sqrt((width * height) / 1_000_000), width / 4096, height / 4096));
  const [w, t] = [Math.ceil(width / every), Math.ceil(height / every)];
  const canvas = h("canvas", { width: w, height: t, role: "img", "aria-label": label, class: "picture" });
  const image = new ImageData(w, t);
  for (let y = 0; y < t; y += 1)
    for (let x = 0; x < w; x += 1) image.data.set(colour((y * width + x) * every), (y * w + x) * 4);
  canvas.getContext("2d")?.putImageData(image, 0, 0);
  return fit(canvas, w, t);
}

/**
 * A line through the extremes of each column, so that no peak is lost.
 *
 * @param {Numbers} numbers
 * @param {{least: number, span: number}} range
 */
function curve({ values, size }, { least, span }) {
  const columns = Math.min(size, 600);
  const points = Array.from({ length: columns }, (_, x) => {
    const [from, to] = [x, x + 1].map((column) => Math.floor((column * size) / columns));
    const part = Array.from({ length: to - from }, (_at, next) => Number(values[from + next])).filter(Number.isFinite);
    const point = (/** @type {number} */ value) => `${(x / (columns - 1)) * WIDTH},${58 - ((value - least) / span) * 56}`;
    return part.length ? `${point(Math.min(...part))} ${point(Math.max(...part))}` : "";
  });
  // Gaps, where nothing is finite, part the line.
  const parts = points.join(" ").split(/ {2,}/).map((part) => svg("polyline", { points: part }));
  const named = { role: "img", "aria-label": `Line of ${counted(size)} values` };
  return svg("svg", { viewBox: `0 0 ${WIDTH} 60`, class: "sparkline", preserveAspectRatio: "none", ...named }, ...parts);
}

/**
 * Bytes as an image, otherwise a line or a heat map.
 *
 * @param {Numbers} numbers
 * @param {{least: number, span: number}} range
 */
function picture(numbers, range) {
  const { shape, values, dtype, size } = numbers;
  const [height, width, channels = 1] = shape;
  if (size < 9 || values.length < size || !Number.isFinite(range.least)) return null;
  if (shape.length === 1) return curve(numbers, range);
  if (dtype === "|u1" && shape.length < 4 && height > 7 && width > 7 && channels < 5)
    return drawn(width, height, `Picture, ${width} × ${height}`, (at) => {
      const [red, green, blue, alpha] = [0, 1, 2, 3].map((band) => Number(values[at * channels + band]));
      return channels < 3 ? [red, red, red, 255] : [red, green, blue, channels > 3 ? alpha : 255];
    });
  if (shape.length !== 2) return null;
  return drawn(width, height, `Heat map, ${height} × ${width}`, (at) => {
    const t = 2 * Math.min(1, Math.max(0, (Number(values[at]) - range.least) / range.span));
    const [from, to] = t < 1 ? SCALE : SCALE.slice(1);
    // What is no number is grey.
    return t !== t ? [128, 128, 128, 255] : from.map((band, index) => band + (to[index] - band) * (t < 1 ? t : t - 1));
  });
}

/** @param {Numbers} numbers @returns {HTMLElement} */
export function renderNumbers(numbers) {
  const { dtype, shape, size, values } = numbers;
  const range = statistics(values);
  const head = values.length < size && `of the first ${counted(values.length)}`;
  const facts = [dtype, `[${shape.join(", ")}]`, size > 1 && range.words, head].filter(Boolean).join(" · ");
  const written = size > 0 && size <= WRITTEN && shape.length < 3;
  const width = (shape.length > 1 && shape[1]) || size;
  const rows = Array.from({ length: written ? size / width : 0 }, (_, y) =>
    h("tr", {}, ...Array.from({ length: width }, (_at, x) => h("td", {}, short(values[y * width + x])))),
  );
  const shown = written && h("div", { class: "scroll", ...scrolls("values") }, h("table", { class: "numbers mono" }, ...rows));
  return box("array", h("p", { class: "muted mono" }, line(facts)), picture(numbers, range), shown);
}

/** @param {Wire} wire @returns {HTMLElement} */
export function renderArray(wire) {
  const numbers = decodeArray(wire);
  return typeof numbers === "string" ? warning(`Array ${wire.dtype} [${wire.shape}]: ${numbers}`) : renderNumbers(numbers);
}
