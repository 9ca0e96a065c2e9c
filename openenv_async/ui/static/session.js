/** One session of this page: one request at a time, each run at most once. */
import { newKey, payloadOf, recordOf, ServerError, sizeOf } from "./protocol.js";

/**
 * @typedef {import("./types.js").Json} Json
 * @typedef {import("./types.js").JsonObject} JsonObject
 * @typedef {import("./types.js").StepRecord} StepRecord
 * @typedef {import("./protocol.js").Message} Message
 * @typedef {"reset" | "step" | "state" | "close"} Kind
 *
 * What a session needs of its connection.
 * @typedef {object} Line
 * @property {(message: Message) => void} send throws `too_large` before anything was sent
 * @property {(session: Session) => void} forget frees the handle
 *
 * @typedef {object} Pending
 * @property {Kind} kind
 * @property {Message} message
 * @property {Json} request
 * @property {number} since milliseconds of `performance.now()`
 * @property {boolean} cancelled
 * @property {(record: StepRecord) => void} resolve
 * @property {(error: ServerError) => void} reject
 */

/** Errors of requests that do not use up their number (5.3). */
const FREE = ["busy", "bad_sequence", "unknown_session"];

/**
 * Events: "busy"; "record" with the StepRecord of an answer, errors included; "progress"
 * with `{fraction, message}`; "ended" with `{code, message}`, once.
 */
export class Session extends EventTarget {
  id = "";
  environment = "";
  episode = 0;
  /** @type {{code: string, message: string} | null} */
  ended = null;
  /** Resolves when it is open for the first time. @type {Promise<Session>} */
  opened;

  #key = newKey();
  #seq = 0;
  /** Whether the handle is attached on the present connection, so that requests can go. */
  #attached = false;
  /** @type {Pending | null} */
  #pending = null;
  #resolveOpened = /** @type {(session: Session) => void} */ (() => {});
  #rejectOpened = /** @type {(error: ServerError) => void} */ (() => {});

