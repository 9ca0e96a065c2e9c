/** The page's shell: connection, routes, theme, and what all views share. */
import { Connection } from "./connection.js";
import { h, put } from "./dom.js";
import { givenToken, Login, rememberToken, storedToken, tokenProblem } from "./login.js";
import { ServerError } from "./protocol.js";
import { line } from "./render/text.js";

/**
 * @typedef {import("./types.js").Metadata} Metadata
 * @typedef {import("./types.js").Schemas} Schemas
 * @typedef {{element: HTMLElement, show(parameters: string[]): void, hide(): void,
 *   shortcuts?: [string, string][]}} View
 * @typedef {() => Promise<new (app: App) => View>} Load
 * @typedef {{mode: "live" | "recorded", version: string, token: boolean}} Pane
 */

// A view is loaded when it is first shown: the first paint waits for none of them.
const VIEWS = /** @type {Record<string, Load>} */ ({
  interact: async () => (await import("./views/interact.js")).InteractView,
  sessions: async () => (await import("./views/sessions.js")).SessionsView,
  session: async () => (await import("./views/session.js")).SessionView,
  server: async () => (await import("./views/server.js")).ServerView,
  run: async () => (await import("./views/recorded.js")).RecordedView,
});
const LIVE = /** @type {[string, string][]} */ ([["interact", "Interact"], ["sessions", "Sessions"], ["server", "Server"]]);
const RECORDED = /** @type {[string, string][]} */ ([["run", "Recorded run"]]);
const SHORTCUTS = /** @type {[string, string][]} */ ([["?", "This list"], ["g then i, s or v", "Go to Interact, Sessions or Server"]]);
const GO = /** @type {Record<string, string>} */ ({ i: "interact", s: "sessions", v: "server" });
const THEMES = /** @type {const} */ (["system", "light", "dark"]);
const ENDED_WORDS = /** @type {Record<string, [string, string]>} */ ({
  connecting: ["connecting", ""],
  open: ["connected", "good"],
  reconnecting: ["reconnecting", "warn"],
  unauthorized: ["token needed", "warn"],
  refused: ["refused", "bad"],
  closed: ["closed", "bad"],
});

/** @param {string} id */
const at = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

export class App {
  /** @type {Pane} */
  pane = { mode: "live", version: "", token: false };
  connection = new Connection(socketUrl());
  /** @type {Map<string, Promise<unknown>>} */
  #cached = new Map();
  /** @type {Map<string, View>} */
  #views = new Map();
  /** @type {View | null} */
  #shown = null;
  /** Whether the first welcome, or the recorded run, is there, so that views can be shown. */
  #ready = false;
  /** Whether the form for the token stands in place of the views. */
  #asking = false;
  #countdown = 0;
  #going = false;

