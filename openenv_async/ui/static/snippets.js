/**
 * Python that does what the page did.
 *
 * @typedef {import("./types.js").Json} Json
 * @typedef {import("./types.js").JsonObject} JsonObject
 * @typedef {import("./types.js").Schema} Schema
 * @typedef {import("./types.js").StepRecord} StepRecord
 */
import { choices, dissect, kindOf, tags } from "./form/schema.js";
import { isRaw, write } from "./render/values.js";

/** What would not be seen, or would turn the order of what is seen, in a copied program. */
const HIDDEN = /[\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

/** @param {string} text */
function pythonText(text) {
  return JSON.stringify(text).replace(HIDDEN, (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** @param {Json} value @returns {string} */
function literal(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "string") return pythonText(value);
  if (typeof value === "number") return String(value);
  if (isRaw(value)) return String(/** @type {{rawJSON: string}} */ (/** @type {unknown} */ (value)).rawJSON);
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  const { kind, dtype, shape, data } = value;
  if (kind === "array" && typeof dtype === "string" && Array.isArray(shape) && typeof data === "string")
    return `Array(dtype=${pythonText(dtype)}, shape=(${shape.map((size) => `${literal(size)},`).join(" ")}), data=memoryview(b64decode(${pythonText(data)})))`;
  return `{${Object.entries(value).map(([key, item]) => `${pythonText(key)}: ${literal(item)}`).join(", ")}}`;
}

/** @param {Json} value @returns {string} */
function python(value) {
  try {
    return literal(value);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    // nested deeper than the stack, and than Python's parser allows
    return `json.loads(${pythonText(write(value))})`;
  }
}

/** @param {StepRecord} record @returns {string | null} null for what no client asks for */
function call({ kind, request }) {
  if (kind === "state") return "state = await env.state()";
  const fields = /** @type {JsonObject} */ (request !== null && typeof request === "object" ? request : {});
  const isReset = kind === "reset" || (kind === "error" && "seed" in fields && "episode_id" in fields && "options" in fields);
  if (isReset) {
    const given = ["seed", "episode_id", "options"].filter((name) => (fields[name] ?? null) !== null);
    return `result = await env.reset(${given.map((name) => `${name}=${python(fields[name] ?? null)}`).join(", ")})`;
  }
  if (kind === "step" || (kind === "error" && request !== null)) return `result = await env.step(${python(request)})`;
  return null;
}

/**
 * @param {string} url
 * @param {string} environment
 * @param {string[]} lines
 * @param {boolean} authenticated
 */
function program(url, environment, lines, authenticated) {
  const body = lines.join("\n");
  const imports = ["import asyncio", body.includes("json.loads(") && "import json", authenticated && "import os", body.includes("b64decode(") && "from base64 import b64decode"];
  const names = body.includes("Array(") ? "Array, GenericEnv" : "GenericEnv";
  const token = authenticated ? ", token=os.environ[\"OPENENV_ASYNC_TOKEN\"]" : "";
  return [
    ...imports.filter(Boolean), "", `from openenv_async import ${names}`, "", "",
    "async def main() -> None:",
    `    async with GenericEnv(${pythonText(url)}, environment=${pythonText(environment)}${token}) as env:`,
    ...lines.map((text) => `        ${text}`), "", "", "asyncio.run(main())", "",
  ].join("\n");
}

/** Where clients of this page's server connect. */
export function serverUrl() {
  const url = new URL("..", document.baseURI);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url.href.replace(/\/$/, "");
}

/**
 * One record as a statement, many as a program.
 *
 * @param {string} environment
 * @param {StepRecord | StepRecord[]} records
 * @param {{url?: string, authenticated?: boolean}} [server]
 */
export function asPython(environment, records, { url = serverUrl(), authenticated = false } = {}) {
  if (!Array.isArray(records)) return call(records) ?? "";
  const lines = records.map(call).filter((text) => text !== null);
  return program(url, environment, lines.length ? lines : ["pass"], authenticated);
}

/**
 * A program that plays one step.
 *
 * @param {{url?: string, environment: string, authenticated?: boolean, schemas: {action: Schema}}} server
 */
export function clientSnippet({ url = serverUrl(), environment, authenticated = false, schemas }) {
  const action = python(sample(schemas.action, schemas.action, 0));
  return program(url, environment, [
    "result = await env.reset(seed=0)", "print(result.observation)",
    `result = await env.step(${action})`, "print(result.observation, result.reward, result.done)",
  ], authenticated);
}

/** Values of a kind that no default or choice tells. @type {Record<string, Json>} */
const PLAIN = { string: "hello", boolean: false, integer: 0, number: 0.5, bytes: "", list: [], map: {} };

/**
 * A value that fits a schema, with what is required only.
 *
 * @param {Json | undefined} given
 * @param {Schema} root
 * @param {number} depth
 * @returns {Json}
 */
function sample(given, root, depth) {
  const { schema, variants, nullable } = dissect(given, root);
  if (schema.default !== undefined) return schema.default;
  if (Array.isArray(schema.examples) && schema.examples.length) return schema.examples[0] ?? null;
  const [choice] = choices(schema) ?? [];
  if (choice !== undefined) return choice;
  if (depth > 8 || (nullable && !variants.length && depth > 0)) return null;
  if (variants.length) return sample(variants[0], root, depth + 1);
  const { properties, required, minimum, prefixItems } = schema;
  if (properties !== null && typeof properties === "object" && !Array.isArray(properties)) {
    const names = Array.isArray(required) ? required.map(String) : [];
    return { ...Object.fromEntries(names.map((name) => [name, sample(properties[name], root, depth + 1)])), ...tags(schema) };
  }
  if (Array.isArray(prefixItems)) return prefixItems.map((item) => sample(item, root, depth + 1));
  if (typeof minimum === "number" && (schema.type === "integer" || schema.type === "number")) return minimum;
  return PLAIN[kindOf(schema)] ?? null;
}
