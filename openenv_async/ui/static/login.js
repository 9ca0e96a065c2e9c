/** The bearer token: from the link's fragment, this tab's storage, or a form. */
import { h, put } from "./dom.js";

const KEY = "token";

/**
 * The token of the fragment, if one is there; it leaves the address bar and the
 * history's entry.
 *
 * @param {string} [hash] what stands in its place
 * @returns {string | null} empty where the link names none, to forget the one there is
 */
export function givenToken(hash = "") {
  const given = /^#token=(.*)$/.exec(location.hash)?.[1];
  if (given === undefined) return null;
  history.replaceState(null, "", location.pathname + location.search + hash);
  try {
    return decodeURIComponent(given).trim();
  } catch {
    // a lone per cent sign: then it is meant literally
    return given.trim();
  }
}

/** The token that this tab had before, if any. */
export function storedToken() {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return null;
  }
}

/** @param {string | null} token */
export function rememberToken(token) {
  try {
    if (token) sessionStorage.setItem(KEY, token);
    else sessionStorage.removeItem(KEY);
  } catch {
    // forbidden: then it holds until the page is left
  }
}

/**
 * Why a text cannot be a token, if it cannot.
 *
 * @param {string} token
 * @returns {string | null}
 */
export function tokenProblem(token) {
  const [wrong] = /[^\x20-\x7e\xa0-\xff]/u.exec(token) ?? [];
  if (wrong === undefined) return null;
  const code = wrong.codePointAt(0) ?? 0;
  const name = `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
  return `expected characters that a header can carry (printable, of ISO 8859-1), got ${/[\p{L}\p{N}\p{P}\p{S}]/u.test(wrong) ? `${wrong} (${name})` : name}`;
}

export class Login {
  #input = h("input", {
    class: "input mono", type: "password", id: "token", required: true, autocomplete: "current-password", spellcheck: "false",
  });
  #problem = h("p", { class: "field-error", id: "token-error", role: "alert", hidden: true });

  /** @param {(token: string) => void} submit */
  constructor(submit) {
    this.element = h("form", { class: "card stack login" },
      h("h2", {}, "Token"),
      h("p", { class: "muted" }, "This server asks for its bearer token. It stays in this tab, and goes to this server alone."),
      h("div", { class: "field" }, h("label", { for: "token" }, "Bearer token"), this.#input, this.#problem),
      h("button", { class: "button primary" }, "Connect"));
    this.element.addEventListener("submit", (event) => {
      event.preventDefault();
      const token = this.#input.value.trim();
      const problem = token ? tokenProblem(token) : "expected a token, got blanks";
      if (problem) this.say(problem);
      else submit(token);
    });
  }

  /** What is wrong with the token. @param {string} problem */
  say(problem) {
    this.#problem.hidden = false;
    put(this.#problem, problem);
    this.#input.setAttribute("aria-describedby", "token-error");
    this.#input.setAttribute("aria-invalid", "true");
    this.focus();
  }

  focus() {
    this.#input.focus();
  }
}
