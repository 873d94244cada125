// The page: sessions on the left, a conversation on the right. Talks to the same HTTP surface as every other client.

import { call, element, events, Refused, $ } from "./service.js";
import { memoryReasons, showMemory } from "./memory.js";
import { showSleep } from "./sleep.js";
import { showPersona } from "./persona.js";
import { carry, showCarry } from "./carry.js";
import { heart, showHeart } from "./heart.js";

const THEME = "slowwave-theme";

let session = null; // the session shown, or null before the first message
let running = null; // the AbortController of the reply that is being written
let listing = 0; // counts looks at the list of sessions
let oldest = null; // the last session listed, to page on from

// --- the conversation --------------------------------------------------------------------------------------------

function addEntry(role, text) {
  $("transcript").querySelector(".empty")?.remove();
  const entry = element("article", `entry ${role}`);
  entry.setAttribute("aria-label", role);
  entry.append(element("div", "text", text));
  $("transcript").append(entry);
  scrollDown();
  return entry;
}

function addChips(entry, chips) {
  const list = element("ul", "chips");
  for (const chip of chips) list.append(element("li", "", chip));
  entry.append(list);
}

function replyChips(reply) {
  const { tokens_per_second: speed, time_to_first_token_ms: first, cached_tokens: cached } = reply.timings;
  const base = reply.adapter === "none" ? "base model" : `adapter ${reply.adapter}`;
  return [
    ...(speed === null ? [] : [`${speed.toFixed(1)} tokens/s`]),
    `first token ${first < 1000 ? `${Math.round(first)} ms` : `${(first / 1000).toFixed(1)} s`}`,
    `${reply.usage.completion_tokens} tokens, ${cached} of ${reply.usage.prompt_tokens} from cache`,
    base,
    ...(reply.finish_reason === "length" ? ["cut off: length"] : []),
    ...(reply.compacted ? ["window compacted"] : []),
  ];
}

function addFeedback(entry, turn) {
  const row = element("div", "feedback");
  const field = element("input", "reward");
  Object.assign(field, { type: "number", min: -1, max: 1, step: 0.1, placeholder: "\u22121 to 1" });
  field.setAttribute("aria-label", "Reward from -1 to 1");
  const give = async (reward, pressed) => {
    await call("POST", "/v1/feedback", { body: { turn, reward } });
    for (const button of row.querySelectorAll("button")) button.setAttribute("aria-pressed", String(button === pressed));
    if (pressed) field.value = "";
  };
  for (const [sign, label, reward] of [["Good", "Good reply", 1], ["Bad", "Bad reply", -1]]) {
    const button = element("button", "quiet", sign);
    button.setAttribute("aria-label", label);
    button.addEventListener("click", () => give(reward, button));
    row.append(button);
  }
  field.addEventListener("change", () => {
    if (field.value !== "" && field.reportValidity()) give(field.valueAsNumber, null);
  });
  row.append(field);
  entry.append(row);
}

const atEnd = () => {
  const t = $("transcript");
  return t.scrollHeight - t.scrollTop - t.clientHeight < 80;
};
const scrollDown = () => { $("transcript").scrollTop = $("transcript").scrollHeight; };

async function send(content) {
  const controller = new AbortController();
  const { signal } = controller;
  setRunning(controller);
  addEntry("user", content);
  const entry = addEntry("assistant running", "");
  const text = entry.querySelector(".text");
  try {
    let mine = session;
    if (mine === null) {
      mine = (await (await call("POST", "/v1/sessions", { body: {}, signal })).json()).id;
      session = mine; // had another session been chosen meanwhile, the signal would have ended this
    }
    const path = `/v1/sessions/${mine}/turns`;
    const answer = await call("POST", path, { body: { content, stream: true }, signal });
    let finished = false;
    for await (const [name, data] of events(answer)) {
      const follow = atEnd();
      if (name === "delta") text.append(data.text);
      if (name === "error") throw new Refused(data.error.message);
      if (name === "done") {
        finished = true;
        addChips(entry, replyChips(data));
        if (data.recalled.length) entry.append(memoryReasons(data.recalled));
        addFeedback(entry, data.id);
        $("announce").textContent = data.text;
      }
      if (follow) scrollDown();
    }
    if (!finished) throw new Refused("The connection broke before the reply was finished.");
  } catch (error) {
    if (error.name === "AbortError") addChips(entry, ["stopped"]);
    else {
      entry.classList.add("failed");
      text.append(text.textContent ? "\n" : "", error instanceof Refused ? error.message : "The service cannot be reached.");
    }
  } finally {
    entry.classList.remove("running");
    if (running === controller) setRunning(null);
    listSessions();
  }
}

function setRunning(controller) {
  running = controller;
  $("send").hidden = running !== null;
  $("stop").hidden = running === null;
  $("message").focus();
}

function showEmpty() {
  $("announce").textContent = "";
  $("transcript").replaceChildren(element("p", "empty", "Nothing has been said yet."));
}

// --- sessions ----------------------------------------------------------------------------------------------------

async function listSessions(more = false) {
  const query = more && oldest ? `?limit=50&before=${oldest}` : "?limit=50";
  const mine = ++listing;
  const found = await (await call("GET", `/v1/sessions${query}`)).json();
  if (mine !== listing) return; // a later look is under way
  if (!more) $("session-list").replaceChildren();
  for (const row of found.data) {
    const item = element("li");
    if (row.id === session) item.setAttribute("data-current", "");
    const open = element("button", "open");
    if (row.id === session) open.setAttribute("aria-current", "true");
    const when = element("span", "when", new Date(row.updated_at).toLocaleString());
    open.append(element("span", "name", row.preview || "(nothing said)"), when);
    open.addEventListener("click", () => showSession(row.id));
    const remove = element("button", "delete", "✕");
    remove.setAttribute("aria-label", `Delete the session: ${row.preview || row.id}`);
    remove.addEventListener("click", () => deleteSession(row));
    item.append(open, remove);
    $("session-list").append(item);
    oldest = row.id;
  }
  $("more-sessions").hidden = !found.has_more;
}

