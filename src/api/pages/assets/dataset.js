// One data set: what its files hold, its classes, what was left out.

import { get, learn, learnNames, post, query } from "./api.js";
import { bars } from "./charts.js";
import { dialog, h, link, number, problem, quiet, section, table, worker } from "./dom.js";
import { bytes, count, digits, inFields, percent, plural, when, whole } from "./format.js";
import { jobsTable } from "./jobs.js";
import { MANY_CLASSES, deleter, fact, isAmount, newJobs, renamer, shape } from "./lists.js";

/** Whole numbers as they are. */
const exact = (value) => Number.isInteger(value) ? whole(value) : digits(value);

/** An input as a sentence: numbers by type and shape, files by what they are. */
function input({ name, dtype, shape: sizes, media, tokens, audio, range }) {
  const what = media === "image" ? `images ${sizes.map((size) => size || "any").join("×")} (height, width, channels)`
    : media === "text" ? "texts" : media === "audio" ? "recordings" : `${dtype} ${shape(sizes)}`;
  return [h("code", null, name), ` ${what}`, range && quiet(`numbers from ${exact(range[0])} to ${exact(range[1])}`), tokens && quiet("with a tokenizer"),
    audio && quiet(Object.entries(audio).filter(([, value]) => typeof value !== "object").map(([key, value]) => `${key.replaceAll("_", " ")} ${value}`).join(", "))];
}

function target({ target: given }) {
  if (!given) return "none: only losses without labels can be used";
  const { name, dtype, shape: sizes, classes, range, one_hot: oneHot } = given;
  const amount = isAmount(given);
  return [h("code", null, name), ` ${classes && !amount ? plural(classes, "class") : `${dtype} ${shape(sizes)}`}`,
    amount && quiet(`whole numbers: for a model with several outputs the labels of ${count(classes)} classes, unless a job says "task": "regression"`),
    (!classes || amount) && range && quiet(`from ${exact(range[0])} to ${exact(range[1])}`),
    oneHot && quiet("One 1 among zeros for each example: these look like encoded classes. Store the numbers of the classes instead.")];
}

const COLUMNS = ["csv", "jsonl", "parquet"];

/** A button that makes a data set of the same files with another target, if they have names to choose among. */
function rereader(dataset) {
  if (dataset.format === "idx") return null;
  const text = dataset.inputs.find(({ media }) => media === "text")?.name;
  const field = (label, hint, value = "") => {
    const control = h("input", { type: "text", id: `again-${label.toLowerCase().replaceAll(" ", "-")}`, autocomplete: "off", value, placeholder: hint });
    return [control, h("div", { class: "field" }, h("label", { for: control.id }, label), control)];
  };
  return worker("Read in another way", async () => {
    const [name, nameField] = field("Name", "", dataset.name);
    const arrays = h("datalist", { id: "again-arrays" }, [dataset.target?.name, ...dataset.inputs.map(({ name: one }) => one)].filter(Boolean).map((one) => h("option", { value: one })));
    const [target, targetField] = field("Target", !dataset.target ? "none so far" : ["images", "texts", "audio"].includes(dataset.format) ? "the folders, or the usual column" : `${dataset.target.name}, as it is`);
    const [column, columnField] = field("Text column", text ? `${text}, as it is` : "none so far");
    const [exclude, excludeField] = field("Columns to leave out", "none", (dataset.excluded || []).join(", "));
    const named = dataset.target?.class_names;
    const [classes, classesField] = field("Order of the classes", "as it is", named ? named.join(", ") : "");
    target.setAttribute("list", arrays.id);
    for (let fault = null; ;) {
      const answer = await dialog("Read the files in another way", [quiet("Makes another data set of the same files, without an upload. This one stays as it is."), nameField, targetField, !COLUMNS.includes(dataset.format) && arrays, COLUMNS.includes(dataset.format) && [columnField, excludeField], dataset.target?.classes && !isAmount(dataset.target) && [classesField, quiet("Their names with commas between, as the model numbers them from 0 on.")], fault && problem(fault)], [["Cancel", ""], ["Read", "read", "primary"]]);
      if (answer !== "read") return;
      try {
        const made = await (await post(`v1/datasets${query({ files_of: dataset.id, name: name.value.trim(), target: target.value.trim(), text: column.value.trim(), exclude: exclude.value.trim(), classes: classes.value.trim() === (named || []).join(", ") ? "" : classes.value.trim() })}`)).json();
        location.hash = `#/datasets/${made.id}`;
        return;
      } catch (error) {
        if (error.problem) error.problem.detail = inFields(error.problem.detail);
        fault = error;
      }
    }
  });
}

