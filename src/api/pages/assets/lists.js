// Models and data sets in lists: their tables, and the pages of all of them.

import { learn, learnNames, names, patch, query, remove, save } from "./api.js";
import { confirmed, dialog, h, keyed, link, number, problem, quiet, row, set, table, worker } from "./dom.js";
import { bytes, count, kindName, plural, shared, shortId, when, whole } from "./format.js";
import { pagedList, repeat } from "./jobs.js";
import { uploader } from "./uploads.js";

export const shape = (dimensions) => `[${dimensions.join(", ")}]`;
export const tensor = (info) => `${info.name} ${info.dtype} ${shape(info.shape)}`;
/** A name as part of a file's. */
export const fileName = (name) => name.replace(/[^\w.-]+/g, "_").replace(/^_+|_+$/g, "") || "sinter";
export const modelFile = (model) => `${fileName(model.name)}.${model.format}`;

/** Whether it is a candidate that a search kept beside its winner. */
export const isTrial = (model) => Boolean(model.job_id) && /\(trial-\d+\)$/.test(model.name);

/** Links to a new job of each kind, with a model or a data set; `given` is like `model=ID`. */
export const newJobs = (given) => ["prune", "distill", "search", "evaluate", "train", "pipeline"]
  .map((kind) => h("a", { class: "button", href: `#/new/${kind}?${given}` }, `${kindName(kind)}…`));

/** A term and what is said of it, for a list of facts. */
export const fact = (term, ...value) => [h("dt", null, term), h("dd", null, value)];

/** A button that asks for another name; the page is then shown anew. */
export const renamer = (noun, path, name) => worker("Rename", async () => {
  const field = h("input", { id: "new-name", type: "text", required: true, maxlength: 200, autocomplete: "off", value: name });
  const answer = await dialog(`Rename the ${noun}`, [h("label", { for: "new-name" }, "Name"), field], [["Cancel", ""], ["Rename", "rename", "primary"]]);
  const given = field.value.trim();
  if (answer !== "rename" || !given || given === name) return;
  await patch(path, { name: given });
  dispatchEvent(new Event("hashchange"));
});

/** A button that removes a model or a data set, once it is certain that it should. */
export const deleter = (noun, path, name, done, attributes) => worker("Delete", async () => {
  if (!await confirmed(`Delete the ${noun}?`, `“${name}” is removed from the server for good. Jobs that used or made it stay.`, `Delete the ${noun}`)) return;
  await remove(path);
  done();
}, attributes);

/** More classes than most sets without names for them have. */
export const MANY_CLASSES = 50;

/** Whether whole numbers look like amounts rather than classes. */
export const isAmount = ({ classes, class_names: classNames }) => classes > MANY_CLASSES && !classNames;

/** A row; `brief` leaves out what half a page has no room for. */
function modelRow(model, brief, apart) {
  return row([
    [link(`#/models/${model.id}`, model.name), apart && ` ${shortId(model.id)}`, quiet(model.parent_id
      ? ["from ", link(`#/models/${model.parent_id}`, names.get(model.parent_id) || shortId(model.parent_id))] : "uploaded")],
    number(model.summary.nonzero_parameters, count), number(model.summary.macs, count), number(model.size_bytes, bytes),
    ...(brief ? [] : [h("td", { class: "time" }, when(model.created_at)),
      h("td", null, worker("Download", () => save(`v1/models/${model.id}/content`, modelFile(model)), { "aria-label": `Download ${model.name}` }))]),
  ]);
}

function datasetRow(dataset, brief, changed) {
  const { train, test, validation } = dataset.splits;
  const { target: given } = dataset;
  const target = given && `${given.name}${given.classes && !isAmount(given) ? `, ${plural(given.classes, "class")}` : ` ${given.dtype}`}`;
  return row([
    [link(`#/datasets/${dataset.id}`, dataset.name), quiet(dataset.format, dataset.skipped.length > 0 && `, ${dataset.skipped.length} skipped`)],
    number(train, whole), number(test || null, (value) => value ? whole(value) : "drawn", validation ? quiet(`${whole(validation)} validation`) : null), number(dataset.size_bytes, bytes),
    ...(brief ? [] : [h("td", null, dataset.inputs.map(tensor).join("; "), target && quiet(`target: ${target}`)),
      h("td", { class: "time" }, when(dataset.created_at)),
      h("td", null, deleter("data set", `v1/datasets/${dataset.id}`, dataset.name, changed, { "aria-label": `Delete the data set ${dataset.name}` }))]),
  ]);
}

// The first four columns are those of a brief table.
const TABLES = {
  models: ["Model", { label: "Nonzero parameters", number: true }, { label: "MACs", number: true }, { label: "File size", number: true }, "Created", { label: "Actions", hide: true }],
  datasets: ["Data set", { label: "Train", number: true }, { label: "Test", number: true }, { label: "File size", number: true }, "Inputs", "Created", { label: "Actions", hide: true }],
};

/** A list that refreshes itself, with the upload above it when `whole`, and `rows` of it at first. */
export function itemList(folder, { signal, rows = 20, whole = true }) {
  const noun = folder === "models" ? "models" : "data sets";
  const body = h("tbody");
  const list = pagedList((page) => `v1/${folder}${query(page)}`, signal);
  const empty = h("p", { class: "quiet empty" }, `No ${noun} yet.`);
  const view = table(`${noun[0].toUpperCase()}${noun.slice(1)}, the newest first`, TABLES[folder].slice(0, whole ? undefined : 4), [], { body });
  const more = worker("Show more", async () => {
    const before = visible().length;
    // Pages of candidates alone would show nothing.
    do await list.showMore(); while (list.more && visible().length === before);
    draw();
  });
  const trials = h("input", { type: "checkbox", onchange: () => draw() });
  const choice = h("p", { hidden: true }, h("label", { class: "quiet" }, trials, " show candidates that searches kept, too"));
  const refresh = async () => {
    await list.refresh(rows);
    // Candidates are left out after they were read, and should not leave an empty page.
    for (let tries = 0; tries < 4 && whole && list.more && visible().length < 8; tries += 1) await list.showMore();
    draw();
    if (await learnNames("models", list.rows.map((item) => item.parent_id), signal)) draw();
  };
  const visible = () => list.rows.filter((item) => trials.checked || !isTrial(item)).slice(0, whole ? undefined : rows);
  const draw = () => {
    learn(list.rows);
    const shown = visible();
    empty.hidden = shown.length > 0;
    view.hidden = shown.length === 0;
    more.hidden = !whole || !list.more;
    choice.hidden = !whole || !list.rows.some(isTrial);
    // What is called alike is told apart by its id.
    const twice = shared(shown.map((item) => item.name));
    keyed(body, shown, (item) => `${item.name} ${names.get(item.parent_id)} ${twice(item.name)}`,
      (item) => folder === "models" ? modelRow(item, !whole, twice(item.name)) : datasetRow(item, !whole, refresh));
  };
  return { element: h("div", null, uploader(folder, refresh), choice, view, empty, more), refresh, list };
}

async function page(folder, title, signal) {
  const items = itemList(folder, { signal });
  const faults = h("div");
  await items.refresh();
  return {
    title,
    content: [faults, items.element],
    start: () => repeat(async () => { await items.refresh(); return false; }, signal, (error) => set(faults, error && problem(error))),
  };
}

export const modelsPage = ({ signal }) => page("models", "Models", signal);
export const datasetsPage = ({ signal }) => page("datasets", "Data sets", signal);
