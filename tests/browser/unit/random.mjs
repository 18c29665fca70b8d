/** Seeded randomness: a failing seed is printed and replayed with REALCHAT_TEST_SEED. */

/** @param {number} seed */
export function random(seed) {
  let state = seed >>> 0 || 1;
  /** xorshift32; from 0 up to 1 */
  const next = () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
  for (let warm = 0; warm < 8; warm += 1) next();
  return {
    next,
    below: (/** @type {number} */ limit) => Math.floor(next() * limit),
    chance: (/** @type {number} */ probability) => next() < probability,
  };
}

/** The seeds to run: one that was asked for, or the first `count`. */
export function seeds(/** @type {number} */ count) {
  const asked = process.env.REALCHAT_TEST_SEED;
  return asked ? [Number(asked)] : Array.from({ length: count }, (_, index) => index + 1);
}

/** Runs a check for each seed and names the seed that fails. */
export function eachSeed(/** @type {number} */ count, /** @type {(seed: number) => void} */ check) {
  for (const seed of seeds(count)) {
    try {
      check(seed);
    } catch (error) {
      if (error instanceof Error) error.message += ` (REALCHAT_TEST_SEED=${seed})`;
      throw error;
    }
  }
}
