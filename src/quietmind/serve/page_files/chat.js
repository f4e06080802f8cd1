/** The conversation of this tab: questions, answers as they are written, and the citations under them. */

import { Refused, ask, connection } from "./api.js";
import { byId, el, keep, kept, refill } from "./dom.js";
import { Prose } from "./prose.js";
import * as source from "./source.js";
import { fill, say, seconds } from "./words.js";

const turnsList = byId("turns");
const composer = byId("composer");
const question = byId("question");
const submit = byId("submit");
const scope = byId("scope");

/** What the page knows of the address: see /page/start. */
let start = null;
/** The conversation, oldest first. Kept in this tab, so that a reload of it loses nothing. */
let turns = [];
/** The turn that is being answered, with what stops it; null while none is. */
let current = null;
const still = matchMedia("(prefers-reduced-motion: reduce)");
/** The buttons that open lines, and the citation of each. */
const openers = new WeakMap();

/** One question and its answer. What is not drawn can be kept as JSON. */
class Turn {
  constructor(kept) {
    this.question = kept.question;
    this.model = kept.model;
    this.text = kept.text ?? "";
    this.answer = kept.answer ?? null; // what the last event said of the answer: citations, timings
    this.state = kept.state === "asking" ? "broken" : (kept.state ?? "asking");
    this.why = kept.why ?? "";
    this.took = kept.took ?? null; // milliseconds, as they were seen here
    this.notices = kept.notices ?? [];
    this.place = 0;
    this.found = null;
  }

  get kept() {
    const { question, model, text, answer, state, why, took, notices } = this;
    return { question, model, text, answer, state, why, took, notices };
  }

  get citations() {
    return this.answer?.citations ?? [];
  }

  get ofArchive() {
    return this.model === "archive" || this.model.startsWith("archive:");
  }

  /** Return the element of the turn, drawn anew. */
  draw() {
    this.progress = el("p", { class: "progress" });
    this.clock = el("span", { "aria-hidden": "true" });
    this.heeded = el("div", { class: "notices" });
    this.said = el("div", { class: "answer" });
    this.below = el("div", { class: "sources" });
    this.after = el("div", { class: "after" });
    this.prose = new Prose(this.said, (number) => this.mark(number));
    const drawn = el(
      "article",
      { class: "turn" },
      el("h2", {}, this.question, this.model === "archive" ? null : el("small", {}, scopeName(this.model))),
      this.heeded,
      this.progress,
      this.said,
      this.below,
      this.after,
    );
    this.element?.replaceWith(drawn);
    this.element = drawn;
    this.show();
    return drawn;
  }

  /** Bring the element into step with what is known. */
  show() {
    this.prose.show(this.text);
    refill(this.heeded, this.notices.map((notice) => el("p", {}, notice)));
    this.said.ariaBusy = String(this.state === "asking");
    this.progress.classList.toggle("busy", this.state === "asking");
    this.progress.classList.toggle("trouble", this.state === "broken");
    refill(this.progress, el("span", {}, this.standing()), this.state === "asking" && this.clock);
    this.progress.hidden = this.state === "done";
    if (this === current?.turn) announce(this.standing());
    if (this.state === "asking") return;
    refill(this.below, this.differing(), this.sources());
    refill(this.after, this.footer());
  }

  standing() {
    if (this.state === "stopped") return say("turn.stopped");
    if (this.state === "broken") return [say("turn.broken"), this.why].filter(Boolean).join(": ");
    if (this.state === "done") return say("turn.ready", { count: this.citations.length });
    if (this.text) return say("turn.writing");
    if (this.place > 0) return say("turn.waiting", { count: this.place });
    if (this.found !== null) return say("turn.found", { count: this.found });
    return say(this.ofArchive ? "turn.searching" : "turn.reading");
  }

