/** The bearer token: from the link's fragment, this tab's storage, or a form. */
import { h } from "./dom.js";

/** @typedef {import("./protocol.js").ServerError} ServerError */

const KEY = "token";

/** The token of this tab, if any; one in the fragment is taken out of the address bar. */
export function storedToken() {
  const given = /^#token=([^&]*)$/.exec(location.hash)?.[1];
  if (given !== undefined) {
    history.replaceState(null, "", location.pathname + location.search);
    let token = given;
    try {
      token = decodeURIComponent(given);
    } catch {
      // a lone per cent sign: then it is meant literally
    }
    rememberToken(token);
    return token || null;
  }
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return null;
  }
}

/** @param {string} token */
export function rememberToken(token) {
  try {
    sessionStorage.setItem(KEY, token);
  } catch {
    // forbidden: then it holds until the page is left
  }
}

export class Login {
  #input = h("input", {
    class: "input mono", type: "password", id: "token", required: true, autocomplete: "current-password", spellcheck: "false",
  });

  /**
   * @param {ServerError | null} problem what was wrong with the token before
   * @param {(token: string) => void} submit
   */
  constructor(problem, submit) {
    const failed = problem ? h("p", { class: "field-error", id: "token-error", role: "alert" }, `The server did not accept the token: ${problem.message}`) : null;
    if (failed) this.#input.setAttribute("aria-describedby", "token-error");
    this.element = h("form", { class: "card stack login" },
      h("h2", {}, "Token"),
      h("p", { class: "muted" }, "This server asks for its bearer token. It stays in this tab, and goes to this server alone."),
      h("div", { class: "field" }, h("label", { for: "token" }, "Bearer token"), this.#input, failed),
      h("button", { class: "button primary" }, "Connect"));
    this.element.addEventListener("submit", (event) => {
      event.preventDefault();
      submit(this.#input.value);
    });
  }

  focus() {
    this.#input.focus();
  }
}
