/** Drive one environment by hand: action form and controls left, observation and state right. */
import { h, put } from "../dom.js";
import { EpisodeLog } from "../episode.js";
import { fieldPath, SchemaForm } from "../form/schema-form.js";
import { duration, number } from "../format.js";
import { EpisodePlayer } from "../player/episode-player.js";
import { payloadOf, ServerError } from "../protocol.js";
import { renderObservation } from "../render/observation.js";
import { line } from "../render/text.js";
import { Busy } from "./busy.js";
import { renderProblem } from "./problem.js";
import { ResetForm } from "./reset-form.js";

/**
 * @typedef {import("../app.js").App} App
 * @typedef {import("../session.js").Session} Session
 * @typedef {import("../types.js").JsonObject} JsonObject
 * @typedef {import("../types.js").StepRecord} StepRecord
 * @typedef {"none" | "running" | "done" | "broken"} Stage of the episode
 */

const NEXT = /** @type {Record<Stage, string>} */ ({
  none: "Reset begins an episode.",
  running: "",
  done: "The episode is over. Reset begins the next.",
  broken: "The episode cannot go on. Reset begins a new one.",
});

/** @param {StepRecord} record */
function badges({ reward, terminated, truncated, timings }) {
  return [
    reward !== null && h("span", { class: "badge accent" }, `reward ${number(reward)}`),
    terminated && h("span", { class: "badge good" }, "terminated"),
    truncated && h("span", { class: "badge warn" }, "truncated"),
    timings?.roundTripNs && h("span", { class: "badge" }, duration(timings.roundTripNs)),
  ];
}

export class InteractView {
  shortcuts = /** @type {[string, string][]} */ ([
    ["Ctrl+Enter", "Step"], ["Alt+R", "Reset"], ["Alt+S", "State"], ["a", "Go to the action"],
  ]);
  /** @type {Session | null} */
  #session = null;
  /** @type {Stage} */
  #stage = "none";
  #opening = false;
  #shown = false;
  #environment = "";
  #steps = 0;
  /** @type {import("../types.js").Schemas | null} */
  #schemas = null;
  /** @type {import("../types.js").Metadata | null} */
  #metadata = null;
  #log = new EpisodeLog();
  #player = new EpisodePlayer();