  /** Return what stands in the place of a mark: a button where its citation is known. */
  mark(number) {
    if (number === null) return el("span", { class: "mark bare", title: say("turn.unsupported") }, "?");
    const citation = this.citations.find((each) => each.number === number);
    if (citation === undefined) return el("span", { class: "mark bare" }, String(number));
    const place = `${source.nameOf(citation.path)}, ${source.where(citation)}`;
    const properties = { class: "mark", title: citation.quote, "aria-label": say("cite.open", { number: String(number), place }) };
    return this.opener(citation, properties, String(number));
  }

  /** Return a button that opens the lines of a citation. */
  opener(citation, properties, ...children) {
    const onclick = (event) => source.show(citation, this.citations, event.currentTarget);
    const button = el("button", { type: "button", onclick, ...properties }, children);
    openers.set(button, citation);
    return button;
  }

  sources() {
    const bearing = this.citations.filter((each) => each.supports.length > 0);
    const closest = this.citations.filter((each) => each.supports.length === 0);
    const listed = (title, citations) =>
      citations.length === 0 ? [] : [el("h3", {}, say(title)), ...citations.map((each) => this.sourceOf(each))];
    return [...listed("cite.sources", bearing), ...listed("cite.closest", closest)];
  }

  sourceOf(citation) {
    return this.opener(
      citation,
      {},
      el("span", { class: "mark" }, String(citation.number)),
      el(
        "span",
        {},
        el("q", {}, citation.quote),
        el("span", { class: "path" }, `${shortPath(citation.path)} · ${source.where(citation)}`),
        citation.standing === "verified"
          ? null
          : el("span", { class: citation.verified ? "note" : "trouble" }, say(`cite.${citation.standing}`)),
      ),
    );
  }

  differing() {
    return (this.answer?.disagreements ?? []).map((pair) =>
      el(
        "div",
        { class: "differ" },
        el("p", {}, say("turn.differ")),
        pair.map((sentence) => {
          const line = el("p");
          new Prose(line, (number) => this.mark(number)).show(sentence);
          return line;
        }),
      ),
    );
  }

  footer() {
    const { answer } = this;
    const facts = [];
    if (answer?.model) facts.push(answer.model);
    if (this.took !== null) facts.push(seconds(this.took / 1000));
    if (answer?.timings) {
      facts.push(say("turn.tokens", { count: answer.timings.prompt_n }));
      if (answer.timings.cache_n > 0) facts.push(say("turn.restored", { count: answer.timings.cache_n }));
    }
    if (answer?.stopped_early) facts.push(say("turn.early", { why: answer.stopped_early }));
    const again = el("button", { type: "button", class: "link", onclick: () => askAgain(this) }, say("turn.again"));
    return [
      facts.map((fact) => el("span", {}, fact)),
      this.text !== "" && copying("turn.copy", () => this.text),
      this.ofArchive && copying("turn.terminal", () => commandOf(this)),
      this.state !== "done" && again,
    ];
  }
}

/** Take up what the page has learned of the address, and what was asked in this tab before. */
export function begin(learned) {
  start = learned;
  drawScopes();
  try {
    turns = JSON.parse(kept("sessionStorage", "turns") ?? "[]").map((each) => new Turn(each));
  } catch {
    turns = []; // of another version of this page
  }
  question.value ||= kept("sessionStorage", "draft") ?? "";
  redraw();
}

/** Take up what has changed at the address. */
export function learn(learned) {
  start = learned;
  drawScopes();
  if (turns.length === 0) redraw();
}

/** Draw everything anew, in another language for instance. */
export function redraw() {
  if (turns.length === 0) turnsList.replaceChildren(hello());
  else turnsList.replaceChildren(...turns.map((turn) => turn.draw()));
  byId("forget").hidden = turns.length === 0;
  showSubmit();
  source.redraw();
}

/** Write a question to the notebook of this name. */
export function askNotebook(name) {
  location.hash = "#ask";
  scope.value = `archive:${name}`;
  question.focus();
}

/** Stop the answer that is being written; return whether there was one. */
export function stop() {
  if (current === null) return false;
  current.stop.abort();
  return true;
}

/** Return where the question of this tab stands: null for none, 0 for answered now, else how many come before it. */
export const place = () => current?.turn.place ?? null;