  /**
   * @param {Line} line
   * @param {number} handle
   * @param {{environment?: string | null, owner?: string, takes?: string | null, lease?: number}} how
   *   `takes` is the public id of a session to take over
   */
  constructor(line, handle, { environment = null, owner = "", takes = null, lease = 60 }) {
    super();
    this.line = line;
    this.handle = handle;
    this.guest = takes !== null;
    /** @type {Message} */
    this.opening = takes === null
      ? ["open", handle, this.#key, environment, owner]
      : ["take_over", handle, takes, this.#key, lease];
    this.opened = new Promise((resolve, reject) => {
      this.#resolveOpened = resolve;
      this.#rejectOpened = reject;
    });
    // whoever did not wait is told by "ended"
    this.opened.catch(() => {});
  }

  get busy() {
    return this.#pending !== null;
  }

  get cancelling() {
    return this.#pending?.cancelled ?? false;
  }

  /** Milliseconds of `performance.now()` when the request in flight was made. */
  get since() {
    return this.#pending?.since ?? null;
  }

  /**
   * @param {{seed?: number | null, episodeId?: string | null, options?: JsonObject | null}} [how]
   * @returns {Promise<StepRecord>}
   */
  reset({ seed = null, episodeId = null, options = null } = {}) {
    return this.#ask("reset", { seed, episode_id: episodeId, options }, [seed, episodeId, options]);
  }

  /** @param {Json} action @returns {Promise<StepRecord>} */
  step(action) {
    return this.#ask("step", action, [action]);
  }

  getState() {
    return this.#ask("state", null, []);
  }

  /** Ask the server to stop the request in flight; its answer still comes. */
  cancel() {
    if (!this.#pending) return;
    this.#pending.cancelled = true;
    if (this.#attached) this.line.send(["cancel", this.handle, this.#seq]);
  }

  /** End the session; a request in flight is given up with it. @returns {Promise<void>} */
  async close() {
    if (this.ended) return;
    if (this.guest) return this.handBack();
    if (this.#pending || !this.#attached) {
      this.abandon();
      this.end(new ServerError("session_closed", "closed here", { executed: "unknown", fault: "caller" }));
      return;
    }
    await this.#ask("close", null, []).then(() => {}, () => {});
    this.end(new ServerError("session_closed", "closed here", { executed: "no", fault: "caller" }));
  }

  /** Give the session back to its owner. @returns {Promise<void>} */
  handBack() {
    if (this.ended) return Promise.resolve();
    const done = new Promise((resolve) => this.addEventListener("ended", () => resolve(undefined), { once: true }));
    if (this.#attached) {
      this.line.send(["hand_back", this.handle]);
    } else {
      this.abandon();
      this.end(new ServerError("session_closed", "handed back", { fault: "caller" }));
    }
    return done;
  }

  /** Give it up without waiting for anything (5.5). */
  abandon() {
    try {
      this.line.send(["cancel", this.handle, 0]);
    } catch {
      // no connection: then its lease ends it
    }
  }

  /**
   * @param {Kind} kind
   * @param {Json} request
   * @param {any[]} fields
   * @returns {Promise<StepRecord>}
   */
  #ask(kind, request, fields) {
    if (this.ended) return Promise.reject(new ServerError(this.ended.code, this.ended.message, { executed: "no" }));
    if (this.#pending) return Promise.reject(new ServerError("busy", "a request is in flight", { executed: "no", retryable: true, fault: "caller" }));
    return new Promise((resolve, reject) => {
      const seq = this.#seq + 1;
      const message = /** @type {Message} */ ([kind, this.handle, seq, ...fields]);
      this.#pending = { kind, message, request, since: performance.now(), cancelled: false, resolve, reject };
      this.#seq = seq;
      try {
        if (this.#attached) this.line.send(message);
      } catch (error) {
        // never sent: the number is still free (10.3)
        this.#seq = seq - 1;
        this.#pending = null;
        return reject(error);
      }
      this.dispatchEvent(new Event("busy"));
    });
  }

  // From the connection

  /** A connection is there: open, or resume. */
  attach() {
    this.line.send(this.id ? ["resume", this.handle, this.#key] : this.opening);
  }

  detach() {
    this.#attached = false;
  }

  /** @param {Message} message `opened` */
  onOpened([, , id, environment, seq]) {
    const first = !this.id;
    const expected = this.#pending ? [this.#seq, this.#seq - 1] : [this.#seq];
    if (!expected.includes(seq)) {
      this.abandon();
      this.end(new ServerError("session_lost", `expected request ${this.#seq} to be the server's last, got ${seq}`));
      return;
    }
    this.id = id;
    this.environment = environment;
    this.#attached = true;
    if (this.#pending) {
      // so that one that had not arrived never begins
      if (this.#pending.cancelled) this.line.send(["cancel", this.handle, this.#seq]);
      this.line.send(this.#pending.message);
    }
    if (first) this.#resolveOpened(this);
  }

  /** @param {Message} message `reply` */
  onReply([, , seq, payload, ...nanoseconds]) {
    const pending = this.#answered(seq);
    if (!pending) return;
    if (pending.kind === "reset") this.episode += 1;
    const kind = pending.kind === "close" ? "ended" : pending.kind;
    const record = recordOf(kind, seq, pending.request, payload, /** @type {[]} */ (nanoseconds));
    this.#record(pending, record);
    pending.resolve(record);
  }

  /** @param {number | null} seq @param {ServerError} error */
  onError(seq, error) {
    if (seq === null) {
      const closing = this.#pending?.kind === "close" && error.code === "unknown_session";
      if (closing) this.end(new ServerError("session_closed", "closed here", { executed: "yes" }));
      else if (this.id && error.code === "unknown_session")
        this.end(new ServerError("session_lost", "the server has it no more: nobody came back within its lease"));
      else this.end(error);
      return;
    }
    const pending = this.#answered(seq);
    if (!pending) return;
    if (FREE.includes(error.code)) this.#seq = seq - 1;
    const record = recordOf("error", seq, pending.request, payloadOf(error), []);
    this.#record(pending, record);
    pending.reject(error);
    if (error.code === "unknown_session" || error.code === "bad_sequence") this.end(error);
  }

  /** @param {Message} message `progress` */
  onProgress([, , seq, fraction = null, message = ""]) {
    if (this.#pending && seq === this.#seq)
      this.dispatchEvent(new CustomEvent("progress", { detail: { fraction, message } }));
  }

  /** It is over, for whatever reason. @param {ServerError} error */
  end(error) {
    if (this.ended) return;
    const { code, message } = error;
    this.ended = { code, message };
    this.#attached = false;
    this.line.forget(this);
    const pending = this.#pending;
    this.#pending = null;
    if (!this.id) this.#rejectOpened(error);
    pending?.reject(error);
    this.dispatchEvent(new Event("busy"));
    this.dispatchEvent(new CustomEvent("ended", { detail: this.ended }));
  }

  /** @param {number} seq @returns {Pending | null} null for an answer that nobody waits for */
  #answered(seq) {
    const pending = this.#pending;
    if (!pending || seq !== this.#seq) return null;
    this.#pending = null;
    return pending;
  }

  /** @param {Pending} pending @param {StepRecord} record */
  #record(pending, record) {
    if (record.timings) record.timings.roundTripNs = Math.round((performance.now() - pending.since) * 1e6);
    record.requestBytes = sizeOf(pending.message);
    this.dispatchEvent(new Event("busy"));
    if (pending.kind !== "close") this.dispatchEvent(new CustomEvent("record", { detail: record }));
  }
}
