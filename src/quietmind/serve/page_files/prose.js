/**
 * Shows the Markdown of an answer as elements: paragraphs, headings, lists, code, bold and italic, and marks as buttons.
 *
 * Not a full Markdown: what a model writes besides these stays the text that it is. Links and images stay text too, so
 * that nothing a model or a note says can take the reader elsewhere.
 */

import { el } from "./dom.js";

const FENCE = /^\s*(`{3,}|~{3,})\s*(\S*)/;
const ITEM = /^(\s*)(?:[-*+•]|(\d{1,4})[.)])\s+(.*)$/;
const HEADING = /^#{1,6}\s+(.*)$/;
const INLINE = /(`+)([^`]+)\1|\*\*([^*]+)\*\*|\*([^*\s][^*]*)\*|\[(\d{1,3})\]|\[\?\]/g;

/** An answer that grows. Only what has changed since it was last shown is built anew. */
export class Prose {
  /** `mark` returns what stands in the place of the mark [n], and of [?] with n null. */
  constructor(container, mark) {
    this.container = container;
    this.mark = mark;
    this.shown = [];
  }

  /** Show `text`, which usually is what was shown before and a little more. */
  show(text) {
    const blocks = blocksOf(text);
    const same = blocks.findIndex((block, index) => block !== this.shown[index]);
    const from = same < 0 ? blocks.length : same;
    while (this.container.childNodes.length > from) this.container.lastChild.remove();
    for (const block of blocks.slice(from)) this.container.append(this.element(block));
    this.shown = blocks;
  }

  element(block) {
    const lines = block.split("\n");
    const fence = FENCE.exec(lines[0]);
    if (fence) {
      const last = lines.length > 1 && lines.at(-1).trim().startsWith(fence[1]) ? -1 : undefined;
      return el("pre", { tabindex: "0" }, el("code", {}, lines.slice(1, last).join("\n")));
    }
    const heading = HEADING.exec(block);
    if (heading) return el("h3", {}, this.inline(heading[1]));
    if (ITEM.test(lines[0])) return this.list(lines);
    return el("p", {}, this.inline(block));
  }

  list(lines) {
    const [, , ordinal] = ITEM.exec(lines[0]);
    const items = [];
    for (const line of lines) {
      const item = ITEM.exec(line);
      if (item) items.push({ depth: item[1].length, text: item[3] });
      else items.at(-1).text += ` ${line.trim()}`;
    }
    const outer = items[0].depth;
    return el(
      ordinal === undefined ? "ul" : "ol",
      { start: ordinal !== undefined && ordinal !== "1" ? ordinal : null },
      items.map(({ depth, text }) => el("li", { class: depth > outer + 1 ? "deeper" : null }, this.inline(text))),
    );
  }

  inline(text) {
    const parts = [];
    let from = 0;
    for (const found of text.matchAll(INLINE)) {
      parts.push(text.slice(from, found.index));
      const [whole, , code, bold, italic, number] = found;
      if (code !== undefined) parts.push(el("code", {}, code));
      else if (bold !== undefined) parts.push(el("strong", {}, this.inline(bold)));
      else if (italic !== undefined) parts.push(el("em", {}, this.inline(italic)));
      else parts.push(this.mark(number === undefined ? null : Number(number)));
      from = found.index + whole.length;
    }
    return [...parts, text.slice(from)].filter((part) => part !== "");
  }
}

/** Return the blocks of a text: a fence with all in it, a list, a heading, or lines that make a paragraph. */
export function blocksOf(text) {
  const blocks = [];
  let current = [];
  let fence = null;
  const close = () => {
    if (current.length > 0) blocks.push(current.join("\n"));
    current = [];
  };
  for (const line of text.split("\n")) {
    if (fence !== null) {
      current.push(line);
      if (line.trim().startsWith(fence)) {
        fence = null;
        close();
      }
      continue;
    }
    const opened = FENCE.exec(line);
    if (opened) {
      close();
      fence = opened[1];
      current.push(line);
    } else if (line.trim() === "") {
      close();
    } else if (HEADING.test(line)) {
      close();
      blocks.push(line);
    } else {
      const begins = ITEM.test(line) && current.length > 0 && !ITEM.test(current[0]);
      if (begins) close();
      current.push(line);
    }
  }
  close();
  return blocks;
}
