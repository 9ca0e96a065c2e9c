/** One session, followed while its owner goes on. */
import { h, put } from "../dom.js";
import { EpisodeLog } from "../episode.js";
import { number, plural, seconds } from "../format.js";
import { EpisodePlayer } from "../player/episode-player.js";
import { ServerError } from "../protocol.js";
import { renderObservation } from "../render/observation.js";
import { line } from "../render/text.js";
import { renderProblem } from "./problem.js";
import { stateBadges } from "./sessions.js";
import { TakeOver } from "./takeover.js";

/**
 * @typedef {import("../app.js").App} App
 * @typedef {import("../types.js").JsonObject} JsonObject
 * @typedef {import("../types.js").SessionRow} SessionRow
 * @typedef {import("../types.js").StepRecord} StepRecord
 */

/** Milliseconds between looks at what events do not tell: who is there, and time in the step. */
const LOOK = 1000;
/** Milliseconds between observations that are drawn while it is live. */
const SIGHT = 150;

export class SessionView {
  shortcuts = /** @type {[string, string][]} */ ([["l", "Follow live, in the player"], ["e, r", "Next error, next large reward, in the player"]]);
  #id = "";
  /** Counts what was begun, so that late answers of others are ignored. */
  #turn = 0;
  /** @type {{close(): void} | null} */
  #watch = null;
  /** @type {SessionRow | null} */
  #row = null;
  /** @type {StepRecord | null} */
  #ended = null;
  #timer = 0;
  #drawing = 0;
  /** @type {StepRecord | null} What is drawn, so that a look at it is not disturbed. */
  #drawn = null;
  /** @type {StepRecord | null} What the guest's own request gave, until the event of it comes. */
  #mine = null;
  #log = new EpisodeLog();
  #player = new EpisodePlayer();
  #control;
  /** @type {import("../types.js").Schemas | null} */
  #schemas = null;
  /** @type {import("../types.js").Metadata | null} */
  #metadata = null;
  #title = h("h2", {});
  #badges = h("span", { class: "row grow" });
  #facts = h("dl", { class: "facts" });
  #notice = h("div");
  #observation = h("div");
  #observed = h("span", { class: "badge" });
  #right;

