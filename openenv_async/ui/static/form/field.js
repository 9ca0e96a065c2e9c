/**
 * A field: label, help, the choice whether it is given, a control, and its error.
 *
 * @import {Json, Schema} from "../types.js"
 * @import {Path} from "../render/values.js"
 * @typedef {{path: Path, message: string, field: Field}} Problem
 * @typedef {{root: Schema, depth: number, name: string}} Context `root` is where references point to
 * @typedef {(schema: Schema, context: Context) => Control} Maker
 *
 * @typedef {object} Control
 * @property {HTMLElement} element
 * @property {() => Json | undefined} get undefined where what is written has no value
 * @property {(value: Json) => void} set
 * @property {() => string | null} [check] what is wrong with this level
 * @property {() => [string | number, Field][]} [fields] those below
 * @property {boolean} [through] its only field has the path of the control itself
 * @property {(value: Json) => boolean} [fits] whether it can show a value; JSON does otherwise
 */
import { h, put } from "../dom.js";
import { box, line, span } from "../render/text.js";
import { equal, own } from "../render/values.js";
import { boolean, choice, json, number, tensor, text } from "./controls.js";
import { list, map, struct, tuple, union } from "./groups.js";
import { choices, dissect, expectation, help, kindOf } from "./schema.js";

/** Levels of fields; below them, JSON. */
const DEEPEST = 12;
const GROUPS = ["struct", "tuple", "list", "map", "array", "one of"];
let made = 0;

/** @type {Maker} */
function build(schema, context) {
  /** @type {Record<string, Maker>} */
  const makers = { struct, list, map, tuple, bytes: text, array: tensor, string: text, integer: number, number, boolean, json };
  if (context.depth > DEEPEST) return json({}, context);
  if (schema.variants) return union(schema, context);
  const values = choices(schema);
  return values.length ? choice(values) : makers[kindOf(schema)](schema, context);
}

export class Field {
  /** @type {Control | null} */
  control = null;
  id = `field-${(made += 1)}`;
  error = h("p", { id: `${this.id}-error`, class: "field-error", hidden: true });
  body = box("field-body");

  /**
   * @param {string} name
   * @param {Json | undefined} given the schema
   * @param {Context} context
   * @param {{required?: boolean, tool?: Node, bare?: boolean}} [options] a bare field has no words of its own
   */
  constructor(name, given, context, { required = true, tool, bare = false } = {}) {
    const { schema, variants, nullable } = dissect(given, context.root);
    this.name = name;
    this.required = required;
    this.context = { ...context, depth: context.depth + 1, name };
    this.schema = variants.length ? { ...schema, variants } : schema;
    this.default = own(schema, "default");
    const kind = variants.length ? "one of" : kindOf(schema);
    this.group = GROUPS.includes(kind);
    this.choice = nullable || (!required && this.default === undefined) ? this.#choice(nullable) : null;
    this.title = h(this.group ? "span" : "label", { class: bare ? "visually-hidden" : "field-name" }, line(name, 80));
    const hint = !bare && [expectation(schema, kind), required ? "" : "optional"].filter(Boolean).join(", ");
    // The docstring of `Array` tells programmers what it is.
    const words = !bare && schema.title !== "Array" && help(schema);
    this.help = words ? h("p", { id: `${this.id}-help`, class: "field-help" }, words) : null;
    const top = box("field-top", !this.group && this.title, hint && span("field-hint", hint), this.choice, tool);
    const inside = [top, this.help, this.body, this.error];
    this.element = this.group
      ? h("fieldset", { class: "field group" }, h("legend", {}, this.title), ...inside)
      : box("field", ...inside);
    this.#listen();
    this.set(undefined);
  }

