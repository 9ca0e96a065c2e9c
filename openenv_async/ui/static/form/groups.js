/**
 * Controls of what holds others: structs, lists, tuples, maps and unions.
 *
 * @import {Json, Schema} from "../types.js"
 * @import {Context, Maker} from "./field.js"
 */
import { h, put } from "../dom.js";
import { box, button, line } from "../render/text.js";
import { entries, isObject, listOf, own } from "../render/values.js";
import { Field } from "./field.js";
import { countProblem, limit, nameOf, suits, tags } from "./schema.js";

/** Rows that are fields; a value with more is edited as JSON. */
const ROWS = 100;

/** Fields below one another. @param {Field[]} fields */
const together = (fields) => box("fields", ...fields.map((field) => field.element));

/** @type {Maker} */
export function struct(schema, context) {
  const fixed = tags(schema);
  const fields = entries(schema.properties)
    .filter(([name]) => !Object.hasOwn(fixed, name))
    .map(([name, property]) => new Field(name, property, context, { required: listOf(schema.required).includes(name) }));
  return {
    element: fields.length ? together(fields) : h("p", { class: "muted" }, "Takes no values."),
    get: () => {
      const given = fields.map((field) => [field.name, field.value]).filter(([, value]) => value !== undefined);
      return Object.fromEntries([...Object.entries(fixed), ...given]);
    },
    set: (value) => fields.forEach((field) => field.set(own(value, field.name))),
    fields: () => fields.map((field) => [field.name, field]),
  };
}

/**
 * Rows that can be added and taken away, and moved where they have no keys.
 *
 * @param {Json} items
 * @param {Context} context
 * @param {{most: number | null, keyed?: boolean}} options
 */
function rows(items, context, { most, keyed = false }) {
  /** @typedef {{field: Field, key: HTMLInputElement, element: HTMLElement, tools: HTMLButtonElement[]}} Row */
  /** @type {Row[]} */
  const all = [];
  const inner = box("rows");
  const what = keyed ? "entry" : "item";
  const add = button(`Add ${what}`, () => {
    const { field, key } = append();
    (keyed ? key : field).focus();
  });
  const update = () => {
    add.disabled = all.length >= Math.min(most ?? ROWS, ROWS);
    all.forEach(({ field, tools }, index) => {
      if (!keyed) put(field.title, `item ${index + 1}`);
      for (const tool of tools) tool.ariaLabel = `${tool.title}: ${what} ${index + 1}`;
      tools[0].disabled = !index;
      tools[1].disabled = index === all.length - 1;
    });
    inner.dispatchEvent(new Event("input", { bubbles: true }));
  };
  /** @param {Row} row @param {number} by @param {number} tool */
  const move = (row, by, tool) => {
    const at = all.indexOf(row) + by;
    all.splice(at - by, 1);
    all.splice(at, 0, row);
    inner.insertBefore(row.element, all[at + 1]?.element ?? null);
    update();
    // At an end, only the other direction is left.
    row.tools[row.tools[tool].disabled ? 1 - tool : tool].focus();
  };
  /** @param {Json} [value] @param {string} [name] @returns {Row} */
  const append = (value, name = "") => {
    const remove = () => {
      all.splice(all.indexOf(row), 1);
      row.element.remove();
      update();
      add.focus();
    };
    const tools = [button("↑", () => move(row, -1, 0)), button("↓", () => move(row, 1, 1)), button("×", remove)];
    ["Move up", "Move down", "Remove"].forEach((title, index) => (tools[index].title = title));
    const tool = box("row-tools", ...tools.slice(keyed ? 2 : 0));
    const field = new Field(keyed ? "value" : "item", items, context, keyed ? { bare: true } : { tool });
    const key = h("input", { class: "input mono", "aria-label": "Key", placeholder: "key", value: name });
    /** @type {Row} */
    const row = { field, key, tools, element: keyed ? box("entry", key, tool, field.element) : field.element };
    if (value !== undefined) field.set(value);
    all.push(row);
    inner.append(row.element);
    update();
    return row;
  };
  const clear = () => all.splice(0).forEach(({ element }) => element.remove());
  return { all, append, clear, element: box("rows-box", inner, add) };
}

/** @type {Maker} */
export function list(schema, context) {
  const items = rows(schema.items, context, { most: limit(schema, "maxItems") });
  for (let at = 0; at < Math.min(limit(schema, "minItems") ?? 0, ROWS); at += 1) items.append();
  return {
    element: items.element,
    get: () => items.all.map(({ field }) => field.value ?? null),
    set: (value) => {
      items.clear();
      for (const item of listOf(value)) items.append(item);
    },
    check: () => countProblem(items.all.length, schema, "Items"),
    fields: () => items.all.map(({ field }, index) => [index, field]),
    fits: (value) => Array.isArray(value) && value.length <= ROWS,
  };
}

/** @type {Maker} */
export function map(schema, context) {
  const items = rows(schema.additionalProperties, context, { most: limit(schema, "maxProperties"), keyed: true });
  return {
    element: items.element,
    get: () => Object.fromEntries(items.all.map(({ key, field }) => [key.value, field.value ?? null])),
    set: (value) => {
      items.clear();
      for (const [key, item] of entries(value)) items.append(item, key);
    },
    check: () => {
      const keys = items.all.map(({ key }) => key.value);
      const twice = keys.find((key, index) => keys.indexOf(key) !== index);
      return twice === undefined ? countProblem(keys.length, schema, "Properties") : `expected each key once, got ${JSON.stringify(twice)} twice`;
    },
    fields: () => items.all.map(({ key, field }) => [key.value, field]),
    fits: (value) => isObject(value) && Object.keys(value).length <= ROWS,
  };
}

/** A list whose items have types of their own; the last ones may be left out. @type {Maker} */
export function tuple(schema, context) {
  const prefix = listOf(schema.prefixItems);
  const least = limit(schema, "minItems") ?? prefix.length;
  const fields = prefix.map((item, index) => new Field(`item ${index + 1}`, item, context, { required: index < least }));
  return {
    element: together(fields),
    get: () => {
      const last = fields.findLastIndex((field) => field.value !== undefined);
      // Defaults stand in for those before the last one that is given.
      return fields.slice(0, Math.max(last + 1, least)).map((field) => field.value ?? field.default ?? null);
    },
    set: (value) => fields.forEach((field, index) => field.set(own(value, index))),
    fields: () => fields.map((field, index) => [index, field]),
    fits: (value) => Array.isArray(value) && value.length <= prefix.length,
  };
}

/** @type {Maker} */
export function union(schema, context) {
  const variants = /** @type {Schema[]} */ (schema.variants);
  const names = variants.map((variant) => line(nameOf(variant, context.root), 60));
  const chosen = h("select", { class: "input", "aria-label": "Type" }, ...names.map((name) => h("option", {}, name)));
  const body = box("variant");
  /** @type {Record<number, Field>} What was written before another type was chosen comes back with it. */
  const made = {};
  const at = () => Math.max(0, chosen.selectedIndex);
  const field = () => (made[at()] ??= new Field(names[at()], variants[at()], context, { bare: true }));
  const show = () => put(body, field().element);
  chosen.addEventListener("change", show);
  show();
  return {
    element: box("union", chosen, body),
    get: () => field().value,
    set: (value) => {
      const fitting = variants.map((variant) => suits(value, variant));
      chosen.selectedIndex = Math.max(0, fitting.indexOf(Math.max(...fitting)));
      show();
      field().set(value);
    },
    fields: () => [["", field()]],
    through: true,
  };
}
