/** Texts and commands that can be copied. */

import { el } from "./dom.js";
import { say } from "./words.js";

/** Return a button that copies a text; nothing where the browser lets no page copy, as it does without TLS. */
export function copying(label, text) {
  if (navigator.clipboard === undefined) return null;
  const button = el("button", { type: "button", class: "link" }, say(label));
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text());
    button.textContent = say("turn.copied");
    setTimeout(() => (button.textContent = say(label)), 1500);
  });
  return button;
}

/** Return a command that can be copied. */
export function command(text) {
  const copy = copying("copy.command", () => text);
  if (copy !== null) {
    copy.className = "plain";
    copy.title = text; // one page may have several
  }
  return el("div", { class: "command" }, el("code", {}, text), copy);
}
