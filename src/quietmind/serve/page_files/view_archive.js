/** What is indexed of each folder, how current that is, and what it takes on the disk. */

import { get } from "./api.js";
import { command } from "./copy.js";
import { el } from "./dom.js";
import { ago, bytes, known, number, say } from "./words.js";

export async function view() {
  const found = await get("/page/status");
  if (found === null || found.roots.length === 0) {
    return {
      parts: [
        el(
          "section",
          { class: "part" },
          el("h2", {}, say("hello.empty")),
          el("p", { class: "quiet" }, say("hello.emptyText")),
          command("quietmind index FOLDER"),
        ),
      ],
    };
  }
  return { parts: [found.roots.map(folder), vectors(found), disk(found)].flat() };
}

function folder(root) {
  const behind = ["new", "changed", "gone"].filter((what) => root[what] > 0);
  return el(
    "section",
    { class: "part" },
    el("h2", {}, root.root),
    el("dl", { class: "figures" }, figure("archive.notes", root.documents), figure("archive.passages", root.passages)),
    el(
      "p",
      { class: "quiet" },
      [
        root.updated === null ? say("archive.never") : say("archive.updated", { when: ago(root.updated) }),
        list(root.kinds),
        letters(root.letters),
        root.repaired ? say("archive.repaired", { count: root.repaired }) : "",
      ]
        .filter(Boolean)
        .join(" · "),
    ),
    root.away === null ? null : el("p", { class: "trouble" }, say("archive.away"), `: ${root.away}`),
    root.away !== null || behind.length > 0
      ? el(
          "div",
          { class: "labelled" },
          behind.map((what) => say(`archive.${what}`, { count: root[what] })).join(", "),
          " ",
          say("archive.bring"),
          command(root.command),
        )
      : el("p", {}, say("archive.current")),
    skipped(root),
  );
}

/** Return a large number over its noun, which comes from words of the form "{count} notes". */
function figure(key, count) {
  const noun = say(key, { count }).replace(number(count), "").trim();
  return el("div", {}, el("dt", {}, noun), el("dd", {}, number(count)));
}

const list = (counts) =>
  Object.entries(counts)
    .map(([name, count]) => `${number(count)} ${name}`)
    .join(", ");

function letters(shares) {
  return Object.entries(shares)
    .filter(([, share]) => share >= 0.005)
    .map(([script, share]) => say(`archive.${script}`, { share: `${number(share * 100)}%` }))
    .join(", ");
}

function skipped(root) {
  if (root.skipped_in_all === 0) return null;
  const more = root.skipped_in_all - root.skipped.length;
  return el(
    "details",
    {},
    el("summary", {}, say("archive.skipped", { count: root.skipped_in_all })),
    el(
      "ul",
      {},
      root.skipped.map((each) =>
        el("li", {}, el("span", { class: "path" }, each.path), " ", el("span", { class: "quiet" }, each.reason)),
      ),
      more > 0 ? el("li", {}, say("archive.more", { count: more })) : null,
    ),
  );
}

/** Return what can be found by meaning; nothing where the person wants no vectors. */
function vectors(found) {
  if (!found.by_meaning && found.vectors.length === 0) return [];
  const missing = found.vectors.length === 0 || found.vectors.some((each) => each.embedded < found.passages);
  return el(
    "section",
    { class: "part" },
    el("h2", {}, say("archive.vectors")),
    found.vectors.map((each) =>
      el(
        "p",
        {},
        say("archive.vectorsOf", { embedder: each.embedder, count: each.embedded, of: found.passages }),
        each.growing ? `, ${say("archive.making")}` : null,
      ),
    ),
    missing ? el("div", { class: "labelled" }, say("archive.makeVectors"), command("quietmind embed")) : null,
  );
}

function disk(found) {
  const parts = Object.entries(found.bytes).filter(([, size]) => size > 0);
  const name = (part) => (known(`archive.part.${part}`) ? say(`archive.part.${part}`) : part);
  return el(
    "section",
    { class: "part" },
    el("h2", {}, say("archive.disk"), el("small", { class: "path" }, found.workspace)),
    el(
      "dl",
      { class: "figures" },
      parts.map(([part, size]) => el("div", {}, el("dt", {}, name(part)), el("dd", {}, bytes(size)))),
    ),
  );
}
