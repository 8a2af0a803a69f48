// The API: calls with the key, problems as errors, lists, uploads with progress, server-sent events.

import { dialog, h } from "./dom.js";

class ApiError extends Error {
  constructor(status, problem) {
    super(problem?.detail || `The server answered ${status}.`);
    this.status = status;
    this.problem = problem;
  }
}

const KEY = "sinter-key";
let key = sessionStorage.getItem(KEY);
let asking = null;

export const hasKey = () => Boolean(key);
const authorization = () => key ? { Authorization: `Bearer ${key}` } : {};

/** Asks for the key; one dialog for all calls that wait for it. */
export function askForKey(refused) {
  asking ??= (async () => {
    const field = h("input", { id: "secret", type: "password", autocomplete: "off", required: true, spellcheck: "false" });
    const answer = await dialog("Key", [
      h("p", null, refused ? "The server did not take this key. Another one:" : "This server needs a key. It is kept until this tab is closed."),
      h("label", { for: "secret" }, "Key"), field,
    ], [["Cancel", ""], ["Use key", "use", "primary"]]);
    asking = null;
    if (answer !== "use" || !field.value.trim()) throw new ApiError(401, { title: "Unauthorized", detail: "This server needs a key.", code: "unauthorized" });
    key = field.value.trim();
    sessionStorage.setItem(KEY, key);
    dispatchEvent(new Event("sinter-key"));
  })().finally(() => { asking = null; });
  return asking;
}

/** Waits for another key than the one that was refused. */
async function otherKey(used) {
  dispatchEvent(new Event("sinter-key"));
  if (key === used) await askForKey(Boolean(used));
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** A call; the answer when it is 2xx, an `ApiError` otherwise. */
export async function call(path, { method = "GET", body, headers, signal } = {}) {
  for (;;) {
    const used = key;
    let response;
    try {
      response = await fetch(path, { method, body, signal, cache: "no-store", headers: { ...authorization(), ...headers } });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error("The server can't be reached.");
    }
    if (response.ok) return response;
    const text = await response.text();
    if (response.status !== 401) throw new ApiError(response.status, parsed(text));
    await otherKey(used);
  }
}

export const get = async (path, signal) => (await call(path, { signal })).json();
export const remove = (path) => call(path, { method: "DELETE" });
export const patch = (path, change) => call(path, { method: "PATCH", body: JSON.stringify(change), headers: { "Content-Type": "application/json" } });
export const post = (path, text) => call(path, { method: "POST", body: text, headers: text ? { "Content-Type": "application/json" } : {} });

export function query(parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return given.length ? `?${new URLSearchParams(given)}` : "";
}

/** All pages of a list, up to a bound that keeps a form usable. */
export async function all(path, most = 500, signal) {
  const rows = [];
  let cursor = null;
  do {
    const page = await get(path + query({ limit: 100, cursor }), signal);
    rows.push(...page.data);
    cursor = page.next_cursor;
  } while (cursor && rows.length < most);
  return rows;
}

/** Names of models and data sets that were seen, by id. */
export const names = new Map();
export const learn = (rows) => { for (const row of rows) names.set(row.id, row.name); return rows; };

/** Looks up the names that are missing; what was deleted stays without one. */
export async function learnNames(folder, ids, signal) {
  const missing = [...new Set(ids)].filter((id) => id && !names.has(id)).slice(0, 50);
  await Promise.all(missing.map(async (id) => {
    try {
      learn([await get(`v1/${folder}/${id}`, signal)]);
    } catch (error) {
      if (error.status === 404) names.set(id, null);
    }
  }));
  return missing.length > 0;
}

/** An upload with its progress, which `fetch` can't tell. */
export function upload(path, form, { onprogress, signal }) {
  return new Promise((resolve, reject) => {
    const used = key;
    const request = new XMLHttpRequest();
    request.open("POST", path);
    for (const [name, value] of Object.entries(authorization())) request.setRequestHeader(name, value);
    request.upload.addEventListener("progress", (event) => onprogress(event.lengthComputable ? event.loaded / event.total : null, event.loaded));
    request.addEventListener("load", () => {
      if (request.status < 300) resolve(parsed(request.responseText));
      else if (request.status === 401) otherKey(used).then(() => upload(path, form, { onprogress, signal })).then(resolve, reject);
      else reject(new ApiError(request.status, parsed(request.responseText)));
    });
    request.addEventListener("error", () => reject(new Error("The connection broke during the upload.")));
    request.addEventListener("abort", () => reject(new DOMException("The upload was cancelled.", "AbortError")));
    signal?.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}

/** Saves a file that only a call with the key gets. */
export async function save(path, name) {
  const blob = await (await call(path)).blob();
  const anchor = h("a", { href: URL.createObjectURL(blob), download: name });
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(anchor.href), 60000);
}

/**
 * Shows a report, which only a call with the key gets, in a tab of its own. The tab has this page's policy, which knows no
 * styles within a document: it gets those that the server has for reports.
 */
export async function showReport(path) {
  const text = await (await call(path)).text();
  const sheet = `<link rel="stylesheet" href="${new URL("assets/report.css", document.baseURI).href}">`;
  const blob = new Blob([text.replace(/<style>[^]*?<\/style>/, () => sheet)], { type: "text/html;charset=utf-8" });
  const address = URL.createObjectURL(blob);
  const tab = open(address, "_blank");
  if (!tab) {
    URL.revokeObjectURL(address);
    throw new Error("The browser did not open a tab: allow pop-ups here, or download the file.");
  }
  // What is shown has no business with this page; its address stays, so that the tab can be loaded again.
  tab.opener = null;
}

/** Follows server-sent events until the server ends the stream. */
export async function follow(path, lastId, onevent, signal) {
  const headers = { Accept: "text/event-stream", ...(lastId ? { "Last-Event-ID": String(lastId) } : {}) };
  const response = await call(path, { headers, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const data = block.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5)).join("\n");
      if (data) onevent(JSON.parse(data));
    }
  }
}
