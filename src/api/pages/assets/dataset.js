// One data set: what its files hold, its classes, what was left out.

import { get, learn, remove } from "./api.js";
import { confirmed, h, link, quiet, section, table, worker } from "./dom.js";
import { bytes, count, digits, plural, when } from "./format.js";
import { fact, newJobs, shape } from "./lists.js";

/** An input as a sentence: numbers by type and shape, files by what they are. */
function input({ name, dtype, shape: sizes, media, tokens, audio }) {
  const what = media === "image" ? `images ${sizes.map((size) => size || "any").join("×")} (height, width, channels)`
    : media === "text" ? "texts" : media === "audio" ? "recordings" : `${dtype} ${shape(sizes)}`;
  return [h("code", null, name), ` ${what}`, tokens && quiet("with a tokenizer"),
    audio && quiet(Object.entries(audio).filter(([, value]) => typeof value !== "object").map(([key, value]) => `${key.replaceAll("_", " ")} ${value}`).join(", "))];
}

/** More classes than most sets without names for them have. */
const MANY_CLASSES = 50;

function target({ target: given }) {
  if (!given) return "none: only losses without labels can be used";
  const { name, dtype, shape: sizes, classes, range, one_hot: oneHot, class_names: classNames } = given;
  return [h("code", null, name), ` ${classes ? plural(classes, "class") : `${dtype} ${shape(sizes)}`}`,
    classes > MANY_CLASSES && !classNames && quiet(`whole numbers, taken for classes: where they are amounts, a job says "task": "regression"`),
    !classes && range && quiet(`from ${digits(range[0])} to ${digits(range[1])}`),
    oneHot && quiet("One 1 among zeros for each example: these look like encoded classes. Store the numbers of the classes instead.")];
}

export async function datasetPage({ args: [id], signal }) {
  const path = `v1/datasets/${encodeURIComponent(id)}`;
  const dataset = learn([await get(path, signal)])[0];
  const { splits, skipped, tags } = dataset;
  const classes = dataset.target?.class_names || [];
  return {
    title: dataset.name,
    content: [
      h("div", { class: "actions" },
        newJobs(`dataset=${dataset.id}`),
        worker("Delete", async () => {
          if (!await confirmed("Delete the data set?", `“${dataset.name}” is removed from the server for good. Jobs that used it stay.`, "Delete the data set")) return;
          await remove(path);
          location.hash = "#/datasets";
        })),
      h("dl", { class: "facts" },
        fact("Format", dataset.format), fact("Train split", plural(splits.train, "example")),
        fact("Validation split", splits.validation ? plural(splits.validation, "example") : "taken out of the train split by each job"),
        fact("Test split", splits.test ? plural(splits.test, "example") : "set aside by each job"),
        fact(dataset.inputs.length === 1 ? "Input" : "Inputs", dataset.inputs.map((one) => h("div", null, input(one)))),
        fact("Target", target(dataset)),
        Object.keys(tags).length > 0 && fact("Tags", Object.entries(tags).map(([key, value]) => `${key}: ${value}`).join(", ")),
        fact("Size", bytes(dataset.size_bytes)), fact("Created", when(dataset.created_at)),
        fact("SHA-256", h("code", null, dataset.digest.replace("sha256:", ""))), fact("Id", h("code", null, dataset.id))),
      classes.length > 0 && section("Classes", null, table("Classes in the order of the model's outputs", [{ label: "Output", number: true }, "Class"],
        classes.map((name, index) => [h("td", { class: "number" }, String(index)), h("td", null, name)]), { class: "fit", visible: true })),
      skipped.length > 0 && section("Left out", null, table(`${count(skipped.length)} of the upload that can't be used`, ["File or row", "Why"],
        skipped.map((one) => [h("code", null, one.name), one.detail]), { visible: true })),
      h("p", null, link("#/datasets", "All data sets")),
    ].filter(Boolean),
  };
}
