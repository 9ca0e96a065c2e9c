/** Time travel over the records of a log: `<episode-player>`. */
import { Chart } from "../charts.js";
import { h, put } from "../dom.js";
import { EpisodeLog } from "../episode.js";
import { bytes, clockTime, duration, number, plural } from "../format.js";
import { renderDiff } from "../render/diff.js";
import { copyButton, line } from "../render/text.js";
import { write } from "../render/values.js";
import { asPython } from "../snippets.js";
import { isError, LARGE, largeRewards, wireOf } from "./measures.js";
import { VirtualTable } from "./virtual-table.js";

/**
 * @typedef {import("../types.js").StepRecord} StepRecord
 * @typedef {import("../types.js").Json} Json
 * @typedef {import("../types.js").JsonObject} JsonObject
 * @typedef {{schemas?: import("../types.js").Schemas | null, metadata?: import("../types.js").Metadata | null, environment: string,
 *   url?: string, authenticated?: boolean}} Context
 */

/** Milliseconds between drawings of the charts while it is live. */
const CHARTS = 250;
/** Milliseconds that a step stays selected before it is compared with another. */
const SETTLED = 120;

/** @param {number | null} at */
const maybe = (at) => (at === null ? "?" : number(at));

/** Event "select" when another record is shown; detail is the record, or null. */
export class EpisodePlayer extends HTMLElement {
  #log = new EpisodeLog();
  /** @type {Context} */
  #context = { environment: "" };
  #selected = -1;
  #live = true;
  /** The log's `forgotten` when `#selected` was set. */
  #forgotten = 0;
  /** What the listeners were last told of. @type {StepRecord | null} */
  #told = null;
  /** @type {StepRecord | null} A record to compare with; null is the one before. */
  #fixed = null;
  #drawing = 0;
  #charting = 0;
  #settling = 0;
  #dirty = { rows: true, charts: true };
  #heard = () => this.#changed();

