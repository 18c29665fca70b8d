/** What the library's unit tests put in place of a browser and a server. */

/** A Storage in memory. */
export class MemoryStorage {
  #items = new Map();
  get length() {
    return this.#items.size;
  }
  key(index) {
    return [...this.#items.keys()][index] ?? null;
  }
  getItem(key) {
    return this.#items.get(key) ?? null;
  }
  setItem(key, value) {
    this.#items.set(key, String(value));
  }
  removeItem(key) {
    this.#items.delete(key);
  }
}

/** A session whose token never ends. */
export const foreverSession = (userId) => ({
  userId,
  token: async () => "token",
  current: () => ({ device_id: "device" }),
  renewAtMs: () => Infinity,
});

/**
 * A server of one user's conversations, with the sockets of one client. `network` decides what
 * becomes of a frame: "pass", "lose" (the connection breaks before), "break" (it breaks after) or
 * "skip" (it alone is lost, on its way down).
 */
export class FakeServer {
  conversations = new Map();
  sockets = new Set();
  hellos = [];
  acks = [];
  pageLimit = 8;

  constructor(userId, network = () => "pass") {
    this.userId = userId;
    this.network = network;
    const server = this;
    this.WebSocket = class {
      readyState = 0;
      constructor(url, protocols) {
        this.url = url;
        this.protocols = protocols;
        server.sockets.add(this);
        queueMicrotask(() => this.#open());
      }
      #open() {
        if (!server.sockets.has(this)) return;
        if (!server.reachable) return this.drop(1006);
        this.readyState = 1;
        this.onopen?.({});
      }
      send(text) {
        const fate = server.network("up", text);
        if (fate === "lose") return this.drop(1006);
        queueMicrotask(() => server.receive(this, JSON.parse(text)));
        if (fate === "break") this.drop(1006);
      }
      close() {
        this.readyState = 3;
        server.sockets.delete(this);
      }
      drop(code, reason = "") {
        if (!server.sockets.delete(this)) return;
        this.readyState = 3;
        queueMicrotask(() => this.onclose?.({ code, reason }));
      }
      deliver(frame) {
        if (!server.sockets.has(this)) return;
        const fate = server.network("down", frame);
        if (fate === "lose") return this.drop(1006);
        if (fate === "skip") return;
        this.onmessage?.({ data: JSON.stringify(frame) });
      }
    };
  }

  reachable = true;

  add(conversationId) {
    this.conversations.set(conversationId, { events: [], keys: new Map() });
    this.append(conversationId, "other", {
      membership_changed: { added_user_ids: [this.userId, "other"], removed_user_ids: [], created: true },
    });
  }

  /** Adds an event to the log; `push` false: it is lost on its way to the sockets. */
  append(conversationId, senderId, kind, push = true) {
    const { events } = this.conversations.get(conversationId);
    const event = {
      conversation_id: conversationId, sequence_number: events.length + 1, created_at_us: Date.now() * 1000,
      sender_id: senderId, ...kind,
    };
    events.push(event);
    if (push) this.broadcast({ request_id: 0, event });
    return event;
  }

  broadcast(frame) {
    for (const socket of [...this.sockets]) if (socket.ready) socket.deliver(frame);
  }

  receive(socket, frame) {
    const answer = (body) => queueMicrotask(() => socket.deliver({ request_id: frame.request_id, ...body }));
    if (frame.hello) {
      this.hellos.push(frame.hello);
      socket.ready = true;
      answer({ welcome: { watermark: "0a", device_id: "device", user_id: this.userId } });
      this.#sync(answer, frame.hello.cursors, true);
    } else if (frame.sync) {
      this.#sync(answer, frame.sync.cursors, false);
    } else if (frame.send) {
      this.#send(answer, frame.send);
    } else if (frame.ack) {
      this.acks.push(frame.ack);
      answer({ accepted: {} });
    } else if (frame.token_refresh) {
      answer({ token_accepted: { expires_at_us: 0 } });
    }
  }

  #send(answer, { conversation_id: id, idempotency_key: key, text }) {
    const { keys } = this.conversations.get(id);
    const repeated = keys.has(key);
    if (!repeated) {
      const number = keys.size + 1;
      const event = this.append(id, this.userId, { message: { message_id: `${id}-${number}`, message_number: number, text } });
      keys.set(key, event);
    }
    const { sequence_number, created_at_us, message } = keys.get(key);
    answer({ sent: { conversation_id: id, sequence_number, created_at_us, repeated, message_id: message.message_id, message_number: message.message_number } });
  }

  #sync(answer, cursors, resume) {
    const known = new Map(cursors.map((it) => [it.conversation_id, it.sequence_number]));
    const verdicts = [];
    for (const [id, { events }] of this.conversations) {
      if (!resume && !known.has(id)) continue;
      const from = known.get(id) ?? 0;
      const page = events.slice(from, from + this.pageLimit);
      if (page.length > 0) answer({ sync_page: { conversation_id: id, events: page } });
      const complete = from + page.length;
      const behind = complete < events.length;
      verdicts.push({
        conversation_id: id, complete_to_sequence_number: complete, reset: false,
        rewind_to_sequence_number: 0,
        gap_from_sequence_number: behind ? complete + 1 : 0,
        gap_to_sequence_number: behind ? events.length : 0,
      });
    }
    answer({ synced: { verdicts } });
  }
}

/** Lets everything that is due happen, without moving the clock. */
export async function settle() {
  for (let turn = 0; turn < 4; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}
