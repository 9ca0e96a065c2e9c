/**
 * Elements that are made over and over.
 *
 * @import {Child} from "../dom.js"
 */
import { h } from "../dom.js";

/** @param {string} className @param {...Child} children */
export const box = (className, ...children) => h("div", { class: className }, ...children);

/** @param {string} className @param {...Child} children */
export const span = (className, ...children) => h("span", { class: className }, ...children);

/**
 * @param {string} label
 * @param {() => unknown} act
 * @param {string} [name] for those who do not see the label
 */
export function button(label, act, name) {
  return h("button", { type: "button", class: "button small", "aria-label": name, on: { click: act } }, label);
}

/** A part that scrolls by itself, with the keyboard too. @param {string} label @param {...Child} children */
export const scrolling = (label, ...children) =>
  h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, ...children);
