/** What this browser remembers, and what the settings file says, each with the command that does the same. */

import { get } from "./api.js";
import { command } from "./chat.js";
import { el, keep, kept } from "./dom.js";
import { LANGUAGES, language, number, say } from "./words.js";

export async function view({ theme, chooseTheme, chooseLanguage }) {
  const { file, settings } = await get("/page/settings");
  const setting = (name) => settings.find((each) => each.name === name).value;
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
          segments("look", "of-theme", Object.fromEntries(["auto", "light", "dark"].map((each) => [each, say(`settings.theme.${each}`)])), theme(), chooseTheme),
          ...amount("passages", "settings.passages", setting("passages"), "--passages"),
          ...amount("max_tokens", "settings.tokens", setting("max_tokens"), "--max-tokens"),
        ),
        kept("sessionStorage", "key") === null
          ? null
          : el("p", {}, el("button", { class: "link", onclick: (event) => forgetKey(event.currentTarget) }, say("key.forget"))),
      ),
      el("section", { class: "part" }, el("h2", {}, say("settings.file")), el("p", { class: "quiet" }, say("settings.fileText", { file })), table(settings)),
    ],
  };
}

function segments(name, labelledby, choices, chosen, choose) {
  return el(
    "div",
    { class: "segments", role: "radiogroup", "aria-labelledby": labelledby },
    Object.entries(choices).map(([value, label]) =>
      el("label", {}, el("input", { type: "radio", name, value, checked: value === chosen, onchange: () => choose(value) }), el("span", {}, label)),
    ),
  );
}

/** Return a number that questions of this page are asked with, and the words of a command that does the same. */
function amount(name, label, usual, option) {
  const input = el("input", { type: "number", id: `wish-${name}`, min: "1", step: "1", inputmode: "numeric", placeholder: number(usual), value: kept("localStorage", name) });
  const same = el("span", { class: "labelled" });
  const show = () => {
    const value = kept("localStorage", name);
    same.replaceChildren(...(value === null ? [say("settings.asSet", { value: usual })] : [say("settings.same"), command(`quietmind ask QUESTION ${option} ${value}`)]));
  };
  input.addEventListener("change", () => {
    keep("localStorage", name, input.validity.valid && Number(input.value) >= 1 ? String(Math.floor(input.value)) : null);
    show();
  });
  show();
  return [el("label", { for: `wish-${name}` }, say(label)), el("span", { class: "labelled" }, input, same)];
}

function forgetKey(button) {
  keep("sessionStorage", "key", null);
  button.remove();
}

function table(settings) {
  return el(
    "div",
    { class: "scroll" },
    el(
      "table",
      { class: "stack" },
      el("thead", {}, el("tr", {}, ["settings.key", "settings.value", "settings.once"].map((key) => el("th", { scope: "col" }, say(key))))),
      el(
        "tbody",
        {},
        settings.map((each) =>
          el(
            "tr",
            {},
            el("th", { scope: "row" }, el("code", {}, each.name), el("br"), el("small", { class: "quiet" }, say(`setting.${each.name}`))),
            el("td", { "data-head": say("settings.value"), class: each.value === null ? "quiet" : null }, shown(each), each.usual ? el("small", { class: "quiet" }, ` ${say("settings.default")}`) : null),
            el("td", { "data-head": say("settings.once"), class: each.command === null ? "none" : null }, each.command === null ? "–" : el("code", { class: "quiet" }, each.command)),
          ),
        ),
      ),
    ),
  );
}

const PLANNED = ["context", "threads"]; // what the plan decides where nobody says

function shown({ name, value }) {
  if (value === null) return PLANNED.includes(name) ? say("settings.planned") : "–";
  if (typeof value === "boolean") return say(value ? "setting.yes" : "setting.no");
  return typeof value === "number" ? number(value) : value;
}