/** Go to the next (1) or previous (-1) source of the last answer, and open it. */
export function stepSource(by) {
  if (source.isOpen()) {
    source.step(by);
    return;
  }
  const turn = turns.findLast((each) => each.citations.length > 0);
  if (turn === undefined) return;
  const buttons = [...turn.below.querySelectorAll("button")];
  const button = by > 0 ? buttons[0] : buttons.at(-1);
  button.scrollIntoView({ block: "nearest" });
  source.show(turn.citations[buttons.indexOf(button)], turn.citations, button, true);
}

source.changes.addEventListener("change", showOpen);

/** Mark the buttons of the citation whose lines are shown. */
function showOpen() {
  for (const button of turnsList.querySelectorAll("button")) {
    const isShown = openers.has(button) && openers.get(button) === source.shown();
    if (isShown) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
}

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  if (stop()) return;
  const text = question.value.trim();
  if (text === "" || !connection.here) return;
  question.value = "";
  keep("sessionStorage", "draft", null);
  if (matchMedia("(pointer: coarse)").matches) question.blur(); // the keyboard of a phone makes room for the answer
  answer(new Turn({ question: text, model: scope.value }));
});

question.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (current === null) composer.requestSubmit();
});

question.addEventListener("input", () => {
  keep("sessionStorage", "draft", question.value);
  showSubmit();
});

byId("forget").addEventListener("click", () => {
  stop();
  source.close();
  turns = [];
  remember();
  redraw();
  question.focus();
});

connection.addEventListener("lost", showSubmit);
connection.addEventListener("found", showSubmit);

function askAgain(turn) {
  if (current !== null) return;
  turns = turns.filter((each) => each !== turn);
  turn.element.remove();
  answer(new Turn({ question: turn.question, model: turn.model }));
}

/** Have a question answered, and show that while it happens. */
async function answer(turn) {
  const stop = new AbortController();
  const messages = [...earlier(turn.model), { role: "user", content: turn.question }];
  if (turns.length === 0) turnsList.replaceChildren();
  turns.push(turn);
  turnsList.append(turn.draw());
  turn.element.scrollIntoView({ block: "start", behavior: still.matches ? "instant" : "smooth" });
  byId("forget").hidden = false;
  current = { turn, stop };
  showSubmit();
  const began = Date.now();
  const ticking = setInterval(() => (turn.clock.textContent = seconds((Date.now() - began) / 1000)), 100);
  try {
    for await (const event of ask({ model: turn.model, messages, ...wishes() }, stop.signal)) take(turn, event);
    turn.state = "done";
    if (turn.text === "") turn.text = say(turn.answer?.found === false ? "turn.nothing" : "turn.empty");
  } catch (error) {
    turn.state = stop.signal.aborted ? "stopped" : "broken";
    if (turn.state === "broken") turn.why = error instanceof Refused ? error.message : String(error);
  } finally {
    clearInterval(ticking);
    turn.took = Date.now() - began;
    current = null;
    remember();
    turn.draw(); // anew: marks whose citations have come are buttons now
    announce(turn.standing());
    showSubmit();
    connection.look();
  }
}

function take(turn, event) {
  if (event.place !== undefined) turn.place = event.place;
  if (event.found !== undefined) [turn.place, turn.found] = [0, event.found];
  if (event.notice !== undefined) turn.notices.push(event.notice);
  turn.text += event.text ?? "";
  const { archive, citations, timings } = event.chunk ?? {};
  if (archive !== undefined) {
    turn.answer = { ...archive, citations, timings };
    turn.text = archive.answer; // the stream ended with the sources as text, which stand below it here
  }
  requestAnimationFrame(() => turn.state === "asking" && turn.show());
}

/** Say where an answer stands to those who hear the page; what has not changed is not said again. */
function announce(words) {
  if (byId("said").textContent !== words) byId("said").textContent = words;
}

/** Return the turns that a question of this kind follows upon. */
function earlier(model) {
  return turns
    .filter((turn) => turn.text !== "" && turn.state !== "broken" && turn.model === model)
    .flatMap((turn) => [
      { role: "user", content: turn.question },
      { role: "assistant", content: turn.text },
    ]);
}

