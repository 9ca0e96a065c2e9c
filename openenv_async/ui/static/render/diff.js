/**
 * What changed between two values: paths that came, went or changed.
 *
 * @import {Json} from "../types.js"
 * @import {Path} from "./values.js"
 * @typedef {{path: Path, before: Json | undefined, after: Json | undefined}} Change
 */
import { h } from "../dom.js";
import { box, span } from "./parts.js";
import { decodeArray, isArray } from "./ndarray.js";
import { renderNumbers, short } from "./pictures.js";
import { counted, line, visible } from "./text.js";
import { equal, isObject, own, pathText, write } from "./values.js";

const MOST = 200;
/** Values that are compared at most. */
const STEPS = 200_000;
/** Characters of a changed part, and of what stands before and after it. */
const PART = 1000;
const DEEPEST = 200;
const AROUND = 40;

/**
 * How many items are the same at the start and, after that, at the end.
 *
 * @template T
 * @param {ArrayLike<T>} a
 * @param {ArrayLike<T>} b
 * @param {(left: T, right: T) => boolean} same
 */
function common(a, b, same) {
  let [start, end] = [0, 0];
  const least = Math.min(a.length, b.length);
  while (start < least && same(a[start], b[start])) start += 1;
  while (end < least - start && same(a[a.length - 1 - end], b[b.length - 1 - end])) end += 1;
  return { start, end };
}

/**
 * The parts of two lists or objects that correspond; null where they have none.
 *
 * @param {Change} change
 * @returns {Change[] | null}
 */
function parts({ path, before: a, after: b }) {
  if (path.length > DEEPEST) return null;
  if (Array.isArray(a) && Array.isArray(b)) {
    // Where one is longer, items came or went between what is the same.
    const { start, end } = a.length === b.length ? { start: 0, end: 0 } : common(a, b, equal);
    const length = Math.max(a.length, b.length) - end - start;
    return Array.from({ length }, (_, index) => {
      const at = start + index;
      return { path: [...path, at], before: at < a.length - end ? a[at] : undefined, after: at < b.length - end ? b[at] : undefined };
    });
  }
  if (!isObject(a) || !isObject(b) || isArray(a) || isArray(b)) return null;
  const names = new Set([...Object.keys(a), ...Object.keys(b)]);
  return [...names].map((name) => ({ path: [...path, name], before: own(a, name), after: own(b, name) }));
}

/** @param {Json} before @param {Json} after */
function compare(before, after) {
  /** @type {Change[]} */
  const changes = [];
  /** @type {Change[]} */
  const waiting = [{ path: [], before, after }];
  for (let steps = 0, pair = waiting.pop(); pair; pair = waiting.pop()) {
    if ((steps += 1) > STEPS || changes.length > MOST) return { changes, complete: false };
    const below = pair.before === pair.after ? [] : parts(pair);
    if (!below && !equal(pair.before, pair.after)) changes.push(pair);
    for (const change of (below ?? []).reverse()) waiting.push(change);
  }
  return { changes, complete: true };
}

/** @param {"ins" | "del"} tag @param {string} text */
function piece(tag, text) {
  const more = text.length > PART ? `… ${counted(text.length)} characters` : "";
  return text && h(tag, {}, visible(text.slice(0, PART)) + more);
}

/** @param {string} before @param {string} after */
function texts(before, after) {
  const { start, end } = common(before, after, Object.is);
  const lead = before.slice(0, start);
  const rest = before.slice(before.length - end);
  return h(
    "div",
    { class: "diff-text" },
    lead.length > AROUND && span("muted", `… ${counted(start)} characters, ${counted(lead.split("\n").length)} lines: `),
    visible(lead.slice(-AROUND)),
    piece("del", before.slice(start, before.length - end)),
    piece("ins", after.slice(start, after.length - end)),
    visible(rest.slice(0, AROUND)),
    rest.length > AROUND && "…",
  );
}

/** @param {Json | undefined} before @param {Json | undefined} after */
function arrays(before, after) {
  const [a, b] = [before, after].map((value) => (isArray(value) ? decodeArray(value) : ""));
  if (typeof a === "string" || typeof b === "string" || String(a.shape) !== String(b.shape)) return null;
  let [changed, largest] = [0, 0];
  const values = Float64Array.from({ length: a.values.length }, (_, at) => {
    const [left, right] = [Number(a.values[at]), Number(b.values[at])];
    if (Object.is(left, right)) return 0;
    changed += 1;
    largest = Math.max(largest, Math.abs(right - left) || 0);
    return right - left;
  });
  const words = `${counted(changed)} of ${counted(a.size)} values changed, by ${short(largest)} at most`;
  return h("div", {}, h("p", { class: "muted" }, words), renderNumbers({ ...a, dtype: "change", values }));
}

/** @param {Change} change */
function row({ path, before, after }) {
  const [kind, tone] = before === undefined ? ["added", "good"] : after === undefined ? ["removed", "bad"] : ["changed", "warn"];
  const long = typeof before === "string" && typeof after === "string" && before.length + after.length > 60;
  /** @param {"ins" | "del"} tag @param {Json | undefined} value */
  const brief = (tag, value) => value !== undefined && h(tag, {}, line(write(value, 300), 300));
  return h(
    "li",
    { class: "diff-row" },
    span("mono", line(`${path.length > 12 ? "…" : ""}${pathText(path.slice(-12))}`)),
    span(`badge ${tone}`, kind),
    (long ? texts(before, after) : arrays(before, after)) ?? box("diff-text", brief("del", before), kind === "changed" && " → ", brief("ins", after)),
  );
}

/**
 * @param {Json} before
 * @param {Json} after
 * @returns {HTMLElement}
 */
export function renderDiff(before, after) {
  const { changes, complete } = compare(before, after);
  if (!changes.length && complete) return h("p", { class: "empty" }, "No difference");
  const more = !complete && h("p", { class: "muted" }, `The first ${changes.length} differences; there are more.`);
  return box("diff", h("ul", {}, ...changes.map(row)), more);
}
