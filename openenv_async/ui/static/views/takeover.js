/** Drive another client's session for a while. */
import { h, put } from "../dom.js";
import { fieldPath, SchemaForm } from "../form/schema-form.js";
import { plural } from "../format.js";
import { payloadOf, ServerError } from "../protocol.js";
import { line } from "../render/text.js";
import { Busy } from "./busy.js";
import { renderProblem } from "./problem.js";
import { ResetForm } from "./reset-form.js";

/**
 * @typedef {import("../app.js").App} App
 * @typedef {import("../session.js").Session} Session
 * @typedef {import("../types.js").StepRecord} StepRecord
 */

/** Seconds after which the session goes back, when this page is gone. */
const LEASE = 60;

/** Events: "record" with what the guest's request gave; "free" when the session is the owner's again. */
export class TakeOver extends EventTarget {
  /** @type {Session | null} */
  #guest = null;
  #taking = false;
  #since = 0;
  #clock = 0;
  #session = "";
  #form = new SchemaForm();
  #reset = new ResetForm();
  #problem = h("div");
  #status = h("p", { class: "small" });
  #take = this.#button("Take over", () => this.take());
  #back = this.#button("Hand back", () => this.handBack());
  #buttons = {
    reset: this.#button("Reset", () => this.#doReset()),
    step: this.#button("Step", () => this.#doStep()),
    state: this.#button("State", () => this.#ask((guest) => guest.getState())),
  };
  #busy = new Busy(() => this.#guest?.cancel());
  #driving = h("div", { class: "stack", hidden: true });

  /** @param {App} app */
  constructor(app) {
    super();
    this.app = app;
    this.#form.setAttribute("aria-label", "Action");
    this.#form.addEventListener("submit", () => this.#doStep());
    this.#reset.element.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#doReset();
    });
    const { reset, step, state } = this.#buttons;
    put(this.#driving, this.#reset.element, h("div", { class: "row" }, reset, state), h("hr"), h("h3", {}, "Action"), this.#form, h("div", { class: "row" }, step), this.#busy.element);
    step.classList.add("primary");
    this.element = h("section", { class: "card stack", "aria-label": "Take over" },
      h("div", { class: "row" }, h("h2", { class: "grow" }, "Control"), this.#take, this.#back), this.#status, this.#problem, this.#driving);
    app.connection.addEventListener("state", () => this.#refresh());
    this.#refresh();
  }

  /** Whether this page drives. */
  get driving() {
    return this.#guest !== null;
  }

  /** @param {string} session @param {import("../types.js").Schemas | null} schemas */
  of(session, schemas) {
    if (session !== this.#session) void this.handBack();
    this.#session = session;
    if (schemas) this.#form.setSchema(schemas.action);
    put(this.#problem);
    this.#refresh();
  }

  async take() {
    if (this.#taking || this.#guest) return;
    this.#taking = true;
    put(this.#problem);
    this.#refresh();
    const wanted = this.#session;
    try {
      const guest = await this.app.connection.takeOver(wanted, { lease: LEASE });
      if (this.#session !== wanted) return void guest.handBack();
      this.#guest = guest;
      guest.addEventListener("busy", () => this.#refresh());
      guest.addEventListener("record", (event) => this.dispatchEvent(new CustomEvent("record", { detail: /** @type {CustomEvent} */ (event).detail })));
      guest.addEventListener("progress", (event) => this.#busy.progressed(/** @type {CustomEvent} */ (event).detail));
      guest.addEventListener("ended", () => this.#over(guest));
      this.app.announce("You drive this session");
    } catch (error) {
      this.#fail(error);
    } finally {
      this.#taking = false;
      this.#refresh();
    }
  }

  async handBack() {
    await this.#guest?.handBack();
  }

  /** @param {Session} guest */
  #over(guest) {
    if (guest !== this.#guest) return;
    this.#guest = null;
    const { code = "", message = "" } = guest.ended ?? {};
    if (code === "session_closed") this.app.toast("The session was handed back to its owner.", "good");
    else put(this.#problem, renderProblem({ code, message: `This page drives no more: ${message}` }));
    this.#refresh();
    this.dispatchEvent(new Event("free"));
  }

  #doReset() {
    const how = this.#reset.read();
    if (how) void this.#ask((guest) => guest.reset(how));
  }

  #doStep() {
    if (this.#buttons.step.disabled || this.#form.check().length) return;
    void this.#ask((guest) => guest.step(this.#form.value));
  }

  /** @param {(guest: Session) => Promise<StepRecord>} request */
  async #ask(request) {
    const guest = this.#guest;
    if (!guest || guest.busy) return;
    put(this.#problem);
    this.#form.clearErrors();
    try {
      await request(guest);
    } catch (error) {
      if (!guest.ended) this.#fail(error);
    }
  }

  /** @param {unknown} error */
  #fail(error) {
    const problem = error instanceof ServerError ? error : new ServerError("page", String(error));
    put(this.#problem, renderProblem(payloadOf(problem)));
    if (problem.code === "invalid_action") this.#form.showErrors([{ path: fieldPath(problem.message.slice(-1000)), message: line(problem.message, 400) }]);
  }

  /** @param {string} text @param {() => void} act @returns {HTMLButtonElement} */
  #button(text, act) {
    return h("button", { type: "button", class: "button", on: { click: act } }, text);
  }

  #refresh() {
    const open = this.app.connection.state === "open";
    const busy = Boolean(this.#guest?.busy);
    this.#driving.hidden = !this.#guest;
    this.#take.hidden = this.driving;
    this.#back.hidden = !this.driving;
    this.#take.disabled = this.#taking || !open;
    for (const button of [this.#buttons.reset, this.#buttons.step, this.#buttons.state]) button.disabled = busy || !open;
    if (busy) this.#busy.show(this.#guest, open);
    else this.#busy.hide();
    clearInterval(this.#clock);
    if (open) this.#since = 0;
    else this.#since ||= performance.now();
    const tick = () => put(this.#status, this.#words(open));
    tick();
    if (this.driving && !open) this.#clock = setInterval(tick, 500);
  }

  /** @param {boolean} open */
  #words(open) {
    if (!this.driving) return this.#taking ? "Asking for it: a request in flight ends first." : "You watch. Taking over lets the owner's request in flight end, then this page decides.";
    if (open) return `You drive. The owner's requests get the error taken_over, or wait where it opened with hold=True. If this page goes away, the session goes back after ${LEASE} s.`;
    const left = Math.max(0, Math.ceil(LEASE - (performance.now() - this.#since) / 1000));
    return left ? `No connection. The session goes back to its owner in ${plural(left, "second")}.` : "The lease is over: the session is its owner's again.";
  }
}
