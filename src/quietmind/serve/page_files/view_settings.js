/** What this browser remembers, and what the settings file says, each with the command that does the same. */

import { get } from "./api.js";
import { command } from "./copy.js";
import { columnHead, el, keep, kept, refill, tableOf } from "./dom.js";
import { LANGUAGES, language, number, say } from "./words.js";

export async function view({ theme, chooseTheme, chooseLanguage }) {
  const { file, settings } = await get("/page/settings");
  return {
    parts: [
      el(
        "section",
        { class: "part" },
        el("h2", {}, say("settings.here")),
        el(
          "div",
          { class: "choices" },
          el("span", { id: "of-language" }, say("settings.language")),
          segments("language", "of-language", LANGUAGES, language, chooseLanguage),
          el("span", { id: "of-theme" }, say("settings.theme")),
          segments(
            "look",
            "of-theme",
            Object.fromEntries(["auto", "light", "dark"].map((each) => [each, say(`settings.theme.${each}`)])),
            theme(),
            chooseTheme,
          ),
          longest(settings.find((each) => each.name === "max_tokens").value),
        ),
        kept("sessionStorage", "key") === null
          ? null
          : el(
              "p",
              {},
              el("button", { class: "link", onclick: (event) => forgetKey(event.currentTarget) }, say("key.forget")),
            ),
      ),
      el(
        "section",
        { class: "part" },
        el("h2", {}, say("settings.file")),
        el("p", { class: "quiet" }, say("settings.fileText", { file })),
        table(settings),
      ),
    ],
  };
}

function segments(name, labelledby, choices, chosen, choose) {
  return el(
    "div",
    { class: "segments", role: "radiogroup", "aria-labelledby": labelledby },
    Object.entries(choices).map(([value, label]) =>
      el(
        "label",
        {},
        el("input", { type: "radio", name, value, checked: value === chosen, onchange: () => choose(value) }),
        el("span", {}, label),
      ),
    ),
  );
}

/** Return how long an answer of this page may get, and the command that does the same; `usual` is what is set. */
function longest(usual) {
  const input = el("input", {
    type: "number",
    id: "longest",
    min: "1",
    step: "1",
    placeholder: number(usual),
    value: kept("localStorage", "max_tokens"),
  });
  const same = el("span", { class: "labelled" });
  const show = () => {
    const value = kept("localStorage", "max_tokens");
    refill(
      same,
      value === null
        ? say("settings.asSet", { value: usual })
        : [say("settings.same"), command(`quietmind ask QUESTION --max-tokens ${value}`)],
    );
  };
  input.addEventListener("change", () => {
    const wanted = Math.floor(Number(input.value));
    keep("localStorage", "max_tokens", wanted >= 1 ? String(wanted) : null);
    show();
  });
  show();
  return [el("label", { for: "longest" }, say("settings.tokens")), el("span", { class: "labelled" }, input, same)];
}

function forgetKey(button) {
  keep("sessionStorage", "key", null);
  button.remove();
}

function table(settings) {
  const heads = ["settings.key", "settings.value", "settings.once"].map((key) => columnHead(say(key)));
  return tableOf(heads, settings.map(row));
}

function row(each) {
  return el(
    "tr",
    {},
    el(
      "th",
      { scope: "row" },
      el("code", {}, each.name),
      el("br"),
      el("small", { class: "quiet" }, say(`setting.${each.name}`)),
    ),
    el(
      "td",
      { "data-head": say("settings.value"), class: each.value === null ? "quiet" : null },
      shown(each),
      each.usual && each.value !== null && el("small", { class: "quiet" }, ` ${say("settings.default")}`),
    ),
    el(
      "td",
      { "data-head": say("settings.once"), class: each.command === null ? "none" : null },
      each.command === null ? "–" : el("code", { class: "quiet" }, each.command),
    ),
  );
}

const PLANNED = ["context", "threads"]; // what the plan decides where nobody says

function shown({ name, value }) {
  if (value === null) return say(PLANNED.includes(name) ? "settings.planned" : "settings.unset");
  if (typeof value === "boolean") return say(value ? "setting.yes" : "setting.no");
  return typeof value === "number" ? number(value) : value;
}
