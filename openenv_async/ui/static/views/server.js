/** How the server does, and what it serves. */
import { Chart } from "../charts.js";
import { h, put } from "../dom.js";
import { bytes, duration, number, plural, seconds } from "../format.js";
import { renderMarkdown } from "../render/markdown.js";
import { line, renderCode } from "../render/text.js";
import { renderTree } from "../render/tree.js";
import { clientSnippet } from "../snippets.js";

/**
 * @typedef {import("../app.js").App} App
 * @typedef {{bounds_ns: number[], counts: number[]}} Histogram
 * @typedef {{sessions: number, requests: number, errors: Record<string, number>, latency: Histogram, queue: Histogram}} Numbers
 * @typedef {object} Statistics
 * @property {number} uptime_seconds
 * @property {Record<string, number>} sessions
 * @property {number} requests
 * @property {Record<string, number>} errors
 * @property {Record<string, Numbers>} environments
 * @property {number | null} [lag_seconds]
 * @property {number} [blocked]
 * @property {string | null} [culprit]
 * @property {number | null} [memory_bytes]
 * @property {number} cpu_seconds
 * @property {number} [connections]
 * @property {number} [watchers]
 *
 * What happened between two answers.
 * @typedef {object} Sample
 * @property {number} at milliseconds since 1970
 * @property {number} sessions
 * @property {number | null} rate requests per second
 * @property {(number | null)[]} latency nanoseconds: median, 95 % and 99 %
 * @property {number | null} errors per second
 * @property {number | null} lag seconds
 * @property {number | null} memory
 * @property {number | null} cpu part of one core
 */

const PERIOD = 2000;
/** Samples that are kept: five minutes. */
const KEPT = 150;
const PERCENTILES = /** @type {const} */ ([0.5, 0.95, 0.99]);

/**
 * Percentiles of what a histogram gained, each within its bucket by proportion.
 *
 * @param {Histogram[]} after
 * @param {Histogram[]} before the same environments, or none
 * @returns {(number | null)[]}
 */
export function percentiles(after, before) {
  const bounds = after[0]?.bounds_ns ?? [];
  const gained = Array.from({ length: bounds.length + 1 }, (_, bucket) =>
    after.reduce((sum, { counts }, index) => sum + (counts[bucket] ?? 0) - (before[index]?.counts[bucket] ?? 0), 0));
  const total = gained.reduce((sum, count) => sum + count, 0);
  return PERCENTILES.map((part) => {
    if (total <= 0) return null;
    let left = part * total;
    for (const [bucket, count] of gained.entries()) {
      if (left <= count && count > 0) {
        const low = bounds[bucket - 1] ?? 0;
        // beyond the last bound nothing is known but that
        return low + ((bounds[bucket] ?? low) - low) * (left / count);
      }
      left -= count;
    }
    return bounds.at(-1) ?? null;
  });
}

/** @param {Statistics} now @param {Statistics | null} then @returns {Sample} */
function sampleOf(now, then) {
  const passed = then ? now.uptime_seconds - then.uptime_seconds : 0;
  const rate = (/** @type {(numbers: Statistics) => number} */ of) => (then && passed > 0 ? Math.max(0, of(now) - of(then)) / passed : null);
  const names = Object.keys(now.environments);
  const histograms = (/** @type {Statistics | null} */ from) => names.flatMap((name) => from?.environments[name]?.latency ?? []);
  return {
    at: Date.now(),
    sessions: total(now.sessions),
    rate: rate(({ requests }) => requests),
    latency: then ? percentiles(histograms(now), histograms(then)) : [null, null, null],
    errors: rate(({ errors }) => Object.values(errors).reduce((sum, count) => sum + count, 0)),
    lag: now.lag_seconds ?? null,
    memory: now.memory_bytes ?? null,
    cpu: rate(({ cpu_seconds: spent }) => spent),
  };
}

/** @param {Record<string, number>} sessions */
const total = ({ total: given, ...states }) => given ?? Object.values(states).reduce((sum, count) => sum + count, 0);
/** @param {number | null} ns */
const ofNs = (ns) => duration(ns);
/** @param {number} part */
const percent = (part) => `${number(Math.round(part * 1000) / 10)} %`;
/** @param {number} rate */
const perSecond = (rate) => `${number(rate < 10 ? Math.round(rate * 100) / 100 : Math.round(rate))}/s`;