/** Return what this browser wishes otherwise than the settings say. */
function wishes() {
  const tokens = Number(kept("localStorage", "max_tokens"));
  return tokens > 0 ? { max_tokens: tokens } : {};
}

/** Return the command that asks the same. */
function commandOf(turn) {
  const words = ["quietmind", "ask", quoted(turn.question)];
  if (turn.model === "archive:deep") words.push("--deep");
  else if (turn.model !== "archive") words.push("--notebook", quoted(turn.model.slice("archive:".length)));
  const { max_tokens: tokens } = wishes();
  if (tokens !== undefined) words.push("--max-tokens", String(tokens));
  return words.join(" ");
}

/** Return a word as a shell takes it. */
const quoted = (word) => (/^[\w./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

/** Return a button that copies a text; nothing where the browser lets no page copy, as it does without TLS. */
function copying(label, text) {
  if (navigator.clipboard === undefined) return null;
  const button = el("button", { type: "button", class: "link" }, say(label));
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text());
    button.textContent = say("turn.copied");
    setTimeout(() => (button.textContent = say(label)), 1500);
  });
  return button;
}

function remember() {
  keep("sessionStorage", "turns", turns.length === 0 ? null : JSON.stringify(turns.map((turn) => turn.kept)));
}

function showSubmit() {
  submit.textContent = say(current === null ? "ask.ask" : "ask.stop");
  submit.classList.toggle("stop", current !== null);
  submit.disabled = current === null && (question.value.trim() === "" || !connection.here || scope.options.length === 0);
}

/** Return a path without the folder of notes that it is below; with the folder's name where there are several. */
function shortPath(path) {
  const roots = start?.archive?.roots ?? [];
  const root = roots.filter((each) => path.startsWith(`${each}/`)).sort((a, b) => b.length - a.length)[0];
  if (root === undefined) return path;
  return roots.length > 1 ? `${source.nameOf(root)}${path.slice(root.length)}` : path.slice(root.length + 1);
}

function scopeName(model) {
  if (model === "archive") return say("scope.archive");
  if (model === "archive:deep") return say("scope.deep");
  if (model.startsWith("archive:")) return say("scope.notebook", { name: model.slice("archive:".length) });
  return say("scope.model", { name: model });
}

function drawScopes() {
  const chosen = scope.value;
  const { archive, models } = start;
  const choice = (value, text) => el("option", { value }, text);
  const notebooks = archive?.notebooks ?? [];
  refill(
    scope,
    archive?.notes > 0 && choice("archive", say("scope.archive")),
    notebooks.length > 0 && [
      choice("archive:deep", say("scope.deep")),
      el("optgroup", { label: say("scope.notebooks") }, notebooks.map((name) => choice(`archive:${name}`, name))),
    ],
    el("optgroup", { label: say("scope.models") }, models.map(({ name }) => choice(name, scopeName(name)))),
  );
  if ([...scope.options].some((option) => option.value === chosen)) scope.value = chosen;
}

/** Return what stands there before anything is asked. */
function hello() {
  const { archive, models } = start;
  const model = models[0]?.name ?? "";
  if (archive === null) return greeting("hello.bare", el("p", {}, say("hello.bareText")));
  if (!archive.notes) {
    return greeting("hello.empty", el("p", {}, say("hello.emptyText")), command("quietmind index FOLDER"));
  }
  const folders = say("hello.folders", { count: archive.roots.length });
  return greeting(
    "hello.title",
    el("p", {}, say("hello.notes", { count: archive.notes, folders, model })),
    el("p", {}, say("hello.checked")),
  );
}

function greeting(title, ...below) {
  return el("div", { class: "hello" }, el("h1", {}, say(title)), below);
}

/** Return a command that can be copied. */
export function command(text) {
  const copy = copying("copy.command", () => text);
  if (copy !== null) copy.className = "plain";
  return el("div", { class: "command" }, el("code", {}, text), copy);
}

fill(composer);
