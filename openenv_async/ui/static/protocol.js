/**
 * Messages of the protocol in their JSON encoding; docs/protocol.md is what it obeys.
 *
 * @typedef {import("./types.js").Json} Json
 * @typedef {import("./types.js").JsonObject} JsonObject
 * @typedef {[string, ...any[]]} Message
 * @typedef {{frame_bytes: number, message_bytes: number, chunk_bytes: number, heartbeat: number}} Limits
 */

import { exactInteger } from "./render/values.js";

export const SUBPROTOCOL = "openenv.v1.json";
/** What this page accepts; a larger reply than a tab can show becomes a typed error. */
export const LIMITS = { frame_bytes: 4194304, message_bytes: 67108864, chunk_bytes: 262144, heartbeat: 15 };
/** What a peer accepts that does not say. @type {Limits} */
export const DEFAULTS = { ...LIMITS, message_bytes: 268435456 };

const STREAMS = 1024;
const encoder = new TextEncoder();

/** What a server says went wrong; also what this client found out itself. */
export class ServerError extends Error {
  /**
   * @param {string} code
   * @param {string} message
   * @param {{executed?: "yes" | "no" | "unknown", retryable?: boolean, fault?: string, detail?: JsonObject | null}} [more]
   */
  constructor(code, message, { executed = "unknown", retryable = false, fault = "infrastructure", detail = null } = {}) {
    super(message || code);
    this.name = "ServerError";
    this.code = code;
    this.executed = executed;
    this.retryable = retryable;
    this.fault = fault;
    this.detail = detail;
  }
}

/** @param {Message} message `error` @returns {ServerError} */
export function errorOf([, , , code, message, executed, retryable, fault, detail]) {
  return new ServerError(String(code), String(message), { executed, retryable, fault, detail });
}

/** A secret that owns a session (4.1): 128 bits. */
export function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Bytes of a value in JSON; null when it is nested too deep to tell. @param {Json | Message} value */
export function sizeOf(value) {
  try {
    return encoder.encode(JSON.stringify(value)).length;
  } catch {
    return null;
  }
}

/** Integers that a number of JavaScript does not hold; text in a string does no harm. */
const LONG = /(?<![\d.])\d{16,}(?![\d.eE])/;

/**
 * Decode JSON; integers beyond 2^53 keep their digits where the browser can.
 *
 * @param {string} text
 * @returns {unknown}
 */
function decode(text) {
  if (!LONG.test(text)) return JSON.parse(text);
  /** @type {(key: string, value: Json, context?: {source?: string}) => Json} */
  const revive = (_, value, { source = "" } = {}) =>
    typeof value === "number" && !Number.isSafeInteger(value) && /^-?\d+$/.test(source) ? (exactInteger(source) ?? value) : value;
  try {
    return JSON.parse(text, revive);
  } catch (error) {
    // a reviver recurses, plain parsing does not
    if (!(error instanceof RangeError)) throw error;
    return JSON.parse(text);
  }
}

/**
 * Encode a message into its frames (2.3).
 *
 * @param {Message} message
 * @param {Limits} limits the receiver's
 * @param {() => number} stream gives the number of a new stream
 * @returns {string[]} more than one when it goes in chunks
 * @throws {ServerError} `too_large`, when the receiver would not take it
 */
export function framesOf(message, limits, stream) {
  const text = JSON.stringify(message);
  const small = Math.min(limits.chunk_bytes, limits.frame_bytes - 2);
  // a UTF-16 unit has at most three bytes
  if (text.length * 3 <= small) return [`[${text}]`];
  const data = encoder.encode(text);
  if (data.length <= small) return [`[${text}]`];
  if (data.length > limits.message_bytes)
    throw new ServerError("too_large", `expected at most ${limits.message_bytes} bytes, got ${data.length}`, {
      executed: "no", fault: "caller", detail: { size: data.length, limit: limits.message_bytes },
    });
  const id = stream();
  // base64 makes four bytes of three, and the envelope takes some
  const piece = Math.floor(Math.min(limits.chunk_bytes, limits.frame_bytes - 64) / 4) * 3;
  const frames = [];
  for (let start = 0; start < data.length; start += piece)
    frames.push(JSON.stringify([["chunk", id, start + piece >= data.length, base64(data.subarray(start, start + piece))]]));
  return frames;
}

