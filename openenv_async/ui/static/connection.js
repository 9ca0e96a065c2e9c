/** The connection to the server: heartbeats, reconnecting, and who gets which message. */
import { DEFAULTS, errorOf, framesOf, LIMITS, Reader, recordOf, ServerError, SUBPROTOCOL } from "./protocol.js";
import { Session } from "./session.js";

/**
 * @typedef {import("./types.js").SessionRow} SessionRow
 * @typedef {import("./types.js").StepRecord} StepRecord
 * @typedef {import("./protocol.js").Message} Message
 * @typedef {"connecting" | "open" | "reconnecting" | "unauthorized" | "refused" | "closed"} State
 * @typedef {{version: number, server: string, incarnation: string, limits: Partial<import("./protocol.js").Limits>, environments: string[]}} Welcome
 * @typedef {{resolve: (answer: any) => void, reject: (error: ServerError) => void}} Waiting
 * @typedef {{session: string, queue: number, onEvent: (record: StepRecord) => void, waiting: Waiting | null, seq: number | null, again: boolean}} Watch
 */

/** Close codes after which the same again would fail again (8.4). */
const FATAL = [1002, 1007, 1009];
/** Milliseconds for the handshake and `welcome`. */
const PATIENCE = 10000;
/** Milliseconds before the first and between later attempts, at most. */
const FIRST_DELAY = 500;
const LAST_DELAY = 15000;
/** Bytes that the browser may hold; further chunks wait, so that small messages overtake them. */
const HIGH_WATER = 1 << 20;

/** Events: "state"; "incarnation", when the server was replaced; "closed". */
export class Connection extends EventTarget {
  /** @type {State} */
  state = "closed";
  /** @type {ServerError | null} */
  problem = null;
  /** @type {Welcome | null} */
  welcome = null;
  /** When the next attempt begins, as `Date.now()`; null otherwise. @type {number | null} */
  retryAt = null;

  /** @type {WebSocket | null} */
  #socket = null;
  #reader = new Reader();
  /** @type {Map<number, Session>} */
  #sessions = new Map();
  /** @type {Map<number, Waiting>} */
  #lists = new Map();
  /** @type {Map<number, Watch>} */
  #watches = new Map();
  /** @type {string[]} */
  #chunks = [];
  #last = { id: 0, handle: 0, stream: 0, nonce: 0 };
  /** @type {ServerError | null} Why the socket is about to close. */
  #fatal = null;
  /** @type {ServerError | null} From the server's goodbye. */
  #farewell = null;
  /** @type {number | null} Seconds, from the server's goodbye. */
  #retryAfter = null;
  #attempts = 0;
  #retry = 0;
  #patience = 0;
  #pulse = 0;
  #heard = 0;
  #pinged = 0;

  /** @param {string} url @param {{token?: string | null}} [options] */
  constructor(url, { token = null } = {}) {
    super();
    this.url = url;
    /** @type {string | null} */
    this.token = token;
    globalThis.addEventListener("online", () => this.retryNow());
  }

