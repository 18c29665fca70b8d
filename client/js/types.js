/**
 * The types of the client protocol's JSON form and of the HTTP API. Ids are UUID text, times are
 * microseconds since 1970 (`*_us`), sequence numbers count from 1 in each conversation.
 *
 * @typedef {{ conversation_id: string, sequence_number: number }} Cursor
 *
 * @typedef {{ message_id: string, message_number: number, text: string }} Message
 * @typedef {{ message_id: string, text: string }} MessageEdited
 * @typedef {{ message_id: string }} MessageDeleted
 * @typedef {{ message_id: string, reaction: string, removed: boolean }} Reaction
 * @typedef {{ added_user_ids: string[], removed_user_ids: string[], created: boolean }} MembershipChanged
 * @typedef {{ title: string }} SettingsChanged
 * @typedef {{ user_id: string, device_id: string, delivered_sequence_number: number,
 *   read_sequence_number: number }} Receipt
 * @typedef {{ sequence_number: number, delivered_count: number, read_count: number }} ReceiptCount
 * How many members of a large conversation have come how far, for a few sequence numbers, rising.
 * @typedef {{ counts: ReceiptCount[], member_count: number }} ReceiptSummary
 * @typedef {{ user_id: string, name: string, display_name: string, about: string }} ProfileUpdated
 * @typedef {{ active: boolean }} TypingChanged
 * @typedef {{ user_id: string, online: boolean, last_seen_at_us: number }} PresenceChanged
 *
 * One thing that happened; exactly one of the kinds is set. `sequence_number` is 0 for what is not
 * in the conversation's log (receipts, receipt summaries, profiles, typing, presence).
 * @typedef {{
 *   conversation_id: string, sequence_number: number, created_at_us: number, sender_id: string,
 *   message?: Message, message_edited?: MessageEdited, message_deleted?: MessageDeleted,
 *   reaction?: Reaction, membership_changed?: MembershipChanged, settings_changed?: SettingsChanged, receipt?: Receipt,
 *   profile_updated?: ProfileUpdated, typing_changed?: TypingChanged,
 *   presence_changed?: PresenceChanged, receipt_summary?: ReceiptSummary
 * }} Event
 *
 * @typedef {{ conversation_id: string, from_sequence_number: number, to_sequence_number: number,
 *   reason: string }} Gap
 * @typedef {{ conversation_id: string, events: Event[] }} SyncPage
 * @typedef {{ conversation_id: string, complete_to_sequence_number: number,
 *   gap_from_sequence_number: number, gap_to_sequence_number: number, reset: boolean,
 *   rewind_to_sequence_number: number }} Verdict
 * @typedef {{ conversation_id: string, message_id: string, sequence_number: number,
 *   message_number: number, created_at_us: number, repeated: boolean }} Sent
 * @typedef {{ code: string, message: string, retryable: boolean, retry_after_ms: number }} ErrorFrame
 * @typedef {{ session_id: string, user_id: string, device_id: string, gateway_id: string,
 *   server_time_us: number, heartbeat_interval_ms: number, frame_bytes_max: number,
 *   watermark: string, token_expires_at_us: number }} Welcome
 * @typedef {{ reason: string, reconnect_delay_ms: number }} Goaway
 *
 * @typedef {{
 *   request_id: number, welcome?: Welcome, sent?: Sent, event?: Event, gap?: Gap,
 *   sync_page?: SyncPage, synced?: { verdicts: Verdict[] }, error?: ErrorFrame, goaway?: Goaway,
 *   accepted?: {}, token_accepted?: { expires_at_us: number },
 *   watermark?: { watermark: string }
 * }} ServerFrame
 *
 * @typedef {{ token: string, resume: boolean, cursors: Cursor[], watermark: string,
 *   client: string }} Hello
 *
 * @typedef {{ user_id: string, name: string, display_name: string, about?: string }} User
 * @typedef {{ sequence_number: number, sender_id: string, text: string,
 *   created_at_us: number }} LastMessage
 * In a list `members` are some of a large conversation's, `member_count` counts them all.
 * @typedef {{ conversation_id: string, title: string, last_sequence_number: number,
 *   message_count: number, unread_count: number, read_sequence_number: number,
 *   joined_sequence_number: number, muted_until_us?: number | null, member_count: number,
 *   members: User[], last_message: LastMessage | null,
 *   created_at_us: number }} ConversationSummary
 * @typedef {{ user_id: string, device_id: string, name: string, access_token: string,
 *   refresh_token: string, expires_in: number }} AuthAnswer
 *
 * How far the library is. `live`: everything that happened was delivered and what happens arrives.
 * @typedef {"stopped" | "connecting" | "syncing" | "live" | "waiting"} State
 * @typedef {{ state: State, retryAt: number, attempt: number, reason: string }} Status
 */

export {};
