/**
 * An observation, by its content: text, code with its output, tables, pictures, Markdown,
 * and a tree of JSON for the rest. What it says is never trusted.
 *
 * @import {Json, Schema} from "../types.js"
 */
import { h, put } from "../dom.js";
import { dissect } from "../form/schema.js";
import { isArray, renderArray, renderImage, renderNumbers } from "./arrays.js";
import { renderMarkdown } from "./markdown.js";
import { box, button, copyButton, counted, line, renderCode, renderText, span, table } from "./text.js";
import { renderTree } from "./tree.js";
import { count, entries, isObject, own, typeOf, write } from "./values.js";

/** What the pane shows elsewhere, beside the observation. */
const ELSEWHERE = ["reward", "terminated", "truncated", "done"];
const FIELDS = 60;
const ROWS = 50;
const COLUMNS = 30;
const DEEPEST = 3;

/** @param {Json | undefined} value */
const brief = (value) => (value === undefined ? "" : line(typeof value === "string" ? value : write(value, 120), 120));

/** @param {Json} value @param {string[]} names */
const without = (value, names) => Object.fromEntries(entries(value).filter(([name]) => !names.includes(name)));

/** @param {Json[]} rows @returns {HTMLElement | null} null where the rows are not alike */
function renderRows(rows) {
  const columns = [...new Set(rows.slice(0, ROWS).flatMap((row) => entries(row).slice(0, COLUMNS).map(([name]) => name)))];
  const alike = rows.every((row) => isObject(row) && !isArray(row) && Object.keys(row).length * 2 >= columns.length);
  if (!alike || rows.length < 2 || !columns.length || columns.length > COLUMNS) return null;
  const body = h("tbody");
  const extend = () => {
    const next = rows.slice(body.rows.length, body.rows.length * 4 + ROWS);
    body.append(...next.map((row) => h("tr", {}, ...columns.map((name) => h("td", {}, brief(own(row, name)))))));
    more.hidden = body.rows.length >= rows.length;
  };
  const more = button(`Show more of ${counted(rows.length)} rows`, extend);
  extend();
  return h("div", {}, table(columns.map((name) => h("th", { scope: "col" }, line(name, 60))), body), more);
}

/** @param {string} text @param {Schema} schema */
function renderString(text, schema) {
  const media = `${schema.contentMediaType ?? ""} ${schema.format ?? ""}`;
  if (media.includes("markdown")) return renderMarkdown(text);
  const language = /(python|javascript|typescript|json|java|bash)/.exec(media)?.[1];
  return renderImage(text) ?? (language ? renderCode(text, language) : renderText(text));
}

/** @param {Json[]} list */
function renderList(list) {
  const images = list.length < 9 ? list.map((item) => (typeof item === "string" ? renderImage(item) : null)) : [null];
  if (images.every(Boolean)) return box("row", ...images);
  const values = list.filter((item) => typeof item === "number");
  if (values.length > 8 && values.length === list.length) return renderNumbers({ dtype: "list", shape: [list.length], size: list.length, values });
  return renderRows(list) ?? renderTree(list, { search: list.length > 20 });
}

/**
 * @param {Json} value
 * @param {Json | undefined} given its schema
 * @param {Schema} root
 * @param {number} [depth]
 * @returns {HTMLElement}
 */
function renderValue(value, given, root, depth = 0) {
  const { schema } = dissect(given, root);
  if (typeof value === "string") return renderString(value, schema);
  if (!count(value)) return span(`mono json-${typeOf(value)}`, write(value));
  if (isArray(value)) return renderArray(value);
  if (!isObject(value)) return renderList(/** @type {Json[]} */ (value));
  // A dict space of Gymnasium: its items are what it is about.
  if (value.kind === "dict" && isObject(value.items)) return renderFields(value.items, {}, root, depth);
  const rich = Object.values(value).some((item) => isArray(item) || (typeof item === "string" && (item.length > 200 || item.includes("\n"))));
  return rich ? renderFields(value, schema, root, depth) : renderTree(value, { search: Object.keys(value).length > 20 });
}

