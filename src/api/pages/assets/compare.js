// Several jobs beside each other: one table, one plot.

import { get, learnNames, names, query } from "./api.js";
import { scatter } from "./charts.js";
import { h, link, number, problem, quiet, row, section, select, set, table } from "./dom.js";
import { COSTS, digits, kindName, largerIsBetter, mainMetric, ratio, sentence, shared, shortId, when, words } from "./format.js";
import { gist, jobTitle } from "./jobs.js";

/** Metrics on different test examples say nothing about each other; in the same files test splits of one size are the same examples. */
const judgedOn = ({ request, result }, datasets) => JSON.stringify([datasets.get(request.dataset)?.digest || request.dataset, result.environment.data?.splits.test]);

/** What stands in the table: each job's model, and before them each model that they started from. */
function entries(jobs, datasets, comparable) {
  const starts = new Map();
  const on = ({ request }) => !comparable && request.dataset ? `, on ${datasets.get(request.dataset)?.name || `data set ${shortId(request.dataset)}`}` : "";
  for (const job of jobs.filter(({ result }) => result)) {
    const { model } = job.request;
    if (!job.result.after) continue;
    const key = JSON.stringify([model, judgedOn(job, datasets)]);
    if (!starts.has(key)) starts.set(key, { start: true, label: names.get(model) || `model ${shortId(model)}`, href: `#/models/${model}`, note: `before${on(job)}`, measured: job.result.before });
  }
  const twice = shared(jobs.map(jobTitle));
  return [...starts.values(), ...jobs.filter((job) => job.result).map((job) => ({
    label: twice(jobTitle(job)) ? `${jobTitle(job)} ${shortId(job.id)}` : jobTitle(job), href: `#/jobs/${job.id}`, note: kindName(job.kind) + on(job), measured: job.result.after || job.result.before, before: job.result.after && job.result.before,
  }))];
}

/** What the service says about each data set that is still there. */
async function datasetsOf(jobs, signal) {
  const ids = [...new Set(jobs.map(({ request }) => request.dataset).filter(Boolean))];
  return new Map(await Promise.all(ids.map(async (id) => [id, await get(`v1/datasets/${id}`, signal).catch((error) => { if (error.name === "AbortError") throw error; return null; })])));
}

function comparison(list, comparable) {
  const metrics = [...new Set(list.flatMap((entry) => Object.keys(entry.measured.metrics)))];
  const columns = [...COSTS.map(([, label, format, of]) => ({ label, format, of, larger: false, relative: true, apart: label.startsWith("Latency") })),
    ...metrics.map((metric) => ({ label: sentence(metric), format: digits, of: (m) => m.metrics[metric], larger: largerIsBetter(metric) }))]
    .filter(({ of }) => list.some((entry) => Number.isFinite(of(entry.measured))));
  const best = columns.map(({ of, larger, apart, relative }) => {
    // What is judged on other examples is no rival; costs are the same everywhere.
    if (apart || (!comparable && !relative)) return null;
    const values = list.map((entry) => of(entry.measured)).filter(Number.isFinite);
    const found = larger ? Math.max(...values) : Math.min(...values);
    // Where all are alike, none is the best.
    return values.every((value) => value === values[0]) ? null : found;
  });
  return [columns.some(({ label }) => label.startsWith("Latency")) && list.length > 1 && quiet("Latencies of different jobs were measured at different times, when the machine may have been busy; a ratio is of one job, whose models were measured in turns."),
    !comparable && h("p", null, "These jobs were judged on different data sets or splits: only their costs can be compared."),
    table("Jobs compared; “best” marks the best value of a column, but for latencies", ["Model", ...columns.map(({ label }) => ({ label, number: true }))],
    list.map((entry) => row([
      h("th", { scope: "row" }, link(entry.href, entry.label), quiet(entry.note)),
      ...columns.map(({ of, format, relative }, index) => {
        const value = of(entry.measured);
        const was = entry.before && of(entry.before);
        // What reads the same is as good.
        const won = best[index] !== null && Number.isFinite(value) && format(value) === format(best[index]);
        return number(value, (given) => won ? h("strong", null, format(given)) : format(given), won && h("span", { class: "best" }, " best"),
          relative && was && Number.isFinite(value) ? quiet(ratio(value / was)) : null);
      }),
    ])), { visible: true })];
}

