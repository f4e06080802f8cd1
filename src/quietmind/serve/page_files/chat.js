/** The conversation of this tab: what is asked, by whom it is answered, and what the person does meanwhile. */

import { Refused, ask, connection } from "./api.js";
import { command } from "./copy.js";
import { byId, el, keep, kept, refill } from "./dom.js";
import * as source from "./source.js";
import { Turn, isOfArchive, scopeName, wishes } from "./turn.js";
import { say, seconds } from "./words.js";

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
/** What the person wants to ask; null while they have not chosen, and the notes are asked as soon as there are some. */
let picked = null;

const still = matchMedia("(prefers-reduced-motion: reduce)");

/** Take up what the page has learned of the address, and what was asked in this tab before. */
export function begin(learned) {
  know(learned);
  try {
    turns = JSON.parse(kept("sessionStorage", "turns") ?? "[]").map((each) => new Turn(each, askAgain));
  } catch {
    turns = []; // of another version of this page
  }
  question.value ||= kept("sessionStorage", "draft") ?? "";
  redraw();
}

/** Take up what has changed at the address. */
export function learn(learned) {
  know(learned);
  if (turns.length === 0) redraw();
}

function know(learned) {
  start = learned;
  source.below(start.archive?.roots ?? []);
  drawScopes();
  showSubmit();
}

/** Draw everything anew, in another language for instance. */
export function redraw() {
  if (turns.length === 0) turnsList.replaceChildren(hello());
  else turnsList.replaceChildren(...turns.map((turn) => turn.draw()));
  byId("forget").hidden = turns.length === 0;
  showSubmit();
  source.redraw();
}

/** Have a question written, from whichever view. */
export function write() {
  if (!byId("ask").hidden) return question.focus();
  addEventListener("hashchange", () => question.focus(), { once: true }); // it is there to be seen only then
  location.hash = "#ask";
}

/** Have a question to the notebook of this name written. */
export function askNotebook(name) {
  picked = scope.value = `archive:${name}`;
  showSubmit();
  write();
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
  const at = by > 0 ? 0 : -1;
  const button = [...turn.below.children].filter((each) => each.matches("button")).at(at);
  button.scrollIntoView({ block: "nearest" });
  source.show(turn.citations.at(at), turn.citations, button, true);
}

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  if (stop()) return;
  const text = question.value.trim();
  if (text === "" || !connection.here) return;
  question.value = "";
  keep("sessionStorage", "draft", null);
  if (matchMedia("(pointer: coarse)").matches) question.blur(); // the keyboard of a phone makes room for the answer
  answer(new Turn({ question: text, model: scope.value }, askAgain));
});

question.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (current === null) composer.requestSubmit();
});

const grows = CSS.supports("field-sizing", "content"); // else it gets as many rows as it has lines

question.addEventListener("input", () => {
  keep("sessionStorage", "draft", question.value);
  if (!grows) question.rows = Math.min(8, question.value.split("\n").length);
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

scope.addEventListener("change", () => {
  picked = scope.value;
  showSubmit();
});
connection.addEventListener("lost", showSubmit);
connection.addEventListener("found", showSubmit);

function askAgain(turn) {
  if (current !== null) return;
  turns = turns.filter((each) => each !== turn);
  turn.element.remove();
  answer(new Turn({ question: turn.question, model: turn.model }, askAgain));
}

/** Have a question answered, and show that while it happens. */
async function answer(turn) {
  const stop = new AbortController();
  const messages = [...earlier(turn.model), { role: "user", content: turn.question }];
  if (turns.length === 0) turnsList.replaceChildren();
  turns.push(turn);
  remember(); // so that a page that is reloaded meanwhile can ask again
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
  if (event.found !== undefined) {
    [turn.place, turn.found] = [0, event.found];
    connection.look(); // the bar above says then that somebody is answered
  }
  if (event.notice !== undefined) turn.notices.push(event.notice);
  turn.text += event.text ?? "";
  const { archive, choices, citations, timings } = event.chunk ?? {};
  if (archive !== undefined) {
    turn.answer = { ...archive, citations, timings, cut: choices?.[0]?.finish_reason === "length" };
    turn.text = archive.answer; // the stream ended with the sources as text, which stand below it here
  }
  requestAnimationFrame(() => {
    if (turn.state !== "asking") return; // it has ended meanwhile, and is drawn as that
    turn.show();
    announce(turn.standing());
  });
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

function remember() {
  keep("sessionStorage", "turns", turns.length === 0 ? null : JSON.stringify(turns.map((turn) => turn.kept)));
}

function showSubmit() {
  question.placeholder = say(isOfArchive(scope.value) ? "ask.placeholder" : "ask.placeholderModel");
  submit.textContent = say(current === null ? "ask.ask" : "ask.stop");
  submit.classList.toggle("stop", current !== null);
  submit.disabled =
    current === null && (question.value.trim() === "" || !connection.here || scope.options.length === 0);
}

function drawScopes() {
  const { archive, models } = start;
  const choice = (value, text) => el("option", { value }, text);
  const notebooks = archive?.notebooks ?? [];
  refill(
    scope,
    archive?.notes > 0 && choice("archive", say("scope.archive")),
    notebooks.length > 0 && [
      choice("archive:deep", say("scope.deep")),
      el(
        "optgroup",
        { label: say("scope.notebooks") },
        notebooks.map((name) => choice(`archive:${name}`, name)),
      ),
    ],
    el(
      "optgroup",
      { label: say("scope.models") },
      models.map(({ name }) => choice(name, scopeName(name))),
    ),
  );
  if ([...scope.options].some((option) => option.value === picked)) scope.value = picked;
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
