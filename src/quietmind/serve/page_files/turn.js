/** One question and its answer: what is known of them, and how that is shown. */

import { copying } from "./copy.js";
import { byId, el, kept, refill } from "./dom.js";
import { Prose } from "./prose.js";
import * as source from "./source.js";
import { say, seconds } from "./words.js";

/** The buttons that open lines, and the citation of each. */
const openers = new WeakMap();

/** A question on its way to its answer, and after. What is not drawn can be kept as JSON. */
export class Turn {
  /** `kept` is what was kept of it, or a question and a model; `again` has it asked anew. */
  constructor(kept, again) {
    this.again = again;
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

  /** The citations in the order in which they are listed: first those that bear a sentence of the answer. */
  get citations() {
    const [bearing, closest] = this.sorted();
    return [...bearing, ...closest];
  }

  get ofArchive() {
    return isOfArchive(this.model);
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

  /** Bring the element into step with what is known. What is above the text is there at once, the rest at the end. */
  show() {
    this.prose.show(this.text);
    refill(
      this.heeded,
      this.notices.map((notice) => el("p", {}, notice)),
    );
    this.said.ariaBusy = String(this.state === "asking");
    this.progress.classList.toggle("busy", this.state === "asking");
    this.progress.classList.toggle("trouble", this.state === "broken");
    refill(this.progress, el("span", {}, this.standing()), this.state === "asking" && this.clock);
    this.progress.hidden = this.state === "done";
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
    const properties = {
      class: "mark",
      title: citation.quote,
      "aria-label": say("cite.open", { number: String(number), place }),
    };
    return this.opener(citation, properties, String(number));
  }

  /** Return a button that opens the lines of a citation. */
  opener(citation, properties, ...children) {
    const onclick = (event) => source.show(citation, this.citations, event.currentTarget);
    const button = el("button", { type: "button", onclick, ...properties }, children);
    openers.set(button, citation);
    return button;
  }

  /** Return the citations that bear the answer, and those that are only close to the question. */
  sorted() {
    const citations = this.answer?.citations ?? [];
    return [
      citations.filter((each) => each.supports.length > 0),
      citations.filter((each) => each.supports.length === 0),
    ];
  }

  sources() {
    const [bearing, closest] = this.sorted();
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
        el("span", { class: "path" }, `${source.shortPath(citation.path)} · ${source.where(citation)}`),
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
    if (answer?.stopped_early) facts.push(say(answer.cut ? "turn.cut" : "turn.early", { why: answer.stopped_early }));
    const again = el("button", { type: "button", class: "link", onclick: () => this.again(this) }, say("turn.again"));
    return [
      facts.map((fact) => el("span", {}, fact)),
      this.text !== "" && copying("turn.copy", () => this.text),
      this.ofArchive && copying("turn.terminal", () => commandOf(this)),
      this.state !== "done" && again,
    ];
  }
}

/** Return whether what is asked are the notes. */
export const isOfArchive = (model) => model === "archive" || model.startsWith("archive:");

/** Return what a question is asked of, in words. */
export function scopeName(model) {
  if (model === "archive") return say("scope.archive");
  if (model === "archive:deep") return say("scope.deep");
  if (model.startsWith("archive:")) return say("scope.notebook", { name: model.slice("archive:".length) });
  return say("scope.model", { name: model });
}

/** Return what this browser wishes otherwise than the settings say. */
export function wishes() {
  const tokens = Number(kept("localStorage", "max_tokens"));
  return tokens > 0 ? { max_tokens: tokens } : {};
}

/** Return the command that asks the same. */
function commandOf(turn) {
  const words = ["quietmind", "ask"];
  if (turn.model === "archive:deep") words.push("--deep");
  else if (turn.model !== "archive") words.push("--notebook", quoted(turn.model.slice("archive:".length)));
  const { max_tokens: tokens } = wishes();
  if (tokens !== undefined) words.push("--max-tokens", String(tokens));
  if (turn.question.startsWith("-")) words.push("--");
  return [...words, quoted(turn.question)].join(" ");
}

/** Return a word as a shell takes it. */
const quoted = (word) => (/^[\w./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

source.changes.addEventListener("change", showOpen);

/** Mark the buttons of the citation whose lines are shown. */
function showOpen() {
  for (const button of byId("turns").querySelectorAll("button")) {
    const isShown = openers.has(button) && openers.get(button) === source.shown();
    if (isShown) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
}