  async start() {
    this.#shell();
    // before anything is waited for: it is in the address bar
    const token = givenToken() ?? storedToken();
    try {
      this.pane = /** @type {Pane} */ (await (await fetch(new URL("pane.json", document.baseURI))).json());
    } catch (error) {
      put(at("main"), h("p", { class: "notice bad", role: "alert" }, `The server does not answer: ${error}`));
      return;
    }
    const live = this.pane.mode === "live";
    put(
      /** @type {HTMLElement} */ (document.querySelector("nav")),
      ...(live ? LIVE : RECORDED).map(([route, title]) => h("a", { href: `#/${route}` }, title)),
    );
    window.addEventListener("hashchange", ({ oldURL }) => {
      const given = givenToken(new URL(oldURL).hash);
      if (given === null) return void this.#route();
      // the same again: nothing is to be lost for it
      if (this.#asking || given !== (this.connection.token ?? "")) this.#use(given);
    });
    if (live) {
      this.connection.addEventListener("state", () => this.#connectionChanged());
      this.connection.addEventListener("incarnation", () => this.#replaced());
    } else {
      put(at("status"), "recorded");
      this.#ready = true;
    }
    this.#use(token);
  }

  /** Connect, or read the run, with a token. @param {string | null} token */
  #use(token) {
    const problem = tokenProblem(token ?? "");
    if (problem) return this.#login(problem);
    rememberToken(token);
    if (this.pane.mode === "live") return this.connection.renew(token || null);
    this.connection.token = token || null;
    this.#asking = false;
    this.#cached.clear();
    this.#views.clear();
    this.#shown?.hide();
    this.#shown = null;
    void this.#route();
  }

  /** Names of what the server serves, the default first. */
  get environments() {
    return this.connection.welcome?.environments ?? [];
  }

  /**
   * Fetch from the server with the token.
   *
   * @param {string} path relative to the server's root
   * @returns {Promise<any>}
   */
  async fetchJson(path) {
    const { token } = this.connection;
    const headers = new Headers(token ? { Authorization: `Bearer ${token}` } : {});
    /** @type {Response} */
    let response;
    try {
      response = await fetch(new URL(`../${path.replace(/^\//, "")}`, document.baseURI), { headers });
    } catch (error) {
      throw new ServerError("session_lost", `the server does not answer: ${error}`, { executed: "no", retryable: true });
    }
    if (response.ok) return response.json();
    const body = await response.json().catch(() => ({}));
    if (response.status === 401 && this.pane.mode === "recorded") this.#login(this.#refusal(body.message ?? ""));
    throw new ServerError(body.code ?? `http_${response.status}`, body.message ?? response.statusText, { executed: "no" });
  }

  /** @param {string} environment @returns {Promise<Metadata>} */
  metadata(environment) {
    return this.#once(`metadata?environment=${encodeURIComponent(environment)}`);
  }

  /** @param {string} environment @returns {Promise<Schemas>} */
  schemas(environment) {
    return this.#once(`schema?environment=${encodeURIComponent(environment)}`);
  }

  /** @param {string} hash such as `#/sessions` */
  navigate(hash) {
    if (location.hash === hash) this.#route();
    else location.hash = hash;
  }

  /** Say it to those who do not see it. @param {string} text */
  announce(text) {
    put(at("announcer"), text);
  }

  /** @param {string} text @param {"good" | "bad" | "warn" | ""} [kind] */
  toast(text, kind = "") {
    const toast = h("div", { class: `notice ${kind}` }, text);
    at("toasts").append(toast);
    setTimeout(() => toast.remove(), kind === "bad" ? 10000 : 5000);
  }

  /** @param {string} path @returns {Promise<any>} */
  #once(path) {
    let found = this.#cached.get(path);
    if (!found) {
      found = this.fetchJson(path);
      this.#cached.set(path, found);
      found.catch(() => this.#cached.delete(path));
    }
    return found;
  }

  async #route() {
    // the form for the token stays until it is answered
    if (!this.#ready || this.#asking) return;
    const [name = "", ...rest] = partsOf(location.hash);
    const routes = this.pane.mode === "live" ? LIVE : RECORDED;
    if (!routes.some(([route]) => route === name)) {
      if (name !== "main") location.replace(`#/${routes[0]?.[0]}`);
      return;
    }
    const key = name === "sessions" && rest[0] ? "session" : name;
    for (const link of document.querySelectorAll("nav a")) {
      if (link.getAttribute("href") === `#/${name}`) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    const wanted = location.hash;
    let view = this.#views.get(key);
    try {
      view ??= new (await loaded(/** @type {Load} */ (VIEWS[key])))(this);
    } catch (error) {
      console.error(error);
      put(at("main"), h("p", { class: "notice bad", role: "alert" }, `This view cannot be loaded: ${error}`));
      return;
    }
    this.#views.set(key, view);
    // the module may have come after the next click
    if (location.hash !== wanted || this.#asking) return;
    if (this.#shown !== view) {
      this.#shown?.hide();
      this.#shown = view;
      put(at("main"), view.element);
      window.scrollTo(0, 0);
    }
    document.title = `${routes.find(([route]) => route === name)?.[1]} · openenv-async`;
    view.show(rest);
  }

  /** @param {string | null} problem what was wrong with the token before */
  #login(problem) {
    this.#shown?.hide();
    this.#shown = null;
    this.#asking = true;
    if (this.pane.mode === "live") this.#status("unauthorized");
    const login = new Login((token) => this.#use(token));
    put(at("main"), login.element);
    login.focus();
    if (problem) login.say(problem);
  }

  /** Why the server wants another token; null where it was shown none. @param {string} message */
  #refusal(message) {
    return this.connection.token ? `The server did not accept the token: ${line(message)}` : null;
  }

  /** @param {string} state of the connection */
  #status(state) {
    const [word = state, kind = ""] = ENDED_WORDS[state] ?? [];
    at("status").className = `badge ${kind}`;
    put(at("status"), word);
  }

  #connectionChanged() {
    const { state, problem, retryAt } = this.connection;
    this.#status(state);
    clearInterval(this.#countdown);
    if (state === "open") {
      put(at("banner"));
      this.#asking = false;
      if (!this.#shown || !this.#ready) {
        this.#ready = true;
        this.#route();
      }
    } else if (state === "unauthorized") {
      put(at("banner"));
      this.#login(this.#refusal(problem?.message ?? ""));
    } else if (state === "reconnecting") {
      this.#reconnecting(retryAt);
    } else if (state === "refused") {
      put(at("banner"), h("p", { class: "notice bad" }, `The server refused this page: ${line(problem?.message ?? "")}. Load it again after the server or the page was updated.`));
    }
  }

  /** @param {number | null} retryAt milliseconds since 1970; null while it tries */
  #reconnecting(retryAt) {
    const when = h("span", { "aria-hidden": "true" });
    const tick = () =>
      put(when, retryAt === null ? "Trying again now …" : `Next try in ${Math.max(0, Math.ceil((retryAt - Date.now()) / 1000))} s.`);
    tick();
    this.#countdown = setInterval(tick, 250);
    const { code, message } = this.connection.problem ?? { code: "", message: "the connection was lost" };
    const why = line(message, 400);
    const sessions = code === "shutting_down" ? "Its sessions have ended." : "Sessions stay on the server for their lease, and continue where they were.";
    put(
      at("banner"),
      h("div", { class: "notice warn row" },
        h("span", { class: "grow" }, h("strong", {}, "Reconnecting. "), `${why[0]?.toUpperCase()}${why.slice(1)}. ${sessions} `, when),
        h("button", { type: "button", class: "button small", on: { click: () => this.connection.retryNow() } }, "Retry now")),
    );
  }

  #replaced() {
    this.#cached.clear();
    const notice = h("div", { class: "notice bad row" },
      h("span", { class: "grow" }, h("strong", {}, "The server was replaced. "), "Its sessions, and the episodes in them, are gone. Nothing was opened in their place."),
      h("button", { type: "button", class: "button small", on: { click: () => notice.remove() } }, "Dismiss"));
    at("banner").append(notice);
    // after the views' own listeners
    queueMicrotask(() => {
      this.#shown?.hide();
      this.#shown = null;
      this.#route();
    });
  }

