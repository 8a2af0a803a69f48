// Jobs in lists: status, progress, the table that refreshes itself, the page of all jobs.

import { get, learnNames, names, query } from "./api.js";
import { h, keyed, link, number, problem, quiet, row, select, set, sleep, table, worker } from "./dom.js";
import { KIND_NAMES, count, duration, digits, kindName, lossName, mainMetric, percent, plural, ratio, shared, shortId, when, words } from "./format.js";

const STATUSES = ["queued", "running", "canceling", "succeeded", "failed", "canceled"];
const SIGNS = { queued: "◌", running: "▸", canceling: "▸", succeeded: "✓", failed: "✕", canceled: "–" };
export const ended = (job) => ["succeeded", "failed", "canceled"].includes(job.status);

export const jobTitle = (job) => job.name || `${kindName(job.kind)} ${names.get(job.request.model) || shortId(job.id)}`;

const told = (parts) => parts.filter(Boolean).join(", ");

/** What a job was asked for, in a line. */
export function gist({ kind, params }, result) {
  const epochs = (training) => training?.epochs > 0 && `${training.epochs} epoch${training.epochs === 1 ? "" : "s"}`;
  const of = {
    train: () => [epochs(params), params.weights === "reinitialize" && "fresh weights"],
    prune: () => [words(params.granularity || "channel"), ...Object.entries(params.target || {}).map(([name, value]) => value.metric ? `${words(value.metric)} worse by ${digits(value.by)} at most` : `${words(name)} ${digits(value)}`),
      params.schedule?.steps > 1 && `${params.schedule.steps} cuts`,
      params.granularity === "n_m" && `${params.n ?? 2} of ${params.m ?? 4}`, params.criterion !== "magnitude" && words(params.criterion || ""), epochs(params.finetune)],
    distill: () => [params.student?.model ? "another model" : told([params.student?.width && `width ${params.student.width}`, params.student?.depth && `depth ${params.student.depth}`]),
      (result?.distill?.losses || params.losses || []).map((loss) => lossName(loss.name)).join(" + "), epochs(params.finetune)],
    search: () => [words(params.strategy?.name || "tpe"), params.trials && `${params.trials} trials`],
    pipeline: () => [(params.steps || []).map((step) => kindName(step.kind).toLowerCase()).join(", then ")],
  }[kind];
  return of ? told(of()) : "";
}

/** A status as a sign, a colour and a word. */
export const statusMark = (status) => h("span", { class: `status ${status}` }, h("span", { "aria-hidden": "true" }, SIGNS[status] || "•"), " ", words(status));

export function progressText(job) {
  if (job.status === "queued") return job.queue_position ? `number ${job.queue_position} in the queue` : "in the queue";
  const { progress } = job;
  if (!progress) return "starting";
  const parts = [words(progress.phase)];
  if (progress.epochs) parts.push(`epoch ${progress.epoch || 0} of ${progress.epochs}`);
  else if (progress.steps) parts.push(`step ${progress.step || 0} of ${progress.steps}`);
  if (progress.eta_seconds > 0) parts.push(`about ${duration(progress.eta_seconds)} to go`);
  return parts.join(", ");
}

export function progressBar(job) {
  const fraction = job.progress?.fraction || 0;
  return h("span", { class: "bar-line" },
    h("progress", { value: fraction, max: 1, "aria-label": `Progress of ${jobTitle(job)}` }), " ", percent(fraction));
}

/** What a job came to, in one cell. */
function outcome(job) {
  if (job.status === "queued") return quiet(progressText(job));
  if (!ended(job)) return [progressBar(job), quiet(progressText(job))];
  if (job.error && job.status === "failed") return h("span", { class: "error" }, job.error.title);
  const { before, after } = job.result || {};
  const figures = (after || before)?.metrics;
  const metric = figures && mainMetric(figures);
  if (!metric) return "";
  const was = after && before.metrics[metric];
  const warnings = job.result.warnings?.length;
  return [`${words(metric)} ${digits(figures[metric])}`, warnings > 0 && h("span", { class: "error" }, ` ⚠ ${plural(warnings, "warning")}`), was !== undefined && was !== null && quiet(`before ${digits(was)}`)];
}

const change = (job, key) => {
  const { before, after } = job.result || {};
  if (!before) return h("td", { class: "number" }, "");
  return number((after || before)[key], count, after && before[key] ? quiet(`${ratio(after[key] / before[key])} of ${count(before[key])}`) : null);
};

