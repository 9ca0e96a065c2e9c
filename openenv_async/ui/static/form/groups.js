/**
 * Controls of what holds others: structs, lists, tuples, maps and unions.
 *
 * @import {Json, Schema} from "../types.js"
 * @import {Context, Maker} from "./field.js"
 */
import { h } from "../dom.js";
import { box, button } from "../render/parts.js";
import { line } from "../render/text.js";
import { entries, equal, isObject, listOf, own, write } from "../render/values.js";
import { countProblem, limit, stringProblem } from "./checks.js";
import { Field } from "./field.js";
import { nameOf, suits, tags } from "./schema.js";

/** Rows that are fields; a value with more is edited as JSON. */
const ROWS = 100;

/** @type {Maker} */
export function struct(schema, context) {
  const required = listOf(schema.required);
  const fixed = tags(schema);
  const fields = entries(schema.properties)
    .filter(([name]) => !Object.hasOwn(fixed, name))
    .map(([name, property]) => new Field(name, property, context, { required: required.includes(name) }));
  const others = isObject(schema.additionalProperties) ? map(schema, context) : null;
  const known = [...Object.keys(fixed), ...fields.map((field) => field.name)];
  const empty = !fields.length && !others && h("p", { class: "muted" }, "Takes no values.");
  return {
    element: box("fields", empty, ...fields.map((field) => field.element), others?.element),
    get: () => {
      const given = fields.map((field) => [field.name, field.value]).filter(([, value]) => value !== undefined);
      return Object.fromEntries([...Object.entries(fixed), ...given, ...Object.entries(others?.get() ?? {})]);
    },
    set: (value) => {
      for (const field of fields) field.set(own(value, field.name));
      others?.set(Object.fromEntries(entries(value).filter(([name]) => !known.includes(name))));
    },
    check: () => others?.check?.() ?? null,
    fields: () => [...fields.map((field) => /** @type {[string, Field]} */ ([field.name, field])), ...(others?.fields?.() ?? [])],
  };
}

/**
 * Rows that can be added and taken away.
 *
 * @param {Json} items
 * @param {Context} context
 * @param {{most: number | null, keyed?: boolean}} options
 */
function rows(items, context, { most, keyed = false }) {
  /** @type {{field: Field, key: HTMLInputElement, element: HTMLElement}[]} */
  const all = [];
  const inner = box("rows");
  const add = button(keyed ? "Add entry" : "Add item", () => {
    const { field, key } = append();
    (keyed ? key : field).focus();
  });
  const update = () => {
    add.disabled = all.length >= Math.min(most ?? ROWS, ROWS);
    if (!keyed) all.forEach(({ field }, index) => (field.title.textContent = `item ${index + 1}`));
    inner.dispatchEvent(new Event("input", { bubbles: true }));
  };
  /** @param {Json} [value] @param {string} [name] */
  const append = (value, name = "") => {
    const remove = () => {
      all.splice(all.indexOf(row), 1);
      row.element.remove();
      update();
      add.focus();
    };
    const tool = button("×", remove, "Remove");
    const field = new Field(keyed ? "value" : "item", items, context, { tool, bare: keyed });
    const key = h("input", { class: "input mono", "aria-label": "Key", placeholder: "key", value: name });
    const row = { field, key, element: keyed ? box("entry", key, field.element) : field.element };
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
  const values = () => items.all.map(({ field }) => field.value ?? null);
  for (let at = 0; at < Math.min(limit(schema, "minItems") ?? 0, ROWS); at += 1) items.append();
  return {
    element: items.element,
    get: values,
    set: (value) => {
      items.clear();
      for (const item of listOf(value)) items.append(item);
    },
    check: () => {
      const now = schema.uniqueItems ? values() : [];
      const twice = now.find((item, index) => now.some((other, at) => at < index && equal(item, other)));
      const same = twice === undefined ? null : `expected each item once, got ${write(twice, 80)} twice`;
      return countProblem(items.all.length, schema, "Items") ?? same;
    },
    fields: () => items.all.map(({ field }, index) => [index, field]),
    fits: (value) => Array.isArray(value) && value.length <= ROWS,
  };
}

/** @type {Maker} */
export function map(schema, context) {
  const items = rows(schema.additionalProperties, context, { most: limit(schema, "maxProperties"), keyed: true });
  const keys = () => items.all.map(({ key }) => key.value);
  return {
    element: items.element,
    get: () => Object.fromEntries(items.all.map(({ key, field }) => [key.value, field.value ?? null])),
    set: (value) => {
      items.clear();
      for (const [key, item] of entries(value)) items.append(item, key);
    },
    check: () => {
      const twice = keys().find((key, index) => keys().indexOf(key) !== index);
      if (twice !== undefined) return `expected each key once, got ${JSON.stringify(twice)} twice`;
      const keyed = isObject(schema.propertyNames) ? schema.propertyNames : {};
      const wrong = keys().map((key) => stringProblem(key, keyed)).find(Boolean);
      return wrong ? `key: ${wrong}` : countProblem(keys().length, schema, "Properties");
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
    element: box("fields", ...fields.map((field) => field.element)),
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
  const chosen = h("select", { class: "input", "aria-label": "Type" }, ...names.map((name, value) => h("option", { value }, name)));
  const body = box("variant");
  /** @type {Record<number, Field>} What was written before another type was chosen comes back with it. */
  const made = {};
  const at = () => Math.max(0, chosen.selectedIndex);
  const field = () => (made[at()] ??= new Field(names[at()], variants[at()], context, { bare: true }));
  const show = () => body.replaceChildren(field().element);
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
