/**
 * Images and arrays of numbers as pictures.
 *
 * @import {Numbers, Wire} from "./ndarray.js"
 */
import { h, svg } from "../dom.js";
import { box, scrolling } from "./parts.js";
import { decodeArray, fromBase64 } from "./ndarray.js";
import { counted, line } from "./text.js";

/** Pixels that are decoded or drawn at most: a few bytes may claim to be gigabytes. */
const PIXELS = 16_000_000;
const BASE64 = 64_000_000;
/** Values that are written out. */
const WRITTEN = 100;
const WIDTH = 320;
/** Colours of a heat map, from least to most. */
const SCALE = [[68, 1, 84, 255], [33, 145, 140, 255], [253, 231, 37, 255]];

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
  if (!width || !height || width * height > PIXELS) return h("p", { class: "notice warn" }, `Too large to show: ${words}`);
  const image = h("img", { src: `data:image/${type};base64,${data}`, alt: `Image, ${words}`, class: "picture" });
  image.addEventListener("error", () => image.replaceWith(h("p", { class: "notice warn" }, "A broken image")));
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
export const short = (value) => (typeof value === "bigint" ? String(value) : String(Number(value.toPrecision(6))));

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
  const range = odd < values.length ? `${short(least)} to ${short(most)}, mean ${short(sum / (values.length - odd))}` : "";
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
  const context = canvas.getContext("2d");
  const image = new ImageData(w, t);
  for (let y = 0; y < t; y += 1)
    for (let x = 0; x < w; x += 1) image.data.set(colour((y * width + x) * every), (y * w + x) * 4);
  context?.putImageData(image, 0, 0);
  return fit(canvas, w, t);
}

/**
 * Bytes as an image, otherwise a line or a heat map.
 *
 * @param {Numbers} numbers
 * @param {{least: number, span: number}} range
 */
function picture({ shape, values, dtype, size }, { least, span }) {
  const [height, width, channels = 1] = shape;
  if (size < 9 || values.length < size || !Number.isFinite(least)) return null;
  if (dtype === "|u1" && shape.length < 4 && height > 7 && width > 7 && channels < 5)
    return drawn(width, height, `Picture, ${width} × ${height}`, (at) => {
      const [red, green, blue, alpha] = [0, 1, 2, 3].map((band) => Number(values[at * channels + (band < channels ? band : 0)]));
      return channels < 3 ? [red, red, red, 255] : [red, green, blue, channels > 3 ? alpha : 255];
    });
  if (shape.length === 2)
    return drawn(width, height, `Heat map, ${height} × ${width}`, (at) => {
      const t = 2 * Math.min(1, Math.max(0, (Number(values[at]) - least) / span));
      const [from, to] = t < 1 ? [SCALE[0], SCALE[1]] : [SCALE[1], SCALE[2]];
      // What is no number is grey.
      return t !== t ? [128, 128, 128, 255] : from.map((band, index) => band + (to[index] - band) * (t % 1 || Math.floor(t / 2)));
    });
  if (shape.length !== 1) return null;
  const columns = Math.min(size, 600);
  const points = Array.from({ length: columns * 2 }, (_, at) => {
    // The extremes of a column, so that no peak is lost.
    const from = Math.floor((at >> 1) * (size / columns));
    const part = Array.from({ length: Math.min(5000, Math.ceil(size / columns)) }, (_, next) => Number(values[from + next] ?? NaN)).filter(Number.isFinite);
    const value = at & 1 ? Math.max(...part) : Math.min(...part);
    return part.length ? `${((at >> 1) / (columns - 1)) * WIDTH},${58 - ((value - least) / span) * 56}` : "";
  });
  // Gaps, where nothing is finite, part the line.
  const parts = points.join(" ").split(/ {2,}/).map((part) => svg("polyline", { points: part }));
  const named = { role: "img", "aria-label": `Line of ${counted(size)} values` };
  return svg("svg", { viewBox: `0 0 ${WIDTH} 60`, class: "sparkline", preserveAspectRatio: "none", ...named }, ...parts);
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
    h("tr", {}, ...Array.from({ length: width }, (_, x) => h("td", {}, short(values[y * width + x])))),
  );
  const table = written && h("table", { class: "numbers mono" }, h("tbody", {}, ...rows));
  const shown = table && scrolling("values", table);
  return box("array", h("p", { class: "muted mono" }, line(facts)), picture(numbers, range), shown);
}

/** @param {Wire} wire @returns {HTMLElement} */
export function renderArray(wire) {
  const numbers = decodeArray(wire);
  if (typeof numbers !== "string") return renderNumbers(numbers);
  return h("p", { class: "notice warn" }, line(`Array ${wire.dtype} [${wire.shape}]: ${numbers}`, 300));
}
