/**
 * Text of environments: nothing in it is hidden, nothing steers the page.
 */
import { h, put } from "../dom.js";
import { box, button } from "./parts.js";

/** Characters and lines at first, and characters at a time when there is more. */
const FOLDED = 4000;
const LINES = 60;
const MORE = 500_000;
/** Pieces in colours of their own; what follows is plain. */
const PIECES = 4000;

// Controls, what turns the direction of text, and what has no width. A joiner between
// pictographs is part of an emoji, and a line's end may be written "\r\n".
const HIDDEN =
  // eslint-disable-next-line no-control-regex, no-misleading-character-class -- sought for
  /[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200c\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\u{e0000}-\u{e0fff}]|\r(?!\n)|(?<![\p{Extended_Pictographic}\ufe0f\u{1f3fb}-\u{1f3ff}])\u200d|\p{Cs}/gu;

// eslint-disable-next-line no-control-regex -- escapes are what it is about
const ESCAPE = /\x1b\[([\d;:]{0,64})([ -/]{0,4}[@-~])|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[@-Z\\-~]/g;

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
 * @param {Record<string, number>} style classes by what they change
 * @param {number[]} codes of "select graphic rendition"
 */
function restyle(style, codes) {
  for (let at = 0; at < codes.length; at += 1) {
    const code = codes[at];
    const family = Math.floor(code / 10);
    if (!code) for (const name of Object.keys(style)) delete style[name];
    else if (code < 10) style[code] = code;
    else if (family === 2) delete style[code === 22 ? 1 : code - 20];
    else if (code === 38 || code === 48) at += codes[at + 1] === 2 ? 4 : 2;
    else if (code % 10 === 9) delete style[family === 3 ? "f" : "b"];
    else style[family === 3 || family === 9 ? "f" : "b"] = code % 10;
  }
}

/**
 * Pieces of a text for a terminal: colours are kept, other escapes left out.
 *
 * @param {string} text
 */
function coloured(text) {
  /** @type {(Node | string)[]} */
  const pieces = [];
  /** @type {Record<string, number>} */
  const style = {};
  let at = 0;
  /** @param {string} piece */
  const add = (piece) => {
    const names = Object.entries(style).map(([name, tone]) => `ansi-${/\d/.test(name) ? "" : name}${tone}`);
    pieces.push(names.length ? h("span", { class: names.join(" ") }, visible(piece)) : visible(piece));
  };
  for (const found of text.matchAll(ESCAPE)) {
    if (found.index > at) add(text.slice(at, found.index));
    at = found.index + found[0].length;
    if (pieces.length > PIECES) break;
    if (found[2] === "m") restyle(style, found[1].split(/[;:]/).map(Number));
  }
  const rest = text.slice(at).replace(ESCAPE, "");
  if (rest) add(rest);
  return pieces;
}

/**
 * A text of any length: folded while it is long, with a button for the rest.
 *
 * @param {string} text
 * @param {{className?: string, label?: string}} [options]
 * @returns {HTMLElement}
 */
export function renderText(text, { className = "", label } = {}) {
  const rows = text.slice(0, FOLDED).split("\n", LINES).join("\n").length;
  const fold = Math.min(text.length, rows);
  const named = label ? { role: "region", "aria-label": label, tabindex: 0 } : {};
  const shown = h("pre", { class: `text ${className}`, dir: "auto", ...named });
  const more = button("", () => {
    length = length < text.length ? Math.min(text.length, length + MORE) : fold;
    show();
  });
  let length = fold;
  const show = () => {
    // Not in the middle of a character.
    const cut = /[\ud800-\udbff]/.test(text[length - 1]) && length < text.length ? length - 1 : length;
    put(shown, ...coloured(text.slice(0, cut)));
    more.textContent = length < text.length ? `Show ${text.length - length > MORE ? "more of" : "all"} ${counted(text.length)} characters` : "Show less";
  };
  show();
  return box("text-box", shown, text.length > fold && more);
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
