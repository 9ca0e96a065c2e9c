/**
 * Types that the modules share; there is nothing here at run time.
 *
 * @typedef {null | boolean | number | string | JsonArray | JsonObject} Json
 * @typedef {Json[]} JsonArray
 * @typedef {{[key: string]: Json}} JsonObject
 * @typedef {JsonObject} Schema JSON Schema 2020-12, as `/schema` gives it, with `$defs`
 *
 * What one request cost. Null is unknown.
 * @typedef {object} Timings
 * @property {number} queueNs nanoseconds waiting on the server
 * @property {number} environmentNs nanoseconds in the environment
 * @property {number} encodeNs nanoseconds encoding the reply
 * @property {number | null} roundTripNs nanoseconds from sending to receiving; null
 *   where this page was not the one who asked
 *
 * One answered request of an episode: of a session of ours, a watched or a recorded one.
 * @typedef {object} StepRecord
 * @property {"reset" | "step" | "state" | "error" | "ended"} kind
 * @property {number} seq
 * @property {number | null} at milliseconds since 1970, as `Date.now()`
 * @property {Json} request the action, or the arguments of a reset
 * @property {Json} payload the observation or state; for error and ended `{code, message}`
 *   and more where it is known (`executed`, `retryable`, `fault`, `detail`)
 * @property {number | null} reward
 * @property {boolean} terminated
 * @property {boolean} truncated
 * @property {number} dropped events that were lost just before this one
 * @property {Timings | null} timings
 * @property {number | null} requestBytes size of the request as it was sent
 * @property {number | null} payloadBytes size of the payload as it came
 *
 * What a server says of an environment at `/metadata`.
 * @typedef {object} Metadata
 * @property {string} name
 * @property {string} description
 * @property {string} version
 * @property {string} author
 * @property {string} readme Markdown
 * @property {string} documentation_url
 * @property {string} execution
 * @property {JsonObject} extra
 *
 * Schemas of an environment, as `/schema` gives them.
 * @typedef {object} Schemas
 * @property {Schema} action
 * @property {Schema} observation
 * @property {Schema} state
 *
 * A row of the list of sessions. Durations in seconds.
 * @typedef {object} SessionRow
 * @property {string} session
 * @property {string} environment
 * @property {string} owner
 * @property {string} state
 * @property {number} episode
 * @property {number} step
 * @property {number | null} reward
 * @property {number} age
 * @property {number | null} busy
 * @property {boolean} attached
 * @property {boolean} taken_over
 */

export {};
