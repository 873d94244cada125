// The heart: its pace and who decided it, the gauges, the alarms, the last beats, and the operator's switch.

import { $, call, element, events } from "./service.js";

const BEATS = 30, AGAIN_MS = 2000;
let listening = null;

export function heart() {
  $("heart-switch").addEventListener("click", async () => {
    const stopped = $("heart-switch").dataset.stopped !== "true";
    show(await (await call("PUT", "/v1/heartbeat", { body: { stopped } })).json());
  });
}

export async function showHeart() {
  listening?.abort();
  await look();
  await showRooms();
  if ($("heart").hidden) return;
  const { signal } = (listening = new AbortController());
  const again = () => signal.aborted || setTimeout(() => showHeart().catch(again), AGAIN_MS);
  listen(signal).then(again, again);  // a service that went down may come back
}

async function look() {
  show(await (await call("GET", `/v1/heartbeat?recent=${BEATS}`)).json());
}

// How much it thought and did not say. What, an operator reads by the command line, and on the record.
async function showRooms() {
  const answer = await call("GET", "/v1/rooms").catch(() => null);  // an operator's alone
  const sizes = answer ? (await answer.json()).sizes : [];
  const told = sizes.map(({ room, owner, thoughts, characters }) => `${room} (${owner}): ${thoughts}, ${characters} characters`);
  $("rooms").textContent = told.length ? `Thought and not said: ${told.join("; ")}.` : "";
}

// Gauges move with every look at the machine, the rest with every beat and fifth look; until the room is closed.
async function listen(signal) {
  const answer = await call("GET", "/v1/heartbeat/events", { signal });
  let looks = 0;
  for await (const [name, data] of events(answer)) {
    if ($("heart").hidden) return listening.abort();
    if (name === "look") {
      const { load, ago_seconds: _, ...gauges } = data;
      $("heart-load").textContent = `Load ${Math.round(load * 100)} %`;
      if (looks++ % 5 === 0) await look();
      else showGauges(gauges);
    } else if (name === "beat") await look();
    else if (name === "reply") {
      const { first_token: first, tokens } = data;
      $("heart-reply").textContent = `The last reply began after ${first.toFixed(2)} s and had ${tokens} tokens.`;
    }
  }
}

function show(found) {
  const every = found.interval_seconds === null ? "no next beat" : `a beat every ${Math.round(found.interval_seconds)} s`;
  $("heart-state").textContent = `${found.status}: ${every}, by ${found.decided_by}: ${found.reason}`;
  const off = $("heart-switch");
  off.hidden = found.status === "none";
  off.dataset.stopped = String(found.status === "stopped");
  off.textContent = found.status === "stopped" ? "Let it beat" : "Stop it";
  const core = found.core_self;
  $("core-self").textContent = core
    ? `The core self was kept ${Math.round(core.age_seconds / 60)} minutes ago: ${(core.bytes / 1e6).toFixed(1)} MB, restored elsewhere and found the same.`
    : "No core self has been kept yet.";
  showGauges(found.gauges);
  $("gauge-alarms").hidden = found.alarms.length === 0;
  $("gauge-alarms").replaceChildren(...found.alarms.map(alarm));
  const beats = found.recent.map(beat);
  $("beats").replaceChildren(...(beats.length ? beats : [element("li", "empty", "It has not beaten yet.")]));
}

function showGauges(found) {
  const gauges = Object.entries(found).sort(([, a], [, b]) => b - a);
  $("gauges").replaceChildren(...gauges.map(gauge));
}

function gauge([name, value]) {
  const item = element("li", "", name);
  const meter = element("meter");
  Object.assign(meter, { min: 0, max: 1, high: 0.8, value: Math.min(1, value) });
  meter.setAttribute("aria-label", `${name}: ${Math.round(value * 100)} % of what is borne`);
  item.append(meter, element("span", "", `${Math.round(value * 100)} %`));
  return item;
}

function alarm({ gauge: name, bound, owner, sounding_seconds: seconds }) {
  const sounds = seconds === null ? "" : `, sounding for ${Math.round(seconds)} s`;
  return element("li", "", `${name} above ${Math.round(bound * 100)} %, set by the ${owner}${sounds}`);
}

function beat({ n, at, interval_seconds: after, reason, did }) {
  const item = element("li", "memory");
  const when = new Date(at).toLocaleTimeString();
  item.append(element("p", "text", `${n}: ${when}, after ${Math.round(after)} s. ${reason}`));
  const chores = element("ul", "bars");
  for (const { name, outcome, detail } of did) chores.append(element("li", "", `${name}: ${outcome}${detail ? ` (${detail})` : ""}`));
  if (did.length) item.append(chores);
  return item;
}