  /** @param {App} app */
  constructor(app) {
    this.app = app;
    this.#control = new TakeOver(app);
    this.#player.log = this.#log;
    this.#right = h("section", { class: "card stack", "aria-label": "Observation" }, h("div", { class: "row" }, h("h2", { class: "grow" }, "Observation"), this.#observed), this.#observation);
    this.element = h("div", { class: "stack" },
      h("div", { class: "row" }, h("a", { class: "button small", href: "#/sessions" }, "‹ All sessions"), this.#title, this.#badges),
      this.#notice,
      h("div", { class: "columns" },
        h("div", { class: "stack" }, h("section", { class: "card", "aria-label": "Session" }, this.#facts), this.#control.element),
        this.#right),
      h("section", { class: "card", "aria-label": "History" }, this.#player));
    this.#player.addEventListener("select", () => this.#soon());
    this.#control.addEventListener("record", (event) => this.#own(/** @type {CustomEvent<StepRecord>} */ (event).detail));
    this.#control.addEventListener("free", () => this.#look());
    app.connection.addEventListener("state", () => this.#stateChanged());
  }

  /** @param {string[]} parameters */
  show([id = ""]) {
    if (id === this.#id && this.#watch) return;
    if (id !== this.#id) this.#begin(id);
    if (!this.#ended) void this.#start();
  }

  hide() {
    this.#turn += 1;
    this.#watch?.close();
    this.#watch = null;
    clearTimeout(this.#timer);
    // nobody drives what he does not see
    void this.#control.handBack();
  }

  /** @param {string} id */
  #begin(id) {
    this.#watch?.close();
    this.#watch = this.#row = this.#ended = this.#drawn = this.#mine = this.#schemas = null;
    this.#id = id;
    this.#log.clear();
    this.#player.live = true;
    this.#control.of(id, null);
    put(this.#title, "Session ", h("span", { class: "mono" }, line(id, 40)));
    put(this.#badges);
    put(this.#notice);
    put(this.#facts);
    put(this.#observed);
    put(this.#observation, h("p", { class: "empty" }, "What the environment answers next appears here."));
  }

  async #start() {
    const turn = (this.#turn += 1);
    clearTimeout(this.#timer);
    try {
      const watch = await this.app.connection.watch(this.#id, (record) => turn === this.#turn && this.#heard(record));
      if (turn !== this.#turn) return watch.close();
      this.#watch = watch;
      this.#seen(watch.row);
      this.#timer = setTimeout(() => this.#look(), LOOK);
      const { environment } = watch.row;
      const [schemas, metadata] = await Promise.all([this.app.schemas(environment), this.app.metadata(environment)]);
      if (turn !== this.#turn) return;
      [this.#schemas, this.#metadata] = [schemas, metadata];
      this.#player.context = { schemas, metadata, environment, authenticated: this.app.connection.token !== null };
      this.#control.of(this.#id, schemas);
      // without its schema it was drawn as well as can be
      this.#drawn = null;
      this.#soon();
    } catch (error) {
      if (turn === this.#turn) this.#fail(error);
    }
  }

  /** @param {unknown} error */
  #fail(error) {
    const { code, message } = error instanceof ServerError ? error : { code: "page", message: String(error) };
    if (this.#watch) return put(this.#notice, renderProblem({ code, message }));
    this.#control.element.hidden = true;
    put(this.#notice, code === "unknown_session"
      ? h("p", { class: "notice warn" }, "There is no such session on this server: it ended, or never was. ", h("a", { href: "#/sessions" }, "See those that are."))
      : renderProblem({ code, message }));
  }

  /** Ask for the row as it is now: a subscription of one event costs the server no more. */
  async #look() {
    clearTimeout(this.#timer);
    const turn = this.#turn;
    if (!this.#watch || this.#ended) return;
    if (!document.hidden && this.app.connection.state === "open") {
      try {
        const { row, close } = await this.app.connection.watch(this.#id, () => {}, { queue: 1 });
        close();
        if (turn !== this.#turn) return;
        this.#seen(row);
      } catch {
        // the subscription itself says when it is over
      }
    }
    if (turn === this.#turn) this.#timer = setTimeout(() => this.#look(), LOOK);
  }

  /** It comes behind all events so far, so that its numbers are as good, or better after losses. @param {SessionRow} row */
  #seen(row) {
    this.#row = row;
    this.#log.place({ episode: row.episode, step: row.step, total: row.reward ?? 0 });
    this.#control.element.hidden = false;
    this.#describe();
  }

  #describe() {
    const row = this.#row;
    if (!row) return;
    const { episode, step, total } = this.#log.mark;
    put(this.#badges, this.#ended ? h("span", { class: "badge" }, "ended") : stateBadges(row));
    const facts = /** @type {[string, string][]} */ ([
      ["Environment", line(row.environment)], ["Owner", row.owner ? line(row.owner) : "not named"],
      ["Episode", number(episode ?? row.episode)], ["Step", number(step ?? row.step)], ["Reward so far", number(total ?? row.reward)],
      ["Age", seconds(Math.floor(row.age))], ["In this step", this.#ended || row.busy === null ? "no request in flight" : seconds(row.busy)],
    ]);
    put(this.#facts, ...facts.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
  }

  // What comes

  /** @param {StepRecord} record */
  #heard(record) {
    if (this.#mine && this.#mine.kind === record.kind && this.#mine.seq === record.seq) {
      record = { ...record, timings: this.#mine.timings, requestBytes: this.#mine.requestBytes };
      this.#mine = null;
    }
    this.#log.append(record);
    if (record.kind === "ended") this.#over(record);
    this.#soon();
  }

  /** Only who asked knows the round trip. @param {StepRecord} record */
  #own(record) {
    if (record.kind === "error") return;
    const last = this.#log.records.at(-1);
    if (last && last.kind === record.kind && last.seq === record.seq && last.timings?.roundTripNs === null) {
      last.timings.roundTripNs = record.timings?.roundTripNs ?? null;
      last.requestBytes = record.requestBytes;
      this.#player.selected = this.#player.selected;
    } else this.#mine = record;
  }

  /** @param {StepRecord} record */
  #over(record) {
    const { code, message } = /** @type {JsonObject} */ (record.payload ?? {});
    this.#ended = record;
    this.#watch = null;
    clearTimeout(this.#timer);
    this.#control.element.hidden = true;
    const lost = code !== "session_closed";
    put(this.#notice, h("p", { class: `notice ${lost ? "warn" : ""}`, role: "status" }, h("strong", {}, "This session ended. "), h("span", { class: "badge mono" }, line(String(code), 60)), ` ${line(String(message), 300)}. What was seen of it stays below until this page goes. `, h("a", { href: "#/sessions" }, "All sessions")));
    this.app.announce(`The session ended, after ${plural(this.#log.records.length, "record")}`);
  }

  #stateChanged() {
    if (this.app.connection.state === "open") void this.#look();
  }

  /** What is selected, drawn as often as one can follow. */
  #soon() {
    this.#drawing ||= setTimeout(() => {
      this.#drawing = 0;
      requestAnimationFrame(() => this.#draw());
    }, this.#player.live ? SIGHT : 0);
  }

  #draw() {
    this.#describe();
    const record = this.#player.live ? this.#log.records.at(-1) : this.#log.records[this.#player.selected];
    if (!record || record === this.#drawn) return;
    this.#drawn = record;
    put(this.#observed, `${record.kind} · request ${record.seq}`);
    const failed = record.kind === "error" || record.kind === "ended";
    put(this.#observation, failed
      ? renderProblem(/** @type {JsonObject} */ (record.payload))
      : renderObservation(record.payload, { schema: (record.kind === "state" ? this.#schemas?.state : this.#schemas?.observation) ?? {}, metadata: this.#metadata ?? {}, kind: record.kind }));
  }
}