  /** Tell what is wrong when the field is left, and no longer once it is edited. */
  #listen() {
    const mine = (/** @type {Event} */ { target }) => target instanceof Element && target.closest(".field") === this.element;
    this.element.addEventListener("input", (event) => (this.group || mine(event)) && !this.error.hidden && this.fail(null));
    this.element.addEventListener("change", (event) => {
      if (mine(event) && event.target !== this.choice) this.fail(this.control?.check?.() ?? null);
    });
  }

  /** @param {boolean} nullable */
  #choice(nullable) {
    const absent = !this.required && (this.default ?? null) === null && ["absent", `not given${this.default === null ? " (null)" : ""}`];
    const offered = [absent, nullable && ["null", "null"], ["value", "value"]];
    const options = offered.map((pair) => pair && h("option", { value: pair[0] }, pair[1]));
    const select = h("select", { class: "input small", "aria-label": `${this.name}: given or not` }, ...options);
    select.addEventListener("change", () => this.#mode(select.value));
    return select;
  }

  get mode() {
    return this.choice?.value ?? "value";
  }

  /** @param {string} mode */
  #mode(mode) {
    if (this.choice) this.choice.value = mode;
    this.body.hidden = mode !== "value";
    if (mode === "value" && !this.control) this.#use(build(this.schema, this.context));
    this.clear();
  }

  /** @param {Control} control */
  #use(control) {
    this.control = control;
    put(this.body, control.element);
    const radios = this.body.querySelector("[role=radiogroup]");
    const input = this.#inputs()[0];
    if (this.group || !input) return;
    if (radios) radios.setAttribute("aria-labelledby", (this.title.id = `${this.id}-title`));
    else this.title.setAttribute("for", (input.id = `${this.id}-input`));
  }

  /** The inputs of this field alone. @returns {HTMLElement[]} */
  #inputs() {
    const all = /** @type {NodeListOf<HTMLElement>} */ (this.body.querySelectorAll("input, textarea, select"));
    return [...all].filter((input) => input.closest(".field") === this.element);
  }

  /** The value; undefined leaves it out. @returns {Json | undefined} */
  get value() {
    if (this.mode !== "value") return this.mode === "null" ? null : undefined;
    const value = this.control?.get();
    return !this.required && equal(value, this.default) ? undefined : value;
  }

  /** @param {Json | undefined} value undefined gives what a new field has */
  set(value) {
    const has = (/** @type {string} */ mode) => this.choice?.querySelector(`[value=${mode}]`);
    if (value === undefined && has("absent")) return this.#mode("absent");
    const chosen = value === undefined ? this.default : value;
    if (has("null") && (chosen ?? null) === null) return this.#mode("null");
    this.#mode("value");
    if (chosen === undefined) return;
    if (!(this.control?.fits?.(chosen) ?? true)) this.#use(json({ type: this.schema.type ?? null }, this.context));
    this.control?.set(chosen);
  }

  /** @returns {[string | number, Field][]} */
  get below() {
    return (this.mode === "value" && this.control?.fields?.()) || [];
  }

  /** @param {Path} path @returns {Problem[]} */
  problems(path) {
    const message = this.mode === "value" && this.control?.check?.();
    const below = this.below.flatMap(([key, field]) => field.problems(this.control?.through ? path : [...path, key]));
    return message ? [{ path, message, field: this }, ...below] : below;
  }

  /** The field nearest to a path. @param {Path} path @returns {Field} */
  at(path) {
    const [key, ...rest] = path;
    if (key === undefined) return this;
    if (this.control?.through) return this.below[0]?.[1].at(path) ?? this;
    return this.below.find(([name]) => name === key)?.[1].at(rest) ?? this;
  }

  /** @param {string | null} message */
  fail(message) {
    this.error.hidden = message === null;
    this.error.textContent = line(message ?? "", 500);
    const ids = [this.help?.id, message !== null && this.error.id].filter(Boolean).join(" ");
    const inputs = this.#inputs();
    for (const target of this.group ? [this.element] : inputs)
      if (ids) target.setAttribute("aria-describedby", ids);
      else target.removeAttribute("aria-describedby");
    for (const input of inputs) input.ariaInvalid = String(message !== null);
  }

  clear() {
    this.fail(null);
    for (const [, field] of this.below) field.clear();
  }

  focus() {
    const any = /** @type {HTMLElement | null} */ (this.element.querySelector("input, textarea, select, button"));
    ((this.mode === "value" ? this.#inputs()[0] : this.choice) ?? any)?.focus();
  }
}
