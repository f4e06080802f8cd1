/** The words of the page in the chosen language, and numbers, sizes and times as that language writes them. */

import { keep } from "./dom.js";

export const LANGUAGES = { en: "English", ru: "Русский" };

export let language = document.documentElement.lang in LANGUAGES ? document.documentElement.lang : "en";
let words = (await import(`./words.${language}.js`)).words;
let plural = new Intl.PluralRules(language);

/** Change to another language, and remember it. */
export async function speak(chosen) {
  words = (await import(`./words.${chosen}.js`)).words;
  language = chosen;
  plural = new Intl.PluralRules(chosen);
  document.documentElement.lang = chosen;
  keep("localStorage", "language", chosen);
}

/**
 * Return the words of this key, with {name} replaced. Where they come in several numbers (an object of "one", "few",
 * "many", "other"), `given.count` chooses among them.
 */
export function say(key, given = {}) {
  let text = words[key] ?? key;
  if (typeof text === "object") text = text[plural.select(given.count)] ?? text.other;
  return text.replace(/\{(\w+)\}/g, (whole, name) => {
    if (!(name in given)) return whole;
    return typeof given[name] === "number" ? number(given[name]) : given[name];
  });
}

/** Return whether there are words of this key. */
export const known = (key) => key in words;

/** Fill in the words of everything below `root` that asks for some. */
export function fill(root) {
  for (const element of root.querySelectorAll("[data-word]")) element.textContent = say(element.dataset.word);
  for (const element of root.querySelectorAll("[data-label]")) element.ariaLabel = say(element.dataset.label);
}

/** Return a number as this language writes it. */
export const number = (value, digits = 0) =>
  new Intl.NumberFormat(language, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);

const UNITS = [
  ["GiB", 2 ** 30],
  ["MiB", 2 ** 20],
  ["KiB", 2 ** 10],
];

/** Return bytes in the largest binary unit that leaves at least 1. */
export function bytes(count) {
  const [unit, size] = UNITS.find(([, size]) => count >= size) ?? ["B", 1];
  const value = count / size;
  return `${number(value, size === 1 || value >= 100 ? 0 : 1)}\u00a0${say(`unit.${unit}`)}`;
}

/** Return seconds as a person says them. */
export function seconds(count) {
  if (count < 10) return `${number(count, 1)}\u00a0${say("unit.s")}`;
  if (count < 100) return `${number(count)}\u00a0${say("unit.s")}`;
  if (count < 6000) return `${number(count / 60)}\u00a0${say("unit.min")}`;
  return `${number(count / 3600)}\u00a0${say("unit.h")}`;
}

const AGES = [
  ["day", 86400],
  ["hour", 3600],
  ["minute", 60],
];

/** Return how long ago an ISO 8601 moment is. */
export function ago(moment) {
  const past = Math.max(0, (Date.now() - Date.parse(moment)) / 1000);
  const [unit, size] = AGES.find(([, size]) => past >= size) ?? ["second", 1];
  return new Intl.RelativeTimeFormat(language, { numeric: "auto" }).format(-Math.floor(past / size), unit);
}
