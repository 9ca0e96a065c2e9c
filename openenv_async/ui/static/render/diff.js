/**
 * What changed between two values: paths that came, went or changed.
 *
 * @import {Json} from "../types.js"
 * @import {Path} from "./values.js"
 * @typedef {{path: Path, before: Json | undefined, after: Json | undefined}} Change
 */
import { h } from "../dom.js";
import { decodeArray, isArray, renderNumbers, short } from "./arrays.js";
import { box, counted, line, span, visible } from "./text.js";
import { equal, isObject, own, pathText, write } from "./values.js";

const MOST = 200;
/** Values that are compared at most. */
const STEPS = 200_000;
/** Characters of a changed part, and of what stands before and after it. */
const PART = 1000;
const AROUND = 40;
const DEEPEST = 200;

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
    const [left, right] = [a, b].map((list) => list.slice(start, list.length - end));
    return (left.length > right.length ? left : right).map((_, at) => ({ path: [...path, start + at], before: left[at], after: right[at] }));
  }
  if (!isObject(a) || !isObject(b) || isArray(a) || isArray(b)) return null;
  return Object.keys({ ...a, ...b }).map((name) => ({ path: [...path, name], before: own(a, name), after: own(b, name) }));
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

/** @param {string} before @param {string} after */
function texts(before, after) {
  const { start, end } = common(before, after, Object.is);
  const rest = before.slice(before.length - end);
  const piece = (/** @type {"ins" | "del"} */ tag, /** @type {string} */ text) => {
    const part = text.slice(start, text.length - end);
    return part && h(tag, {}, visible(part.slice(0, PART)), part.length > PART && `… ${counted(part.length)} characters`);
  };
  return [
    start > AROUND && span("muted", `… ${counted(start)} characters, ${counted(before.slice(0, start).split("\n").length)} lines: `),
    visible(before.slice(Math.max(0, start - AROUND), start)),
    piece("del", before),
    piece("ins", after),
    visible(rest.slice(0, AROUND)),
    end > AROUND && "…",
  ];
}

/** @param {Json | undefined} before @param {Json | undefined} after */
function arrays(before, after) {
  const [a, b] = [before, after].map((value) => (isArray(value) ? decodeArray(value) : ""));
  if (typeof a === "string" || typeof b === "string" || String(a.shape) !== String(b.shape)) return null;
  let [changed, largest] = [0, 0];
  const values = Float64Array.from(a.values, (left, at) => {
    if (Object.is(left, b.values[at])) return 0;
    const by = Number(b.values[at]) - Number(left);
    changed += 1;
    largest = Math.max(largest, Math.abs(by) || 0);
    return by;
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
  const both = long ? texts(before, after) : [brief("del", before), kind === "changed" && " → ", brief("ins", after)];
  const place = `${path.length > 12 ? "…" : ""}${pathText(path.slice(-12))}`;
  return h("li", { class: "diff-row" }, span("mono", line(place)), span(`badge ${tone}`, kind), arrays(before, after) ?? box("diff-text", ...both));
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