async function showSession(id) {
  running?.abort();
  const found = await (await call("GET", `/v1/sessions/${id}`)).json();
  session = id;
  history.replaceState(null, "", `#${id}`);
  showEmpty();
  for (const { role, content, status } of found.transcript) {
    if (role === "note" && !content) continue; // it was forgotten
    const entry = addEntry(role, content);
    if (status !== "complete") addChips(entry, [status]);
  }
  closeDrawer();
  await listSessions();
  if ($("carry").hidden) $("message").focus();
  else await showCarry();
}

async function deleteSession(row) {
  if (!confirm(`Delete “${row.preview || row.id}” and all that was said in it?`)) return;
  await call("DELETE", `/v1/sessions/${row.id}`);
  if (row.id === session) newSession();
  else listSessions();
}

function newSession() {
  running?.abort();
  session = null;
  history.replaceState(null, "", location.pathname);
  showEmpty();
  closeDrawer();
  listSessions();
  $("message").focus();
}

function closeDrawer() {
  $("sessions").removeAttribute("data-open");
  $("toggle-sessions").setAttribute("aria-expanded", "false");
}

// --- health and looks --------------------------------------------------------------------------------------------

const SAID = { ok: "ready", loading: "loading the model", draining: "shutting down", failed: "failed" };

async function watchHealth() {
  let state = "unreachable", text = "not reachable";
  try {
    const health = await (await fetch("/health")).json();
    state = health.status;
    text = `${health.model}: ${SAID[state] ?? state}`;
    const alarms = health.memory_alarms.map((a) => element("li", "", `${a.dimension} ${a.kind}: ${a.detail}`));
    $("memory-alarms").replaceChildren(...alarms);
    $("memory-alarms").hidden = alarms.length === 0;
  } catch { /* told below */ }
  $("health").dataset.state = state;
  $("health-text").textContent = text;
  setTimeout(watchHealth, state === "ok" ? 10000 : 1000);
}

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
}

const isDark = () => {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};

// --- hands -------------------------------------------------------------------------------------------------------

function fit() {
  const field = $("message");
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + 2}px`;
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const content = $("message").value.trim();
  if (!content || running) return;
  $("message").value = "";
  fit();
  send(content);
});
$("message").addEventListener("input", fit);
$("message").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("composer").requestSubmit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    running?.abort();
    closeDrawer();
  }
  if (event.altKey && event.code === "KeyM") {
    event.preventDefault();
    toggleMemory();
  }
  if (event.altKey && event.code === "KeyS") {
    event.preventDefault();
    toggleSleep();
  }
  if (event.altKey && event.code === "KeyP") {
    event.preventDefault();
    togglePersona();
  }
  if (event.altKey && event.code === "KeyH") {
    event.preventDefault();
    toggleHeart();
  }
  if (event.altKey && event.code === "KeyC") {
    event.preventDefault();
    toggleCarry();
  }
  if (event.altKey && event.code === "KeyN") {
    event.preventDefault();
    newSession();
  }
});
$("stop").addEventListener("click", () => running?.abort());
$("new-session").addEventListener("click", newSession);
$("more-sessions").addEventListener("click", () => listSessions(true));
$("toggle-sessions").addEventListener("click", () => {
  const open = $("sessions").toggleAttribute("data-open");
  $("toggle-sessions").setAttribute("aria-expanded", String(open));
});
// One of the rooms beside the talk, or, pressed again, back to it.
function toggleRoom(name, show) {
  const open = $(name).hidden;
  for (const room of ["memory", "sleep", "persona", "heart", "carry"]) {
    $(room).hidden = !(open && room === name);
    $(`toggle-${room}`).setAttribute("aria-pressed", String(open && room === name));
  }
  $("talk").hidden = open;
  if (open) show();
  else $("message").focus();
}
const toggleMemory = () => toggleRoom("memory", showMemory);
const toggleSleep = () => toggleRoom("sleep", showSleep);
const togglePersona = () => toggleRoom("persona", showPersona);
const toggleHeart = () => toggleRoom("heart", showHeart);
const toggleCarry = () => toggleRoom("carry", showCarry);
$("toggle-memory").addEventListener("click", toggleMemory);
$("toggle-sleep").addEventListener("click", toggleSleep);
$("toggle-persona").addEventListener("click", togglePersona);
$("toggle-heart").addEventListener("click", toggleHeart);
$("toggle-carry").addEventListener("click", toggleCarry);
heart();
carry({ session: () => session, open: showSession });
$("theme").addEventListener("click", () => {
  const theme = isDark() ? "light" : "dark";
  localStorage.setItem(THEME, theme);
  setTheme(theme);
});
addEventListener("unhandledrejection", (event) => {
  $("health-text").textContent = event.reason instanceof Refused ? event.reason.message : "not reachable";
});

setTheme(localStorage.getItem(THEME));
showEmpty();
watchHealth();
const named = location.hash.slice(1);
if (/^sess_[0-9a-z]{26}$/.test(named)) showSession(named).catch(newSession);
else listSessions();
