/**
 * The records of an episode, or of several one after the other, bounded in bytes.
 *
 * @typedef {import("./types.js").StepRecord} StepRecord
 *
 * Where a record stands; null where lost events make it unknown.
 * @typedef {{episode: number | null, step: number | null, total: number | null}} Mark
 */

/** Bytes on the wire; what the browser needs for them is a few times as much. */
const MOST = 32e6;
/** Bytes of a record itself. */
const OWN = 400;

/** @param {StepRecord} record */
const sizeOf = ({ requestBytes, payloadBytes }) => OWN + (requestBytes ?? 0) + (payloadBytes ?? 0);

/** @param {Mark | undefined} mark */
const isUnknown = (mark) => mark !== undefined && (mark.episode === null || mark.step === null || mark.total === null);

/** Events: "append" after each record; "place" when it is known where they are; "clear". */
export class EpisodeLog extends EventTarget {
  /** @type {StepRecord[]} */
  records = [];
  /** One for each record. @type {Mark[]} */
  marks = [];
  /** Records that went, oldest first, to make room. */
  forgotten = 0;
  /** Events that were lost before they came here. */
  dropped = 0;
  #bytes = 0;
  /** @type {Mark} */
  #last = { episode: 0, step: 0, total: 0 };

  /** @param {number} [most] bytes */
  constructor(most = MOST) {
    super();
    this.most = most;
  }

  /** Reward of the present episode so far. */
  get totalReward() {
    return this.#last.total;
  }

  /** Where the episode is. */
  get mark() {
    return this.#last;
  }

  /**
   * Say where an episode is that was joined, or after losses. The records since the last
   * loss of which that was unknown follow from it.
   *
   * @param {{episode: number, step: number, total: number}} mark
   */
  place(mark) {
    this.#last = mark;
    const { episode } = mark;
    let { step, total } = mark;
    let known = true;
    for (let at = this.records.length - 1; known && at >= 0 && isUnknown(this.marks[at]); at -= 1) {
      this.marks[at] = { episode, step, total };
      const { kind, dropped, reward } = /** @type {StepRecord} */ (this.records[at]);
      // before a reset there was another episode, of unknown length
      known = !dropped && kind !== "reset";
      if (kind === "step") [step, total] = [step - 1, total - (reward ?? 0)];
    }
    this.dispatchEvent(new Event("place"));
  }

  /** @param {StepRecord} record */
  append(record) {
    let { episode, step, total } = this.#last;
    if (record.dropped) {
      this.dropped += record.dropped;
      // a reset may have been among them
      episode = step = total = null;
    }
    if (record.kind === "reset") [episode, step, total] = [episode === null ? null : episode + 1, 0, record.reward ?? 0];
    else if (record.kind === "step") {
      step = step === null ? null : step + 1;
      total = total === null ? null : total + (record.reward ?? 0);
    }
    this.#last = { episode, step, total };
    this.records.push(record);
    this.marks.push(this.#last);
    this.#bytes += sizeOf(record);
    if (this.#bytes > this.most) this.#forget();
    this.dispatchEvent(new Event("append"));
  }

  clear() {
    this.records = [];
    this.marks = [];
    this.forgotten = this.dropped = this.#bytes = 0;
    this.#last = { episode: 0, step: 0, total: 0 };
    this.dispatchEvent(new Event("clear"));
  }

  /** An eighth at a time, because the start of an array is expensive to remove. */
  #forget() {
    let count = 0;
    while (count < this.records.length - 1 && this.#bytes > this.most * 0.875) {
      this.#bytes -= sizeOf(/** @type {StepRecord} */ (this.records[count]));
      count += 1;
    }
    this.records.splice(0, count);
    this.marks.splice(0, count);
    this.forgotten += count;
  }
}
