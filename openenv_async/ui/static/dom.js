/**
 * Elements without HTML text: what environments say is never parsed as markup.
 *
 * @typedef {Node | string | number | null | undefined | false} Child
 * @typedef {Record<string, unknown>} Properties
 */

const SVG = "http://www.w3.org/2000/svg";

/**
 * Make an element.
 *
 * Properties are attributes, except `on` (listeners by event name) and `data`
 * (`data-` attributes). An attribute that is true is set empty; one that is false,
 * null or undefined is left out.
 *
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Properties} [properties]
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function h(tag, properties = {}, ...children) {
  return filled(document.createElement(tag), properties, children);
}

/**
 * Make an element of a drawing; otherwise like `h`.
 *
 * @template {keyof SVGElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Properties} [properties]
 * @param {...Child} children
 * @returns {SVGElementTagNameMap[Tag]}
 */
export function svg(tag, properties = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), properties, children);
}

/**
 * @template {Element} Made
 * @param {Made} element
 * @param {Properties} properties
 * @param {Child[]} children
 * @returns {Made}
 */
function filled(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name === "on") {
      for (const [event, listener] of Object.entries(/** @type {Record<string, EventListener>} */ (value)))
        element.addEventListener(event, listener);
    } else if (name === "data") {
      for (const [key, datum] of Object.entries(/** @type {Record<string, string>} */ (value)))
        /** @type {HTMLElement} */ (/** @type {unknown} */ (element)).dataset[key] = datum;
    } else if (value === true) {
      element.setAttribute(name, "");
    } else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, String(value));
    }
  }
  put(element, ...children);
  return element;
}

/**
 * Replace what an element holds.
 *
 * @param {Element} element
 * @param {...Child} children
 */
export function put(element, ...children) {
  element.replaceChildren(
    ...children
      .filter((child) => child !== null && child !== undefined && child !== false)
      .map((child) => (child instanceof Node ? child : String(child))),
  );
}
