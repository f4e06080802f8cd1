/** The panel beside the question: the exact lines that a citation names, and as many around them as are wanted. */

import { get } from "./api.js";
import { byId, el, refill } from "./dom.js";
import { say } from "./words.js";

const AROUND = 8; // lines before and after, at first
const MORE = 40; // lines, each time more are wanted
const MOST = 2000; // lines before or after, which the server gives at once

const panel = byId("source");
let roots = []; // the folders of notes
let open = null; // what is shown: {citation, others, mark, before, after}, with the mark that led there

/** Return whether lines are shown. */
export const isOpen = () => !panel.hidden;

/** Tells of "change": another citation is shown, or none any more. */
export const changes = new EventTarget();

/** Return the citation whose lines are shown; null while none are. */
export const shown = () => open?.citation ?? null;

/**
 * Show the lines of `citation`, one of `others`. `mark` gets the focus back when the panel is closed; `keepFocus`
 * leaves it where it is.
 */
export async function show(citation, others, mark, keepFocus = false) {
  open = { citation, others, mark, before: AROUND, after: AROUND };
  panel.hidden = false;
  byId("ask").classList.add("beside");
  changes.dispatchEvent(new Event("change"));
  await load();
  if (!keepFocus) panel.focus({ preventScroll: true });
}

/** Close the panel; the focus goes back to the mark that opened it. */
export function close() {
  if (panel.hidden) return;
  panel.hidden = true;
  byId("ask").classList.remove("beside");
  if (open?.mark?.isConnected) open.mark.focus({ preventScroll: true });
  open = null;
  changes.dispatchEvent(new Event("change"));
}

/** Show the next source of the same answer (step 1) or the one before (step -1). */
export function step(by) {
  if (open === null) return;
  const at = open.others.indexOf(open.citation);
  const next = open.others[at + by];
  if (next) show(next, open.others, open.mark, true);
}

/** Draw what is shown anew, in another language. */
export function redraw() {
  if (open !== null) load();
}

async function load() {
  const { citation, before, after } = open;
  let found;
  try {
    found = await get("/page/lines", {
      path: citation.path,
      first: citation.first_line,
      last: citation.last_line,
      before,
      after,
    });
  } catch (error) {
    if (open?.citation === citation) refill(panel, heading(citation), el("p", { class: "trouble" }, error.message));
    return;
  }
  if (open?.citation !== citation) return; // another one was opened meanwhile
  draw(citation, found);
}

function draw(citation, found) {
  const more = (label, side) =>
    el(
      "button",
      {
        class: "link more",
        onclick: () => {
          open[side] = Math.min(open[side] + MORE, MOST);
          load();
        },
      },
      say(label),
    );
  const last = found.first + found.lines.length - 1;
  refill(
    panel,
    heading(citation, found),
    standing(citation),
    found.first > 1 && open.before < MOST && more("source.above", "before"),
    el(
      "ol",
      { class: "lines", start: found.first },
      found.lines.map((line, index) => {
        const number = found.first + index;
        const cited = number >= citation.first_line && number <= citation.last_line;
        return el(
          "li",
          { class: cited ? "cited" : null },
          el("span", { class: "number", "aria-hidden": "true" }, String(number)),
          el(cited ? "mark" : "span", { class: "text" }, line === "" ? "\u200b" : line),
        );
      }),
    ),
    last < found.total && open.after < MOST && more("source.below", "after"),
    el("p", { class: "quiet" }, say("source.of", { first: found.first, last, total: found.total })),
  );
  const cited = panel.querySelector(".cited");
  if (cited && open.before === AROUND && open.after === AROUND) {
    panel.scrollTop = Math.max(0, cited.offsetTop - panel.clientHeight / 3);
  }
}

function heading(citation, found = null) {
  const at = open.others.indexOf(citation);
  const place = `${citation.path}:${citation.first_line}-${citation.last_line}`;
  return el(
    "header",
    {},
    el("span", { class: "mark" }, String(citation.number)),
    el(
      "h2",
      { title: place },
      found?.title || nameOf(citation.path),
      el("small", {}, `${found?.shown ?? nameOf(citation.path)} · ${where(citation)}`),
    ),
    el(
      "button",
      { class: "plain", disabled: at <= 0, "aria-label": say("source.previous"), onclick: () => step(-1) },
      "←",
    ),
    el(
      "button",
      {
        class: "plain",
        disabled: at >= open.others.length - 1,
        "aria-label": say("source.next"),
        onclick: () => step(1),
      },
      "→",
    ),
    el("button", { class: "plain", "aria-label": say("source.close"), onclick: close }, "✕"),
  );
}

function standing(citation) {
  if (citation.standing === "verified") return null;
  return el("p", { class: citation.verified ? "quiet" : "trouble" }, say(`cite.${citation.standing}`));
}

/** Return the words for where in its file a citation stands. */
export function where(citation) {
  if (citation.place) return citation.place;
  const { first_line: first, last_line: last } = citation;
  return first === last
    ? say("cite.line", { first: String(first) })
    : say("cite.lines", { first: String(first), last: String(last) });
}

/** Take up the folders of notes, below which paths are shown. */
export function below(folders) {
  roots = folders;
}

/** Return a path without the folder of notes that it is below; with the folder's name where there are several. */
export function shortPath(path) {
  const root = roots.filter((each) => path.startsWith(`${each}/`)).sort((a, b) => b.length - a.length)[0];
  if (root === undefined) return path;
  return roots.length > 1 ? `${nameOf(root)}${path.slice(root.length)}` : path.slice(root.length + 1);
}

/** Return the name of a file. */
export const nameOf = (path) => path.split("/").at(-1);
