// The debug pane shows what environments say, and trusts none of it: whatever could make
// markup or code of a text is an error here.
import js from "@eslint/js";

const MARKUP = ["innerHTML", "outerHTML", "srcdoc"];
const WRITERS = ["insertAdjacentHTML", "createContextualFragment", "parseFromString",
  "setHTMLUnsafe", "parseHTMLUnsafe", "execCommand"];
const GLOBALS = ["AbortController", "Blob", "CSS", "CustomEvent", "DOMException", "Event",
  "EventTarget", "HTMLElement", "IntersectionObserver", "MutationObserver", "Node",
  "ResizeObserver", "TextDecoder", "TextEncoder", "URL", "URLSearchParams", "WebSocket",
  "atob", "btoa", "cancelAnimationFrame", "clearInterval", "clearTimeout", "console",
  "crypto", "customElements", "document", "fetch", "getSelection", "history",
  "localStorage", "location", "matchMedia", "navigator", "performance", "queueMicrotask",
  "requestAnimationFrame", "sessionStorage", "setInterval", "setTimeout",
  "structuredClone", "window", "Element", "HTMLButtonElement", "HTMLDialogElement",
  "HTMLInputElement", "HTMLSelectElement", "HTMLTextAreaElement", "HTMLDetailsElement",
  "HTMLCanvasElement", "HTMLAnchorElement", "HTMLFieldSetElement", "HTMLFormElement",
  "HTMLTableElement", "ImageData", "KeyboardEvent", "MessageEvent", "CloseEvent",
  "PointerEvent", "SVGElement", "DocumentFragment", "Text", "Response", "Headers",
  "requestIdleCallback", "getComputedStyle", "addEventListener", "removeEventListener",
  "dispatchEvent", "innerWidth", "innerHeight", "isSecureContext", "origin",
  "FormData", "File", "FileReader", "Image", "createImageBitmap", "OffscreenCanvas"];

const restricted = [
  ...MARKUP.map((property) => ({
    selector: `AssignmentExpression[left.property.name="${property}"], ` +
      `AssignmentExpression[left.property.value="${property}"]`,
    message: `${property} makes markup of a text: use dom.js`,
  })),
  ...WRITERS.map((name) => ({
    selector: `CallExpression[callee.property.name="${name}"]`,
    message: `${name} makes markup of a text: use dom.js`,
  })),
  {
    selector: 'CallExpression[callee.object.name="document"][callee.property.name=/^write/]',
    message: "document.write makes markup of a text: use dom.js",
  },
  {
    selector: 'CallExpression[callee.property.name="setAttribute"][arguments.0.value=/^(on|style$|srcdoc$)/i]',
    message: "neither handlers nor styles are attributes: the content security policy forbids them",
  },
  {
    selector: "TemplateElement[value.raw=/\\n/]",
    message: "the server strips indentation: no template over several lines",
  },
  {
    selector: "Literal[raw=/\\\\\\n/]",
    message: "the server strips indentation: no text over several lines",
  },
  {
    selector: "ImportExpression:not([source.type='Literal'][source.value=/^\\./])",
    message: "nothing comes from elsewhere: import by a relative path, written out",
  },
  {
    selector: 'ImportDeclaration[source.value=/^(?!\\.\\.?\\u002f)/]',
    message: "nothing comes from elsewhere: import by a relative path",
  },
];

export default [
  js.configs.recommended,
  {
    files: ["**/*.js"],
    languageOptions: {
      ecmaVersion: 2022,
      sourceType: "module",
      globals: Object.fromEntries(GLOBALS.map((name) => [name, "readonly"])),
    },
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      "array-callback-return": "error",
      "eqeqeq": ["error", "always", { null: "ignore" }],
      "no-console": ["error", { allow: ["warn", "error"] }],
      "no-eval": "error",
      "no-implied-eval": "error",
      "no-new-func": "error",
      "no-restricted-syntax": ["error", ...restricted],
      "no-script-url": "error",
      "no-self-assign": ["error", { props: false }],
      "no-shadow": ["error", { allow: ["_"] }],
      // A flag may be set through an operator that the rule does not count as a use.
      "no-unused-private-class-members": "off",
      "no-throw-literal": "error",
      "no-unused-vars": ["error", { argsIgnorePattern: "^_" }],
      "no-use-before-define": ["error", { functions: false, classes: false, variables: false }],
      "no-var": "error",
      "object-shorthand": "error",
      "prefer-const": "error",
      "radix": "error",
    },
  },
];
