/** Talks to the address that this page came from: its state, its key, and answers as they are written. */

import { keep, kept } from "./dom.js";

const BACK_OFF = [1, 2, 4, 8, 15]; // seconds; the last from then on
const LOOK_EVERY = 3; // seconds between looks at the queue while the page is seen

/** An answer of the server that is an error, in its own words. `status` 0: none came at all. */
export class Refused extends Error {
  constructor(message, status = 0, code = null) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/**
 * Whether the server is there. Tells of "lost", "found", "wait" (a second of waiting has passed; `left` are to come)
 * and "queue" (what stands in line, looked at every few seconds).
 */
class Connection extends EventTarget {
  here = true;
  queue = null;
  left = 0;
  #tries = 0;
  #timer = null;

  /** Begin to look. A page that nobody sees looks at nothing. */
  watch() {
    document.addEventListener("visibilitychange", () => document.hidden || this.look());
    this.look();
  }

  /** Look now. */
  async look() {
    clearTimeout(this.#timer);
    try {
      this.queue = await get("/page/queue");
      this.#tell("queue");
      this.#timer = setTimeout(() => document.hidden || this.look(), LOOK_EVERY * 1000);
    } catch (error) {
      if (error.status === 0) this.lost();
      else if (error.status !== 401) this.#timer = setTimeout(() => this.look(), LOOK_EVERY * 1000);
    }
  }

  /** An exchange has shown that the server is there. */
  found() {
    if (this.here) return;
    this.here = true;
    this.#tries = 0;
    this.#tell("found");
    this.look();
  }

  /** An exchange has shown that it is not: try again, later and later. */
  lost() {
    const first = this.here;
    this.here = false;
    this.left = BACK_OFF[Math.min(this.#tries++, BACK_OFF.length - 1)];
    if (first) this.#tell("lost");
    clearTimeout(this.#timer);
    this.#count();
  }

  #count() {
    this.#tell("wait");
    if (this.left === 0) this.look();
    else {
      this.#timer = setTimeout(() => {
        this.left -= 1;
        this.#count();
      }, 1000);
    }
  }

  #tell(what) {
    this.dispatchEvent(new Event(what));
  }
}

export const connection = new Connection();

/** What asks the person for the key; set by whoever can. Called with whether the last one was wrong. */
export const door = { ask: async () => null };

let asking = null; // one dialog, however many requests were refused

/** Return the answer to a request, with the key if there is one. Raises Refused. */
async function exchange(path, options = {}) {
  const key = kept("sessionStorage", "key");
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers, credentials: "omit", redirect: "error" });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    connection.lost();
    throw new Refused(String(error.message));
  }
  connection.found();
  if (response.status === 401) {
    asking ??= door.ask(key !== null).finally(() => (asking = null));
    const given = await asking;
    if (given === null) throw await refusal(response);
    keep("sessionStorage", "key", given);
    return exchange(path, options);
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  try {
    const { error } = await response.json();
    return new Refused(error.message, response.status, error.code);
  } catch {
    return new Refused(`${response.status} ${response.statusText}`, response.status);
  }
}

/** Return the JSON at a path. Raises Refused. */
export async function get(path, given = {}) {
  const query = new URLSearchParams(Object.entries(given).filter(([, value]) => value !== null));
  return (await exchange(query.size > 0 ? `${path}?${query}` : path)).json();
}

/**
 * Ask, and yield what comes: {place} in the line, how many passages were {found}, a {notice} of what is not as one may
 * think, and {chunk} with its {text}. Aborting the signal cancels the generation. Raises Refused, also for an answer
 * that breaks off.
 */
export async function* ask(body, signal) {
  const response = await exchange("/v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "text/event-stream" },
    body: JSON.stringify({ ...body, stream: true }),
    signal,
  });
  let finished = false;
  try {
    for await (const line of linesOf(response.body)) {
      if (line.startsWith(": ")) yield told(line.slice(2));
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") {
        finished = true;
        break;
      }
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Refused(chunk.error.message, response.status, chunk.error.code);
      yield { chunk, text: chunk.choices?.[0]?.delta?.content ?? "" };
    }
  } catch (error) {
    if (error instanceof Refused || signal.aborted) throw error;
    connection.look();
    throw new Refused(String(error.message));
  }
  if (!finished && !signal.aborted) {
    connection.look();
    throw new Refused("");
  }
}

/** Return what a comment of the stream says. */
function told(comment) {
  const place = /^queue position (\d+)$/.exec(comment);
  if (place) return { place: Number(place[1]) };
  const found = /^(\d+) passages found$/.exec(comment);
  return found ? { found: Number(found[1]) } : { notice: comment };
}

/** Yield the lines of a stream of bytes, the last one only if it is whole. */
async function* linesOf(stream) {
  let rest = "";
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop();
    yield* lines;
  }
}
