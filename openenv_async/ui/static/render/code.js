/** Code, with the little colour that helps to read it. */
import { box, span } from "./parts.js";
import { copyButton, renderText, visible } from "./text.js";

const TOKENS =
  /("""[^]*?"""|'''[^]*?'''|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')|(#.*|\/\/.*)|\b(\d[\w.]*)|\b(and|as|assert|async|await|break|class|const|continue|def|elif|else|except|export|finally|for|from|function|if|import|in|is|lambda|let|new|not|or|pass|raise|return|try|while|with|yield|None|True|False|null|true|false)\b/g;
const CLASSES = ["string", "comment", "number", "keyword"];

/**
 * @param {string} text
 * @param {string} [language] no colours where it is none that is known
 * @returns {HTMLElement}
 */
export function renderCode(text, language = "") {
  const shown = renderText(text, { className: "mono", label: "code" });
  if (shown.childElementCount === 1 && /^(py|js|ts|java|json|go|c|sh|bash)/i.test(language)) {
    const pieces = [];
    let at = 0;
    for (const found of text.matchAll(TOKENS)) {
      const kind = CLASSES[found.slice(1).findIndex((group) => group !== undefined)];
      pieces.push(visible(text.slice(at, found.index)), span(`code-${kind}`, visible(found[0])));
      at = found.index + found[0].length;
    }
    shown.firstElementChild?.replaceChildren(...pieces, visible(text.slice(at)));
  }
  return box("code", copyButton(() => text), shown);
}
