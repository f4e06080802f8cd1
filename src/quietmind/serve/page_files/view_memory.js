/** The plan as a memory picture: what each device holds, and every row of the ledger below it. */

import { get } from "./api.js";
import { columnHead, el, tableOf } from "./dom.js";
import { bytes, number, say } from "./words.js";

export async function view() {
  const plan = await get("/page/plan");
  if (plan.models.length === 0) return { parts: [el("p", { class: "quiet" }, say("memory.none"))] };
  return {
    parts: [
      el("section", { class: "part" }, plan.devices.map(device)),
      ...plan.models.map(model),
      el("details", { class: "part" }, el("summary", {}, say("memory.table")), ledger(plan)),
    ],
  };
}

/** Return one device: its name, a bar of its memory, and what the parts of the bar are. */
function device(each) {
  const whole = Math.max(each.capacity ?? 0, each.needed);
  const parts = [
    ...each.parts,
    { kind: "others", bytes: each.others ?? 0 },
    { kind: "free", bytes: each.free ?? 0 },
    { kind: "missing", bytes: each.missing },
  ].filter((part) => part.bytes > 0);
  const segments = parts
    .filter((part) => part.kind !== "free" && part.kind !== "missing")
    .map((part) => {
      const segment = el("span", { "data-kind": part.kind, title: named(part) });
      segment.style.width = `${(100 * part.bytes) / whole}%`;
      return segment;
    });
  const held =
    each.capacity === null
      ? bytes(each.needed)
      : say("memory.of", { needed: bytes(each.needed), capacity: bytes(each.capacity) });
  return el(
    "div",
    { class: "device" },
    el(
      "p",
      {},
      el("span", {}, el("b", {}, each.name), each.name === each.device ? null : ` ${each.device}`),
      el("span", {}, held),
    ),
    el("div", { class: "bar", role: "img", "aria-label": `${each.name}: ${parts.map(named).join(", ")}` }, segments),
    el(
      "ul",
      { class: "legend", "aria-hidden": "true" },
      parts.map((part) =>
        el("li", { "data-kind": part.kind }, say(`memory.${part.kind}`), el("b", {}, bytes(part.bytes))),
      ),
    ),
  );
}

const named = (part) => `${say(`memory.${part.kind}`)} ${bytes(part.bytes)}`;

function model(each) {
  return el(
    "section",
    { class: "part" },
    el("h2", {}, each.name, el("small", {}, say(`memory.${each.verdict}`))),
    el("p", { class: "quiet" }, say("memory.model", { engine: each.engine, context: each.context, kv: each.kv_type })),
    each.decode && each.prefill
      ? el("p", { class: "quiet" }, say("memory.speed", { decode: rate(each.decode), prefill: rate(each.prefill) }))
      : null,
    each.warnings.map((warning) => el("p", { class: "trouble" }, warning)),
  );
}

/** Return a speed with its range, which holds in nine cases of ten. */
function rate({ low, high }) {
  const digits = high < 10 ? 1 : 0;
  const [from, to] = [number(low, digits), number(high, digits)];
  return from === to ? to : `${from}–${to}`;
}

function ledger(plan) {
  const several = plan.models.length > 1;
  const total = plan.ledger.reduce((sum, row) => sum + row.bytes, 0);
  const columns = ["memory.device", "memory.part", "memory.bytes", "memory.read", "memory.formula"];
  const heads = columns.map((key, index) => columnHead(say(key), index === 2 || index === 3));
  const rows = plan.ledger.map((row) =>
    el(
      "tr",
      {},
      el("td", { "data-head": say("memory.device") }, row.device),
      el(
        "th",
        { scope: "row" },
        row.component,
        several ? el("small", { class: "quiet" }, ` ${row.model}`) : null,
      ),
      el("td", { class: "n", "data-head": say("memory.bytes"), title: number(row.bytes) }, bytes(row.bytes)),
      el(
        "td",
        { class: "n", "data-head": say("memory.read") },
        row.read_per_token ? bytes(row.read_per_token) : "–",
      ),
      el("td", { class: "quiet", "data-head": say("memory.formula") }, row.formula),
    ),
  );
  const foot = el(
    "tfoot",
    {},
    el(
      "tr",
      {},
      el("td"),
      el("th", { scope: "row" }, say("memory.total")),
      el("td", { class: "n" }, bytes(total)),
      el("td"),
      el("td"),
    ),
  );
  return tableOf(heads, rows, { caption: el("caption", {}, say("memory.tableLead")), foot });
}
