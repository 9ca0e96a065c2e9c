/** A run that was recorded: its numbers, its episodes, and each one step by step. */
import { h, put } from "../dom.js";
import { EpisodeLog } from "../episode.js";
import { clockTime, number, plural, seconds } from "../format.js";
import { EpisodePlayer } from "../player/episode-player.js";
import { VirtualTable } from "../player/virtual-table.js";
import { ServerError } from "../protocol.js";
import { renderObservation } from "../render/observation.js";
import { line } from "../render/text.js";
import { renderTree } from "../render/tree.js";
import { renderProblem } from "./problem.js";

/**
 * @typedef {import("../app.js").App} App
 * @typedef {import("../types.js").Json} Json
 * @typedef {import("../types.js").JsonObject} JsonObject
 * @typedef {import("../types.js").StepRecord} StepRecord
 * @typedef {{index: number, task: string, seed: number | null, outcome: string, failed: boolean, return: number | null,
 *   steps: number, seconds: number | null}} Row
 * @typedef {{manifest?: JsonObject, summary?: JsonObject, episodes: Row[], total?: number, complete?: boolean,
 *   code?: string | null, problem?: string | null}} Run
 * @typedef {{environment?: string, task?: string, seed?: number | null, outcome?: string, records: StepRecord[],
 *   schemas?: import("../types.js").Schemas | null, metadata?: import("../types.js").Metadata | null, problem?: string | null}} Episode
 */

/** Episodes that are listed at most, and milliseconds before a list that is still being read is asked for again. */
const MOST = 100_000;
const SOON = 1000;

/** @param {Json | undefined} value @returns {JsonObject} */
const object = (value) => (value !== null && typeof value === "object" && !Array.isArray(value) ? value : {});
/** @param {Json | undefined} value */
const maybe = (value) => (typeof value === "number" ? number(value) : "–");
/** @param {Row} row */
const tone = ({ failed, outcome }) => (failed ? "bad" : outcome.startsWith("terminated") ? "good" : "warn");

