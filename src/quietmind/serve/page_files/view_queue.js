/** Who is answered, how many wait, and where the question of this tab stands. */

import { connection } from "./api.js";
import { place } from "./chat.js";
import { el } from "./dom.js";
import { say } from "./words.js";

export async function view() {
  const section = el("section", { class: "part", "aria-live": "polite" });
  let shown = null;
  const draw = () => {
    const models = connection.queue?.models ?? [];
    const now = JSON.stringify([models, place()]);
    if (now === shown) return; // what has not changed is not said again
    shown = now;
    section.replaceChildren(
      ...(models.length === 0
        ? [el("p", { class: "quiet" }, say("queue.none"))]
        : models.flatMap((model, index) => lane(model, index === 0 ? place() : null))),
    );
  };
  connection.addEventListener("queue", draw);
  await connection.look();
  draw();
  return { parts: [section], leave: () => connection.removeEventListener("queue", draw) };
}

/** Return one engine and its line; `mine` is how many come before the question of this tab, null where it has none. */
function lane(model, mine) {
  const { answering, waiting } = model;
  const dots = [...Array(answering + waiting).keys()].map((at) => {
    const own = mine !== null && at === (mine === 0 ? 0 : answering + mine - 1);
    return el("li", { class: [at < answering ? "now" : "", own ? "mine" : ""].join(" ") });
  });
  const said = [
    answering === 0 ? say("queue.idle") : say("queue.answering", { count: answering }),
    waiting > 0 ? say("queue.waiting", { count: waiting }) : null,
  ];
  return [
    el(
      "h2",
      {},
      model.name,
      el(
        "small",
        {},
        [say(`state.${model.state}`), say("queue.width", { count: model.width }), model.lent ? say("queue.lent") : null]
          .filter(Boolean)
          .join(" · "),
      ),
    ),
    dots.length === 0
      ? null
      : el("ol", { class: "line", role: "img", "aria-label": say("queue.picture", { answering, waiting }) }, dots),
    el(
      "p",
      {},
      said.filter(Boolean).join(", "),
      mine === null || answering === 0
        ? null
        : `. ${mine === 0 ? say("queue.mineNow") : say("queue.mine", { count: mine })}`,
    ),
  ].filter(Boolean);
}