  #select = h("select", { class: "input", id: "environment" });
  #reset = new ResetForm();
  #form = new SchemaForm();
  #buttons = {
    reset: this.#button("Reset", "Alt+R", () => this.reset()),
    step: this.#button("Step", "Ctrl+Enter", () => this.step()),
    state: this.#button("State", "Alt+S", () => this.state()),
    close: this.#button("Close", "", () => this.close()),
  };
  #hint = h("span", { class: "small muted" });
  #busy = new Busy(() => this.#session?.cancel());
  #problem = h("div");
  #where = h("div", { class: "row" });
  #observation = h("div", {}, h("p", { class: "empty" }, "Nothing observed yet. Reset begins an episode."));
  #observed = h("div", { class: "row" });
  #stateAt = h("span", { class: "badge" });
  #state = h("div", {}, h("p", { class: "muted" }, "Not asked for yet."));

  /** @param {App} app */
  constructor(app) {
    this.app = app;
    this.#form.setAttribute("aria-label", "Action");
    this.#player.log = this.#log;
    this.element = h("div", { class: "stack" },
      h("div", { class: "columns" }, this.#left(), this.#right()),
      h("section", { class: "card", "aria-label": "History" }, this.#player));
    this.#form.addEventListener("submit", () => this.step());
    this.#reset.element.addEventListener("submit", (event) => {
      event.preventDefault();
      this.reset();
    });
    this.#select.addEventListener("change", () => this.#choose(this.#select.value));
    this.#player.addEventListener("select", (/** @type {Event} */ event) => this.#selected(/** @type {CustomEvent} */ (event).detail));
    document.addEventListener("keydown", (event) => this.#key(event));
    app.connection.addEventListener("state", () => this.#refresh());
    // another server may serve the same names with other types
    app.connection.addEventListener("incarnation", () => (this.#schemas = null));
    this.#refresh();
  }

  /** @param {string[]} parameters the environment, if one is asked for */
  show([wanted = ""]) {
    this.#shown = true;
    const names = this.app.environments;
    put(this.#select, ...names.map((name) => h("option", { value: name }, name)));
    const chosen = [wanted, this.#environment].find((name) => names.includes(name)) ?? names[0] ?? "";
    this.#select.value = chosen;
    if (chosen !== this.#environment || !this.#schemas) this.#choose(chosen);
  }

  hide() {
    this.#shown = false;
  }

  // Requests

  async reset() {
    if (!this.#free) return;
    const how = this.#reset.read();
    if (!how) return;
    const session = await this.#open();
    if (session) await this.#ask(session, session.reset(how));
  }

  async step() {
    if (!this.#free || !this.#session || this.#stage !== "running") return;
    if (this.#form.check().length) return;
    await this.#ask(this.#session, this.#session.step(this.#form.value));
  }

  async state() {
    if (!this.#free) return;
    const session = await this.#open();
    if (session) await this.#ask(session, session.getState());
  }

  async close() {
    await this.#session?.close();
  }

  get #free() {
    return !this.#opening && !this.#session?.busy && this.app.connection.state === "open" && this.#schemas !== null;
  }

  /** @returns {Promise<Session | null>} null when it cannot be opened; the view says why */
  async #open() {
    if (this.#session && !this.#session.ended) return this.#session;
    const environment = this.#environment;
    this.#opening = true;
    this.#refresh();
    try {
      const session = await this.app.connection.openSession(environment);
      // another was chosen meanwhile, in the address bar
      if (this.#environment !== environment) {
        void session.close();
        return null;
      }
      this.#log.clear();
      this.#steps = 0;
      this.#stage = "none";
      this.#adopt(session);
      return session;
    } catch (error) {
      if (this.#environment === environment) this.#fail(error);
      return null;
    } finally {
      this.#opening = false;
      this.#refresh();
    }
  }

  /** @param {Session} session */
  #adopt(session) {
    this.#session = session;
    // it may be left for another environment while its answers are on their way
    const on = (/** @type {string} */ type, /** @type {(detail: any) => void} */ act) =>
      session.addEventListener(type, (event) => session === this.#session && act(/** @type {CustomEvent} */ (event).detail));
    on("busy", () => this.#refresh());
    on("record", (record) => this.#answered(record));
    on("progress", (progress) => this.#busy.progressed(progress));
    on("ended", () => this.#ended(session));
  }

  /** @param {Session} session @param {Promise<StepRecord>} answer */
  async #ask(session, answer) {
    put(this.#problem);
    this.#form.clearErrors();
    try {
      await answer;
    } catch (error) {
      // a session that ended says so itself
      if (session === this.#session && !session.ended) this.#fail(error);
    }
  }

  // What comes

  /** @param {StepRecord} record */
  #answered(record) {
    const problem = /** @type {JsonObject} */ (record.payload ?? {});
    if (record.kind === "reset") this.#steps = 0;
    if (record.kind === "step") this.#steps += 1;
    if (record.kind === "reset" || record.kind === "step") {
      this.#stage = record.terminated || record.truncated ? "done" : "running";
      const over = this.#stage === "done" ? ", the episode is over" : "";
      this.app.announce(record.kind === "reset" ? "Reset done" : `Step ${this.#steps} done, reward ${number(record.reward)}${over}`);
    } else if (record.kind === "error") {
      if (problem.executed === "unknown" || problem.code === "environment_failed" || problem.code === "episode_broken") this.#stage = "broken";
    }
    this.#log.append(record);
    if (this.#player.live) this.#selected(record);
    this.#refresh();
  }

  /** @param {Session} session */
  #ended(session) {
    if (!session.ended) return;
    this.#stage = "none";
    if (session.ended.code === "session_closed") {
      put(this.#problem);
      this.app.toast("The session was closed.");
    } else {
      put(this.#problem, h("div", { class: "notice bad", role: "alert" },
        h("p", {}, h("strong", { class: "mono" }, line(session.ended.code, 60)), ` The session is gone: ${line(session.ended.message, 400)}.`),
        h("p", { class: "small" }, "Its episode cannot go on; the history below stays. Reset opens a new session.")));
    }
    this.#refresh();
  }

  /** @param {unknown} error */
  #fail(error) {
    const problem = error instanceof ServerError ? error : new ServerError("page", String(error));
    // the traceback stands beside, in the place of the observation
    put(this.#problem, renderProblem({ ...payloadOf(problem), detail: null }));
    if (problem.code !== "invalid_action") return;
    const last = this.#log.records.at(-1);
    if (last?.request && typeof last.request === "object" && "episode_id" in last.request && "options" in last.request) this.#reset.fail(line(problem.message, 400));
    else this.#form.showErrors([{ path: fieldPath(problem.message.slice(-1000)), message: line(problem.message, 400) }]);
  }

  /** @param {StepRecord | null} record the one to show */
  #selected(record) {
    if (!record) return;
    if (record.kind === "state") {
      put(this.#stateAt, `request ${record.seq}`);
      put(this.#state, renderObservation(record.payload, { schema: this.#schemas?.state ?? {}, kind: "state" }));
      return;
    }
    const failed = record.kind === "error" || record.kind === "ended";
    put(this.#observed, h("span", { class: "badge" }, `${record.kind} · request ${record.seq}`), ...badges(record));
    put(this.#observation, failed
      ? renderProblem(/** @type {JsonObject} */ (record.payload), { role: null })
      : renderObservation(record.payload, { schema: this.#schemas?.observation ?? {}, metadata: this.#metadata ?? {}, kind: record.kind }));
  }

  /** @param {string} environment */
  async #choose(environment) {
    if (environment !== this.#environment) {
      void this.#session?.close();
      this.#session = null;
      this.#stage = "none";
      this.#log.clear();
      put(this.#problem);
      put(this.#observed);
      put(this.#observation, h("p", { class: "empty" }, "Nothing observed yet. Reset begins an episode."));
      put(this.#stateAt);
      put(this.#state, h("p", { class: "muted" }, "Not asked for yet."));
    }
    this.#environment = environment;
    this.#schemas = null;
    this.#refresh();
    try {
      const [schemas, metadata] = await Promise.all([this.app.schemas(environment), this.app.metadata(environment)]);
      // another may have been chosen meanwhile
      if (this.#environment !== environment) return;
      this.#schemas = schemas;
      this.#metadata = metadata;
      this.#form.setSchema(schemas.action);
      this.#player.context = { schemas, metadata, environment };
    } catch (error) {
      if (this.#environment === environment) this.#fail(error);
    }
    this.#refresh();
  }

  // How it looks

  #left() {
    return h("section", { class: "card stack", "aria-label": "Actions" },
      h("h2", { class: "visually-hidden" }, "Interact"),
      h("div", { class: "field" }, h("label", { for: "environment" }, "Environment"), this.#select),
      this.#where,
      this.#reset.element,
      h("div", { class: "row" }, this.#buttons.reset, this.#buttons.state, this.#buttons.close),
      h("hr"),
      h("h3", {}, "Action"),
      this.#form,
      h("div", { class: "row" }, this.#buttons.step, this.#hint),
      this.#busy.element,
      this.#problem);
  }

  #right() {
    return h("div", { class: "stack" },
      h("section", { class: "card stack", "aria-labelledby": "observation-title" },
        h("div", { class: "row" }, h("h2", { id: "observation-title", class: "grow" }, "Observation"), this.#observed),
        this.#observation),
      h("section", { class: "card stack", "aria-labelledby": "state-title" },
        h("div", { class: "row" }, h("h2", { id: "state-title", class: "grow" }, "State"), this.#stateAt),
        this.#state));
  }

  /** @param {string} text @param {string} keys @param {() => void} act @returns {HTMLButtonElement} */
  #button(text, keys, act) {
    return h("button", { type: "button", class: "button", title: keys || null, "aria-keyshortcuts": keys.replace("Ctrl", "Control") || null, on: { click: act } }, text);
  }

  #refresh() {
    const session = this.#session;
    const busy = this.#opening || Boolean(session?.busy);
    const open = session !== null && !session.ended;
    const { reset, step, state, close } = this.#buttons;
    reset.disabled = state.disabled = !this.#free;
    step.disabled = !this.#free || !open || this.#stage !== "running";
    close.disabled = !open;
    reset.classList.toggle("primary", this.#stage !== "running");
    step.classList.toggle("primary", this.#stage === "running");
    this.#select.disabled = busy;
    put(this.#hint, busy ? "" : open ? NEXT[this.#stage] : NEXT.none);
    put(this.#where, ...(open
      ? [h("span", { class: "badge accent mono", title: "Session" }, session.id), h("span", { class: "badge" }, `episode ${session.episode}`), h("span", { class: "badge" }, `step ${this.#steps}`),
        this.#stage === "done" && h("span", { class: "badge good" }, "done"), this.#stage === "broken" && h("span", { class: "badge bad" }, "broken")]
      : [h("span", { class: "badge" }, this.#opening ? "opening a session" : "no session")]));
    if (busy) this.#busy.show(session, this.app.connection.state === "open");
    else this.#busy.hide();
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (!this.#shown || event.defaultPrevented || document.querySelector("dialog[open]")) return;
    const target = /** @type {HTMLElement} */ (event.target);
    const typing = target.closest("input, textarea, select") !== null || target.isContentEditable;
    /** @type {(() => void) | null} */
    let act = null;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) act = () => this.step();
    // by its place on the keyboard: with Alt, some layouts write another letter
    else if (event.altKey && event.code === "KeyR") act = () => this.reset();
    else if (event.altKey && event.code === "KeyS") act = () => this.state();
    else if (event.key === "a" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) act = () => this.#form.focus();
    if (!act) return;
    event.preventDefault();
    act();
  }
}