  #shell() {
    document.querySelector(".skip")?.addEventListener("click", (event) => {
      // the hash is the route
      event.preventDefault();
      at("main").focus();
    });
    const theme = at("theme");
    const show = () => put(theme, document.documentElement.dataset.theme ?? "system");
    theme.addEventListener("click", () => {
      const now = document.documentElement.dataset.theme ?? "system";
      const next = THEMES[(THEMES.findIndex((name) => name === now) + 1) % THEMES.length] ?? "system";
      if (next === "system") delete document.documentElement.dataset.theme;
      else document.documentElement.dataset.theme = next;
      try {
        localStorage.setItem("theme", next);
      } catch {
        // forbidden: then it holds for this page
      }
      show();
      this.announce(`Theme: ${next}`);
    });
    show();
    at("help").addEventListener("click", () => this.#help());
    theme.hidden = at("help").hidden = false;
    document.addEventListener("keydown", (event) => this.#key(event));
    window.addEventListener("pagehide", () => this.connection.close({ abandon: true }));
    // a page that the browser kept, and shows again as it was
    window.addEventListener("pageshow", ({ persisted }) => persisted && this.pane.mode === "live" && this.connection.connect());
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const target = /** @type {HTMLElement} */ (event.target);
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (target.closest("input, textarea, select, dialog") || target.isContentEditable) return;
    if (event.key === "?") {
      event.preventDefault();
      return this.#help();
    }
    const route = this.#going && this.pane.mode === "live" ? GO[event.key] : undefined;
    this.#going = event.key === "g";
    if (route) this.navigate(`#/${route}`);
  }

  #help() {
    const dialog = h("dialog", { "aria-labelledby": "help-title" },
      h("form", { method: "dialog", class: "stack" },
        h("h2", { id: "help-title" }, "Keyboard"),
        h("dl", { class: "facts" },
          ...[...(this.#shown?.shortcuts ?? []), ...SHORTCUTS].flatMap(([keys, what]) => [h("dt", {}, h("kbd", {}, keys)), h("dd", {}, what)])),
        h("p", { class: "muted small" }, `openenv-async ${this.pane.version}`),
        h("button", { class: "button primary" }, "Close")));
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();
  }
}

/**
 * Load a view; a network that changes meanwhile aborts what is on its way.
 *
 * @param {Load} load
 * @param {number} [attempts]
 * @returns {ReturnType<Load>}
 */
async function loaded(load, attempts = 3) {
  try {
    return await load();
  } catch (error) {
    if (attempts <= 1) throw error;
    await new Promise((resolve) => setTimeout(resolve, 300));
    return loaded(load, attempts - 1);
  }
}

/** Names in a route; none of one that is malformed. @param {string} hash */
function partsOf(hash) {
  try {
    return hash.replace(/^#\/?/, "").split("/").map((part) => decodeURIComponent(part));
  } catch {
    return [];
  }
}

function socketUrl() {
  const url = new URL("../ws", document.baseURI);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.hash = url.search = "";
  return url.href;
}

void new App().start();
