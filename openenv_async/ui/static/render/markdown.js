/** Markdown, a safe part of it: no markup, nothing loaded, links that say where they go. */
import { h } from "../dom.js";
import { box, renderCode, renderText, table, visible } from "./text.js";

const MOST = 200_000;
const DEEPEST = 6;
// Each alternative is bounded, so that no text takes more than linear time.
const INLINE =
  /(`{1,3})([^`]{1,2000})\1|(!?)\[([^\]\n]{0,300})\]\(\s*<?((?:[^\s<>()]|\([^\s<>()]*\)){1,2000})>?[^)\n]{0,200}\)|(\*\*|__)(?=\S)([^\n]{1,1000}?)\6|([*_])(?=\S)([^*_\n]{1,1000})\8|<?(https?:\/\/[^\s<>")]{1,2000})>?|\\([\\`*_{}[\]()#+.!|<>-])/g;

/**
 * @param {string} text
 * @param {number} [depth]
 * @returns {(Node | string)[]}
 */
function inline(text, depth = 0) {
  /** @type {(Node | string)[]} */
  const pieces = [];
  let at = 0;
  if (depth > DEEPEST) return [visible(text)];
  for (const found of text.matchAll(INLINE)) {
    const [whole, , code, image, label, target, , strong, , soft, bare, escaped] = found;
    if (soft !== undefined && /\w/.test(text[found.index - 1] ?? "")) continue;
    const inner = () => inline(strong ?? soft ?? label, depth + 1);
    pieces.push(visible(text.slice(at, found.index)));
    at = found.index + whole.length;
    if (code !== undefined) pieces.push(h("code", {}, visible(code)));
    else if (target !== undefined) pieces.push(link(target, image ? [`image: ${visible(label)}`] : inner()));
    else if (bare !== undefined) pieces.push(link(bare, [visible(bare)]));
    else pieces.push(escaped ?? h(soft === undefined ? "strong" : "em", {}, ...inner()));
  }
  return [...pieces, visible(text.slice(at))];
}

/**
 * A link to the web or to mail; anything else is its text.
 *
 * @param {string} target
 * @param {(Node | string)[]} label
 */
function link(target, label) {
  // No URL of another scheme, and none that the browser would read otherwise than we.
  if (!/^(https?:\/\/|mailto:)[\x21-\x7e]+$/i.test(target) || !URL.canParse(target)) return h("span", { title: visible(target) }, ...label);
  return h("a", { href: target, rel: "noopener noreferrer", target: "_blank", title: target }, ...label);
}

/** @param {string} text @param {"td" | "th"} tag */
function cells(text, tag) {
  const parts = text.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/);
  return parts.map((cell) => h(tag, {}, ...inline(cell.trim().replaceAll("\\|", "|"))));
}

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+-]*)/;
const BULLET = /^( *)([-*+]|\d{1,9}[.)]) +/;
const HEADING = /^ {0,3}(#{1,6}) +(.*?)[ #]*$/;
const RULE = /^ {0,3}([-*_])( *\1){2,} *$/;

/**
 * @param {string[]} lines
 * @param {number} [depth]
 * @returns {Node[]}
 */
function blocks(lines, depth = 0) {
  /** @type {Node[]} */
  const made = [];
  let at = 0;
  /** Take lines while they go on. @param {(text: string) => unknown} on */
  const take = (on) => {
    const from = at;
    while (at < lines.length && on(lines[at])) at += 1;
    return lines.slice(from, at);
  };
  while (at < lines.length) {
    const text = lines[at];
    const next = lines[at + 1] ?? "";
    const fence = FENCE.exec(text);
    const heading = HEADING.exec(text);
    if (fence) {
      at += 1;
      const code = take((more) => !more.trim().startsWith(fence[1]));
      made.push(renderCode(code.join("\n"), fence[2]));
      at += 1;
    } else if (heading || RULE.test(text) || !text.trim()) {
      at += 1;
      const level = /** @type {"h3"} */ (`h${Math.min(6, (heading?.[1].length ?? 0) + 2)}`);
      if (heading) made.push(h(level, {}, ...inline(heading[2])));
      else if (text.trim()) made.push(h("hr"));
    } else if (text.startsWith(">") && depth < DEEPEST) {
      const quoted = take((more) => more.startsWith(">")).map((more) => more.replace(/^> ?/, ""));
      made.push(h("blockquote", {}, ...blocks(quoted, depth + 1)));
    } else if (BULLET.test(text) && depth < DEEPEST) {
      made.push(bullets(take((more) => BULLET.test(more) || /^\s+\S/.test(more)), depth));
    } else if (text.includes("|") && next.includes("|") && /^[\s|:-]*-[\s|:-]*$/.test(next)) {
      const [head, , ...rows] = take((more) => more.includes("|"));
      made.push(table(cells(head, "th"), h("tbody", {}, ...rows.map((row) => h("tr", {}, ...cells(row, "td"))))));
    } else {
      const from = at;
      const rest = take((more) => at === from || (more.trim() && !FENCE.test(more) && !/^(#{1,6} |>)/.test(more) && !BULLET.test(more)));
      made.push(h("p", {}, ...inline(rest.join("\n"))));
    }
  }
  return made;
}

/**
 * @param {string[]} lines
 * @param {number} depth
 */
function bullets(lines, depth) {
  const [, indent = "", sign = ""] = BULLET.exec(lines[0]) ?? [];
  /** @type {string[][]} */
  const items = [];
  for (const text of lines) {
    const found = BULLET.exec(text);
    if (found && found[1].length <= indent.length) items.push([text.slice(found[0].length)]);
    else items.at(-1)?.push(text.replace(new RegExp(`^ {0,${indent.length + sign.length + 1}}`), ""));
  }
  const made = items.map((item) => {
    const nested = item.findIndex((text, index) => index && BULLET.test(text));
    const own = nested < 0 ? item : item.slice(0, nested);
    return h("li", {}, ...inline(own.join("\n")), ...blocks(item.slice(own.length), depth + 1));
  });
  return h(/\d/.test(sign) ? "ol" : "ul", {}, ...made);
}

/**
 * @param {string} text
 * @returns {HTMLElement}
 */
export function renderMarkdown(text) {
  if (text.length > MOST) return renderText(text);
  return box("markdown", ...blocks(text.replace(/\r\n?/g, "\n").split("\n")));
}
