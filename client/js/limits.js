/** Every limit of the library, with its unit. */

/** Cursors in one hello or sync; the server refuses more. */
export const CURSORS_MAX = 1024;
/** Users in one presence subscription; the server refuses more. */
export const PRESENCE_USERS_MAX = 1024;
/** A message's text, in bytes of UTF-8; the server refuses more. */
export const MESSAGE_TEXT_BYTES_MAX = 16 * 1024;
/** Events of one conversation that wait for a gap before them to be healed. */
export const HELD_EVENTS_MAX = 2048;
/** Messages that wait to be sent. */
export const OUTBOX_MAX = 1000;

/** First and longest wait before a reconnection, in milliseconds, before jitter. */
export const RECONNECT_FIRST_MS = 300;
export const RECONNECT_MAX_MS = 20_000;
/** A connection that held this long starts again from the first wait. */
export const STABLE_MS = 10_000;
/** The longest wait for a welcome after opening a socket. */
export const CONNECT_TIMEOUT_MS = 12_000;
/** The longest wait for the answer to a request; then the connection counts as dead. */
export const REQUEST_TIMEOUT_MS = 15_000;
/** With nothing received for this long the connection is probed. */
export const SILENCE_MS = 40_000;
/** The longest wait for the answer to a probe. */
export const PROBE_TIMEOUT_MS = 6_000;
/** The longest wait for the answer when the browser says that the network has gone. */
export const OFFLINE_PROBE_TIMEOUT_MS = 1_500;
/** First and longest wait before a gap that did not shrink is asked for again. */
export const HEAL_FIRST_MS = 250;
export const HEAL_MAX_MS = 10_000;
/** A message that is durable but whose event does not come within this time makes a gap. */
export const EVENT_WAIT_MS = 2_000;
/** "Typing" is told again no sooner than this. */
export const TYPING_REPEAT_MS = 3_000;
/** Acknowledgements are gathered for this long. */
export const ACK_DELAY_MS = 120;
/** First and longest wait before a message that the server could not take is sent again. */
export const RESEND_FIRST_MS = 500;
export const RESEND_MAX_MS = 15_000;
/** A token is renewed when it is valid for less than this fraction of its lifetime. */
export const TOKEN_RENEW_FRACTION = 0.25;
/** The renewals of tabs that started together are spread over this long at most. */
export const RENEWAL_SPREAD_MS = 5_000;
/** The shortest wait between two attempts to renew a token. */
export const RENEWAL_PAUSE_MS = 1_000;
/** The longest wait that a timer of a browser can count. */
export const TIMER_MAX_MS = 2 ** 31 - 1;
/** The longest wait for an HTTP answer. */
export const HTTP_TIMEOUT_MS = 15_000;
/** A tab that renews a token holds the others off for this long at most. */
export const LOCK_MS = 20_000;
/** Signing out waits this long for the server at most. */
export const SIGN_OUT_PATIENCE_MS = 3_000;