function plot(list) {
  const metrics = [...new Set(list.flatMap((entry) => Object.keys(entry.measured.metrics)))];
  const costs = COSTS.filter(([, , , of]) => list.some((entry) => Number.isFinite(of(entry.measured))));
  if (metrics.length === 0 || costs.length === 0) return null;
  const chosen = { metric: mainMetric(list.find((entry) => Object.keys(entry.measured.metrics).length > 0).measured.metrics), cost: costs.some(([key]) => key === "macs") ? "macs" : costs[0][0] };
  const place = h("div");
  function draw() {
    const [, label, format, of] = costs.find(([key]) => key === chosen.cost);
    set(place, scatter({
      title: `${sentence(chosen.metric)} against ${label}`,
      x: { label, format }, y: { label: sentence(chosen.metric), format: digits },
      points: list.map((entry) => ({ x: of(entry.measured), y: entry.measured.metrics[chosen.metric], label: entry.label, href: entry.href, kind: entry.start ? "start" : "main" })),
    }));
  }
  draw();
  return section("Plot", null, h("div", { class: "filters" },
    select("Metric", metrics.map((metric) => [metric, words(metric)]), chosen.metric, (metric) => { chosen.metric = metric; draw(); }),
    select("Against", costs.map(([key, label]) => [key, label]), chosen.cost, (cost) => { chosen.cost = cost; draw(); })), place);
}

export async function comparePage({ query: given, signal }) {
  const ids = (given.get("jobs") || "").split(",").filter(Boolean);
  const faults = [];
  const [listed, ...jobs] = await Promise.all([get(`v1/jobs${query({ status: "succeeded", limit: 100 })}`, signal),
    ...ids.map((id) => get(`v1/jobs/${encodeURIComponent(id)}`, signal).catch((error) => { if (error.name === "AbortError") throw error; faults.push(problem(error)); return null; }))]);
  const found = jobs.filter(Boolean);
  await learnNames("models", [...found, ...listed.data].map((job) => job.request.model), signal);
  const datasets = await datasetsOf(found, signal);
  const comparable = new Set(found.filter((job) => job.result?.environment.data).map((job) => judgedOn(job, datasets))).size < 2;
  const list = entries(found, datasets, comparable);
  const picked = new Set(ids);
  const go = h("a", { class: "button primary" }, "Compare");
  const few = h("p", { class: "quiet" }, "Choose at least one.");
  const aim = () => {
    go.hidden = picked.size === 0;
    few.hidden = picked.size > 0;
    go.href = `#/compare?jobs=${[...picked].join(",")}`;
  };
  const choices = listed.data.length === 0 ? h("p", null, "No job has succeeded yet.") : h("details", { open: list.length < 2 }, h("summary", null, "Choose jobs"),
    h("fieldset", null, h("legend", null, "Jobs that succeeded"), h("ul", { class: "checks" }, listed.data.map((job) => h("li", null, h("label", null,
      h("input", { type: "checkbox", checked: picked.has(job.id), onchange: (event) => { picked[event.target.checked ? "add" : "delete"](job.id); aim(); } }),
      " ", jobTitle(job), h("span", { class: "quiet" }, ` ${[kindName(job.kind), gist(job.request), when(job.created_at)].filter(Boolean).join(", ")}`)))))), few, go);
  aim();
  const idle = found.filter((job) => !job.result);
  return {
    title: "Compare",
    content: [choices, ...faults, idle.length > 0 && h("p", { class: "quiet" }, `Without a result so far: ${idle.map(jobTitle).join(", ")}.`),
      list.length > 0 && section("Figures", null, ...comparison(list, comparable)), comparable && list.length > 0 && plot(list)].filter(Boolean),
  };
}
