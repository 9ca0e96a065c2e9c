/**
 * A table of which only the rows in sight are in the page.
 *
 * @typedef {import("../dom.js").Child} Child
 */
import { h, put } from "../dom.js";

/** Rows that are drawn above and below those in sight. */
const MARGIN = 8;
/** Pixels that browsers lay out without rounding. */
const TALLEST = 15e6;
let made = 0;

/**
 * @template Row
 * @typedef {object} Column
 * @property {string} title
 * @property {(row: Row, index: number) => Child} cell
 * @property {(row: Row) => string | number | null} [value] what to sort by; null is last
 * @property {string} width as in `grid-template-columns`
 * @property {boolean} [number]
 * @property {boolean} [spare] left out where it is narrow
 */

const words = new Intl.Collator("en", { numeric: true });

/** @param {string | number} a @param {string | number} b */
function compare(a, b) {
  return typeof a === "number" && typeof b === "number" ? a - b : words.compare(String(a), String(b));
}

/**
 * Events, when the user did it: "select"; "open" for Enter and a click.
 *
 * @template Row
 */
export class VirtualTable extends EventTarget {
  /** @type {{column: number, down: boolean} | null} */
  sorted = null;
  #id = `table-${(made += 1)}`;
  /** @type {Row[]} */
  #given = [];
  /** @type {Row[]} */
  #rows = [];
  #selected = -1;
  #painting = 0;
  #head = h("div", { class: "vt-row vt-head", role: "row", "aria-rowindex": 1 });
  #body = h("div", { class: "vt-body", role: "rowgroup" });
  #space = h("div", { role: "none", class: "vt-space" }, this.#body);
  #view;

  /**
   * @param {{label: string, columns: Column<Row>[], key: (row: Row) => unknown, className?: string, empty?: string,
   *   tone?: (row: Row) => string}} how
   */
  constructor({ label, columns, key, className = "", empty = "Nothing here", tone = () => "" }) {
    super();
    this.columns = columns;
    this.key = key;
    this.tone = tone;
    this.empty = h("p", { class: "empty" }, empty);
    this.#view = h("div", { class: "vt-view", tabindex: 0, role: "grid", "aria-label": label },
      h("div", { role: "rowgroup", class: "vt-top" }, this.#head), this.#space);
    this.element = h("div", { class: `vt ${className}` }, this.#view, this.empty);
    this.element.style.setProperty("--columns", columns.map(({ width }) => width).join(" "));
    this.element.style.setProperty("--columns-narrow", columns.filter(({ spare }) => !spare).map(({ width }) => width).join(" "));
    this.#view.addEventListener("scroll", () => this.paint());
    this.#view.addEventListener("keydown", (event) => this.#key(event));
    this.#body.addEventListener("click", ({ target }) => {
      const row = /** @type {Element} */ (target).closest("[role=row]");
      if (!row) return;
      this.#choose(Number(row.getAttribute("aria-rowindex")) - 2);
      this.dispatchEvent(new Event("open"));
    });
    new ResizeObserver(() => this.paint()).observe(this.#view);
    this.#titles();
  }

  /** As they are shown. */
  get rows() {
    return this.#rows;
  }

  /** The rows, which the table sorts itself, but the selected one stays selected. */
  set rows(rows) {
    const before = this.row;
    this.#given = rows;
    this.#sort();
    if (before && !this.#same(this.#rows[this.#selected], before)) this.#selected = this.#rows.findIndex((row) => this.#same(row, before));
    this.paint();
  }

  /** @returns {Row | null} */
  get row() {
    return this.#rows[this.#selected] ?? null;
  }

  get selected() {
    return this.#selected;
  }

  /** Select a row and bring it in sight. @param {number} index */
  select(index) {
    this.#selected = index;
    const height = this.#height;
    const top = index * height;
    const room = this.#view.clientHeight - this.#head.offsetHeight;
    if (index >= 0 && room > 0) {
      if (top < this.#view.scrollTop) this.#view.scrollTop = top;
      else if (top + height > this.#view.scrollTop + room) this.#view.scrollTop = top + height - room;
    }
    this.paint();
  }

  /** Once for the next frame, however often it is called. */
  paint() {
    this.#painting ||= requestAnimationFrame(() => {
      this.#painting = 0;
      this.#paint();
    });
  }

  /** CSS says how high a row is, because that depends on the width. */
  get #height() {
    return Number.parseInt(getComputedStyle(this.element).getPropertyValue("--row"), 10) || 29;
  }

  /** @param {Row | undefined} a @param {Row} b */
  #same(a, b) {
    return a !== undefined && this.key(a) === this.key(b);
  }

