/**
 * A tree of JSON: only the rows in sight are in the page, so that size costs nothing.
 *
 * @import {Json} from "../types.js"
 * @typedef {{key: string | number | null, value: Json, up: Row | null, level: number, size: number | null,
 *   index: number, of: number}} Row
 */
import { h, put } from "../dom.js";
import { box, button, line, renderText, span } from "./text.js";
import { count, own, pathText, typeOf, write } from "./values.js";

/** Pixels; components.css says the same. */
const HEIGHT = 22;
const TALLEST = 440;
/** Rows at most, which is also what a browser can scroll. */
const MOST = 500_000;
const DEEPEST = 24;
let made = 0;

/** @param {Row} up @returns {Row[]} */
function children(up) {
  const { value, level } = up;
  const keys = Array.isArray(value) ? [...value.keys()] : Object.keys(Object(value));
  return keys.map((key, index) => {
    const item = own(value, key) ?? null;
    return { key, value: item, up, level: level + 1, size: count(item), index, of: keys.length };
  });
}

/** @param {Row} row */
function path(row) {
  const steps = [];
  for (let at = row; at.up; at = at.up) steps.push(at.key ?? "");
  return pathText(steps.slice(0, 200).reverse());
}

/**
 * The rows of a tree, in order.
 *
 * @param {Row} root
 * @param {(row: Row) => unknown} enters
 */
function* walk(root, enters) {
  const waiting = [root];
  for (let row = waiting.pop(); row; row = waiting.pop()) {
    yield row;
    if (row.size && enters(row)) for (const child of children(row).reverse()) waiting.push(child);
  }
}

/**
 * What stands in a row.
 *
 * @param {Row} row
 * @param {boolean} flat its whole path is told, and no level
 * @param {boolean | null} opened null for what holds nothing
 */
function draw(row, flat, opened) {
  const { key, value, size, level } = row;
  const name = flat ? path(row) : level > DEEPEST ? `(${level}) ${key}` : String(key);
  const text = line(write(value, 300), size ? 80 : 300);
  const element = h(
    "div",
    { class: "tree-row", role: "treeitem", "aria-level": level + 1, "aria-setsize": row.of, "aria-posinset": row.index + 1, "aria-expanded": opened },
    h("span", { class: "tree-mark", "aria-hidden": "true" }, opened === null ? "" : opened ? "▾" : "▸"),
    key !== null && span("tree-key", `${line(name, 120)}: `),
    size === null
      ? span(`json-${typeOf(value)}`, text)
      : span("muted", `${Array.isArray(value) ? `[${size}]` : `{${size}}`} ${opened ? "" : text}`),
  );
  element.style.paddingLeft = `${flat ? 4 : Math.min(level, DEEPEST) * 14 + 4}px`;
  return element;
}

/**
 * @param {Json} value
 * @param {{open?: number, search?: boolean}} [options] `open` levels at first
 * @returns {HTMLElement}
 */
export function renderTree(value, { open: levels = 1, search = true } = {}) {
  /** @type {Row} */
  const root = { key: null, value, up: null, level: 0, size: count(value), index: 0, of: 1 };
  const id = `tree-${(made += 1)}`;
  /** Values that are open; by identity, which JSON has once. @type {Set<Json>} */
  const open = new Set();
  /** @type {Row[]} */
  let rows = [];
  let flat = false;
  let selected = 0;
  let first = -1;
  const list = h("div", { class: "tree-rows", role: "none" });
  const space = h("div", { role: "none" }, list);
  const view = h("div", { class: "tree", role: "tree", tabindex: 0, "aria-label": "JSON" }, space);
  const detail = box("text-box");
  const found = h("span", { class: "muted", role: "status" });
  const query = h("input", { type: "search", class: "input small", placeholder: "Search", "aria-label": "Search keys and values" });

  const isOpen = (/** @type {Row} */ row) => (row.size && !flat ? open.has(row.value) : null);
  const paint = (again = true) => {
    const from = Math.max(0, Math.floor(view.scrollTop / HEIGHT) - 10);
    if (!again && from === first) return;
    first = from;
    list.style.transform = `translateY(${from * HEIGHT}px)`;
    put(list, ...rows.slice(from, from + 40).map((row) => draw(row, flat, isOpen(row))));
    [...list.children].forEach((element, index) => {
      element.id = `${id}-${from + index}`;
      element.ariaSelected = String(from + index === selected);
    });
    view.setAttribute("aria-activedescendant", `${id}-${selected}`);
  };
  const lay = () => {
    const wanted = query.value.toLowerCase();
    flat = Boolean(wanted);
    rows = [];
    for (const row of walk(root, ({ value: item }) => flat || open.has(item))) {
      if (rows.length >= MOST) break;
      const text = `${row.key ?? ""}\n${typeof row.value === "string" ? row.value : row.size === null ? write(row.value) : ""}`;
      if (!flat || text.toLowerCase().includes(wanted)) rows.push(row);
    }
    put(found, flat && `${rows.length} found`);
    space.style.height = `${rows.length * HEIGHT}px`;
    view.style.height = `${Math.min(rows.length * HEIGHT + 2, TALLEST)}px`;
    view.hidden = !rows.length;
    selected = Math.min(selected, Math.max(0, rows.length - 1));
    paint();
  };
  /** @param {number} deep */
  const expand = (deep) => {
    open.clear();
    let seen = 0;
    for (const row of walk(root, ({ level }) => level < deep && (seen += 1) < MOST)) if (row.level < deep) open.add(row.value);
    query.value = "";
    lay();
  };
  /** @param {number} at */
  const select = (at) => {
    selected = Math.max(0, Math.min(at, rows.length - 1));
    const top = selected * HEIGHT;
    view.scrollTop = Math.min(top, Math.max(view.scrollTop, top + HEIGHT + 2 - (view.clientHeight || TALLEST)));
    paint();
    const row = rows[selected];
    const long = typeof row.value === "string" && row.value.length > 40;
    put(detail, long && box("muted mono", line(path(row))), long && renderText(String(row.value), { label: "value" }));
  };
  /** @param {number} at */
  const toggle = (at) => {
    const row = rows[at];
    if (isOpen(row) === null) return;
    if (!open.delete(row.value)) open.add(row.value);
    lay();
  };
  query.addEventListener("input", lay);
  view.addEventListener("scroll", () => paint(false));
  view.addEventListener("click", ({ target }) => {
    const at = Number(/** @type {Element} */ (target).closest(".tree-row")?.id.split("-")[2] ?? -1);
    if (at < 0) return;
    toggle(at);
    select(at);
  });
  view.addEventListener("keydown", (event) => {
    const opened = isOpen(rows[selected]);
    const up = rows.findLastIndex(({ level }, at) => at < selected && level < rows[selected].level);
    /** @type {Record<string, () => void>} */
    const acts = {
      ArrowDown: () => select(selected + 1),
      ArrowUp: () => select(selected - 1),
      Home: () => select(0),
      End: () => select(rows.length - 1),
      ArrowRight: () => (opened === false ? toggle(selected) : select(selected + 1)),
      ArrowLeft: () => (opened ? toggle(selected) : select(up)),
      Enter: () => toggle(selected),
    };
    if (!Object.hasOwn(acts, event.key) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    acts[event.key]();
  });
  expand(levels);
  const tools = search && root.size ? box("row", query, button("Expand all", () => expand(Infinity)), button("Collapse", () => expand(1)), found) : null;
  return box("tree-box", tools, view, detail);
}
