// What every part of the page needs: the service, and elements.

export const $ = (id) => document.getElementById(id);
const KEY = "slowwave-key";

// --- talking to the service --------------------------------------------------------------------------------------

export class Refused extends Error {}

// `body` is sent as JSON, `octets` as they are.
export async function call(method, path, { body, octets, headers, signal } = {}) {
  const key = sessionStorage.getItem(KEY);
  const answer = await fetch(path, {
    method,
    signal,
    headers: {
      ...(body === undefined ? {} : { "Content-Type": "application/json" }),
      ...(octets === undefined ? {} : { "Content-Type": "application/octet-stream" }),
      ...headers,
      ...(key ? { Authorization: `Bearer ${key}` } : {}),
    },
    body: body === undefined ? octets : JSON.stringify(body),
  });
  if (answer.status === 401) {
    // Asked before a key was given, answered after: the one given since will do.
    if (sessionStorage.getItem(KEY) === key) await askForKey();
    return call(method, path, { body, octets, headers, signal });
  }
  if (!answer.ok) {
    const said = await answer.json().catch(() => null);
    throw new Refused(said?.error?.message ?? `The service answered ${answer.status}.`);
  }
  return answer;
}

function askForKey() {
  const dialog = $("key-dialog");
  if (!dialog.open) dialog.showModal();
  return new Promise((resolve, reject) => {
    dialog.addEventListener("close", () => {
      const key = $("key").value;
      if (!key) return reject(new Refused("An API key is needed."));
      sessionStorage.setItem(KEY, key);
      resolve();
    }, { once: true });
  });
}

// Server-sent events of an answer: yields [name, data].
export async function* events(answer) {
  let text = "";
  for await (const piece of answer.body.pipeThrough(new TextDecoderStream())) {
    text += piece;
    let end;
    while ((end = text.indexOf("\n\n")) >= 0) {
      const block = text.slice(0, end);
      text = text.slice(end + 2);
      const name = /^event: (.*)$/m.exec(block)?.[1];
      const data = /^data: (.*)$/m.exec(block)?.[1];
      if (data !== undefined) yield [name, JSON.parse(data)];
    }
  }
}

// --- elements ----------------------------------------------------------------------------------------------------

export function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}
