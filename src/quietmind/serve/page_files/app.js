/** The page: its views, its keys, its language and look, and whether the server is there. */

import { connection, door, get } from "./api.js";
import * as chat from "./chat.js";
import { byId, el, keep } from "./dom.js";
import * as source from "./source.js";
import { LANGUAGES, fill, language, say, speak } from "./words.js";

const VIEWS = ["ask", "notebooks", "archive", "memory", "queue", "settings"];

let start = null;
let shows = 0; // how often a view was wanted: only the last one counts
let leave = null; // what the view that is shown wants done when it is left

const here = () => (VIEWS.includes(location.hash.slice(1)) ? location.hash.slice(1) : "ask");

/** Show the view that the address names. Those other than the conversation are loaded when first wanted. */
async function show() {
  const name = here();
  const number = ++shows;
  leave?.();
  leave = null;
  byId("views").classList.remove("open");
  byId("menu").ariaExpanded = "false";
  for (const link of byId("views").querySelectorAll("a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = name === "ask" ? "quietmind" : `${say(`view.${name}`)} · quietmind`;
  byId("ask").hidden = name !== "ask";
  const view = byId("view");
  view.hidden = name === "ask";
  if (name === "ask") return;
  if (name === "notebooks") learn().catch(() => {}); // there may be new ones, and they can be asked from here
  const heading = el("header", {}, el("h1", {}, say(`${name}.title`)), el("p", {}, say(`${name}.lead`)));
  const waiting = el("p", { class: "progress busy" }, say("loading"));
  view.replaceChildren(heading);
  scrollTo(0, 0);
  const slow = setTimeout(() => view.append(waiting), 250); // what is quick shall not flicker
  try {
    const { view: made } = await import(`./view_${name}.js`);
    const shown = await made({ theme, chooseTheme, chooseLanguage });
    if (number !== shows) return shown.leave?.(); // another view has been wanted meanwhile
    view.replaceChildren(heading, ...shown.parts);
    leave = shown.leave ?? null;
  } catch (error) {
    if (number !== shows) return;
    view.replaceChildren(heading, el("p", { class: "trouble" }, say("failed", { why: error.message })));
  } finally {
    clearTimeout(slow);
  }
}

/** Draw everything in the language and look of now. */
function redraw() {
  fill(document);
  byId("language").textContent = language === "en" ? "RU" : "EN";
  byId("language").lang = language === "en" ? "ru" : "en"; // as its label is
  byId("language").ariaLabel = say("language.change");
  showTheme();
  showState();
  if (start !== null) chat.redraw();
  show();
}

async function chooseLanguage(chosen) {
  await speak(chosen);
  redraw();
}

/** Return the look that was chosen: "auto", "light" or "dark". */
const theme = () => document.documentElement.dataset.theme ?? "auto";

function chooseTheme(chosen) {
  if (chosen === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
  keep("localStorage", "theme", chosen === "auto" ? null : chosen);
  showTheme();
}

const dark = () => theme() === "dark" || (theme() === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);

function showTheme() {
  const other = say(dark() ? "theme.light" : "theme.dark");
  byId("theme").textContent = dark() ? "☀" : "☾";
  byId("theme").ariaLabel = say("theme.change", { name: other });
}

/** Say in the bar who answers, and whether anybody waits. */
function showState() {
  const state = byId("state");
  const models = connection.queue?.models ?? start?.models ?? [];
  const first = models[0];
  const waiting = models.reduce((sum, each) => sum + (each.waiting ?? 0), 0);
  const busy = models.some((each) => each.answering > 0);
  const ended = ["given up", "stopped"].includes(first?.state);
  const kind = !connection.here || ended ? "away" : first?.state !== "ready" ? "starting" : busy ? "busy" : "ready";
  state.dataset.state = kind;
  const words = [
    first?.name,
    !connection.here ? say("state.away") : say(busy ? "state.answering" : `state.${first?.state}`),
  ];
  if (waiting > 0) words.push(say("state.waiting", { count: waiting }));
  const told = first === undefined && connection.here ? "" : words.filter(Boolean).join(" · ");
  if (state.textContent !== told) state.replaceChildren(el("span", {}, told));
}

function showAway() {
  const away = byId("away");
  away.hidden = connection.here;
  if (connection.here) return;
  const wait = connection.left > 0 ? say("away.again", { count: connection.left }) : say("away.trying");
  const count = away.querySelector("[data-count]");
  if (count) {
    count.textContent = wait;
    return;
  }
  away.replaceChildren(
    el("strong", {}, say("away.text")),
    el("span", {}, say("away.kept")),
    el("span", { "data-count": true, "aria-live": "off" }, wait),
    el("button", { class: "link", onclick: () => connection.look() }, say("away.now")),
  );
}

/** Learn what the address serves. */
async function learn() {
  const learned = await get("/page/start");
  if (JSON.stringify(learned) === JSON.stringify(start)) return;
  const first = start === null;
  start = learned;
  if (first) chat.begin(start);
  else chat.learn(start);
  showState();
}

/** Ask the person for the key, which this tab keeps; null where they give none. */
door.ask = (wrong) =>
  new Promise((resolve) => {
    const dialog = byId("key");
    const input = el("input", { type: "password", id: "key-given", autocomplete: "off", required: true });
    const form = el(
      "form",
      { method: "dialog", onsubmit: () => resolve(input.value.trim()) },
      el("h2", {}, say("key.title")),
      wrong
        ? el("p", { class: "trouble", role: "alert" }, say("key.wrong"))
        : el("p", { class: "quiet" }, say("key.text")),
      el("label", { for: "key-given", class: "unseen" }, say("key.label")),
      input,
      el("button", { class: "go" }, say("key.go")),
    );
    dialog.ariaLabel = say("key.title");
    dialog.replaceChildren(form);
    dialog.addEventListener("cancel", () => resolve(null), { once: true });
    dialog.showModal();
  });

function showKeys() {
  const dialog = byId("keys");
  dialog.ariaLabel = say("keys.title");
  const shown = ["/", "Enter", "Shift Enter", "Esc", "j", "k", "1", "t", "?"];
  dialog.replaceChildren(
    el("h2", {}, say("keys.title")),
    el(
      "dl",
      { class: "keys" },
      shown
        .map((key) => [
          el(
            "dt",
            {},
            (key === "1" ? "1 … 6" : key).split(" ").map((each) => (each === "…" ? " … " : el("kbd", {}, each))),
          ),
          el("dd", {}, say(`keys.${key}`)),
        ])
        .flat(),
    ),
    el("form", { method: "dialog" }, el("button", { class: "go" }, say("keys.close"))),
  );
  dialog.showModal();
}

/** What each key does where nothing is being written. */
const KEYS = {
  "/": chat.write,
  "?": showKeys,
  j: () => here() === "ask" && chat.stepSource(1),
  k: () => here() === "ask" && chat.stepSource(-1),
  t: () => chooseTheme(dark() ? "light" : "dark"),
  ...Object.fromEntries(VIEWS.map((view, index) => [String(index + 1), () => (location.hash = `#${view}`)])),
};
KEYS.ArrowRight = () => source.step(1);
KEYS.ArrowLeft = () => source.step(-1);

/** Return the key of KEYS that was pressed, on a Russian keyboard too, where the letters stand elsewhere; or null. */
function keyOf({ key, code, shiftKey }) {
  if (key in KEYS) return key;
  if (!/^[а-яё.,]$/i.test(key)) return null;
  const there = code === "Slash" ? (shiftKey ? "?" : "/") : code.replace("Key", "").toLowerCase();
  return there in KEYS ? there : null;
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.key === "Escape") {
    if (!chat.stop()) source.isOpen() ? source.close() : document.activeElement?.blur();
    return;
  }
  const key = keyOf(event);
  if (key === null || event.target.closest("textarea, input, select")) return;
  if (key.startsWith("Arrow") && !source.isOpen()) return;
  event.preventDefault();
  KEYS[key]();
});

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address says which view is shown
  byId("main").focus();
});
byId("menu").addEventListener("click", () => {
  byId("menu").ariaExpanded = String(byId("views").classList.toggle("open"));
});
byId("language").addEventListener("click", () =>
  chooseLanguage(Object.keys(LANGUAGES).find((each) => each !== language)),
);
byId("theme").addEventListener("click", () => chooseTheme(dark() ? "light" : "dark"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);
addEventListener("hashchange", show);
connection.addEventListener("queue", showState);
connection.addEventListener("queue", () => start?.archive?.notes === 0 && learn().catch(() => {})); // until some are
for (const event of ["lost", "wait", "found"]) connection.addEventListener(event, showAway);
connection.addEventListener("lost", showState);
connection.addEventListener("found", () => learn().catch(() => {}));

/** Begin, or begin again with a key. */
async function begin() {
  try {
    await learn();
  } catch (error) {
    if (error.status === 401) return showLocked();
  }
  connection.watch(); // a server that is away is taken up once it is back
  if (here() === "ask" && matchMedia("(pointer: fine)").matches) byId("question").focus();
  else show();
}

/** Say that nothing can be shown without the key, to a person who has given none. */
function showLocked() {
  const go = el("button", { class: "go", onclick: begin }, say("key.give"));
  byId("turns").replaceChildren(
    el("div", { class: "hello" }, el("h1", {}, say("key.title")), el("p", {}, say("key.text")), el("p", {}, go)),
  );
}

redraw();
begin();
