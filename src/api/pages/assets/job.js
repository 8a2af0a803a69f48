// One job: live progress, events and curves while it runs, results, files, its request.

import { follow, get, learnNames, names, post, query, remove, save, showReport } from "./api.js";
import { announce, button, confirmed, copy, h, link, marked, number, problem, quiet, scroller, section, set, sleep, table, worker } from "./dom.js";
import { bytes, clock, inForms, kindName, plural, pretty, shortId, when, words } from "./format.js";
import { ended, gist, jobTitle, progressBar, progressText, statusMark } from "./jobs.js";
import { fileName } from "./lists.js";

function actions(job, reload) {
  const path = `v1/jobs/${job.id}`;
  return [
    !ended(job) && job.status !== "canceling" && worker("Cancel", async () => {
      if (!await confirmed(`Cancel “${jobTitle(job)}”?`, "What it has done so far is kept as a checkpoint for a retry.", "Cancel the job")) return;
      await post(`${path}/cancel`);
      await reload();
    }),
    ["failed", "canceled"].includes(job.status) && worker("Retry", async () => { await post(`${path}/retry`); await reload(); }),
    h("a", { class: "button", href: `#/new/${job.kind}?from=${job.id}` }, "Submit again with changes"),
    ended(job) && worker("Delete", async () => {
      if (!await confirmed(`Delete “${jobTitle(job)}”?`, "Its artifacts and curves go with it. A model that it made stays.", "Delete the job")) return;
      await remove(path);
      location.hash = "#/jobs";
    }),
    job.status === "succeeded" && h("a", { class: "button", href: `#/compare?jobs=${job.id}` }, "Compare…"),
  ];
}

function facts(job) {
  const { request } = job;
  const entry = (term, ...value) => h("div", null, h("dt", null, term), h("dd", null, value));
  return h("dl", { class: "facts wide" },
    entry("Kind", kindName(job.kind)),
    entry("Model", link(`#/models/${request.model}`, names.get(request.model) || shortId(request.model))),
    gist(request, job.result) && entry("Asked for", gist(request, job.result)),
    request.dataset && entry("Data set", names.get(request.dataset) === null ? `deleted, ${shortId(request.dataset)}` : link(`#/datasets/${request.dataset}`, names.get(request.dataset) || shortId(request.dataset))),
    entry("Created", when(job.created_at)),
    job.started_at && entry("Started", when(job.started_at)),
    job.finished_at && entry("Ended", when(job.finished_at)),
    job.attempt > 1 && entry("Attempt", `${job.attempt} of ${job.max_attempts}`),
    Object.keys(request.tags || {}).length > 0 && entry("Tags", Object.entries(request.tags).map(([key, value]) => `${key}: ${value}`).join(", ")),
    entry("Id", h("code", null, job.id)));
}

/** A button that reads the data set with its classes in the order in which the model has them, and leads to the same job on that,
    with another preparation where that is wrong, too. */
function reorderer(job, { order, preprocess }) {
  return worker("Read the data set in this order", async () => {
    const { name, target, digest } = await get(`v1/datasets/${job.request.dataset}`);
    if (job.result?.environment.data?.label_map) throw new Error("The classes were matched by their names already: either the data set or the model calls them otherwise than they are.");
    if (!target?.class_names || target.numbered || target.class_names.length > order.length) throw new Error("The labels of this data set are numbers, or other classes than the model's: upload it with the labels as the model numbers them.");
    const classes = [];
    // Outputs of which there is no example are called something, too.
    order.forEach((said, label) => { classes[said] = target.class_names[label] ?? `output ${said}`; });
    const called = `${name}, classes as the model has them`.slice(0, 200);
    const { data: there } = await get(`v1/datasets${query({ name: called })}`);
    const same = there.find((one) => one.digest === digest && one.target?.class_names?.join() === classes.join());
    const made = same || await (await post(`v1/datasets${query({ files_of: job.request.dataset, name: called, classes: JSON.stringify(classes) })}`)).json();
    location.hash = `#/new/${job.kind}${query({ from: job.id, dataset: made.id, preprocess: preprocess && JSON.stringify(preprocess) })}`;
  });
}

/** A signal that also ends when the page is hidden: a browser has few connections for all its tabs. */
function whileSeen(signal) {
  const ending = new AbortController();
  const hide = () => { if (document.hidden) ending.abort(); };
  document.addEventListener("visibilitychange", hide, { signal: ending.signal });
  signal.addEventListener("abort", () => ending.abort(), { signal: ending.signal });
  return ending.signal;
}