  #scrub = h("input", { type: "range", min: 0, step: 1, class: "grow", "aria-label": "Step" });
  #where = h("span", { class: "small" });
  #follow = h("button", { type: "button", class: "button small", "aria-keyshortcuts": "l", title: "Show each new step (l)" }, "Follow live");
  #jumps = h("span", { class: "small muted", role: "status" });
  #lost = h("p", { class: "notice warn small", hidden: true });
  #rewards = new Chart({ title: "Reward", format: number, pick: (index) => this.#move(index) });
  #latency = new Chart({ title: "Latency", format: duration, stacked: true, pick: (index) => this.#move(index) });
  #difference = h("div", { class: "stack" });
  #compared = h("span", { class: "small muted grow" });
  #pin = h("button", { type: "button", class: "button small", on: { click: () => this.#pinned() } }, "Compare with this step");
  /** @type {VirtualTable<StepRecord>} */
  #table = new VirtualTable({
    label: "History", key: (record) => record, className: "history", empty: "No steps yet",
    tone: (record) => (isError(record) ? "bad" : record.terminated || record.truncated ? "over" : ""),
    columns: [
      { title: "Step", width: "64px", cell: (_, index) => this.#place(index) },
      { title: "Kind", width: "68px", cell: (record) => h("span", { class: `badge ${isError(record) ? "bad" : record.kind === "reset" ? "accent" : ""}` }, record.kind) },
      { title: "Action", width: "minmax(60px, 1fr)", cell: (record) => h("span", { class: "mono" }, brief(record)) },
      { title: "Reward", width: "60px", number: true, cell: ({ reward }) => number(reward) },
      { title: "Done", width: "96px", spare: true, cell: done },
      { title: "Queue", width: "80px", number: true, spare: true, cell: ({ timings }) => duration(timings?.queueNs) },
      { title: "Environment", width: "92px", number: true, spare: true, cell: ({ timings }) => duration(timings?.environmentNs) },
      { title: "Wire", width: "80px", number: true, spare: true, cell: (record) => duration(wireOf(record)) },
      { title: "Sent", width: "76px", number: true, spare: true, cell: ({ requestBytes }) => bytes(requestBytes) },
      { title: "Received", width: "76px", number: true, spare: true, cell: ({ payloadBytes }) => bytes(payloadBytes) },
      { title: "At", width: "76px", number: true, spare: true, cell: ({ at }) => clockTime(at) },
    ],
  });
  #built = false;

  connectedCallback() {
    if (!this.#built) this.#build();
    this.#changed();
  }

  get log() {
    return this.#log;
  }

  set log(log) {
    for (const event of ["append", "place", "clear"]) {
      this.#log.removeEventListener(event, this.#heard);
      log.addEventListener(event, this.#heard);
    }
    this.#log = log;
    this.#selected = log.records.length - 1;
    this.#forgotten = log.forgotten;
    this.#fixed = null;
    this.#changed();
  }

  get context() {
    return this.#context;
  }

  set context(context) {
    this.#context = context;
  }

  get selected() {
    return this.#selected;
  }

  set selected(index) {
    this.#selected = Math.max(-1, Math.min(index, this.#log.records.length - 1));
    this.#changed();
  }

  get live() {
    return this.#live;
  }

  set live(live) {
    this.#live = live;
    this.#follow.setAttribute("aria-pressed", String(live));
    if (live) this.selected = this.#log.records.length - 1;
  }

  #build() {
    this.#built = true;
    this.classList.add("stack");
    const button = (/** @type {string} */ text, /** @type {string} */ name, /** @type {() => void} */ act, keys = "") =>
      h("button", { type: "button", class: "button small", "aria-label": name === text ? null : name, title: keys ? `${name} (${keys})` : name, on: { click: act } }, text);
    this.#scrub.addEventListener("input", () => this.#move(this.#scrub.valueAsNumber));
    this.#follow.addEventListener("click", () => (this.live = !this.#live));
    this.#table.addEventListener("select", () => this.#move(this.#table.selected));
    this.addEventListener("keydown", (event) => this.#key(event));
    this.live = this.#live;
    const selected = () => this.#log.records[this.#selected];
    put(this,
      h("div", { class: "row player-bar" },
        h("div", { class: "segments" }, button("«", "First step", () => this.#move(0)), button("‹", "Step before", () => this.#move(this.#selected - 1)),
          button("›", "Next step", () => this.#move(this.#selected + 1)), button("»", "Last step", () => this.#move(Infinity))),
        this.#scrub, this.#where, this.#follow),
      h("div", { class: "row" },
        button("Next error", "Next error", () => this.#jump("error", 1), "e, back with E"),
        button("Next large reward", `Next large reward: ${LARGE}`, () => this.#jump("large reward", 1), "r, back with R"),
        this.#jumps, h("span", { class: "grow" }),
        copyButton(() => { const record = selected(); return record ? asPython(this.#context.environment, record, this.#server) : ""; }, "Copy step as Python"),
        copyButton(() => write(/** @type {Json} */ (/** @type {unknown} */ (selected() ?? null)), Infinity, "  "), "Copy step as JSON"),
        copyButton(() => asPython(this.#context.environment, this.#log.records, this.#server), "Copy all as Python"),
        copyButton(() => write(/** @type {Json} */ (/** @type {unknown} */ (this.#log.records)), Infinity, "  "), "Copy all as JSON")),
      this.#lost,
      h("div", { class: "charts" }, this.#rewards.element, this.#latency.element),
      this.#table.element,
      h("details", { class: "difference", on: { toggle: () => this.#compare() } },
        h("summary", {}, "Difference between observations"),
        h("div", { class: "stack" }, h("div", { class: "row" }, this.#compared, this.#pin), this.#difference)));
  }

  get #server() {
    const { url, authenticated } = this.#context;
    return { ...(url && { url }), ...(authenticated && { authenticated }) };
  }

  // What changed

  /** Many changes of one frame are drawn once. */
  #changed() {
    this.#dirty.rows = this.#dirty.charts = true;
    if (!this.#built || !this.isConnected) return;
    this.#drawing ||= requestAnimationFrame(() => {
      this.#drawing = 0;
      this.#draw();
    });
  }

  /** The user chose. @param {number} index */
  #move(index) {
    const last = this.#log.records.length - 1;
    const to = Math.max(0, Math.min(index, last));
    if (to !== last || index !== Infinity) this.live = false;
    this.selected = to;
  }

  #draw() {
    const { records, forgotten, dropped } = this.#log;
    const gone = forgotten - this.#forgotten;
    this.#forgotten = forgotten;
    this.#selected = this.#live ? records.length - 1 : Math.max(Math.min(0, records.length - 1), Math.min(this.#selected - Math.max(0, gone), records.length - 1));
    const at = this.#selected;
    this.#scrub.max = String(Math.max(0, records.length - 1));
    this.#scrub.disabled = records.length < 2;
    this.#scrub.value = String(at);
    const mark = this.#log.marks[at];
    const where = mark ? `episode ${maybe(mark.episode)}, step ${maybe(mark.step)}, total reward ${maybe(mark.total)}` : "";
    this.#scrub.setAttribute("aria-valuetext", mark ? `${at + 1} of ${records.length}: ${where}` : "no steps");
    put(this.#where, mark ? `${number(at + 1)} of ${number(records.length)} · ${where}` : "");
    const lost = [dropped && `${plural(dropped, "event")} lost, because this page was slower than the episode`, forgotten && `${plural(forgotten, "earlier record")} let go to bound memory`].filter(Boolean);
    this.#lost.hidden = !lost.length;
    put(this.#lost, lost.join("; "));
    this.#table.rows = records;
    this.#table.select(at);
    this.#rewards.point(at < 0 ? null : at);
    this.#latency.point(at < 0 ? null : at);
    this.#charting ||= setTimeout(() => {
      this.#charting = 0;
      this.#chart();
    }, this.#live ? CHARTS : 0);
    const record = records[at] ?? null;
    if (record === this.#told) return;
    this.#told = record;
    this.dispatchEvent(new CustomEvent("select", { detail: record }));
    clearTimeout(this.#settling);
    this.#settling = setTimeout(() => this.#compare(), SETTLED);
  }

  #chart() {
    const { records, marks } = this.#log;
    const cursor = this.#selected < 0 ? null : this.#selected;
    /** @type {import("../charts.js").Tick[]} */
    const ticks = [];
    records.forEach((record, at) => {
      if (isError(record) || record.kind === "reset") ticks.push({ at, tone: isError(record) ? "bad" : "muted" });
    });
    const ends = { cursor, ticks, from: records.length ? "1" : "", to: records.length ? number(records.length) : "" };
    this.#rewards.draw({ ...ends, series: [
      { name: "in this step", values: records.map(({ reward }) => reward), tone: 1 },
      { name: "total of the episode", values: marks.map(({ total }) => total), tone: 2 },
    ] });
    const part = (/** @type {(record: StepRecord) => number | null | undefined} */ of) => records.map((record) => of(record) ?? null);
    this.#latency.draw({ ...ends, series: [
      { name: "queue", values: part(({ timings }) => timings?.queueNs), tone: 3 },
      { name: "environment", values: part(({ timings }) => timings?.environmentNs), tone: 1 },
      { name: "wire", values: part(wireOf), tone: 2 },
    ] });
  }

  /** @param {number} index */
  #place(index) {
    const mark = this.#log.marks[index];
    const lost = this.#log.records[index]?.dropped;
    const text = `${maybe(mark?.episode ?? null)}.${maybe(mark?.step ?? null)}`;
    return lost ? h("span", { title: `${plural(lost, "event")} lost before this` }, `${text} `, h("span", { class: "badge warn" }, `-${lost}`)) : text;
  }

  // Differences

  #pinned() {
    this.#fixed = this.#fixed ? null : (this.#log.records[this.#selected] ?? null);
    this.#compare();
  }

  #compare() {
    const { records } = this.#log;
    const at = this.#selected;
    put(this.#pin, this.#fixed ? "Compare with the step before" : "Compare others with this step");
    this.#pin.disabled = at < 0;
    if (!this.querySelector("details.difference[open]")) return;
    const seen = (/** @type {StepRecord} */ { kind }) => kind === "reset" || kind === "step";
    const from = this.#fixed ? records.indexOf(this.#fixed) : records.findLastIndex((record, index) => index < at && seen(record));
    const [before, after] = [this.#fixed ?? records[from], records[at]];
    if (!before || !after || !seen(after) || before === after) {
      put(this.#compared);
      put(this.#difference, h("p", { class: "empty" }, "Select a step with an observation, and one before it or any other to compare with."));
      return;
    }
    put(this.#compared, `From record ${from < 0 ? "(let go)" : number(from + 1)} to record ${number(at + 1)}`);
    put(this.#difference, renderDiff(before.payload, after.payload));
  }

  // Jumps

  /** @param {"error" | "large reward"} what @param {1 | -1} way */
  #jump(what, way) {
    const { records } = this.#log;
    const fits = what === "error" ? isError : largeRewards(records);
    const start = this.#selected;
    for (let passed = 1; passed <= records.length; passed += 1) {
      const at = (start + way * passed + records.length * 2) % records.length;
      const record = records[at];
      if (!record || !fits(record)) continue;
      const round = way > 0 ? at <= start : at >= start;
      put(this.#jumps, `${what} at ${number(at + 1)}${round ? ", from the other end" : ""}`);
      return this.#move(at);
    }
    put(this.#jumps, `no ${what} here`);
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const target = /** @type {HTMLElement} */ (event.target);
    if (event.ctrlKey || event.metaKey || event.altKey || target.closest("input:not([type=range]), textarea, select, .tree")) return;
    const acts = /** @type {Record<string, () => void>} */ ({
      e: () => this.#jump("error", 1), E: () => this.#jump("error", -1),
      r: () => this.#jump("large reward", 1), R: () => this.#jump("large reward", -1),
      l: () => (this.live = !this.#live),
    });
    // on the table they move by rows, on the slider by themselves
    if (target instanceof HTMLButtonElement) Object.assign(acts, { ArrowLeft: () => this.#move(this.#selected - 1), ArrowRight: () => this.#move(this.#selected + 1) });
    const act = Object.hasOwn(acts, event.key) ? acts[event.key] : undefined;
    if (!act) return;
    event.preventDefault();
    act();
  }
}

/** @param {StepRecord} record */
function brief(record) {
  const { code, message } = /** @type {JsonObject} */ (record.payload ?? {});
  if (isError(record)) return line(`${code}: ${message}`, 160);
  const { request } = record;
  if (record.kind === "reset" && request && typeof request === "object" && !Array.isArray(request)) {
    const given = Object.entries(request).filter(([, value]) => value !== null);
    return line(given.map(([name, value]) => `${name}=${write(value, 80)}`).join(" "), 160);
  }
  return request === null ? "" : line(write(request, 160), 160);
}

/** @param {StepRecord} record */
function done({ terminated, truncated }) {
  if (terminated) return h("span", { class: "badge good" }, "terminated");
  return truncated ? h("span", { class: "badge warn" }, "truncated") : "";
}

customElements.define("episode-player", EpisodePlayer);
