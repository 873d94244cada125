// A session's state: put away, brought back, branched; sent in a file, and files taken in after a look at them.

import { $, call, element, Refused } from "./service.js";

const HEADER = (1 << 20) + 8; // the most that a file's header has
const PIECE = 8 << 20;
let current = () => null;
let show = async () => {};
let chosen = null; // the file that is looked at

export function carry({ session, open }) {
  current = session;
  show = open;
}

export async function showCarry() {
  const id = current();
  for (const button of $("carry").querySelectorAll("[data-needs-session]")) button.disabled = id === null;
  $("carry-failed").textContent = "";
  if (id === null) {
    $("carry-state").textContent = "Choose a session, or take one in.";
    $("carry-log").replaceChildren();
    return;
  }
  const [found, log] = await Promise.all(
    ["", "/checkpoints"].map(async (more) => (await call("GET", `/v1/sessions/${id}${more}`)).json()),
  );
  if (id !== current()) return; // another session was opened meanwhile, and shows itself
  const waits = found.unfinished ? "; a reply waits to go on" : "";
  $("carry-state").textContent = `“${found.preview || id}”: ${found.state}, ${found.context_tokens} tokens${waits}`;
  const rows = log.data.map(row).reverse();
  $("carry-log").replaceChildren(...(rows.length ? rows : [element("li", "empty", "Nothing has become of its state yet.")]));
}

function row(one) {
  const item = element("li", "event");
  const size = `${(one.bytes / 1e6).toFixed(1)} MB`;
  const what = [one.event, one.how, one.codec, `${one.tokens} tokens`, size, `${Math.round(one.seconds * 1000)} ms`];
  item.append(element("p", "text", what.filter(Boolean).join(", ")));
  item.append(element("p", "why", [new Date(one.at).toLocaleString(), one.why].filter(Boolean).join(": ")));
  return item;
}

// --- the session that is open ------------------------------------------------------------------------------------

// One at a time: else what an earlier one shows when it is done wipes a later one's refusal away. It is done to
// the session that was open when it was asked for.
let last = Promise.resolve();

function act(work) {
  const id = current();
  const done = last.then(async () => {
    try {
      await work(id);
      await showCarry();
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      $("carry-failed").textContent = error.message;
    }
  });
  last = done.catch(() => {}); // the page says it; the next one is not held up
  return done;
}

const suspend = () => act((id) => call("POST", `/v1/sessions/${id}/suspend`));

const resume = () => act(async (id) => {
  const done = await (await call("POST", `/v1/sessions/${id}/resume`, { body: {} })).json();
  if (done.reply) await show(id);
});

const fork = () => act(async (id) => {
  const made = await (await call("POST", `/v1/sessions/${id}/fork`)).json();
  await show(made.id);
});

const exportFile = () => act(async (id) => {
  const answer = await call("GET", `/v1/sessions/${id}/checkpoint?codec=${$("codec").value}`);
  const link = element("a");
  link.href = URL.createObjectURL(await answer.blob());
  link.download = `${id}.slowwave`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
});

// --- a file from elsewhere ---------------------------------------------------------------------------------------

const SIGNED = {
  own: "signed by this service",
  trusted: "signed by somebody you trust",
  unknown: "signed by a key that you have not named",
  unsigned: "not signed",
};

const look = () => act(async () => {
  chosen = $("carry-file").files[0] ?? null;
  $("carry-preview").replaceChildren();
  $("take-in").disabled = true;
  if (!chosen) return;
  const octets = chosen.slice(0, HEADER);
  const seen = await (await call("POST", `/v1/checkpoints/look?bytes=${chosen.size}`, { octets })).json();
  const { session, identity, codec, made } = seen.manifest;
  const facts = {
    made: new Date(made).toLocaleString(),
    session: session ? `${session.messages} messages, begun ${new Date(session.began).toLocaleString()}` : "none",
    signature: `${SIGNED[seen.signature]}${seen.signer ? ` (${seen.signer.slice(0, 16)}…)` : ""}`,
    read: `${identity.dtype} on ${identity.device}, codec ${codec.name}, ${(seen.bytes / 1e6).toFixed(1)} MB`,
    here: `${seen.how}: ${seen.why}`,
    ...(seen.refused ? { refused: seen.refused } : {}),
  };
  for (const [name, value] of Object.entries(facts)) {
    $("carry-preview").append(element("dt", "", name), element("dd", "", value));
  }
  $("take-in").disabled = Boolean(seen.refused);
});

const takeIn = () => act(async () => {
  const bar = $("carry-progress");
  const { upload } = await (await call("POST", "/v1/checkpoints/uploads", { body: { bytes: chosen.size } })).json();
  const path = `/v1/checkpoints/uploads/${upload}`;
  bar.hidden = false;
  try {
    for (let at = 0; at < chosen.size;) {
      const octets = chosen.slice(at, at + PIECE);
      ({ offset: at } = await (await call("PATCH", path, { octets, headers: { "Upload-Offset": String(at) } })).json());
      bar.value = at / chosen.size;
    }
    const done = await (await call("POST", `${path}/import`)).json();
    $("carry-file").value = "";
    $("carry-preview").replaceChildren();
    $("take-in").disabled = true;
    await show(done.session);
  } finally {
    bar.hidden = true;
  }
});

$("suspend").addEventListener("click", suspend);
$("resume").addEventListener("click", resume);
$("fork").addEventListener("click", fork);
$("export").addEventListener("click", exportFile);
$("carry-file").addEventListener("change", look);
$("take-in").addEventListener("click", takeIn);
