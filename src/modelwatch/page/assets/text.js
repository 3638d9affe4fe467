"use strict";
// Everything that is shown goes through here as text: nodes are made by name, and what comes from the service is only
// ever the content of a text node or the value of a known attribute.

const NOTHING = "–";

/** An element with attributes and children; a child is a node, or a text. Nothing known is no child. */
function make(name, attributes, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function draw(name, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

/** Another text, and only if it is another one: what has not changed stays as it is, selected and all. */
function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Other children; with the same `key` as the last time the old ones stay. */
function fill(node, key, children) {
  const told = JSON.stringify(key);
  if (node.told === told) return;
  node.told = told;
  node.replaceChildren(...children().filter(Boolean));
}

const known = (x) => x !== null && x !== undefined;
const whole = (x) => (known(x) ? Math.round(x).toLocaleString("en") : NOTHING);
const plural = (n, one, many) => `${whole(n)} ${n === 1 ? one : many || one + "s"}`;

/** Three digits that mean something: 0.0123, 4.56, 78.9, 1,234. */
function number(x, digits = 3) {
  if (!known(x)) return NOTHING;
  const size = Math.abs(x);
  if (size >= 1e15 || (size > 0 && size < 1e-4)) return x.toExponential(1);
  if (size >= 100) return x.toLocaleString("en", { maximumFractionDigits: size < 1000 && digits > 3 ? 1 : 0 });
  return x.toLocaleString("en", { maximumSignificantDigits: digits });
}

const fixed = (x, digits = 3) => (known(x) ? x.toFixed(digits) : NOTHING);

function percent(x) {
  if (!known(x)) return NOTHING;
  if (x > 0 && x < 0.0005) return "< 0.1 %";
  return `${(100 * x).toFixed(1)} %`;
}

function duration(seconds) {
  if (!known(seconds)) return NOTHING;
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= 2 * size) return `${Math.round(seconds / size)} ${unit}`;
  }
  return `${Math.round(seconds)} s`;
}

function milliseconds(seconds) {
  if (!known(seconds)) return NOTHING;
  if (seconds < 0.001) return `${number(seconds * 1e6, 2)} µs`;
  return seconds < 1 ? `${number(seconds * 1e3, seconds < 0.1 ? 2 : 3)} ms` : `${number(seconds, 3)} s`;
}

const quantile = (one) =>
  known(one) ? `${{ below: "< ", above: "> " }[one.beyond] || ""}${milliseconds(one.value)}` : NOTHING;

/** When something was, by the clock of whoever looks; the day only if it is another one. */
function moment(seconds, exact = false) {
  if (!known(seconds)) return NOTHING;
  const then = new Date(seconds * 1000);
  const time = then.toLocaleTimeString("en-GB", exact ? {} : { hour: "2-digit", minute: "2-digit" });
  const today = then.toDateString() === new Date().toDateString();
  return today ? time : `${then.toLocaleDateString("en-GB", { day: "numeric", month: "short" })}, ${time}`;
}

/** As many digits of some numbers as it takes to tell them apart, and three at least. */
function toldApart(numbers) {
  for (let digits = 3; digits <= 15; digits += 1) {
    const texts = numbers.map((x) => (Math.abs(x) >= 1e15 || (x !== 0 && Math.abs(x) < 1e-4)
      ? x.toExponential(digits - 2) : x.toLocaleString("en", { maximumSignificantDigits: Math.max(digits, Math.ceil(Math.log10(Math.abs(x) + 1))) })));
    if (new Set(texts).size === texts.length) return texts;
  }
  return numbers.map(String);
}

/** The names of a feature's bins, in order: "< 3", "3 – 5", "≥ 5", a value, or a category. */
function binNames(bins) {
  if (bins.kind === "names") return bins.at;
  const at = toldApart(bins.at);
  if (bins.kind === "values") return [...at, "_other"];
  if (at.length === 0) return ["all"];
  return [`< ${at[0]}`, ...at.slice(1).map((edge, i) => `${at[i]} – ${edge}`), `≥ ${at[at.length - 1]}`];
}

/** A map, not an object: that would know a category called "constructor". */
const MEANINGS = new Map([
  ["_other", "values that the reference never saw"],
  ["_rare", "categories with few rows in the reference"],
  ["_missing", "rows without a value, of all rows"],
]);
