/** All sessions of the server, as they are now. */
import { h, put } from "../dom.js";
import { number, plural, seconds } from "../format.js";
import { VirtualTable } from "../player/virtual-table.js";
import { line } from "../render/text.js";

/**
 * @typedef {import("../app.js").App} App
 * @typedef {import("../types.js").SessionRow} SessionRow
 */

/** Milliseconds between lists, at least; more where an answer takes long. */
const PERIOD = 1000;
const LONGEST = 20000;
/** How many times as long as an answer took the server is left alone: it costs 2 % at most. */
const REST = 50;
const TONES = /** @type {Record<string, string>} */ ({ running: "good", done: "accent", broken: "bad", poisoned: "bad" });

/** @param {SessionRow} row */
export function stateBadges({ state, attached, taken_over: taken }) {
  return h("span", {},
    h("span", { class: `badge ${TONES[state] ?? ""}` }, state), " ",
    taken && h("span", { class: "badge warn" }, "taken over"), " ",
    !attached && h("span", { class: "badge bad", title: "The owner's connection is lost; its lease runs." }, "away"));
}

export class SessionsView {
  shortcuts = /** @type {[string, string][]} */ ([["/", "Filter the sessions"], ["↑ ↓ Enter", "Choose a session and open it"]]);
  /** @type {SessionRow[]} */
  #rows = [];
  #timer = 0;
  #shown = false;
  #paused = false;
  #asking = false;
  #text = h("input", { type: "search", class: "input", placeholder: "Filter by session, owner, environment", "aria-label": "Filter" });
  #environment = h("select", { class: "input", "aria-label": "Environment" });
  #state = h("select", { class: "input", "aria-label": "State" });
  #count = h("span", { class: "small muted grow", role: "status" });
  #pace = h("span", { class: "small muted" });
  #pause = h("button", { type: "button", class: "button small", "aria-pressed": "false", on: { click: () => this.#toggle() } }, "Pause");
  #problem = h("div");
  /** @type {VirtualTable<SessionRow>} */
  #table = new VirtualTable({
    label: "Sessions", key: ({ session }) => session, className: "watch-table folded",
    empty: "No sessions. They appear here as soon as a client opens one.",
    columns: [
      { title: "Owner", width: "minmax(110px, 1.4fr)", value: ({ owner }) => owner, cell: ({ owner, session }) => h("a", { href: `#/sessions/${encodeURIComponent(session)}`, tabindex: -1, title: session }, line(owner || session, 80)) },
      { title: "Environment", width: "minmax(110px, 1fr)", value: ({ environment }) => environment, cell: ({ environment }) => line(environment, 80) },
      { title: "Episode", width: "80px", number: true, value: ({ episode }) => episode, cell: ({ episode }) => number(episode) },
      { title: "Step", width: "80px", number: true, value: ({ step }) => step, cell: ({ step }) => number(step) },
      { title: "Reward", width: "90px", number: true, value: ({ reward }) => reward, cell: ({ reward }) => number(reward) },
      { title: "Age", width: "100px", number: true, value: ({ age }) => age, cell: ({ age }) => seconds(Math.floor(age)) },
      { title: "In step", width: "90px", number: true, value: ({ busy }) => busy, cell: ({ busy }) => (busy === null ? "–" : seconds(busy)) },
      { title: "State", width: "minmax(96px, 1fr)", value: ({ state }) => state, cell: stateBadges },
    ],
  });

  /** @param {App} app */
  constructor(app) {
    this.app = app;
    this.element = h("section", { class: "stack", "aria-labelledby": "sessions-title" },
      h("div", { class: "row" }, h("h2", { id: "sessions-title" }, "Sessions"), this.#count, this.#pace, this.#pause),
      h("div", { class: "row filters" }, this.#text, this.#environment, this.#state),
      this.#problem, this.#table.element);
    this.#text.addEventListener("input", () => this.#filter());
    this.#state.addEventListener("change", () => this.#filter());
    this.#environment.addEventListener("change", () => this.#soon(0));
    this.#table.addEventListener("open", () => {
      const { row } = this.#table;
      if (row) app.navigate(`#/sessions/${encodeURIComponent(row.session)}`);
    });
    document.addEventListener("visibilitychange", () => this.#soon(0));
    app.connection.addEventListener("state", () => this.#soon(0));
    this.element.addEventListener("keydown", (event) => this.#key(event));
    document.addEventListener("keydown", (event) => this.#key(event));
  }

  show() {
    this.#shown = true;
    this.#options(this.#environment, "All environments", this.app.environments);
    this.#options(this.#state, "All states", []);
    this.#table.paint();
    this.#soon(0);
  }

  hide() {
    this.#shown = false;
    clearTimeout(this.#timer);
  }

  #toggle() {
    this.#paused = !this.#paused;
    this.#pause.setAttribute("aria-pressed", String(this.#paused));
    put(this.#pause, this.#paused ? "Resume" : "Pause");
    this.#soon(0);
  }

  /** @param {number} delay milliseconds */
  #soon(delay) {
    clearTimeout(this.#timer);
    if (this.#paused) return put(this.#pace, "paused");
    if (!this.#shown || document.hidden || this.app.connection.state !== "open") return;
    this.#timer = setTimeout(() => this.#refresh(), delay);
  }

  async #refresh() {
    // the answer that is awaited asks again
    if (this.#asking) return;
    this.#asking = true;
    const began = performance.now();
    const environment = this.#environment.value || null;
    let period = PERIOD;
    try {
      const { rows, total } = await this.app.connection.list({ environment });
      period = Math.min(LONGEST, Math.max(PERIOD, (performance.now() - began) * REST));
      this.#rows = rows;
      put(this.#problem, total > rows.length && h("p", { class: "notice warn" }, `The first ${number(rows.length)} of ${plural(total, "session")} are listed. Choose an environment to see others.`));
      this.#options(this.#state, "All states", [...new Set(rows.map(({ state }) => state))].sort());
      this.#filter();
      put(this.#pace, `every ${Math.round(period / 1000)} s`);
    } catch (error) {
      put(this.#problem, this.app.connection.state === "open" && h("p", { class: "notice bad" }, `The sessions cannot be listed: ${/** @type {Error} */ (error).message}`));
    } finally {
      this.#asking = false;
    }
    this.#soon(environment === (this.#environment.value || null) ? period : 0);
  }

  #filter() {
    const text = this.#text.value.trim().toLowerCase();
    const state = this.#state.value;
    const found = this.#rows.filter((row) => (!state || row.state === state)
      && (!text || `${row.session}\n${row.owner}\n${row.environment}`.toLowerCase().includes(text)));
    put(this.#table.empty, this.#rows.length ? "No session is like this." : "No sessions. They appear here as soon as a client opens one.");
    this.#table.rows = found;
    const words = found.length === this.#rows.length ? plural(found.length, "session") : `${number(found.length)} of ${plural(this.#rows.length, "session")}`;
    if (this.#count.textContent !== words) put(this.#count, words);
  }

  /** @param {HTMLSelectElement} select @param {string} all @param {string[]} names */
  #options(select, all, names) {
    const chosen = select.value;
    const wanted = ["", ...names, ...(chosen && !names.includes(chosen) ? [chosen] : [])];
    if (wanted.join("\n") === [...select.options].map(({ value }) => value).join("\n")) return;
    put(select, ...wanted.map((name) => h("option", { value: name }, name || all)));
    select.value = chosen;
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (!this.#shown || event.key !== "/" || event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (/** @type {HTMLElement} */ (event.target).closest("input, select, dialog")) return;
    event.preventDefault();
    this.#text.focus();
  }
}