/** Classes with how many examples each has. */
function classesView({ class_names: classNames, class_counts: counts }) {
  const rows = (classNames || counts).map((_, index) => index);
  const all = counts?.reduce((sum, one) => sum + one, 0) || 1;
  const most = Math.max(...(counts || [1]));
  const view = table(classNames ? "Classes in their order, which must be that of the model's outputs" : "Classes, numbered as the model's outputs", [{ label: "Output", number: true }, ...(classNames ? ["Class"] : []),
    ...(counts ? [{ label: "Examples", number: true }, { label: "Share", number: true }, { label: "Bar", hide: true }] : [])],
  rows.map((index) => [h("td", { class: "number" }, String(index)), ...(classNames ? [h("td", null, classNames[index])] : []),
    ...(counts ? [number(counts[index], whole), number(counts[index] / all, percent), h("td", { class: "bar-cell" }, bars(null, counts[index], most))] : [])]), { class: "fit", visible: true });
  return section("Classes", null, rows.length > MANY_CLASSES ? h("details", null, h("summary", null, plural(rows.length, "class")), view) : view);
}

/** The latest jobs with it. */
async function jobsView(id, signal) {
  const { data, next_cursor: more } = await get(`v1/jobs${query({ dataset: id, limit: 10 })}`, signal);
  await learnNames("models", data.map((job) => job.request.model), signal);
  const view = jobsTable("Jobs with this data set, the newest first", null, "No job has used it yet.");
  view.show(data);
  return section("Jobs", null, view.element, more && h("p", null, link(`#/jobs${query({ dataset: id })}`, "All jobs with it")));
}

export async function datasetPage({ args: [id], signal }) {
  const path = `v1/datasets/${encodeURIComponent(id)}`;
  const dataset = learn([await get(path, signal)])[0];
  const { splits, skipped, tags, target: given } = dataset;
  const jobs = await jobsView(id, signal);
  return {
    title: dataset.name,
    content: [
      h("div", { class: "actions" },
        newJobs(`dataset=${dataset.id}`),
        renamer("data set", path, dataset.name), rereader(dataset),
        deleter("data set", path, dataset.name, () => { location.hash = "#/datasets"; })),
      h("dl", { class: "facts" },
        fact("Format", dataset.format), fact("Train split", plural(splits.train, "example")),
        fact("Validation split", splits.validation ? plural(splits.validation, "example") : "taken out of the train split by each job"),
        fact("Test split", splits.test ? plural(splits.test, "example") : "set aside by each job"),
        fact(dataset.inputs.length === 1 ? "Input" : "Inputs", dataset.inputs.map((one) => h("div", null, input(one)))),
        dataset.excluded?.length > 0 && fact("Columns left out", dataset.excluded.join(", ")),
        fact("Target", target(dataset)),
        Object.keys(tags).length > 0 && fact("Tags", Object.entries(tags).map(([key, value]) => `${key}: ${value}`).join(", ")),
        fact("Size", bytes(dataset.size_bytes)), fact("Created", when(dataset.created_at)),
        fact("SHA-256", h("code", null, dataset.digest.replace("sha256:", ""))), fact("Id", h("code", null, dataset.id))),
      (given?.class_names || given?.class_counts) && classesView(given),
      skipped.length > 0 && section("Left out", null, table(`${count(skipped.length)} of the upload that can't be used`, ["File or row", "Why"],
        skipped.map((one) => [h("code", null, one.name), one.detail]), { visible: true })),
      jobs,
      h("p", null, link("#/datasets", "All data sets")),
    ].filter(Boolean),
  };
}
