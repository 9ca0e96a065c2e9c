/** A request in flight: how long it runs, what it says of itself, and a button to cancel it. */
import { h, put } from "../dom.js";
import { seconds } from "../format.js";
import { line } from "../render/text.js";

/** @typedef {import("../session.js").Session} Session */

/** Characters of a progress message that are shown. */
const SAID = 300;

export class Busy {
  #words = h("span", { class: "small muted grow" });
  #progress = h("progress", { max: 1, hidden: true, "aria-label": "Progress" });
  #said = h("p", { class: "small muted one-line", hidden: true });
  #clock = 0;
  /** When the request began that progress was told of. @type {number | null} */
  #since = null;

  /** @param {() => void} cancel */
  constructor(cancel) {
    // the message is last: whatever it is, the button stays where it was
    this.element = h("div", { class: "stack", hidden: true }, h("div", { class: "busy-bar" }),
      h("div", { class: "row" }, this.#words, this.#progress, h("button", { type: "button", class: "button small", on: { click: cancel } }, "Cancel")),
      this.#said);
  }

  /**
   * @param {Session | null} session null while it is being opened
   * @param {boolean} connected
   */
  show(session, connected) {
    const since = session?.since ?? null;
    if (since !== this.#since) this.progressed({ fraction: null, message: "" });
    this.#since = since;
    this.element.hidden = false;
    const away = connected ? "" : ", waiting for the connection";
    const doing = session?.cancelling ? "Cancelling, running for" : "Running for";
    const tick = () => put(this.#words, since === null ? "Opening a session" : `${doing} ${seconds(Math.floor((performance.now() - since) / 100) / 10)}${away}`);
    clearInterval(this.#clock);
    tick();
    this.#clock = setInterval(tick, 100);
  }

  hide() {
    clearInterval(this.#clock);
    this.element.hidden = true;
    this.#since = null;
  }

  /** @param {{fraction: number | null, message: string}} progress */
  progressed({ fraction, message }) {
    this.#progress.hidden = fraction === null;
    this.#progress.value = fraction ?? 0;
    this.#said.hidden = !message;
    put(this.#said, line(message, SAID));
  }
}