export class ServerView {
  /** @type {Statistics | null} */
  #last = null;
  /** @type {Sample[]} */
  #samples = [];
  #shown = false;
  #timer = 0;
  #turn = 0;
  #environment = "";
  #charts = {
    rate: new Chart({ title: "Requests", format: perSecond }),
    latency: new Chart({ title: "Time in the environment", format: ofNs }),
    sessions: new Chart({ title: "Sessions", format: number }),
    lag: new Chart({ title: "Loop lag", format: (lag) => duration(lag * 1e9) }),
    memory: new Chart({ title: "Memory", format: bytes }),
    cpu: new Chart({ title: "CPU of the server process", format: percent }),
  };
  #tiles = h("dl", { class: "tiles" });
  #problem = h("div");
  #blocked = h("div");
  #errors = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Errors by kind" });
  #table = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Numbers of the environments" });
  #about = h("div", { class: "stack" });
  #select = h("select", { class: "input", "aria-label": "Environment" });

  /** @param {App} app */
  constructor(app) {
    this.app = app;
    const charts = Object.values(this.#charts).map(({ element }) => h("div", { class: "card" }, element));
    this.element = h("div", { class: "stack" },
      h("h2", {}, "Server"), this.#problem, this.#tiles, this.#blocked,
      h("section", { class: "charts", "aria-label": "Last minutes" }, ...charts),
      h("div", { class: "columns" },
        h("section", { class: "card stack", "aria-label": "Errors" }, h("h2", {}, "Errors by kind"), this.#errors),
        h("section", { class: "card stack", "aria-label": "Environments" }, h("h2", {}, "Environments"), this.#table)),
      h("section", { class: "card stack", "aria-label": "About an environment" },
        h("div", { class: "row filters" }, h("h2", { class: "grow" }, "About an environment"), this.#select), this.#about));
    this.#select.addEventListener("change", () => this.#describe(this.#select.value));
    document.addEventListener("visibilitychange", () => this.#soon(0));
    app.connection.addEventListener("state", () => this.#soon(0));
    app.connection.addEventListener("incarnation", () => {
      this.#last = null;
      this.#samples = [];
      this.#environment = "";
      if (this.#shown) this.show();
    });
    this.#draw();
  }

  show() {
    this.#shown = true;
    const names = this.app.environments;
    put(this.#select, ...names.map((name) => h("option", { value: name }, name)));
    const wanted = names.includes(this.#environment) ? this.#environment : (names[0] ?? "");
    this.#select.value = wanted;
    if (wanted !== this.#environment) void this.#describe(wanted);
    this.#soon(0);
  }

  hide() {
    this.#shown = false;
    clearTimeout(this.#timer);
  }

  /** @param {number} delay milliseconds */
  #soon(delay) {
    clearTimeout(this.#timer);
    if (this.#shown && !document.hidden && this.app.connection.state === "open") this.#timer = setTimeout(() => this.#refresh(), delay);
  }

  async #refresh() {
    const turn = (this.#turn += 1);
    try {
      const now = /** @type {Statistics} */ (await this.app.fetchJson("statistics"));
      if (turn !== this.#turn) return;
      // another server behind the same address counts from the start
      const then = this.#last && this.#last.uptime_seconds <= now.uptime_seconds ? this.#last : null;
      // two looks right after each other say nothing of rates
      if (!then || now.uptime_seconds - then.uptime_seconds > 0.5) {
        this.#samples = [...this.#samples.slice(1 - KEPT), sampleOf(now, then)];
        this.#last = now;
      }
      put(this.#problem);
      this.#draw();
    } catch (error) {
      if (turn === this.#turn && this.app.connection.state === "open") put(this.#problem, h("p", { class: "notice bad" }, `The statistics cannot be read: ${/** @type {Error} */ (error).message}`));
    }
    if (turn === this.#turn) this.#soon(PERIOD);
  }

  #draw() {
    const now = this.#last;
    const samples = this.#samples;
    const latest = samples.at(-1);
    const facts = /** @type {[string, string][]} */ ([
      ["Sessions", number(latest?.sessions)],
      ["Requests", latest?.rate === null || !latest ? "–" : perSecond(latest.rate)],
      ["Median step", duration(latest?.latency[0])],
      ["99 % of steps", duration(latest?.latency[2])],
      ["Loop lag", latest?.lag == null ? "–" : duration(latest.lag * 1e9)],
      ["Memory", bytes(latest?.memory)],
      ["CPU", latest?.cpu == null ? "–" : percent(latest.cpu)],
      ["Connections", number(now?.connections)],
      ["Watchers", number(now?.watchers)],
      ["Up for", seconds(now && Math.floor(now.uptime_seconds))],
    ]);
    put(this.#tiles, ...facts.map(([name, value]) => h("div", { class: "tile" }, h("dt", {}, name), h("dd", {}, value))));
    put(this.#blocked, Boolean(now?.blocked) && h("p", { class: "notice warn" }, `The event loop was blocked ${plural(now?.blocked ?? 0, "time")}${now?.culprit ? `, last by ${line(now.culprit, 200)}` : ""}: every session waited meanwhile.`));
    const ends = { from: samples.length > 1 ? `${seconds(Math.round(((latest?.at ?? 0) - (samples[0]?.at ?? 0)) / 1000))} ago` : "", to: samples.length ? "now" : "" };
    const series = (/** @type {string} */ name, /** @type {(sample: Sample) => number | null} */ of, tone = /** @type {1 | 2 | 3 | 4} */ (1)) => ({ name, values: samples.map(of), tone });
    const { rate, latency, sessions, lag, memory, cpu } = this.#charts;
    rate.draw({ ...ends, series: [series("requests", (sample) => sample.rate), series("errors", (sample) => sample.errors, 2)] });
    latency.draw({ ...ends, series: PERCENTILES.map((part, index) => series(part === 0.5 ? "median" : `${part * 100} %`, (sample) => sample.latency[index] ?? null, /** @type {1 | 2 | 3} */ (index + 1))) });
    sessions.draw({ ...ends, series: [series("open", (sample) => sample.sessions)] });
    lag.draw({ ...ends, series: [series("lag", (sample) => sample.lag)] });
    memory.draw({ ...ends, series: [series("resident", (sample) => sample.memory)] });
    cpu.draw({ ...ends, series: [series("of one core", (sample) => sample.cpu)] });
    if (now) this.#tables(now);
  }

  /** @param {Statistics} now */
  #tables(now) {
    const errors = Object.entries(now.errors).filter(([, count]) => count > 0).sort(([, a], [, b]) => b - a);
    put(this.#errors, errors.length
      ? table(["Code", "Since the start"], errors.map(([code, count]) => [h("code", {}, code), number(count)]))
      : h("p", { class: "empty" }, "No errors since the start"));
    const rows = Object.entries(now.environments).map(([name, { sessions, requests, errors: failed, latency, queue }]) => {
      const [median = null, , worst = null] = percentiles([latency], []);
      const [waited = null] = percentiles([queue], []);
      const count = Object.values(failed).reduce((sum, each) => sum + each, 0);
      return [line(name, 60), number(sessions), number(requests), number(count), duration(waited), duration(median), duration(worst)];
    });
    put(this.#table, table(["Environment", "Sessions", "Requests", "Errors", "Queue, median", "Median", "99 %"], rows));
  }

  /** @param {string} environment */
  async #describe(environment) {
    this.#environment = environment;
    put(this.#about, h("p", { class: "muted" }, "Loading"));
    try {
      const [metadata, schemas] = await Promise.all([this.app.metadata(environment), this.app.schemas(environment)]);
      if (environment !== this.#environment) return;
      const { readme, name, extra, documentation_url: documentation, ...others } = metadata;
      const facts = Object.entries({ ...others, ...extra }).filter(([, value]) => value !== "" && value !== null && typeof value !== "object");
      put(this.#about,
        h("dl", { class: "facts" }, ...facts.flatMap(([key, value]) => [h("dt", {}, line(key.replaceAll("_", " "), 60)), h("dd", {}, line(String(value), 500))]),
          ...(documentation ? [h("dt", {}, "documentation"), h("dd", {}, renderMarkdown(`<${documentation}>`))] : [])),
        h("h3", {}, "Client"),
        renderCode(clientSnippet({ environment, authenticated: this.app.connection.token !== null, schemas }), "python"),
        h("h3", {}, "Schemas"),
        ...Object.entries({ action: schemas.action, observation: schemas.observation, state: schemas.state }).map(([kind, schema]) =>
          details(`Schema of the ${kind}`, () => renderTree(schema, { open: 3 }))),
        h("h3", {}, "README"),
        readme ? renderMarkdown(readme) : h("p", { class: "empty" }, `${line(name, 60)} has no README.`));
    } catch (error) {
      if (environment === this.#environment) put(this.#about, h("p", { class: "notice bad" }, `The description cannot be read: ${/** @type {Error} */ (error).message}`));
      this.#environment = "";
    }
  }
}

/** What is rendered only when it is opened. @param {string} title @param {() => HTMLElement} render */
function details(title, render) {
  const box = h("div", { class: "difference" });
  const element = h("details", {}, h("summary", {}, title), box);
  element.addEventListener("toggle", () => box.childElementCount || put(box, render()), { once: true });
  return element;
}

/**
 * @param {string[]} titles the first is of the row
 * @param {import("../dom.js").Child[][]} rows
 */
export function table(titles, rows) {
  const kind = (/** @type {number} */ index) => (index ? "number" : null);
  return h("table", { class: "table" },
    h("thead", {}, h("tr", {}, ...titles.map((title, index) => h("th", { scope: "col", class: kind(index) }, title)))),
    h("tbody", {}, ...rows.map((cells) => h("tr", {}, ...cells.map((cell, index) => h("td", { class: kind(index) }, cell))))));
}
