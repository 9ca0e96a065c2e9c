/**
 * `<schema-form>`: a form for a value, made from its JSON Schema.
 *
 * Events: "input" on every change, "submit" on Enter in a single line and on Ctrl+Enter
 * anywhere. Integers beyond 2^53 are in the value as `JSON.rawJSON`.
 *
 * @import {Json, Schema} from "../types.js"
 * @import {Control} from "./field.js"
 * @typedef {{path: (string | number)[], message: string}} Problem
 */
import { h, put } from "../dom.js";
import { box, button } from "../render/text.js";
import { json } from "./controls.js";
import { Field } from "./field.js";

/**
 * Where a server's message says that something is wrong: `… - at `$.a[0].b``.
 *
 * A key of a map comes as `...`, because the server does not tell which.
 *
 * @param {string} text
 * @returns {(string | number)[]}
 */
export function fieldPath(text) {
  const place = /(?:^|`|\s)\$((?:\.[^.[\]`\s]+|\[(?:\d+|\.\.\.)\])*)`?\s*$/.exec(text)?.[1] ?? "";
  const steps = [...place.matchAll(/\.([^.[\]]+)|\[(\d+|\.\.\.)\]/g)];
  const field = /(?:missing required|unknown) field `([^`]+)`/.exec(text)?.slice(1) ?? [];
  return [...steps.map(([, name, index]) => name ?? (index === "..." ? index : Number(index))), ...field];
}

export class SchemaForm extends HTMLElement {
  /** @type {Field | null} */
  #field = null;
  /** @type {Control | null} The whole value as JSON, while it is edited so. */
  #source = null;
  #switch = button("JSON", () => this.#toggle());
  #error = h("p", { class: "field-error", role: "alert", hidden: true });
  #body = box("form-body");

  constructor() {
    super();
    this.addEventListener("keydown", (event) => this.#key(event));
    this.addEventListener("input", (event) => {
      if (event.target !== this && !this.#error.hidden) this.#say(null);
    });
  }

  connectedCallback() {
    this.setAttribute("role", "group");
    if (!this.hasAttribute("aria-label")) this.setAttribute("aria-label", "Form");
    if (!this.firstChild) this.append(box("form-tools", this.#switch), this.#body, this.#error);
  }

  /** @param {Schema} schema */
  setSchema(schema) {
    this.#source = null;
    this.#switch.setAttribute("aria-pressed", "false");
    this.#say(null);
    this.#field = new Field("value", schema, { root: schema, depth: 0, name: "" }, { bare: true });
    put(this.#body, this.#field.element);
  }

  /** @returns {Json} */
  get value() {
    return (this.#source ? this.#source.get() : this.#field?.value) ?? null;
  }

  set value(value) {
    if (this.#source) this.#source.set(value);
    else this.#field?.set(value);
    this.#say(null);
  }

  /**
   * What is wrong; shown at the fields, of which the first gets the focus.
   *
   * @returns {Problem[]}
   */
  check() {
    this.clearErrors();
    if (this.#source) {
      const message = this.#source.check?.() ?? null;
      if (message) this.#say(message);
      return message ? [{ path: [], message }] : [];
    }
    const problems = this.#field?.problems([]) ?? [];
    for (const { field, message } of problems) field.fail(message);
    problems[0]?.field.focus();
    return problems.map(({ path, message }) => ({ path, message }));
  }

  /** @param {Problem[]} problems from the server */
  showErrors(problems) {
    this.clearErrors();
    for (const { path, message } of [...problems].reverse()) {
      const field = this.#source ? null : this.#field?.at(path);
      if (!field || field === this.#field) {
        this.#say(message);
        continue;
      }
      field.fail(message);
      field.focus();
    }
  }

  clearErrors() {
    this.#say(null);
    this.#field?.clear();
  }

  /** Put the focus on the first field. @override */
  focus() {
    this.#field?.focus();
  }

  /** @param {string | null} message */
  #say(message) {
    this.#error.hidden = message === null;
    this.#error.textContent = message;
  }

  #toggle() {
    const field = this.#field;
    if (!field) return;
    const value = this.value;
    if (this.#source) {
      const message = this.#source.check?.() ?? null;
      if (message) return this.#say(message);
      this.#source = null;
      field.set(value);
      put(this.#body, field.element);
    } else {
      this.#source = json({}, { root: {}, depth: 0, name: "" });
      this.#source.set(value);
      this.#source.element.setAttribute("aria-label", "The value as JSON");
      put(this.#body, this.#source.element);
    }
    this.#say(null);
    this.#switch.setAttribute("aria-pressed", String(Boolean(this.#source)));
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const target = /** @type {HTMLElement} */ (event.target);
    // An input method uses Enter for itself.
    if (event.key !== "Enter" || event.isComposing || event.defaultPrevented) return;
    const single = target.matches("textarea:not([data-multi]), input:not([type=file])");
    if (!(event.ctrlKey || event.metaKey || (single && !event.shiftKey))) return;
    event.preventDefault();
    event.stopPropagation();
    this.dispatchEvent(new CustomEvent("submit", { bubbles: true, cancelable: true }));
  }
}

customElements.define("schema-form", SchemaForm);
