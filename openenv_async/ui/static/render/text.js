/** Text of environments, where nothing is hidden and nothing steers the page; small elements. */
import { h, put } from "../dom.js";

/** @typedef {import("../dom.js").Child} Child */

/** Characters and lines at first, and characters at a time when there is more. */
const FOLDED = 4000;
const LINES = 60;
const MORE = 500_000;

// Controls, what turns the direction of text, and what has no width. A joiner between
// pictographs and variants are part of emoji, and a line's end may be written "\r\n".
const HIDDEN =
  // eslint-disable-next-line no-misleading-character-class -- modifiers are sought alone
  /(?![\t\n\u200d\ufe00-\ufe0f]|\r\n)[\p{Cc}\p{Cs}\p{Default_Ignorable_Code_Point}\u2028\u2029\ufff9-\ufffb]|(?<![\p{Extended_Pictographic}\ufe0f\u{1f3fb}-\u{1f3ff}])\u200d/gu;

/** What steers a terminal: colours, links, the cursor. */
// eslint-disable-next-line no-control-regex -- escapes are what it is about
const ESCAPE = /\x1b\[[\d;:]{0,64}[ -/]{0,4}[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[@-Z\\-~]/g;

const TOKENS =
  /("""[^]*?"""|'''[^]*?'''|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')|(#.*|\/\/.*)|\b(\d[\w.]*)|\b(and|as|assert|async|await|break|class|const|continue|def|elif|else|except|for|from|function|if|import|in|is|lambda|let|new|not|or|pass|raise|return|try|while|with|yield|None|True|False|null|true|false)\b/g;
const TOKEN_CLASSES = ["code-string", "code-comment", "code-number", "code-keyword"];

/** @param {string} className @param {...Child} children */
export const box = (className, ...children) => h("div", { class: className }, ...children);

/** @param {string} className @param {...Child} children */
export const span = (className, ...children) => h("span", { class: className }, ...children);

/**
 * @param {string} label
 * @param {(event: Event) => unknown} act
 * @param {string} [name] for those who do not see the label
 */
export function button(label, act, name) {
  return h("button", { type: "button", class: "button small", "aria-label": name, on: { click: act } }, label);
}

/** What makes an element one that scrolls by itself, with the keyboard too. @param {string} label */
export const scrolls = (label) => ({ tabindex: 0, role: "region", "aria-label": label });

/** A table in a part of its own. @param {Child[]} head cells @param {HTMLElement} body */
export const table = (head, body) =>
  h("div", { class: "scroll", ...scrolls("table") }, h("table", { class: "table" }, h("thead", {}, h("tr", {}, ...head)), body));

/** A number as people write it. @param {number} number */
export const counted = (number) => number.toLocaleString("en");

/** Write characters that would not be seen so that they are. @param {string} text */
export function visible(text) {
  return text.replace(HIDDEN, (found) => {
    const code = found.codePointAt(0) ?? 0;
    return code < 0x20 ? String.fromCharCode(0x2400 + code) : `⟦U+${code.toString(16).toUpperCase().padStart(4, "0")}⟧`;
  });
}

/** A short text on one line. @param {string} text @param {number} [limit] */
export function line(text, limit = 200) {
  const cut = text.slice(0, limit).replace(/\r?\n/g, "\u23ce").replace(/\t/g, "\u21e5");
  return visible(cut) + (text.length > limit ? "…" : "");
}

/**
 * A text of any length: folded while it is long, with a button for the rest.
 *
 * @param {string} raw
 * @param {{className?: string, label?: string}} [options]
 * @returns {HTMLElement}
 */
export function renderText(raw, { className = "", label } = {}) {
  const text = raw.replace(ESCAPE, "");
  const fold = text.slice(0, FOLDED).split("\n", LINES).join("\n").length;
  const shown = h("pre", { class: `text ${className}`, dir: "auto", ...(label ? scrolls(label) : {}) });
  let length = 0;
  const show = () => {
    length = length < text.length && length ? Math.min(text.length, length + MORE) : fold;
    const left = text.length - length;
    // Not in the middle of a character.
    put(shown, visible(text.slice(0, length).replace(left ? /[\ud800-\udbff]$/ : "", "")));
    more.textContent = left ? `Show ${left > MORE ? "more of" : "all"} ${counted(text.length)} characters` : "Show less";
  };
  const more = button("", show);
  show();
  return box("text-box", shown, text.length > fold && more);
}

/**
 * Code, with the little colour that helps to read it.
 *
 * @param {string} text
 * @param {string} [language] no colours where it is none that is known
 */
export function renderCode(text, language = "") {
  const shown = renderText(text, { className: "mono", label: "code" });
  if (shown.childElementCount === 1 && /^(py|js|ts|java|json|go|c|sh|bash)/i.test(language)) {
    const pieces = [];
    let at = 0;
    for (const found of text.matchAll(TOKENS)) {
      const kind = TOKEN_CLASSES[found.slice(1).findIndex((group) => group !== undefined)];
      pieces.push(visible(text.slice(at, found.index)), span(kind, visible(found[0])));
      at = found.index + found[0].length;
    }
    shown.firstElementChild?.replaceChildren(...pieces, visible(text.slice(at)));
  }
  return box("code", copyButton(() => text), shown);
}

/** A button that copies. @param {() => string} text asked for when it is pressed */
export function copyButton(text, label = "Copy") {
  const copy = button(label, async () => {
    // Without a secure context there is no clipboard.
    try {
      await navigator.clipboard.writeText(text());
      copy.textContent = "Copied";
    } catch {
      copy.textContent = "Not allowed";
    }
    setTimeout(() => (copy.textContent = label), 1500);
  });
  return copy;
}