export function jobsTable(caption, chosen, none = "No jobs here yet.") {
  const body = h("tbody");
  let twice = shared([]);
  // What is called alike is told apart by its id.
  const apart = (job) => twice(jobTitle(job)) && ` ${shortId(job.id)}`;
  const columns = [...(chosen ? [{ label: "Choose", hide: true }] : []), "Job", { label: "Status", wide: true }, "Progress or quality",
    { label: "Parameters", number: true }, { label: "MACs", number: true }, "Created"];
  const cells = (job) => [
    ...(chosen ? [h("td", null, h("input", {
      type: "checkbox", "aria-label": `Compare ${jobTitle(job)}`, checked: chosen.has(job.id),
      onchange: (event) => chosen.toggle(job.id, event.target.checked),
    }))] : []),
    h("th", { scope: "row" }, link(`#/jobs/${job.id}`, jobTitle(job)),
      apart(job), quiet(told([kindName(job.kind), gist(job.request)]), job.attempt > 1 && `, attempt ${job.attempt} of ${job.max_attempts}`), h("span", { class: "narrow" }, statusMark(job.status))),
    h("td", { class: "wide" }, statusMark(job.status)), h("td", { class: "outcome" }, outcome(job)),
    change(job, "nonzero_parameters"), change(job, "macs"), h("td", { class: "time" }, when(job.created_at)),
  ];
  const empty = h("p", { class: "quiet empty" }, none);
  const view = table(caption, columns, [], { body, class: "jobs" });
  return {
    element: h("div", null, view, empty),
    show(jobs) {
      twice = shared(jobs.map(jobTitle));
      empty.hidden = jobs.length > 0;
      view.hidden = jobs.length === 0;
      keyed(body, jobs, (job) => JSON.stringify([job.status, job.progress, job.queue_position, job.name, job.attempt, names.get(job.request.model), apart(job)]),
        (job) => row(cells(job)));
    },
  };
}

/** A list of pages, the first of which is read again and again: new rows come in, deleted ones leave. */
export function pagedList(path, signal) {
  let rows = [];
  let next = null;
  return {
    get rows() { return rows; },
    get more() { return next !== null; },
    async refresh(limit = 20) {
      const page = await get(path({ limit }), signal);
      const ids = new Set(page.data.map((item) => item.id));
      const last = page.data.at(-1);
      // Ids grow with time, so what is older than the page is still as it was.
      const older = page.next_cursor && last ? rows.filter((item) => item.id < last.id && !ids.has(item.id)) : [];
      if (older.length === 0) next = page.next_cursor;
      rows = [...page.data, ...older];
    },
    async showMore() {
      const page = await get(path({ limit: 20, cursor: next }), signal);
      next = page.next_cursor;
      const ids = new Set(rows.map((item) => item.id));
      rows = [...rows, ...page.data.filter((item) => !ids.has(item.id))];
    },
  };
}

/** Calls `work` again and again while the page is looked at: every second when it answers that something is going on. */
export async function repeat(work, signal, onerror) {
  while (!signal.aborted) {
    let busy = false;
    if (!document.hidden) {
      try {
        busy = await work();
        onerror?.(null);
      } catch (error) {
        if (signal.aborted || error.name === "AbortError") return;
        onerror?.(error);
        // A server that is busy or away isn't helped by being asked each second.
        if (error.status === 401) return;
        await sleep(5000, signal);
      }
    }
    await sleep(busy ? 1000 : 4000, signal);
  }
}

export async function jobsPage({ query: given, signal }) {
  const filter = { status: given.get("status") || "", kind: given.get("kind") || "", model: given.get("model") || "", dataset: given.get("dataset") || "", tag: given.get("tag") || "" };
  const picked = new Set();
  const compare = h("a", { class: "button", hidden: true }, "");
  const none = h("span", { class: "quiet" }, "Choose jobs to compare them.");
  const chosen = {
    has: (id) => picked.has(id),
    toggle(id, on) {
      if (on) picked.add(id);
      else picked.delete(id);
      compare.hidden = picked.size < 1;
      none.hidden = picked.size > 0;
      compare.textContent = `Compare ${picked.size}`;
      compare.href = `#/compare?jobs=${[...picked].join(",")}`;
    },
  };
  const list = pagedList((page) => "v1/jobs" + query({ ...filter, ...page }), signal);
  const view = jobsTable("Jobs, the newest first", chosen, Object.values(filter).some(Boolean) ? "No job is like that." : undefined);
  const faults = h("div");
  const more = worker("Show more", async () => { await list.showMore(); draw(); });
  const draw = () => { view.show(list.rows); more.hidden = !list.more; };
  const refresh = async () => {
    await list.refresh();
    draw();
    if (await learnNames("models", list.rows.map((job) => job.request.model), signal)) draw();
    return list.rows.some((job) => !ended(job));
  };
  const goTo = (key) => (value) => { location.hash = `#/jobs${query({ ...filter, [key]: value })}`; };
  const filters = h("div", { class: "filters" },
    select("Status", [["", "all"], ...STATUSES], filter.status, goTo("status")),
    select("Kind", [["", "all"], ...Object.entries(KIND_NAMES).filter(([kind]) => kind !== "quantize" || filter.kind === kind)], filter.kind, goTo("kind")),
    filter.model && h("span", { class: "quiet" }, "of one model, ", link(`#/jobs${query({ ...filter, model: "" })}`, "all models")),
    filter.dataset && h("span", { class: "quiet" }, "of one data set, ", link(`#/jobs${query({ ...filter, dataset: "" })}`, "all data sets")),
    h("span", { class: "push" }, none, compare));
  await list.refresh();
  draw();
  return {
    title: "Jobs",
    content: [filters, faults, view.element, more],
    start: () => repeat(refresh, signal, (error) => set(faults, error && problem(error))),
  };
}

