/**
 * A wait that doubles with every attempt and is jittered, so that many clients which lost the same
 * server do not come back in step. Pure: the caller brings the randomness.
 *
 * @param {number} attempt 0 for the first wait
 * @param {number} firstMs
 * @param {number} maxMs
 * @param {() => number} [random] from 0 up to 1
 * @returns {number} milliseconds, from half of the doubled wait up to all of it
 */
export function backoffMs(attempt, firstMs, maxMs, random = Math.random) {
  const wait = Math.min(maxMs, firstMs * 2 ** Math.min(attempt, 30));
  return Math.round(wait * (0.5 + random() / 2));
}
