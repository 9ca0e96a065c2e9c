/** The arguments of a reset: seed, episode id and options. */
import { h, put } from "../dom.js";

/** @typedef {import("../types.js").JsonObject} JsonObject */

const LEAST = -(2n ** 63n);
const MOST = 2n ** 63n - 1n;

/**
 * @param {string} text
 * @returns {number}
 * @throws {Error} when it is no integer of 64 bits
 */
function seedOf(text) {
  if (!/^[+-]?\d+$/.test(text)) throw new Error(`expected an integer, got ${text}`);
  const seed = BigInt(text);
  if (seed < LEAST || seed > MOST) throw new Error(`expected a signed integer of 64 bits, got ${text}`);
  if (Number.isSafeInteger(Number(seed))) return Number(seed);
  const { rawJSON } = /** @type {{rawJSON?: (text: string) => any}} */ (JSON);
  if (!rawJSON) throw new Error("expected an integer within 2^53: this browser cannot send larger ones exactly");
  return rawJSON(String(seed));
}

/**
 * @param {string} text
 * @returns {JsonObject}
 * @throws {Error} when it is no JSON object
 */
function optionsOf(text) {
  const value = JSON.parse(text);
  if (value === null || typeof value !== "object" || Array.isArray(value)) throw new Error("expected an object, such as {\"level\": 2}");
  return value;
}

export class ResetForm {
  #seed = h("input", { class: "input mono", id: "seed", inputmode: "numeric", autocomplete: "off", placeholder: "any" });
  #episode = h("input", { class: "input mono", id: "episode-id", autocomplete: "off", spellcheck: "false", placeholder: "chosen by the server" });
  #options = h("textarea", { class: "input mono", id: "options", rows: 3, spellcheck: "false", placeholder: "{}" });
  #seedError = h("p", { class: "field-error", id: "seed-error", role: "alert", hidden: true });
  #optionsError = h("p", { class: "field-error", id: "options-error", role: "alert", hidden: true });
  #more = h("details", {}, h("summary", {}, "Episode id and options"),
    h("div", { class: "stack" },
      h("div", { class: "field" }, h("label", { for: "episode-id" }, "Episode id"), this.#episode),
      h("div", { class: "field" }, h("label", { for: "options" }, "Options (JSON)"), this.#options, this.#optionsError)));

  constructor() {
    // Enter in a field sends it; the button is outside
    this.element = h("form", { class: "stack", "aria-label": "Reset", novalidate: true },
      h("div", { class: "field" }, h("label", { for: "seed" }, "Seed"), this.#seed, this.#seedError), this.#more,
      h("button", { hidden: true }));
    this.#seed.addEventListener("input", () => this.#say(this.#seed, this.#seedError, null));
    this.#options.addEventListener("input", () => this.#say(this.#options, this.#optionsError, null));
  }

  /** @returns {{seed: number | null, episodeId: string | null, options: JsonObject | null} | null} null when something is wrong, which is then shown */
  read() {
    const seed = this.#checked(this.#seed, this.#seedError, seedOf);
    const options = this.#checked(this.#options, this.#optionsError, optionsOf);
    if (seed === undefined || options === undefined) return null;
    return { seed, options, episodeId: this.#episode.value || null };
  }

  /** Show what the server says of the options. @param {string} message */
  fail(message) {
    this.#more.open = true;
    this.#say(this.#options, this.#optionsError, message);
    this.#options.focus();
  }

  /**
   * @template Value
   * @param {HTMLInputElement | HTMLTextAreaElement} field
   * @param {HTMLElement} place
   * @param {(text: string) => Value} read
   * @returns {Value | null | undefined} undefined when it is wrong
   */
  #checked(field, place, read) {
    const text = field.value.trim();
    this.#say(field, place, null);
    if (!text) return null;
    try {
      return read(text);
    } catch (error) {
      if (field === this.#options) this.#more.open = true;
      this.#say(field, place, error instanceof Error ? error.message : String(error));
      field.focus();
      return undefined;
    }
  }

  /** @param {HTMLElement} field @param {HTMLElement} place @param {string | null} message */
  #say(field, place, message) {
    place.hidden = message === null;
    put(place, message);
    if (message === null) {
      field.removeAttribute("aria-invalid");
      field.removeAttribute("aria-describedby");
    } else {
      field.setAttribute("aria-invalid", "true");
      field.setAttribute("aria-describedby", place.id);
    }
  }
}