  /** Connect, and stay connected until `close`; also after it, and watches go on then. */
  connect() {
    if (this.#socket) return;
    clearTimeout(this.#retry);
    this.#reader = new Reader();
    this.#chunks = [];
    this.#fatal = null;
    this.#last.stream = 0;
    const socket = new WebSocket(this.url, [SUBPROTOCOL]);
    this.#socket = socket;
    this.#patience = setTimeout(() => this.#drop("the server does not answer"), PATIENCE);
    socket.onopen = () => socket.send(JSON.stringify([["hello", 1, "openenv-async pane", LIMITS, this.token]]));
    socket.onmessage = ({ data }) => this.#receive(data);
    socket.onclose = ({ code, reason }) => this.#closed(code, reason);
    this.retryAt = null;
    this.#become(this.welcome || this.#attempts ? "reconnecting" : "connecting", this.problem);
  }

  /** Connect anew with another token; sessions go on, if the server takes it. @param {string | null} token */
  renew(token) {
    this.token = token;
    this.#loseSocket()?.close(1000);
    if (this.state !== "reconnecting") this.problem = new ServerError("session_lost", "another token was given");
    this.connect();
  }

  /** Leave; sessions go on for their lease, or with `abandon` end at once. */
  close({ abandon = false } = {}) {
    clearTimeout(this.#retry);
    if (this.#socket && this.state === "open") {
      if (abandon) for (const session of this.#sessions.values()) session.abandon();
      this.#post(["goodbye"]);
    }
    this.#loseSocket()?.close(1000);
    this.#giveUp(new ServerError("session_closed", "the connection was closed here", { fault: "caller" }), { watches: false });
    this.#become("closed", null);
    this.dispatchEvent(new Event("closed"));
  }

  retryNow() {
    if (this.state === "reconnecting" && !this.#socket) this.connect();
  }

  /**
   * @param {string} [environment] the default one if left out
   * @param {{owner?: string}} [options]
   * @returns {Promise<Session>}
   */
  openSession(environment, { owner = "pane" } = {}) {
    return this.#begin({ environment: environment ?? null, owner });
  }

  /**
   * Drive another client's session for a while.
   *
   * @param {string} session its public id
   * @param {{lease?: number}} [options] seconds
   * @returns {Promise<Session>}
   */
  takeOver(session, { lease = 60 } = {}) {
    return this.#begin({ takes: session, lease });
  }

  /**
   * @param {{environment?: string | null, limit?: number}} [which]
   * @returns {Promise<{rows: SessionRow[], total: number}>}
   */
  list({ environment = null, limit = 10000 } = {}) {
    return new Promise((resolve, reject) => {
      if (this.state !== "open") return reject(lost());
      const id = ++this.#last.id;
      this.#lists.set(id, { resolve, reject });
      this.#post(["list", id, environment, limit]);
    });
  }

  /**
   * Follow a session, over lost connections too.
   *
   * @param {string} session
   * @param {(record: StepRecord) => void} onEvent the last is of kind "ended"
   * @param {{queue?: number}} [options]
   * @returns {Promise<{row: SessionRow, close(): void}>}
   */
  watch(session, onEvent, { queue = 256 } = {}) {
    return new Promise((resolve, reject) => {
      if (this.state !== "open") return reject(lost());
      const id = ++this.#last.id;
      const close = () => {
        if (this.#watches.delete(id) && this.state === "open") this.#post(["unwatch", id]);
      };
      const waiting = { resolve: (/** @type {SessionRow} */ row) => resolve({ row, close }), reject };
      this.#watches.set(id, { session, queue, onEvent, waiting, seq: null, again: false });
      this.#post(["watch", id, session, queue]);
    });
  }

  /** @param {ConstructorParameters<typeof Session>[2]} how @returns {Promise<Session>} */
  #begin(how) {
    if (["unauthorized", "refused", "closed"].includes(this.state)) return Promise.reject(this.problem ?? lost());
    const session = new Session(
      {
        send: (message) => this.#post(message),
        forget: ({ handle }) => this.#sessions.delete(handle),
      },
      ++this.#last.handle,
      how,
    );
    this.#sessions.set(session.handle, session);
    if (this.state === "open") session.attach();
    return session.opened;
  }

  // Sending

  /** @param {Message} message */
  #post(message) {
    const limits = { ...DEFAULTS, ...this.welcome?.limits };
    const frames = framesOf(message, limits, () => ++this.#last.stream);
    const socket = this.#socket;
    // when it closes, "close" comes next, and what went unanswered goes again on another
    if (socket?.readyState !== WebSocket.OPEN) return;
    if (frames.length === 1) return socket.send(/** @type {string} */ (frames[0]));
    const idle = this.#chunks.length === 0;
    this.#chunks.push(...frames);
    if (idle) this.#pump(socket);
  }

  /** @param {WebSocket | null} socket */
  #pump(socket) {
    // of an earlier connection, or of one that ends
    if (socket !== this.#socket || socket?.readyState !== WebSocket.OPEN) return;
    while (this.#chunks.length && socket.bufferedAmount < HIGH_WATER) {
      socket.send(/** @type {string} */ (this.#chunks.shift()));
      // the peer reads: that is a sign of life (3.5)
      this.#heard = performance.now();
    }
    if (this.#chunks.length) setTimeout(() => this.#pump(socket), 10);
  }

  #beat() {
    const period = LIMITS.heartbeat * 1000;
    const now = performance.now();
    if (now - this.#heard < period) return;
    // 3.5. Only a ping that had its time proves anything: this page may have slept.
    if (now - this.#heard >= 3 * period && this.#pinged > this.#heard && now - this.#pinged >= period)
      return this.#drop("the server went silent");
    if (now - this.#pinged < period) return;
    this.#pinged = now;
    this.#post(["ping", ++this.#last.nonce]);
  }

  // Receiving

  /** @param {unknown} frame */
  #receive(frame) {
    this.#heard = performance.now();
    try {
      for (const message of this.#reader.read(frame)) this.#take(message);
    } catch (error) {
      if (!(error instanceof ServerError)) throw error;
      this.#refuse(error);
    }
  }

  /** The server breaks the rules: nothing it says later can be trusted (8.4). @param {ServerError} error */
  #refuse(error) {
    this.#loseSocket()?.close(1000);
    this.#giveUp(error);
    this.#become("refused", error);
  }

  /** @param {Message} message */
  #take(message) {
    const [tag, first] = message;
    if (tag === "welcome") return this.#welcomed(message);
    if (tag === "ping") return this.#post(["pong", first]);
    if (tag === "error") return this.#failed(message);
    if (tag === "goodbye") {
      this.#retryAfter = message[2] ?? null;
      this.#farewell = new ServerError("shutting_down", message[1] || "the server is shutting down");
      return;
    }
    if (tag === "sessions") {
      this.#lists.get(first)?.resolve({ rows: message[2], total: message[3] });
      this.#lists.delete(first);
      return;
    }
    if (tag === "watching" || tag === "event") return this.#watched(message);
    const session = this.#sessions.get(first);
    if (tag === "opened") session?.onOpened(message);
    else if (tag === "reply") session?.onReply(message);
    else if (tag === "progress") session?.onProgress(message);
    else if (tag === "ended") session?.end(new ServerError(message[2], message[3]));
  }

  /** @param {Message} message */
  #welcomed([, version, server, incarnation, limits, environments]) {
    if (version !== 1) throw new ServerError("version_mismatch", `expected version 1, got ${version}`);
    clearTimeout(this.#patience);
    const before = this.welcome?.incarnation;
    this.welcome = { version, server, incarnation, limits: limits ?? {}, environments: environments ?? [] };
    this.#attempts = 0;
    this.#retryAfter = this.#farewell = null;
    this.#pulse = setInterval(() => this.#beat(), 1000);
    const replaced = before !== undefined && before !== incarnation;
    if (replaced) this.#giveUp(new ServerError("session_lost", "the server was replaced, and its sessions are gone"));
    for (const session of this.#sessions.values()) session.attach();
    for (const [id, { session, queue }] of this.#watches) this.#post(["watch", id, session, queue]);
    this.#become("open", null);
    if (replaced) this.dispatchEvent(new Event("incarnation"));
  }

  /** @param {Message} message */
  #failed(message) {
    const error = errorOf(message);
    const [, handle, seq] = message;
    if (handle !== null) return this.#sessions.get(handle)?.onError(seq, error);
    const id = error.detail?.watch;
    if (typeof id !== "number") {
      this.#fatal = error;
      return;
    }
    this.#lists.get(id)?.reject(error);
    this.#lists.delete(id);
    const watch = this.#watches.get(id);
    this.#watches.delete(id);
    if (watch?.waiting) watch.waiting.reject(error);
    else watch?.onEvent(ending(error));
  }

  /** @param {Message} message `watching` or `event` */
  #watched(message) {
    const watch = this.#watches.get(message[1]);
    if (!watch) return;
    if (message[0] === "watching") {
      watch.waiting?.resolve(message[2]);
      watch.again = watch.waiting === null;
      watch.waiting = null;
      return;
    }
    const [, id, kind, seq, dropped, request, payload, ...nanoseconds] = message;
    const record = recordOf(kind, seq, request, payload, /** @type {[]} */ (nanoseconds));
    record.dropped = dropped;
    // What happened while the connection was lost was not counted by the server; numbers
    // tell, but for requests refused meanwhile.
    if (watch.again && watch.seq !== null && kind !== "ended") record.dropped += Math.max(0, seq - watch.seq - 1);
    watch.again = false;
    if (kind === "ended") this.#watches.delete(id);
    else watch.seq = seq;
    watch.onEvent(record);
  }

  // Losing

  /** @param {string} why */
  #drop(why) {
    // without a word, and without waiting for the other side's
    this.#loseSocket()?.close();
    this.#again(this.#farewell ?? new ServerError("session_lost", why));
  }

  /** @param {number} code @param {string} reason */
  #closed(code, reason) {
    const was = this.state;
    this.#loseSocket();
    const why = !this.welcome
      ? `the socket at ${this.url} does not open, because the server is gone, refuses pages of ${location.origin}, or a proxy passes no WebSockets`
      : was === "open" ? "the connection was lost" : "the server cannot be reached";
    // what it said at last holds until it is there again
    const problem = this.#fatal ?? this.#farewell ?? new ServerError("session_lost", why);
    const state = code === 1008 || problem.code === "unauthorized" ? "unauthorized" : FATAL.includes(code) ? "refused" : null;
    if (!state) return this.#again(problem);
    const error = this.#fatal ?? new ServerError(state === "refused" ? "protocol_error" : "unauthorized", reason || `the server closed with code ${code}`);
    this.#giveUp(error);
    this.#become(state, error);
  }

  /** @returns {WebSocket | null} */
  #loseSocket() {
    const socket = this.#socket;
    this.#socket = null;
    clearTimeout(this.#patience);
    clearInterval(this.#pulse);
    if (socket) socket.onopen = socket.onmessage = socket.onclose = null;
    for (const session of this.#sessions.values()) session.detach();
    for (const waiting of this.#lists.values()) waiting.reject(lost());
    this.#lists.clear();
    return socket;
  }

  /** @param {ServerError} problem */
  #again(problem) {
    const delay = this.#retryAfter === null
      ? Math.min(LAST_DELAY, FIRST_DELAY * 2 ** this.#attempts) * (0.75 + Math.random() / 2)
      : Math.max(FIRST_DELAY, this.#retryAfter * 1000);
    this.#retryAfter = null;
    this.#attempts += 1;
    this.retryAt = Date.now() + delay;
    this.#retry = setTimeout(() => this.connect(), delay);
    this.#become("reconnecting", problem);
  }

  /**
   * Nothing comes back: sessions end, and watches, but for those that can begin again.
   *
   * @param {ServerError} error
   * @param {{watches?: boolean}} [which]
   */
  #giveUp(error, { watches: all = true } = {}) {
    for (const session of [...this.#sessions.values()]) {
      // those that never were on the server are asked for again
      if (session.id || error.code !== "session_lost") session.end(error);
    }
    for (const [id, watch] of [...this.#watches]) {
      if (!all && !watch.waiting) continue;
      this.#watches.delete(id);
      if (watch.waiting) watch.waiting.reject(error);
      else watch.onEvent(ending(error));
    }
  }

  /** @param {State} state @param {ServerError | null} problem */
  #become(state, problem) {
    this.state = state;
    this.problem = problem;
    this.dispatchEvent(new Event("state"));
  }
}

function lost() {
  return new ServerError("session_lost", "there is no connection", { executed: "no", retryable: true });
}

/** @param {ServerError} error @returns {StepRecord} */
function ending({ code, message }) {
  return recordOf("ended", 0, null, { code, message }, []);
}