/** @param {Uint8Array} data */
function base64(data) {
  let text = "";
  // arguments of one call are bounded
  for (let start = 0; start < data.length; start += 8192) text += String.fromCharCode(...data.subarray(start, start + 8192));
  return btoa(text);
}

/** Frames in, messages out. */
export class Reader {
  /** @type {Map<number, {pieces: Uint8Array[], size: number}>} */
  #streams = new Map();
  #held = 0;

  /**
   * @param {unknown} frame
   * @returns {Message[]}
   * @throws {ServerError} `invalid_frame`
   */
  read(frame) {
    if (typeof frame !== "string") throw invalid("expected a text frame, got a binary one");
    /** @type {unknown} */
    const messages = attempt(() => decode(frame));
    if (!Array.isArray(messages)) throw invalid("expected an array as the frame");
    return messages.map((message) => this.#whole(message)).filter((message) => message !== null);
  }

  /** @param {unknown} message @returns {Message | null} */
  #whole(message) {
    if (!Array.isArray(message) || typeof message[0] !== "string") throw invalid("expected an array that begins with a tag");
    if (message[0] !== "chunk") return /** @type {Message} */ (message);
    const [, id, final, text] = message;
    const stream = this.#streams.get(id) ?? { pieces: [], size: 0 };
    this.#streams.set(id, stream);
    const data = attempt(() => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)));
    stream.pieces.push(data);
    stream.size += data.length;
    this.#held += data.length;
    if (this.#streams.size > STREAMS || this.#held > LIMITS.message_bytes) throw invalid("too much data in unfinished chunks");
    if (!final) return null;
    this.#streams.delete(id);
    this.#held -= stream.size;
    const whole = new Uint8Array(stream.size);
    let end = 0;
    for (const piece of stream.pieces) {
      whole.set(piece, end);
      end += piece.length;
    }
    return this.#whole(attempt(() => decode(new TextDecoder("utf-8", { fatal: true }).decode(whole))));
  }
}

/**
 * @template Value
 * @param {() => Value} read
 * @returns {Value}
 */
function attempt(read) {
  try {
    return read();
  } catch (error) {
    throw invalid(String(error));
  }
}

/** @param {string} message */
function invalid(message) {
  return new ServerError("invalid_frame", message);
}

/**
 * A record of an answered request.
 *
 * @param {import("./types.js").StepRecord["kind"]} kind
 * @param {number} seq
 * @param {Json} request
 * @param {Json} payload
 * @param {[number?, number?, number?]} nanoseconds in the queue, environment and encoder
 * @returns {import("./types.js").StepRecord}
 */
export function recordOf(kind, seq, request, payload, [queueNs = 0, environmentNs = 0, encodeNs = 0]) {
  const observed = kind === "reset" || kind === "step" ? /** @type {JsonObject} */ (payload ?? {}) : {};
  return {
    kind, seq, at: Date.now(), request, payload,
    reward: typeof observed.reward === "number" ? observed.reward : null,
    terminated: observed.terminated === true,
    truncated: observed.truncated === true,
    dropped: 0,
    timings: { queueNs, environmentNs, encodeNs, roundTripNs: null },
    requestBytes: sizeOf(request),
    payloadBytes: sizeOf(payload),
  };
}

/** @param {ServerError} error @returns {JsonObject} */
export function payloadOf({ code, message, executed, retryable, fault, detail }) {
  return { code, message, executed, retryable, fault, detail };
}