/** The log; events come by the stream, or by asking where the stream can't be had. */
function eventLog(job, signal, wake, judge, warn) {
  const list = h("ol", { class: "log" });
  const seen = new Set();
  let last = null;
  const take = (event) => {
    if (seen.has(event.id)) return;
    seen.add(event.id);
    last = event.id;
    list.append(h("li", { class: event.level }, h("time", { datetime: event.at, title: event.at }, clock(event.at)), " ",
      event.level !== "info" && h("strong", null, `${event.level}: `), event.message, " ", h("code", null, event.type)));
    const box = list.parentElement;
    if (box && box.scrollHeight - box.scrollTop - box.clientHeight < 120) box.scrollTop = box.scrollHeight;
    // Trials that fail are told in their table.
    if (event.level === "warning" && event.type !== "trial_done") warn(event);
    if (event.type === "trial_done") judge(event);
    if (event.type.startsWith("job_")) wake();
  };
  let running = false;
  let again = false;
  async function run() {
    // A retry may come while the stream of the attempt before is about to end.
    again = true;
    if (running) return;
    running = true;
    while (again) {
      again = false;
      await read();
    }
    running = false;
  }
  async function read() {
    let cursor = null;
    for (let tries = 0; !signal.aborted;) {
      const seenNow = whileSeen(signal);
      try {
        if (document.hidden) {
          await sleep(1000, signal);
          continue;
        }
        if (tries < 3) {
          await follow(`v1/jobs/${job.id}/events`, last, take, seenNow);
          return;
        }
        const page = await get(`v1/jobs/${job.id}/events${query({ limit: 100, cursor })}`, signal);
        page.data.forEach(take);
        cursor = page.next_cursor || cursor;
        if (!page.next_cursor && page.data.some((event) => /^job_(succeeded|failed|canceled)$/.test(event.type))) return;
      } catch (error) {
        if (signal.aborted || error.status === 401 || error.status === 404) return;
        if (seenNow.aborted) continue;
        tries += 1;
      }
      await sleep(2000, signal);
    }
  }
  return { element: section("Events", null, scroller("Log of events", list)), run };
}

const artifactPath = (job, artifact) => `v1/jobs/${job.id}/artifacts/${encodeURIComponent(artifact.name)}`;
const download = (job, artifact) => worker("Download", () => save(artifactPath(job, artifact), `${fileName(jobTitle(job))}-${artifact.name}`), { "aria-label": `Download ${artifact.name}` });

async function files(job, signal) {
  const { data } = await get(`v1/jobs/${job.id}/artifacts`, signal);
  return data.length > 0 && section("Artifacts", null, table("Files of the job", ["File", { label: "Size", number: true }, { label: "SHA-256", wide: true }, { label: "Actions", hide: true }],
    data.map((artifact) => [h("code", null, artifact.name), number(artifact.size_bytes, bytes),
      h("td", { class: "wide" }, h("code", { title: artifact.digest }, `${artifact.digest.replace("sha256:", "").slice(0, 12)}…`)),
      h("td", { class: "actions-cell" }, artifact.name === "report.html" && [worker("Open", () => showReport(artifactPath(job, artifact)), { "aria-label": "Open the report in another tab" }), " "], download(job, artifact))])));
}

async function deliveries(job, signal) {
  const { data } = await get(`v1/jobs/${job.id}/deliveries`, signal);
  const place = h("div");
  const draw = (rows) => set(place, table("Messages to webhooks and MLflow", ["Event", "To", "Status", { label: "Tries", number: true }, "Last answer", { label: "Actions", hide: true }],
    rows.map((one) => [words(one.event), one.url || one.target, statusMark(one.status), number(one.attempts, String),
      one.last_error || (one.response_status ? String(one.response_status) : "–"),
      h("td", null, worker("Send again", async () => {
        await post(`v1/jobs/${job.id}/deliveries/${one.id}/resend`);
        draw((await get(`v1/jobs/${job.id}/deliveries`, signal)).data);
      }))])));
  if (data.length === 0) return null;
  draw(data);
  return section("Deliveries", null, place);
}

function requestView(job) {
  const text = pretty(job.request);
  const control = button("Copy", () => copy(text, control));
  return h("details", { class: "request" }, h("summary", null, "Request as JSON"), h("div", { class: "actions" }, control), scroller("The request", h("pre", null, text)));
}

