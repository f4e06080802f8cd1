/** The notebooks: what each is made of, what was read of it, what that takes on the disk, and how old it is. */

import { get } from "./api.js";
import { askNotebook } from "./chat.js";
import { command } from "./copy.js";
import { columnHead, el, tableOf } from "./dom.js";
import { ago, bytes, known, number, say } from "./words.js";

export async function view() {
  const found = await get("/page/notebooks");
  if (found === null || found.notebooks.length === 0) {
    return {
      parts: [
        el(
          "section",
          { class: "part" },
          el("h2", {}, say("notebooks.none")),
          el("p", { class: "quiet" }, say("notebooks.noneText")),
          command("quietmind notebook auto"),
          command("quietmind read"),
        ),
      ],
    };
  }
  const due = found.notebooks.some((each) => each.due !== null);
  return {
    parts: [
      el(
        "section",
        { class: "part" },
        table(found.notebooks),
        el("p", { class: "quiet" }, say("notebooks.used", { used: bytes(found.used), budget: bytes(found.budget) })),
      ),
      due
        ? el(
            "section",
            { class: "part" },
            el("div", { class: "labelled" }, say("notebooks.readAll"), command("quietmind read")),
          )
        : null,
    ].filter(Boolean),
  };
}

function table(notebooks) {
  const columns = ["name", "notes", "tokens", "size", "level", "read"];
  const numbers = ["notes", "tokens", "size"];
  const heads = columns.map((each) => columnHead(say(`notebooks.${each}`), numbers.includes(each)));
  const asking = el("th", {}, el("span", { class: "unseen" }, say("notebooks.ask")));
  return tableOf([...heads, asking], notebooks.map(row));
}

function row(each) {
  const cell = (key, text, numeric = true) =>
    el(
      "td",
      { class: [numeric ? "n" : "", text ? "" : "none"].join(" "), "data-head": say(`notebooks.${key}`) },
      text || "–",
    );
  const kept = [each.pinned ? say("notebooks.pinned") : null, level(each)].filter(Boolean).join(", ");
  return el(
    "tr",
    {},
    el(
      "th",
      { scope: "row" },
      each.name,
      el("br"),
      el("small", { class: "quiet" }, say(`notebooks.from.${each.source.kind}`, { value: each.source.value })),
    ),
    cell("notes", number(each.notes)),
    cell("tokens", each.tokens === null ? "" : number(each.tokens)),
    cell("size", each.bytes > 0 ? bytes(each.bytes) : ""),
    cell("level", kept, false),
    el(
      "td",
      { "data-head": say("notebooks.read") },
      each.read === null
        ? say("notebooks.unread")
        : el("time", { datetime: each.read, title: each.read }, ago(each.read)),
      each.due === null || each.read === null
        ? null
        : el("small", { class: "trouble" }, ` ${say("notebooks.due", { why: each.due })}`),
    ),
    el(
      "td",
      {},
      el(
        "button",
        {
          class: "link",
          "aria-label": say("notebooks.askOne", { name: each.name }),
          onclick: () => askNotebook(each.name),
        },
        say("notebooks.ask"),
      ),
    ),
  );
}

function level(each) {
  if (each.level === null) return null;
  const name = known(`level.${each.level}`) ? say(`level.${each.level}`) : each.level;
  return `${name}, ${number(each.ratio, 1)}×`;
}
