/** Builds the page out of elements and text. No string is ever read as markup: there is no innerHTML in these files. */

/**
 * Return an element. Properties that begin with "on" are listeners, all others attributes; null, undefined and false
 * leave one out, and so they do with children.
 */
export function el(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (absent(value)) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  refill(element, children);
  return element;
}

/** Put these children in the place of those that an element has. */
export function refill(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter((child) => !absent(child)));
}

/**
 * Return a table that stacks its cells on a phone. `heads` are elements, `rows` elements of tbody; `around` are a caption
 * and a foot, where there are any.
 */
export function tableOf(heads, rows, around = {}) {
  const body = el("tbody", {}, rows);
  const head = el("thead", {}, el("tr", {}, heads));
  return el("div", { class: "scroll" }, el("table", { class: "stack" }, around.caption, head, body, around.foot));
}

/** Return the head of a column; `numeric` ones are set to the right. */
export const columnHead = (text, numeric = false) => el("th", { scope: "col", class: numeric ? "n" : null }, text);

const absent = (value) => value === null || value === undefined || value === false;

/** Return the element of this id, which the page has. */
export const byId = (id) => document.getElementById(id);

/** Read or write what this browser keeps; null where it keeps nothing. `store` is localStorage or sessionStorage. */
export function kept(store, name) {
  try {
    return globalThis[store].getItem(`quietmind.${name}`);
  } catch {
    return null;
  }
}

/** Keep `value` under a name; null forgets it. A browser that keeps nothing is no reason to stop. */
export function keep(store, name, value) {
  try {
    if (value === null) globalThis[store].removeItem(`quietmind.${name}`);
    else globalThis[store].setItem(`quietmind.${name}`, value);
  } catch {
    // full, or switched off: it lasts as long as the page then
  }
}
