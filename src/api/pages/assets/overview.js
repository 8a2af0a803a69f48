// The overview: running and latest jobs, models, data sets, uploads.

import { get, learnNames, query } from "./api.js";
import { h, link, problem, section, set } from "./dom.js";
import { plural } from "./format.js";
import { ended, jobsTable, repeat } from "./jobs.js";
import { itemList } from "./lists.js";

const LATEST = 8;

export async function overview({ signal }) {
  const models = itemList("models", { signal, rows: LATEST, whole: false });
  const datasets = itemList("datasets", { signal, rows: LATEST, whole: false });
  const view = jobsTable("Latest jobs");
  const faults = h("div");
  const tally = h("p", { class: "lead" });
  const done = { models: h("span", { class: "done", hidden: true }, " ✓ done"), datasets: h("span", { class: "done", hidden: true }, " ✓ done") };
  const start = h("ol", { class: "steps" },
    h("li", null, "Upload a model below: an ONNX file.", done.models), h("li", null, "Upload a data set that it can read, with labels or values to say.", done.datasets),
    h("li", null, "Start a job: ", link("#/new/prune", "prune"), ", ", link("#/new/distill", "distill"), ", ", link("#/new/search", "search"), "."));
  let round = 0;

  async function refresh() {
    const jobs = (await get(`v1/jobs${query({ limit: LATEST })}`, signal)).data;
    // Models and data sets change when a job ends or something is uploaded; seldom enough.
    if (round % 4 === 0) await Promise.all([models.refresh(), datasets.refresh()]);
    round += 1;
    view.show(jobs);
    if (await learnNames("models", jobs.map((job) => job.request.model), signal)) view.show(jobs);
    const active = jobs.filter((job) => !ended(job)).length;
    start.hidden = jobs.length > 0;
    done.models.hidden = models.list.rows.length === 0;
    done.datasets.hidden = models.list.rows.length === 0 || !datasets.list.rows.some((one) => one.target);
    tally.hidden = jobs.length === 0;
    set(tally, active ? `${plural(active, "job")} at work or waiting.` : "No job is running.", " ", link("#/jobs", "All jobs"));
    return active > 0;
  }

  await refresh();
  return {
    title: "",
    content: [
      faults,
      section("Jobs", { class: "wide" }, tally, start, view.element),
      h("div", { class: "columns" },
        section("Models", null, models.element, h("p", null, link("#/models", "All models"))),
        section("Data sets", null, datasets.element, h("p", null, link("#/datasets", "All data sets")))),
    ],
    start: () => repeat(refresh, signal, (error) => set(faults, error && problem(error))),
  };
}
