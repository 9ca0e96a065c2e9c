/** What went wrong, for people. */
import { h } from "../dom.js";
import { line, renderText, visible } from "../render/text.js";

/** @typedef {import("../types.js").JsonObject} JsonObject */

/** Characters of a message that stand in the line of its code; longer ones are folded. */
const SHORT = 400;
const EXECUTED = /** @type {Record<string, string>} */ ({
  yes: "The environment ran it.",
  no: "The environment did not run it; the episode is as it was.",
  unknown: "Whether the environment ran it is unknown.",
});

/**
 * What went wrong with a request. Its texts are an environment's: of any length, and
 * with any characters.
 *
 * @param {JsonObject} problem payload of a record of kind "error" or "ended"
 * @param {{role?: string | null}} [how]
 */
export function renderProblem({ code, message, executed, detail }, { role = "alert" } = {}) {
  const traceback = /** @type {JsonObject | null} */ (detail ?? null)?.traceback;
  const words = String(message);
  const short = words.length <= SHORT && !words.includes("\n");
  return h("div", { class: "notice bad stack", role },
    h("p", {}, h("strong", { class: "mono" }, line(String(code), 60)), short && h("bdi", {}, ` ${visible(words)}`)),
    !short && renderText(words, { label: "message" }),
    typeof executed === "string" && h("p", { class: "small muted" }, EXECUTED[executed]),
    typeof traceback === "string" && h("details", {}, h("summary", {}, "Traceback"), renderText(traceback, { className: "mono", label: "traceback" })));
}