  #sort() {
    const value = this.sorted && this.columns[this.sorted.column]?.value;
    this.#rows = this.#given;
    if (!value) return;
    const sign = this.sorted?.down ? -1 : 1;
    const keyed = this.#given.map((row) => ({ row, by: value(row) }));
    keyed.sort(({ by: a }, { by: b }) => (a === null ? (b === null ? 0 : 1) : b === null ? -1 : sign * compare(a, b)));
    this.#rows = keyed.map(({ row }) => row);
  }

  #titles() {
    put(this.#head, ...this.columns.map(({ title, value, number, spare }, column) => {
      const down = this.sorted?.column === column ? this.sorted.down : null;
      const sort = down === null ? "none" : down ? "descending" : "ascending";
      const label = value
        ? h("button", { type: "button", class: "vt-sort", data: { column: String(column) }, on: { click: () => this.#sortBy(column) } }, title, h("span", { "aria-hidden": "true" }, down === null ? "" : down ? " ↓" : " ↑"))
        : title;
      return h("div", { role: "columnheader", class: `${number ? "number" : ""} ${spare ? "spare" : ""}`, "aria-sort": value ? sort : null }, label);
    }));
  }

  /** Ascending, descending, as they came. @param {number} column */
  #sortBy(column) {
    this.sorted = this.sorted?.column !== column ? { column, down: false } : this.sorted.down ? null : { column, down: true };
    this.#titles();
    /** @type {HTMLElement | null} */ (this.#head.querySelector(`[data-column="${column}"]`))?.focus();
    this.rows = this.#given;
  }

  #paint() {
    const count = this.#rows.length;
    this.empty.hidden = count > 0;
    this.#view.hidden = count === 0;
    const height = this.#height;
    this.#view.setAttribute("aria-rowcount", String(count + 1));
    this.#space.style.height = `${Math.min(TALLEST, count * height)}px`;
    const first = Math.max(0, Math.floor(this.#view.scrollTop / height) - MARGIN);
    const last = Math.min(count, first + Math.ceil(this.#view.clientHeight / height) + 2 * MARGIN);
    this.#body.style.transform = `translateY(${first * height}px)`;
    put(this.#body, ...this.#rows.slice(first, last).map((row, at) => this.#draw(row, first + at)));
    const seen = this.#selected >= first && this.#selected < last;
    if (seen) this.#view.setAttribute("aria-activedescendant", `${this.#id}-${this.#selected}`);
    else this.#view.removeAttribute("aria-activedescendant");
  }

  /** @param {Row} row @param {number} index */
  #draw(row, index) {
    return h("div", { id: `${this.#id}-${index}`, class: `vt-row ${this.tone(row)}`, role: "row", "aria-rowindex": index + 2, "aria-selected": String(index === this.#selected) },
      ...this.columns.map(({ cell, number, spare }) => h("div", { role: "gridcell", class: `${number ? "number" : ""} ${spare ? "spare" : ""}` }, cell(row, index))));
  }

  /** @param {number} index */
  #choose(index) {
    if (!this.#rows.length) return;
    this.select(Math.max(0, Math.min(index, this.#rows.length - 1)));
    this.dispatchEvent(new Event("select"));
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.target !== this.#view || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(this.#view.clientHeight / this.#height) - 2);
    const moves = /** @type {Record<string, number>} */ ({
      ArrowDown: this.#selected + 1, ArrowUp: this.#selected - 1, PageDown: this.#selected + page,
      PageUp: this.#selected - page, Home: 0, End: Infinity,
    });
    const to = moves[event.key];
    if (to === undefined && (event.key !== "Enter" || !this.row)) return;
    event.preventDefault();
    if (to !== undefined) this.#choose(to);
    else this.dispatchEvent(new Event("open"));
  }
}
