/**
 * What is to be seen in the records of an episode.
 *
 * @typedef {import("../types.js").StepRecord} StepRecord
 */

/** Robust standard deviations from the median at which a reward is large. */
const FAR = 3;

/** @param {number[]} values sorted */
const median = (values) => ((values[(values.length - 1) >> 1] ?? 0) + (values[values.length >> 1] ?? 0)) / 2;

/** @param {number[]} values */
const ordered = (values) => values.sort((a, b) => a - b);

/**
 * Which rewards stand out: those further from the median than three standard deviations,
 * estimated from the median of the distances, so that the outliers themselves do not
 * count. Where half of the rewards are the same, that is any other.
 *
 * @param {StepRecord[]} records
 * @returns {(record: StepRecord) => boolean}
 */
export function largeRewards(records) {
  const rewards = ordered(records.flatMap(({ kind, reward }) => (kind === "step" ? [reward ?? 0] : [])));
  const middle = median(rewards);
  const deviation = 1.4826 * median(ordered(rewards.map((reward) => Math.abs(reward - middle))));
  return ({ kind, reward }) => kind === "step" && Math.abs((reward ?? 0) - middle) > FAR * deviation + 1e-9 * Math.abs(middle);
}

export const LARGE = "further from the median than 3 robust standard deviations; where half of the rewards are the same, any other";

/** @param {StepRecord} record */
export const isError = ({ kind }) => kind === "error" || kind === "ended";

/** Nanoseconds that neither the queue, the environment nor the encoder had. @param {StepRecord} record @returns {number | null} null where nobody measured */
export function wireOf({ timings }) {
  if (!timings || timings.roundTripNs === null) return null;
  return Math.max(0, timings.roundTripNs - timings.queueNs - timings.environmentNs - timings.encodeNs);
}
