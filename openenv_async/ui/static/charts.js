/**
 * Small charts: lines, or parts on top of each other.
 *
 * @typedef {{name: string, values: (number | null)[], tone: 1 | 2 | 3 | 4}} Series
 * @typedef {{at: number, tone: "bad" | "muted"}} Tick
 * @typedef {{series: Series[], cursor?: number | null, ticks?: Tick[], from?: string, to?: string}} Drawing
 */
import { h, put, svg } from "./dom.js";

const WIDTH = 600;
const HEIGHT = 100;
/** Above the largest value, for its label. */
const ROOM = 22;
/** Points across; more are drawn as the extremes of each part. */
const PARTS = 300;

/** @param {(number | null)[]} values */
function spread(values) {
  let [least, most, latest, sum, count] = [Infinity, -Infinity, /** @type {number | null} */ (null), 0, 0];
  for (const value of values) {
    if (value === null || !Number.isFinite(value)) continue;
    least = Math.min(least, value);
    most = Math.max(most, value);
    latest = value;
    sum += value;
    count += 1;
  }
  return { least, most, latest, mean: sum / count, count };
}

/**
 * Indices that matter: all, or of each part the least and the largest.
 *
 * @param {(number | null)[]} values
 * @returns {number[]}
 */
function thinned(values) {
  if (values.length <= PARTS * 2) return [...values.keys()];
  const found = [];
  for (let part = 0; part < PARTS; part += 1) {
    const [start, end] = [part, part + 1].map((edge) => Math.floor((edge * values.length) / PARTS));
    let [low, high] = [start ?? 0, start ?? 0];
    for (let at = start ?? 0; at < (end ?? 0); at += 1) {
      const value = values[at];
      if (value === null || value === undefined) continue;
      if (value < (values[low] ?? Infinity)) low = at;
      if (value > (values[high] ?? -Infinity)) high = at;
    }
    found.push(...(low === high ? [low] : low < high ? [low, high] : [high, low]));
  }
  return found;
}

export class Chart {
  /** @type {Drawing} */
  #drawn = { series: [] };
  #body = svg("g");
  #cursor = svg("line", { class: "chart-cursor", y1: 0, y2: HEIGHT });
  #name = svg("title");
  #words = svg("desc");
  #most = h("span");
  #least = h("span");
  #from = h("span");
  #to = h("span");
  #legend = h("span", { class: "row chart-legend" });