export class RecordedView {
  shortcuts = /** @type {[string, string][]} */ ([["↑ ↓ Enter", "Choose an episode and open it"], ["e, r", "Next error, next large reward, in the player"]]);
  /** @type {Run | null} */
  #run = null;
  #turn = 0;
  #timer = 0;
  #log = new EpisodeLog(Infinity);
  #player = new EpisodePlayer();
  /** @type {Episode | null} */
  #episode = null;
  #text = h("input", { type: "search", class: "input", placeholder: "Filter by task or outcome", "aria-label": "Filter" });
  #outcome = h("select", { class: "input", "aria-label": "Outcome" });
  #count = h("span", { class: "small muted", role: "status" });
  #summary = h("div", { class: "stack" });
  #problem = h("div");
  #title = h("h2", { class: "grow" });
  #observed = h("span", { class: "row" });
  #observation = h("div");
  /** @type {VirtualTable<Row>} */
  #table = new VirtualTable({
    label: "Episodes", key: ({ index }) => index, className: "watch-table", empty: "No episodes yet",
    columns: [
      { title: "#", width: "48px", number: true, value: ({ index }) => index, cell: ({ index }) => h("a", { href: `#/run/${index}`, tabindex: -1 }, number(index)) },
      { title: "Task", width: "minmax(80px, 2fr)", value: ({ task }) => task, cell: ({ task }) => line(task, 120) },
      { title: "Outcome", width: "minmax(96px, 1fr)", value: ({ outcome }) => outcome, cell: (row) => h("span", { class: `badge ${tone(row)}` }, line(row.outcome, 60)) },
      { title: "Return", width: "68px", number: true, value: (row) => row.return, cell: (row) => number(row.return) },
      { title: "Steps", width: "72px", number: true, spare: true, value: ({ steps }) => steps, cell: ({ steps }) => number(steps) },
      { title: "Time", width: "90px", number: true, spare: true, value: (row) => row.seconds, cell: (row) => seconds(row.seconds) },
      { title: "Seed", width: "minmax(90px, 1fr)", number: true, spare: true, value: ({ seed }) => seed, cell: ({ seed }) => (seed === null ? "–" : String(seed)) },
    ],
  });
  #list;
  #one;

  /** @param {App} app */
  constructor(app) {
    this.app = app;
    this.#player.log = this.#log;
    this.#player.live = false;
    this.#player.classList.add("recorded");
    this.#list = h("div", { class: "stack" },
      h("div", { class: "row" }, h("h2", { class: "grow" }, "Recorded run"), h("button", { type: "button", class: "button small", on: { click: () => this.#load() } }, "Read again")),
      this.#summary,
      h("div", { class: "row filters" }, this.#text, this.#outcome, this.#count),
      this.#table.element);
    this.#one = h("div", { class: "stack", hidden: true },
      h("div", { class: "row" }, h("a", { class: "button small", href: "#/run" }, "‹ All episodes"), this.#title,
        h("button", { type: "button", class: "button small", on: { click: () => this.#beside(-1) } }, "Episode before"),
        h("button", { type: "button", class: "button small", on: { click: () => this.#beside(1) } }, "Next episode")),
      h("section", { class: "card", "aria-label": "History" }, this.#player),
      h("section", { class: "card stack", "aria-label": "Observation" }, h("div", { class: "row" }, h("h2", { class: "grow" }, "Observation"), this.#observed), this.#observation));
    this.element = h("div", { class: "stack" }, this.#problem, this.#list, this.#one);
    for (const control of [this.#text, this.#outcome]) control.addEventListener("input", () => this.#filter());
    this.#table.addEventListener("open", () => {
      const { row } = this.#table;
      if (row) app.navigate(`#/run/${row.index}`);
    });
    this.#player.addEventListener("select", (event) => this.#selected(/** @type {CustomEvent<StepRecord | null>} */ (event).detail));
  }

  /** @param {string[]} parameters */
  show([episode]) {
    this.#list.hidden = episode !== undefined;
    this.#one.hidden = episode === undefined;
    this.#table.paint();
    put(this.#problem);
    if (!this.#run) void this.#load();
    if (episode !== undefined) void this.#open(episode);
  }

  hide() {
    clearTimeout(this.#timer);
  }

  async #load() {
    try {
      const run = /** @type {Run} */ (await this.app.fetchJson(`run?limit=${MOST}`));
      this.#run = run;
      clearTimeout(this.#timer);
      if (run.complete === false) this.#timer = setTimeout(() => this.#load(), SOON);
      this.#describe(run);
      const outcomes = [...new Set(run.episodes.map(({ outcome }) => outcome))].sort();
      const chosen = this.#outcome.value;
      put(this.#outcome, h("option", { value: "" }, "All outcomes"), run.episodes.some(({ failed }) => failed) && h("option", { value: "failed" }, "All failures"), ...outcomes.map((outcome) => h("option", { value: `is ${outcome}` }, line(outcome, 60))));
      this.#outcome.value = chosen;
      if (this.#outcome.selectedIndex < 0) this.#outcome.value = "";
      this.#filter();
    } catch (error) {
      this.#fail("The run cannot be read", error);
    }
  }

  /** @param {Run} run */
  #describe({ manifest = {}, summary = {}, episodes, problem, code, total }) {
    const { returns, lengths, seconds: times } = summary;
    const environment = object(manifest.environment);
    const started = typeof summary.started === "number" ? new Date(summary.started * 1000) : null;
    const facts = /** @type {[string, string][]} */ ([
      ["Environment", environment.name ? line(String(environment.name)) : "–"],
      ["Episodes", maybe(summary.episodes ?? episodes.length)], ["Failed", maybe(summary.failed)],
      ["Mean return", maybe(object(returns).mean)], ["Median return", maybe(object(returns).p50)],
      ["Steps, median", maybe(object(lengths).p50)], ["Steps in all", maybe(summary.steps)],
      ["Time, median", typeof object(times).p50 === "number" ? seconds(Number(object(times).p50)) : "–"],
      ["Began", started ? `${started.toLocaleDateString("en-CA")} ${clockTime(started.getTime())}` : "–"],
    ]);
    const tree = h("div", { class: "difference" });
    const details = h("details", {}, h("summary", {}, "Manifest and summary"), tree);
    details.addEventListener("toggle", () => tree.childElementCount || put(tree, renderTree({ manifest, summary }, { open: 2 })), { once: true });
    put(this.#summary,
      problem && (code ? renderProblem({ code, message: line(problem, 1000) }) : h("p", { class: "notice" }, line(problem, 1000))),
      total !== undefined && total > episodes.length && h("p", { class: "notice warn" }, `The first ${number(episodes.length)} of ${plural(total, "episode")} are listed.`),
      h("dl", { class: "tiles" }, ...facts.map(([name, value]) => h("div", { class: "tile" }, h("dt", {}, name), h("dd", {}, value)))), details);
  }

  #filter() {
    const rows = this.#run?.episodes ?? [];
    const text = this.#text.value.trim().toLowerCase();
    const outcome = this.#outcome.value;
    const found = rows.filter((row) => (!outcome || (outcome === "failed" ? row.failed : outcome === `is ${row.outcome}`))
      && (!text || `${row.task}\n${row.outcome}`.toLowerCase().includes(text)));
    put(this.#table.empty, rows.length ? "No episode is like this." : "The run has no episodes yet.");
    this.#table.rows = found;
    put(this.#count, found.length === rows.length ? plural(rows.length, "episode") : `${number(found.length)} of ${plural(rows.length, "episode")}`);
  }

  /** In the order of the table. @param {1 | -1} way */
  #beside(way) {
    const { rows } = this.#table;
    const at = rows.findIndex(({ index }) => location.hash === `#/run/${index}`);
    const row = rows[at + way];
    if (row && at >= 0) this.app.navigate(`#/run/${row.index}`);
  }

  /** @param {string} index */
  async #open(index) {
    const turn = (this.#turn += 1);
    put(this.#title, `Episode ${line(index, 20)}`);
    put(this.#observation, h("p", { class: "muted" }, "Loading"));
    put(this.#observed);
    this.#log.clear();
    try {
      const episode = /** @type {Episode} */ (await this.app.fetchJson(`run/episodes/${encodeURIComponent(index)}`));
      if (turn !== this.#turn) return;
      this.#episode = episode;
      const { environment = "", task = "", outcome = "", seed, schemas = null, metadata = null } = episode;
      put(this.#title, `Episode ${line(index, 20)} `, h("span", { class: "mono small" }, line(task, 60)), " ",
        h("span", { class: "badge" }, line(outcome, 60)), " ", h("span", { class: "badge" }, seed === null || seed === undefined ? "no seed" : `seed ${seed}`));
      put(this.#problem, episode.problem && h("p", { class: "notice warn" }, line(episode.problem, 1000)));
      this.#player.context = { schemas, metadata, environment };
      for (const record of episode.records) this.#log.append(record);
      if (!episode.records.length) put(this.#observation, h("p", { class: "empty" }, "Nothing of this episode was recorded."));
      this.#player.selected = 0;
    } catch (error) {
      if (turn !== this.#turn) return;
      put(this.#observation, h("p", { class: "empty" }, "There is nothing to see."));
      this.#fail("The episode cannot be read", error);
    }
  }

  /** @param {StepRecord | null} record */
  #selected(record) {
    if (!record) return;
    const schemas = this.#episode?.schemas;
    put(this.#observed, h("span", { class: "badge" }, record.kind), record.reward !== null && h("span", { class: "badge accent" }, `reward ${number(record.reward)}`));
    put(this.#observation, record.kind === "error" || record.kind === "ended"
      ? renderProblem(object(record.payload))
      : renderObservation(record.payload, { schema: (record.kind === "state" ? schemas?.state : schemas?.observation) ?? {}, metadata: this.#episode?.metadata ?? {}, kind: record.kind }));
  }

  /** @param {string} what @param {unknown} error */
  #fail(what, error) {
    const { code, message } = error instanceof ServerError ? error : { code: "page", message: String(error) };
    put(this.#problem, renderProblem({ code, message: `${what}: ${message}` }));
  }
}
