// The mood: every variable with its trace and what moved it, and pins to hold those that act on replies.

import { $, call, element } from "./service.js";

const LOOK_MS = 3000, EVENTS = 60, WIDTH = 160, HEIGHT = 28, SVG = "http://www.w3.org/2000/svg";
const STEPS = [-1, -0.5, 0, 0.5, 1];
const LEAST = 0.05; // what is felt less is not told
let watching = null;

export async function showPersona() {
  clearTimeout(watching);
  const found = await (await call("GET", `/v1/persona?trace=${EVENTS}`)).json();
  const { mood } = found;
  const names = [...new Set([...Object.keys(mood?.values ?? {}), ...Object.keys(found.variables)])];
  if (!$("persona-list").contains(document.activeElement)) { // nobody is choosing a pin
    $("persona-list").replaceChildren(...names.map((name) => row(name, found)));
  }
  $("persona-state").textContent = told(found);
  $("causality").replaceChildren(causality(found));
  const events = (mood?.trace ?? []).map(event);
  $("mood-events").replaceChildren(...(events.length ? events : [element("li", "empty", "Nothing has moved it yet.")]));
  if (!$("persona").hidden) watching = setTimeout(() => showPersona().catch(() => {}), LOOK_MS);
}

function told({ mood, variables }) {
  if (!mood) return Object.keys(variables).length ? "No mood moves these variables; they can be pinned." : "This model has no persona.";
  const coherence = mood.coherence === null ? "" : `, coherence ${mood.coherence.toFixed(2)} (${mood.zone})`;
  return `${mood.taught} ${mood.taught === 1 ? "word" : "words"} of feedback heard${coherence}`;
}

function row(name, { variables, pinned, mood }) {
  const item = element("li", "variable");
  item.dataset.name = name;
  const value = mood?.values[name];
  item.append(element("span", "name", name));
  if (mood) item.append(trace(name, mood));
  item.append(element("span", "number", value === undefined ? "" : signed(value)));
  if (name in variables) item.append(pinner(name, variables[name], pinned[name]));
  else item.append(element("span", "why", "felt, does not act on replies"));
  return item;
}

// The values after each event, the oldest on the left, and where the variable rests.
function trace(name, { trace: events, rest, values }) {
  const points = [...events.map((e) => e.values[name]).reverse(), values[name]];
  const x = (n) => (points.length > 1 ? (n / (points.length - 1)) * WIDTH : WIDTH);
  const y = (v) => ((1 - v) / 2) * HEIGHT;
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${name}: ${signed(values[name])}, at rest ${signed(rest[name])}, after ${events.length} events`);
  const home = line([[0, y(rest[name])], [WIDTH, y(rest[name])]]);
  home.setAttribute("class", "rest");
  svg.append(home, line(points.map((v, n) => [x(n), y(v)])));
  return svg;
}

function line(points) {
  const made = document.createElementNS(SVG, "polyline");
  made.setAttribute("points", points.map((p) => p.map((n) => n.toFixed(1)).join(",")).join(" "));
  return made;
}

function pinner(name, acting, held) {
  const label = element("label", "why", held === undefined ? `acts as ${signed(acting)} ` : "pinned ");
  const choice = element("select");
  choice.setAttribute("aria-label", `Pin ${name}`);
  choice.append(new Option("by mood", ""), ...STEPS.map((step) => new Option(signed(step), String(step))));
  if (held !== undefined && !STEPS.includes(held)) choice.append(new Option(signed(held), String(held)));
  choice.value = held === undefined ? "" : String(held);
  choice.addEventListener("change", async () => {
    await call("PUT", "/v1/persona", { body: { variables: { [name]: choice.value === "" ? null : Number(choice.value) } } });
    choice.blur();
    await showPersona();
  });
  label.append(choice);
  return label;
}

// What forcing each variable was found to change on this model, beside a placebo.
function causality({ causality: found, variables }) {
  const names = Object.keys(variables).filter((name) => name in found);
  const missing = Object.keys(variables).filter((name) => !(name in found));
  const box = element("div");
  if (names.length) {
    const table = element("table");
    table.append(element("caption", "why", "What forcing it changes, in standard deviations of what it claims to change"));
    const head = element("tr");
    head.append(...["variable", "effect (95 %)", "placebo", "in order", "surprise", "prompts", "acts"].map((title) => element("th", "", title)));
    table.append(head, ...names.map((name) => {
      const line = element("tr"), one = found[name];
      line.append(...[
        name, `${signed(one.effect)} (${signed(one.low)} to ${signed(one.high)})`, one.placebo.toFixed(2), one.spearman.toFixed(2),
        `${signed(100 * one.surprise).replace(/\.\d+$/, "")} %`, String(one.prompts), one.kept ? "yes" : "no",
      ].map((text) => element("td", "", text)));
      line.title = `measured ${new Date(one.at).toLocaleString()}`;
      return line;
    }));
    box.append(table);
  }
  if (missing.length) {
    box.append(element("p", "why", `What forcing ${missing.join(", ")} changes was not measured on this model: slowwave persona test does it.`));
  }
  return box;
}

function event({ at, kind, senses, values, zone }) {
  const item = element("li", "memory");
  const felt = Object.entries(senses)
    .filter(([, v]) => Math.abs(v) >= LEAST)
    .sort(([, a], [, b]) => Math.abs(b) - Math.abs(a))
    .slice(0, 5)
    .map(([name, v]) => `${name} ${signed(v)}`);
  item.append(
    element("p", "text", `${new Date(at).toLocaleString()}, ${kind}: ${felt.join(", ") || "nothing much"}`),
    element("p", "why", `then ${Object.entries(values).map(([n, v]) => `${n} ${signed(v)}`).join(", ")}; ${zone}`),
  );
  return item;
}

const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;