export async function jobPage({ args: [id], signal }) {
  const path = `v1/jobs/${encodeURIComponent(id)}`;
  let job = await get(path, signal);
  await Promise.all([learnNames("models", [job.request.model, job.result?.model], signal), job.request.dataset && learnNames("datasets", [job.request.dataset], signal)]);

  const status = h("div", { class: "state" });
  const controls = h("div", { class: "actions" });
  const faults = h("div");
  const outcome = h("div");
  const curveBox = h("section", { "aria-label": "Curves", hidden: true });
  const after = h("div");
  const info = h("div");
  let wake = () => {};
  const warnings = h("ul", { class: "warnings", "aria-label": "Warnings", hidden: true });
  const warned = new Set();
  // By number: what was judged since the last checkpoint is told again by the attempt that goes on.
  const judged = new Map();
  const events = eventLog(job, signal, () => wake(), ({ data }) => { if (data && !data.control) judged.set(data.trial, data); drawTrials(); }, ({ message, data }) => {
    // An attempt that goes on says it again.
    if (warned.has(message)) return;
    warned.add(message);
    warnings.hidden = false;
    const advice = data?.order ? reorderer(job, data) : data?.preprocess && h("a", { class: "button", href: `#/new/${job.kind}${query({ from: job.id, preprocess: JSON.stringify(data.preprocess) })}` }, "Submit again so");
    warnings.append(h("li", null, h("strong", null, "Warning: "), marked(inForms(message)), advice && " ", advice));
  });
  let shownStatus = null;
  let plots = null;
  let time = null;
  let timed = [0, 0];
  const trials = h("div");
  /** Trials of a search that has no result to show; many may come at once. */
  let drawing = false;
  async function drawTrials() {
    if (drawing) return;
    drawing = true;
    let trialsSoFar;
    try {
      ({ trialsSoFar } = await import("./results.js"));
    } catch {
      // It is tried again at the next trial.
      return;
    } finally {
      drawing = false;
    }
    set(trials, job.status === "succeeded" ? null : trialsSoFar([...judged.values()], job.request.params));
  }

  function draw() {
    if (job.status === "succeeded") set(trials);
    // One estimate after the other swings with each epoch.
    const left = job.progress?.eta_seconds;
    const fresh = timed[0] !== job.attempt || Date.now() - timed[1] > 3000;
    timed = [job.attempt, Date.now()];
    time = left > 0 ? time === null || fresh || left < 10 ? left : 0.8 * time + 0.2 * left : null;
    if (time !== null) job.progress.eta_seconds = time;
    set(status, h("p", { class: "bar-line" }, statusMark(job.status), " ", !ended(job) && job.status !== "queued" && progressBar(job),
      !ended(job) && h("span", { class: "quiet" }, " ", progressText(job), job.kind === "search" && job.progress?.phase === "trial" && `, ${plural(judged.size, "trial")}${["successive_halving", "hyperband"].includes(job.request.params.strategy?.name) ? "" : ` of ${job.request.params.trials}`} judged`)), job.error && problem({ problem: job.error }, { role: null }));
    if (job.status === shownStatus) return;
    if (shownStatus) announce(`Job ${words(job.status)}`);
    // A retry goes on where the stream had ended.
    if (shownStatus && !ended(job)) events.run();
    shownStatus = job.status;
    const focused = controls.contains(document.activeElement);
    set(controls, actions(job, reload));
    if (focused) controls.querySelector("button, a").focus();
    set(info, facts(job));
  }

  async function drawCurves() {
    const { data } = await get(`${path}/metrics`, signal);
    if (data.every(({ points }) => points.length === 0)) return;
    const { curves } = await import("./charts.js");
    if (!plots) {
      plots = curves(signal);
      curveBox.hidden = false;
      const tried = data.some(({ name }) => name.includes("/trial")) || job.request.params.target?.max_accuracy_drop !== undefined || job.request.params.target?.max_worsening !== undefined;
      const beside = data.some(({ name }) => name.startsWith("control/"));
      set(curveBox, h("h2", null, "Curves"),
        beside && quiet("The loss of a student that is taught is the weighted sum of all its losses, that of the control the labels' alone: different figures. The table of figures compares both by the same."),
        tried && quiet("Each model that was tried has its own fine-tuning: the curves have one behind the other, and the last is not always the one that was chosen."),
        plots.element);
    }
    await plots.show(data);
  }

  async function drawEnd() {
    set(outcome);
    if (job.status === "succeeded") {
      const { results } = await import("./results.js");
      await learnNames("models", [job.result.model], signal);
      set(outcome, await results(job, signal));
    }
    set(after, await files(job, signal), await deliveries(job, signal));
  }

  let asked = 0;
  let answered = 0;
  /** Reads the job again; an answer that was overtaken by a later one is dropped. */
  async function refresh() {
    const turn = asked += 1;
    const answer = await get(path, signal);
    if (turn < answered) return;
    answered = turn;
    job = answer;
    draw();
  }

  async function reload() {
    await refresh();
    wake();
  }

  async function live() {
    let slow = 0;
    let finished = false;
    while (!signal.aborted) {
      try {
        if (ended(job) && !finished) {
          finished = true;
          await Promise.all([drawEnd(), drawCurves()]);
        } else if (!ended(job)) {
          finished = false;
          if (!document.hidden && Date.now() >= slow && job.status !== "queued") {
            const began = Date.now();
            await drawCurves();
            // Long curves take longer to fetch; they are then fetched less often.
            slow = Date.now() + Math.max(1500, (Date.now() - began) * 8);
          }
        }
        set(faults);
      } catch (error) {
        if (signal.aborted || error.name === "AbortError") return;
        set(faults, problem(error));
      }
      // An ended job changes only by its buttons, which wake this loop.
      const pause = new AbortController();
      wake = () => pause.abort();
      signal.addEventListener("abort", wake);
      await sleep(ended(job) ? 86400000 : 1000, pause.signal);
      signal.removeEventListener("abort", wake);
      wake = () => {};
      if (signal.aborted || (ended(job) && finished) || document.hidden) continue;
      try {
        await refresh();
      } catch (error) {
        if (signal.aborted || error.name === "AbortError") return;
        set(faults, problem(error));
      }
    }
  }

  draw();
  return {
    title: jobTitle(job),
    content: [controls, status, faults, warnings, info, trials, outcome, curveBox, after, events.element, requestView(job)],
    start: () => { live(); events.run(); },
  };
}
