// The heart: its pace and who decided it, the gauges, the alarms, the last beats, and the operator's switch.

import { $, call, element } from "./service.js";

const LOOK_MS = 2000, BEATS = 30;
let watching = null;

export function heart() {
  $("heart-switch").addEventListener("click", async () => {
    const stopped = $("heart-switch").dataset.stopped !== "true";
    show(await (await call("PUT", "/v1/heartbeat", { body: { stopped } })).json());
  });
}

export async function showHeart() {
  clearTimeout(watching);
  show(await (await call("GET", `/v1/heartbeat?recent=${BEATS}`)).json());
  if (!$("heart").hidden) watching = setTimeout(() => showHeart().catch(() => {}), LOOK_MS);
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
  const gauges = Object.entries(found.gauges).sort(([, a], [, b]) => b - a);
  $("gauges").replaceChildren(...gauges.map(gauge));
  $("gauge-alarms").hidden = found.alarms.length === 0;
  $("gauge-alarms").replaceChildren(...found.alarms.map(alarm));
  const beats = found.recent.map(beat);
  $("beats").replaceChildren(...(beats.length ? beats : [element("li", "empty", "It has not beaten yet.")]));
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
