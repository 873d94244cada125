// The memory browser: search with reasons, SNARC bars, provenance, quarantine; pin, correct, forget.

import { $, call, element, Refused } from "./service.js";

const DIMENSIONS = ["surprise", "novelty", "arousal", "reward", "conflict"];
let looking = 0; // counts looks at memory
let last = null; // the oldest memory listed, to page on from

export async function showMemory(more = false) {
  const mine = ++looking;
  const query = $("memory-query").value.trim();
  const asked = new URLSearchParams({ k: "30" });
  if (query) asked.set("query", query);
  if ($("only-quarantined").checked) asked.set("quarantined", "true");
  if (more && last) asked.set("before", last);
  const found = await (await call("GET", `/v1/memories?${asked}`)).json();
  if (mine !== looking) return; // a later look is under way
  const cards = found.data.map(card);
  if (more) $("memory-list").append(...cards);
  else $("memory-list").replaceChildren(...(cards.length ? cards : [element("li", "empty", "Nothing is remembered here.")]));
  last = found.data.at(-1)?.id ?? null;
  $("more-memories").hidden = !found.has_more;
}

// What a reply was reminded of, and why.
export function memoryReasons(recalled) {
  const box = element("details", "recalled");
  box.append(element("summary", "", `reminded of ${recalled.length} ${recalled.length === 1 ? "memory" : "memories"}`));
  const list = element("ul");
  for (const memory of recalled) {
    const item = element("li", "", `${memory.speaker === "user" ? "you" : memory.speaker}: ${memory.text}`);
    item.append(reasons(memory));
    list.append(item);
  }
  box.append(list);
  return box;
}

function reasons({ score, rank, reasons: why }) {
  const terms = Object.entries(why.terms)
    .filter(([, t]) => Math.abs(t.contribution) >= 0.005)
    .sort(([, a], [, b]) => b.contribution - a.contribution)
    .map(([name, t]) => `${name} ${t.contribution.toFixed(2)}`);
  if (why.neighbours >= 0.005) terms.push(`neighbours ${why.neighbours.toFixed(2)}`);
  const words = why.matched.length ? `; words: ${why.matched.join(", ")}` : "";
  return element("p", "why", `rank ${rank}, ${score.toFixed(2)} = ${why.factor.toFixed(2)} × (${terms.join(" + ")})${words}`);
}

function card(memory) {
  const item = element("li", "memory");
  item.dataset.id = memory.id;
  if (memory.quarantined) item.setAttribute("data-quarantined", "");
  item.append(element("p", "text", memory.text), bars(memory.salience), chips(memory));
  if (memory.reasons) item.append(reasons(memory));
  const buttons = element("div", "buttons");
  buttons.append(
    button(memory.pinned ? "Unpin" : "Pin", () => change(memory, { pinned: !memory.pinned })),
    button(memory.private ? "Let it be learnt" : "Never learn", () => change(memory, { private: !memory.private })),
    button("Correct", () => correct(memory)),
    ...(memory.quarantined ? [button("Release", () => change(memory, { quarantined: false }))] : []),
    button("Forget", () => forget(memory, item)),
  );
  item.append(buttons);
  return item;
}

function bars(salience) {
  const list = element("ul", "bars");
  if (salience === null) {
    list.append(element("li", "", "not scored yet"));
    return list;
  }
  for (const name of DIMENSIONS) {
    const value = salience[name];
    const row = element("li");
    const meter = element("meter");
    meter.min = 0;
    meter.max = 1;
    meter.value = value ?? 0;
    const told = value === null ? "unknown" : value.toFixed(2);
    meter.setAttribute("aria-label", `${name} ${told}`);
    row.title = `${name} ${told}`;
    row.append(element("span", "", name), meter);
    list.append(row);
  }
  list.append(element("li", "total", `total ${salience.total.toFixed(2)}`));
  return list;
}

function chips(memory) {
  const list = element("ul", "chips");
  const said = memory.author === "model" ? "said by the agent" : memory.speaker === "user" ? "said by you" : `said by ${memory.speaker}`;
  for (const text of [
    said,
    memory.channel,
    new Date(memory.at).toLocaleString(),
    ...(memory.copies > 1 ? [`said ${memory.copies} times`] : []),
    ...(memory.accesses ? [`used ${memory.accesses} times`] : []),
    ...(memory.pinned ? ["pinned"] : []),
    ...(memory.private ? ["private"] : []),
    ...(memory.superseded_by ? ["replaced"] : []),
    ...(memory.quarantined ? [`quarantined: ${memory.quarantined}`] : []),
  ]) list.append(element("li", "", text));
  const trust = element("li", "trust", "trust ?");
  list.append(trust);
  call("GET", `/v1/memories/${memory.id}`)
    .then((answer) => answer.json())
    .then((detail) => { trust.textContent = `trust ${detail.trust.toFixed(2)}`; })
    .catch(() => trust.remove());
  return list;
}

function button(text, act) {
  const made = element("button", "quiet", text);
  made.addEventListener("click", () => act().catch((error) => {
    made.closest("li").append(element("p", "failed", error instanceof Refused ? error.message : "The service cannot be reached."));
  }));
  return made;
}

async function change(memory, changes) {
  await call("PATCH", `/v1/memories/${memory.id}`, { body: changes });
  await showMemory();
}

async function correct(memory) {
  const text = prompt("What is true instead? The old wording is kept as of its own time.", memory.text)?.trim();
  if (!text || text === memory.text) return;
  await call("POST", "/v1/memories", { body: { text, speaker: memory.speaker, supersedes: memory.id } });
  await showMemory();
}

async function forget(memory, item) {
  if (!confirm(`Forget “${memory.text}” for good? It goes from memory, transcripts and files.`)) return;
  const receipt = await (await call("DELETE", `/v1/memories/${memory.id}`)).json();
  const told = `Forgotten: ${receipt.memories.length} memories, ${receipt.messages.length} transcript entries, ` +
    `${receipt.vectors} vectors; found in files afterwards: ${receipt.found_in_files}. Receipt ${receipt.id}.`;
  item.replaceChildren(element("p", "receipt", told));
}

$("memory-search").addEventListener("submit", (event) => {
  event.preventDefault();
  showMemory();
});
$("memory-query").addEventListener("search", () => showMemory());
$("only-quarantined").addEventListener("change", () => showMemory());
$("more-memories").addEventListener("click", () => showMemory(true));
$("teach").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = $("teach-text").value.trim();
  if (!text) return;
  await call("POST", "/v1/memories", { body: { text } });
  $("teach-text").value = "";
  await showMemory();
});
