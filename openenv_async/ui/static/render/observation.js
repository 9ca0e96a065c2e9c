/**
 * An observation, by its content: text, code with its output, tables, pictures, Markdown,
 * and a tree of JSON for the rest. What it says is never trusted.
 *
 * @import {Json, Schema} from "../types.js"
 */
import { h, put } from "../dom.js";
import { box, button, scrolling, span } from "./parts.js";
import { dissect } from "../form/schema.js";
import { renderCode } from "./code.js";
import { renderMarkdown } from "./markdown.js";
import { isArray } from "./ndarray.js";
import { renderArray, renderImage, renderNumbers } from "./pictures.js";
import { copyButton, counted, line, renderText } from "./text.js";
import { renderTree } from "./tree.js";
import { count, entries, isObject, isRaw, own, write } from "./values.js";

/** What the pane shows elsewhere, beside the observation. */
const ELSEWHERE = ["reward", "terminated", "truncated", "done"];
const CUT = ["stdout_truncated", "stderr_truncated", "result_truncated"];
const FIELDS = 60;
const ROWS = 50;
const COLUMNS = 30;
const DEEPEST = 3;

/** @param {Json | undefined} value */
const brief = (value) => (value === undefined ? "" : line(typeof value === "string" ? value : write(value, 120), 120));

/** @param {Json[]} rows @returns {HTMLElement | null} null where the rows are not alike */
function table(rows) {
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
  const head = h("tr", {}, ...columns.map((name) => h("th", { scope: "col" }, line(name, 60))));
  const whole = h("table", { class: "table" }, h("thead", {}, head), body);
  return h("div", {}, scrolling("table", whole), more);
}

/** @param {string} text @param {Schema} schema */
function renderString(text, schema) {
  const media = `${schema.contentMediaType ?? ""} ${schema.format ?? ""}`;
  if (media.includes("markdown")) return renderMarkdown(text);
  const language = /(python|javascript|typescript|json|java|bash)/.exec(media)?.[1];
  return renderImage(text) ?? (language ? renderCode(text, language) : renderText(text));
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
  if (isArray(value)) return renderArray(value);
  if (typeof value === "string") return renderString(value, schema);
  if (Array.isArray(value)) {
    const images = value.length < 9 ? value.map((item) => typeof item === "string" && renderImage(item)) : [];
    if (images.length && images.every(Boolean)) return box("row", ...images);
    const numbers = value.filter((item) => typeof item === "number");
    if (numbers.length > 8 && numbers.length === value.length)
      return renderNumbers({ dtype: "list", shape: [value.length], size: value.length, values: numbers });
    if (value.length) return table(value) ?? renderTree(value, { search: value.length > 20 });
  }
  if (!isObject(value) || !count(value)) {
    const type = value === null ? "null" : isRaw(value) ? "number" : typeof value;
    return span(`mono json-${type}`, write(value));
  }
  // A dict space of Gymnasium: its items are what it is about.
  if (value.kind === "dict" && isObject(value.items)) return renderFields(value.items, {}, root, depth);
  const rich = Object.values(value).some((item) => isArray(item) || (typeof item === "string" && (item.length > 200 || item.includes("\n"))));
  return rich ? renderFields(value, schema, root, depth) : renderTree(value, { search: Object.keys(value).length > 20 });
}

/**
 * @param {{[name: string]: Json}} value
 * @param {Schema} schema
 * @param {Schema} root
 * @param {number} depth
 */
function renderFields(value, schema, root, depth) {
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
  const { stdout, stderr, exit_code: code = 0, result, error, prompt, ...rest } = value;
  const parts = Object.entries({ prompt, stdout, stderr, result }).map(([name, text]) => {
    if (typeof text !== "string" || !text) return null;
    const cut = value[`${name}_truncated`] === true && span("badge warn", "cut off");
    const head = box("row", span("observed-name", name), cut, copyButton(() => text));
    return h("section", { class: `run-part ${name}` }, head, renderText(text, { className: name === "prompt" ? "" : "mono", label: name }));
  });
  const place = typeof own(error, "line") === "number" ? `, line ${own(error, "line")}` : "";
  const failed = isObject(error) ? `${brief(error.type)}${place}: ${brief(error.message)}` : brief(error);
  const others = Object.fromEntries(Object.entries(rest).filter(([name]) => !CUT.includes(name)));
  const silent = !failed && !parts.some(Boolean) && span("muted", "no output");
  const ended = box("row", span(`badge ${code ? "bad" : "good"}`, `exit ${brief(code)}`), silent);
  const notice = failed && error && h("p", { class: "notice bad mono" }, failed);
  return box("run", ended, notice, ...parts, count(others) ? renderFields(others, schema, root, 0) : null);
}

/** @param {Json} observation @param {Schema} root */
function renderWhole(observation, root) {
  const { schema } = dissect(root, root);
  if (!isObject(observation) || isArray(observation)) return renderValue(observation, root, root);
  const value = Object.fromEntries(Object.entries(observation).filter(([name]) => !ELSEWHERE.includes(name)));
  // Fields with their defaults are left out on the wire.
  const has = (/** @type {string} */ name) => Object.hasOwn(value, name) || own(schema.properties, name) !== undefined;
  if (has("stdout") && (has("stderr") || has("exit_code"))) return renderRun(value, schema, root);
  return count(value) ? renderFields(value, schema, root, 0) : h("p", { class: "muted" }, "Nothing else was observed.");
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
  const buttons = views.map(([name], index) => button(name, () => show(index)));
  /** @param {number} chosen */
  const show = (chosen) => {
    buttons.forEach((one, index) => one.setAttribute("aria-pressed", String(index === chosen)));
    put(body, views[chosen][1]());
  };
  show(0);
  const switches = h("div", { class: "segments", role: "group", "aria-label": "View" }, ...buttons);
  const tools = box("row observation-tools", switches, copyButton(() => write(observation, Infinity, "  "), "Copy JSON"));
  return box("observation", tools, body);
}