  /**
   * @param {{title: string, format: (value: number) => string, stacked?: boolean, zero?: boolean,
   *   pick?: (index: number) => void}} how `zero` keeps zero in sight
   */
  constructor({ title, format, stacked = false, zero = true, pick }) {
    this.title = title;
    this.format = format;
    this.stacked = stacked;
    this.zero = zero || stacked;
    const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" }, this.#name, this.#words, this.#body, this.#cursor);
    if (pick) {
      drawing.classList.add("chart-pick");
      drawing.addEventListener("click", (event) => {
        const { left, width } = drawing.getBoundingClientRect();
        const count = this.#drawn.series[0]?.values.length ?? 0;
        if (count) pick(Math.max(0, Math.min(count - 1, Math.round(((event.clientX - left) / width) * (count - 1)))));
      });
    }
    this.element = h("figure", { class: "chart" },
      h("figcaption", { class: "row" }, h("strong", { class: "small" }, title), this.#legend),
      h("div", { class: "chart-body" }, h("div", { class: "chart-scale small muted", "aria-hidden": "true" }, this.#most, this.#least), drawing),
      h("div", { class: "chart-ends small muted", "aria-hidden": "true" }, this.#from, this.#to));
    this.draw({ series: [] });
  }

  /** @param {Drawing} drawing */
  draw(drawing) {
    this.#drawn = drawing;
    const { series, ticks = [] } = drawing;
    const totals = this.stacked ? [this.#totals(series)] : series.map(({ values }) => values);
    const all = totals.map(spread).filter(({ count }) => count);
    let least = Math.min(...all.map((each) => each.least), this.zero ? 0 : Infinity);
    let most = Math.max(...all.map((each) => each.most), this.zero ? 0 : -Infinity);
    if (!all.length) [least, most] = [0, 1];
    else if (least === most) [least, most] = least === 0 ? [0, 1] : [least - Math.abs(least) / 10, most + Math.abs(most) / 10];
    const y = (/** @type {number} */ value) => HEIGHT - 2 - ((value - least) / (most - least)) * (HEIGHT - ROOM);
    const paths = this.stacked ? this.#areas(series, totals[0] ?? [], y) : series.map((each) => this.#line(each, y));
    const seen = new Set(ticks.map(({ at, tone }) => `${Math.round(this.#x(at) / 2) * 2} ${tone}`));
    const drawnTicks = [...seen].map((text) => {
      const [x = 0, tone] = text.split(" ");
      return svg("line", { class: `chart-tick ${tone}`, x1: x, x2: x, y1: tone === "bad" ? HEIGHT - 12 : 0, y2: HEIGHT });
    });
    const axis = least < 0 && most > 0 && svg("line", { class: "chart-zero", x1: 0, x2: WIDTH, y1: y(0), y2: y(0) });
    put(this.#body, axis, ...paths, ...drawnTicks);
    put(this.#most, all.length ? this.format(most) : "");
    put(this.#least, all.length ? this.format(least) : "");
    put(this.#from, drawing.from ?? "");
    put(this.#to, drawing.to ?? "");
    this.point(drawing.cursor ?? null);
    const described = series.map(({ name, values }) => {
      const { count, latest, mean, ...ends } = spread(values);
      return count ? `${name}: latest ${this.format(latest ?? 0)}, least ${this.format(ends.least)}, mean ${this.format(mean)}, largest ${this.format(ends.most)}` : `${name}: nothing yet`;
    });
    put(this.#name, this.title);
    put(this.#words, `${described.join(". ")}. ${series[0]?.values.length ?? 0} points.`);
  }

  /** Move the cursor, and say what is there. @param {number | null} index */
  point(index) {
    const { series } = this.#drawn;
    const x = index === null ? -9 : this.#x(index);
    this.#cursor.setAttribute("x1", String(x));
    this.#cursor.setAttribute("x2", String(x));
    put(this.#legend, ...series.map(({ name, values, tone }) => {
      const value = index === null ? spread(values).latest : values[index];
      return h("span", { class: "small muted" }, h("span", { class: `chart-key tone-${tone}`, "aria-hidden": "true" }), `${name} `, h("span", { class: "mono small" }, value === null || value === undefined ? "–" : this.format(value)));
    }));
  }

  /** @param {number} index */
  #x(index) {
    const count = this.#drawn.series[0]?.values.length ?? 0;
    return count < 2 ? WIDTH / 2 : (index / (count - 1)) * WIDTH;
  }

  /** @param {Series[]} series @returns {number[]} */
  #totals(series) {
    return (series[0]?.values ?? []).map((_, at) => series.reduce((sum, { values }) => sum + (values[at] ?? 0), 0));
  }

  /** @param {Series} series @param {(value: number) => number} y */
  #line({ values, tone }, y) {
    let path = "";
    let pen = "M";
    for (const at of thinned(values)) {
      const value = values[at];
      if (value === null || value === undefined || !Number.isFinite(value)) {
        pen = "M";
        continue;
      }
      // a point alone is a line of no length, with round ends
      path += `${pen}${this.#x(at).toFixed(1)} ${y(value).toFixed(1)}${pen === "M" ? "h0.1" : ""}`;
      pen = "L";
    }
    return svg("path", { class: `chart-line tone-${tone}`, d: path });
  }

  /**
   * @param {Series[]} series
   * @param {(number | null)[]} totals
   * @param {(value: number) => number} y
   */
  #areas(series, totals, y) {
    const shown = thinned(totals);
    const wide = totals.length < 2 ? [0, WIDTH] : shown.map((at) => this.#x(at));
    const indices = totals.length === 1 ? [0, 0] : shown;
    let below = indices.map(() => 0);
    return series.map(({ values, tone }) => {
      const above = indices.map((at, index) => (below[index] ?? 0) + (values[at] ?? 0));
      const point = (/** @type {number} */ value, /** @type {number} */ index) => `${(wide[index] ?? 0).toFixed(1)} ${y(value).toFixed(1)}`;
      const edge = [...above.map(point), ...below.map(point).reverse()];
      below = above;
      return svg("path", { class: `chart-area tone-${tone}`, d: edge.length ? `M${edge.join("L")}Z` : "" });
    });
  }
}