/**
 * @param {{[name: string]: Json}} value
 * @param {Schema} schema
 * @param {Schema} root
 * @param {number} [depth]
 */
function renderFields(value, schema, root, depth = 0) {
  const order = [...Object.keys(schema.properties ?? {}), ...Object.keys(value)];
  const names = [...new Set(order)].filter((name) => Object.hasOwn(value, name));
  if (names.length > FIELDS || depth > DEEPEST) return renderTree(value);
  const rows = names.map((name) => {
    const shown = renderValue(value[name], own(schema.properties, name), root, depth + 1);
    return box("observed", box("observed-name", line(name, 80)), box("observed-value", shown));
  });
  return box("fields", ...rows);
}

/**
 * What code wrote and how it ended.
 *
 * @param {{[name: string]: Json}} value
 * @param {Schema} schema
 * @param {Schema} root
 */
function renderRun(value, schema, root) {
  const { exit_code: code = 0, error } = value;
  const names = ["prompt", "stdout", "stderr", "result"];
  const parts = names.map((name) => {
    const text = own(value, name);
    if (typeof text !== "string" || !text) return null;
    const cut = value[`${name}_truncated`] === true && span("badge warn", "cut off");
    const head = box("row", span("observed-name", name), cut, copyButton(() => text));
    return h("section", { class: `run-part ${name}` }, head, renderText(text, { className: name === "prompt" ? "" : "mono", label: name }));
  });
  const place = typeof own(error, "line") === "number" ? `, line ${own(error, "line")}` : "";
  const failed = isObject(error) ? `${brief(error.type)}${place}: ${brief(error.message)}` : error && brief(error);
  const others = without(value, [...names, ...names.map((name) => `${name}_truncated`), "exit_code", "error"]);
  const silent = !failed && !parts.some(Boolean) && span("muted", "no output");
  const ended = box("row", span(`badge ${code ? "bad" : "good"}`, `exit ${brief(code)}`), silent);
  const notice = failed && h("p", { class: "notice bad mono" }, failed);
  return box("run", ended, notice, ...parts, count(others) ? renderFields(others, schema, root) : null);
}

/** @param {Json} observation @param {Schema} root */
function renderWhole(observation, root) {
  const { schema } = dissect(root, root);
  if (!isObject(observation) || isArray(observation)) return renderValue(observation, root, root);
  const value = without(observation, ELSEWHERE);
  // Fields with their defaults are left out on the wire.
  const has = (/** @type {string} */ name) => Object.hasOwn(value, name) || own(schema.properties, name) !== undefined;
  if (has("stdout") && (has("stderr") || has("exit_code"))) return renderRun(value, schema, root);
  return count(value) ? renderFields(value, schema, root) : h("p", { class: "muted" }, "Nothing else was observed.");
}

/**
 * Show an observation or a state, with a switch to a tree and to its JSON.
 *
 * @param {Json} observation
 * @param {{schema?: Schema, metadata?: object, kind?: string}} [context]
 * @returns {HTMLElement}
 */
export function renderObservation(observation, { schema = {} } = {}) {
  const body = h("div");
  /** @type {[string, () => HTMLElement][]} */
  const views = [
    ["Rendered", () => renderWhole(observation, schema)],
    ["Tree", () => renderTree(observation, { open: 2 })],
    ["JSON", () => renderText(write(observation, 2_000_000, "  "), { className: "mono", label: "JSON" })],
  ];
  const buttons = views.map(([name, make]) => button(name, ({ target }) => show(target, make)));
  const show = (/** @type {EventTarget | null} */ chosen, /** @type {() => HTMLElement} */ make) => {
    for (const one of buttons) one.ariaPressed = String(one === chosen);
    put(body, make());
  };
  show(buttons[0], views[0][1]);
  const switches = h("div", { class: "segments", role: "group", "aria-label": "View" }, ...buttons);
  const tools = box("row observation-tools", switches, copyButton(() => write(observation, Infinity, "  "), "Copy JSON"));
  return box("observation", tools, body);
}
