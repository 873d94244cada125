// Nights: begin one, watch it, read in the morning what it learned and why, go back.

import { $, call, element, Refused } from "./service.js";

const LOOK_MS = 1000;
const ARMS = ["base", "current", "candidate"];
let watching = null;

export async function showSleep() {
  clearTimeout(watching);
  const [nights, adapters] = await Promise.all(
    ["/v1/sleep/cycles?limit=20", "/v1/adapters"].map(async (path) => (await call("GET", path)).json()),
  );
  $("serving").textContent = adapters.active === "none" ? "the base serves" : `${adapters.active} serves`;
  $("roll-back").disabled = adapters.active === "none";
  const cards = nights.data.map(card);
  const none = element("li", "empty", "There was no night yet.");
  $("night-list").replaceChildren(...(cards.length ? cards : [none]));
  const open = nights.data.find((night) => night.phase !== "ended");
  $("sleep-now").disabled = Boolean(open);
  if (open && !$("sleep").hidden) watching = setTimeout(() => showSleep().catch(() => {}), LOOK_MS);
  else if (nights.data[0]?.outcome) await openReport($("night-list").firstElementChild, nights.data[0].id);
}

function card(night) {
  const item = element("li", "night");
  item.dataset.outcome = night.outcome ?? night.phase;
  item.append(element("p", "text", `${night.date}, ${night.rhythm}: ${night.outcome ?? night.phase}`));
  if (night.phase !== "ended") item.append(progress(night), cancelButton(night));
  for (const reason of night.reasons) item.append(element("p", "why", reason));
  if (night.outcome) {
    const more = element("button", "quiet", "Report");
    more.addEventListener("click", () => openReport(item, night.id));
    item.append(more);
  }
  return item;
}

function progress({ phase, progress: { step, steps, loss, phase: part } }) {
  const row = element("p", "why");
  const bar = element("progress");
  if (steps) { bar.max = steps; bar.value = step; }
  bar.setAttribute("aria-label", phase);
  row.append(bar, ` ${part ?? phase}${steps ? ` ${step} of ${steps}, loss ${loss.toFixed(3)}` : ""}`);
  return row;
}

function cancelButton(night) {
  const made = element("button", "quiet", "Wake up");
  made.addEventListener("click", () => act("POST", `/v1/sleep/cycles/${night.id}/cancel`));
  return made;
}

async function openReport(item, id) {
  if (!item || item.querySelector(".report")) return;
  const night = await (await call("GET", `/v1/sleep/cycles/${id}`)).json();
  const box = element("div", "report");
  box.append(element("p", "text", night.report.summary));
  if (night.figures.marks) box.append(table(night.figures.marks));
  if (night.figures.curve?.length) box.append(curve(night.figures.curve));
  box.append(
    list("Known by heart", night.report.learnt.map(told)),
    list("Not yet", night.report.not_yet.map(told)),
    list("Kept coming up", night.report.patterns.map((p) => `${p.words.join(", ")} (on ${p.days} days)`)),
    list("Told differently", night.report.contradictions.map(([one, other]) => `${one} and ${other}`)),
    list("Why", night.report.why.map((w) => `${w.experiences} ${w.taken ? "in" : "out"}: ${w.reason}`)),
    list("From the exam", night.report.answers.map((a) => `${a.good ? "✓" : "✗"} ${a.question} → ${a.after}`)),
  );
  if (night.figures.cost) {
    const parts = Object.entries(night.figures.cost).map(([part, seconds]) => `${part} ${seconds.toFixed(0)} s`);
    box.append(element("p", "why", `${night.figures.steps} steps, ${night.figures.tokens} tokens; ${parts.join(", ")}`));
  }
  item.querySelector("button")?.remove();
  item.append(box);
}

function told({ statement, recalled }) {
  return recalled === null ? statement : `${statement} (${Math.round(recalled * 100)} % of its questions)`;
}

function list(title, lines) {
  if (!lines.length) return "";
  const box = element("details");
  box.append(element("summary", "", `${title} (${lines.length})`));
  const inner = element("ul");
  inner.append(...lines.map((line) => element("li", "", line)));
  box.append(inner);
  return box;
}

function table(marks) {
  const arms = ARMS.filter((arm) => marks[arm]);
  const made = element("table");
  const head = element("tr");
  head.append(element("th", "", "exam"), ...arms.map((arm) => element("th", "", arm)));
  made.append(head);
  for (const name of Object.keys(marks.candidate)) {
    const row = element("tr");
    const figures = arms.map((arm) => marks[arm][name]);
    if (figures.every((figure) => figure === null)) continue;
    row.append(element("td", "", name.replaceAll("_", " ")));
    row.append(...figures.map((figure) => element("td", "", figure === null ? "–" : figure.toFixed(3))));
    made.append(row);
  }
  return made;
}

// The loss of every step, as a line.
function curve(points) {
  const most = Math.max(...points.map(([, loss]) => loss));
  const picture = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  picture.setAttribute("viewBox", "0 0 300 60");
  picture.setAttribute("role", "img");
  picture.setAttribute("aria-label", `loss from ${points[0][1].toFixed(2)} to ${points.at(-1)[1].toFixed(2)}`);
  const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  line.setAttribute("points", points.map(([, loss], n) => `${(300 * n) / points.length},${60 - (58 * loss) / most}`).join(" "));
  picture.append(line);
  return picture;
}

async function act(method, path, body) {
  $("sleep-failed").textContent = "";
  try {
    await call(method, path, { body });
    await showSleep();
  } catch (error) {
    $("sleep-failed").textContent = error instanceof Refused ? error.message : "The service cannot be reached.";
  }
}

$("sleep-now").addEventListener("click", () => act("POST", "/v1/sleep", {}));
$("roll-back").addEventListener("click", () => act("POST", "/v1/adapters/rollback"));
