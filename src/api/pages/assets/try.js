// Asking a model about an example: a file, a text, or numbers.

import { call, get, query } from "./api.js";
import { announce, h, marked, number, problem, quiet, section, set, table, worker } from "./dom.js";
import { digits, inFields, numberOf, percent, pretty } from "./format.js";

const depth = (value) => Array.isArray(value) ? 1 + depth(value[0]) : 0;

/** What was typed as the API takes it: of a model with one input a list may be the example, or a list of them. */
function typedBody(typed, { inputs: [input, ...others] }) {
  if (typed.startsWith("{")) return [typed, "application/json"];
  let list;
  try { list = JSON.parse(typed); } catch { return [typed, "text/plain"]; }
  if (!Array.isArray(list) || others.length > 0) return [typed, "text/plain"];
  const examples = depth(list) < input.shape.length ? [list] : list;
  return [JSON.stringify({ inputs: { [input.name]: examples } }), "application/json"];
}

/** More numbers than these are not shown. */
const MOST_NUMBERS = 200;

/** Numbers for each input, of a size that the model takes, to begin with. */
function sample(summary) {
  const zeros = (shape) => shape.reduceRight((inner, size) => Array.from({ length: Number.isInteger(size) ? size : 1 }, () => structuredClone(inner)), 0);
  return { inputs: Object.fromEntries(summary.inputs.map((input) => [input.name, zeros([1, ...input.shape.slice(1)])])) };
}

const sizeOf = (summary) => summary.inputs.reduce((all, input) => all + input.shape.slice(1).reduce((product, size) => product * (Number.isInteger(size) ? size : 1), 1), 0);

const share = (value) => value >= 0.0995 || value === 0 ? percent(value) : `${digits(value * 100)} %`;
const called = ({ label, class: name }) => name ? `${name} (${label})` : String(label);

function answered({ top, outputs, prepared, targets, examples }) {
  const numbers = (output) => {
    const text = pretty(output.values);
    return output.shape.reduce((product, size) => product * size, 1) > MOST_NUMBERS ? quiet("too many numbers to show") : h("pre", null, text);
  };
  return [
    examples?.map(({ place, source }) => source && h("p", null, `Example ${place}: `, h("code", null, source))),
    top && top.map((classes, example) => table(top.length > 1 ? `Likeliest classes of example ${example + 1}` : "Likeliest classes", ["Class", { label: "Probability", number: true }],
      classes.map((one) => [called(one), number(one.probability, share)]), { class: "fit", visible: true })),
    targets?.map(({ value, class: name }) => h("p", null, "The data set says: ", h("strong", null, called({ label: pretty(value), class: name })))),
    prepared?.map((words) => quiet("How it was prepared: ", marked(words), ".")),
    h("details", { open: !top }, h("summary", null, "Outputs"), outputs.map((output) => [h("p", null, h("code", null, output.name), ` ${output.dtype} [${output.shape.join(", ")}]`), numbers(output)])),
  ];
}

export function trySection(model, signal) {
  const { summary } = model;
  const place = h("div");
  const path = (parameters) => `v1/models/${encodeURIComponent(model.id)}/predict${query(parameters)}`;
  const numbers = ["Scale", "Mean", "Deviation"].map((label) => {
    const control = h("input", { type: "text", id: `try-${label.toLowerCase()}`, autocomplete: "off" });
    return [control, h("div", { class: "field" }, h("label", { for: control.id }, label), control)];
  });
  /** `data.preprocess` as the fields say, if they say anything. */
  const preprocess = () => {
    const [scale, ...lists] = numbers.map(([control]) => control.value.split(",").map((one) => one.trim()).filter(Boolean).map(numberOf));
    if ([scale, ...lists].some((list) => list.some((one) => !Number.isFinite(one)))) throw new Error("Scale, mean and deviation are numbers, with commas between.");
    const given = Object.fromEntries([["scale", scale[0]], ["mean", lists[0]], ["std", lists[1]]].filter(([, value]) => value?.length > 0 || typeof value === "number"));
    return given;
  };
  /** The job's way, but for what the fields say; nothing where they say nothing. */
  async function asked() {
    const given = preprocess();
    if (Object.keys(given).length === 0) return null;
    const maker = model.job_id && await get(`v1/jobs/${model.job_id}`, signal).catch(() => null);
    return JSON.stringify({ ...maker?.request.data?.preprocess, ...known, ...given });
  }
  // How the job that made the model had the numbers of its only input.
  const [fed, ...more] = summary.expects?.inputs.filter((one) => !one.zeros && !one.tokens) ?? [];
  const plain = fed && fed.scale === 1 && fed.mean.every((one) => one === 0) && fed.std.every((one) => one === 1);
  const known = fed && !plain && more.length === 0 && !fed.image && !fed.audio ? { scale: fed.scale, mean: fed.mean, std: fed.std } : null;
  const alike = known && h("input", { type: "checkbox", id: "try-alike", checked: true });
  const ask = async (body, type) => {
    const numeric = known && alike.checked && type === "application/json" && body.includes('"inputs"') ? JSON.stringify(known) : null;
    const answer = await call(path({ preprocess: await asked() ?? numeric, dataset: sets.value }), { method: "POST", body, signal, headers: { "Content-Type": type } }).then((response) => response.json(), (error) => {
      // Where in the JSON it is says nothing to who typed a list.
      if (error.problem) error.problem.detail = inFields(error.problem.detail.replace(/^\/[\w/]*: /, "")).replace("with `dataset`", "in “Data set”");
      throw error;
    });
    set(place, answered(answer));
    place.scrollIntoView({ block: "nearest" });
    announce("The model has answered");
  };
  const file = h("input", { type: "file", id: "try-file" });
  const text = h("textarea", { id: "try-text", rows: 4, spellcheck: "false", value: sizeOf(summary) <= 64 && summary.inputs.every((input) => input.dtype.startsWith("float")) ? pretty(sample(summary)) : "", oninput: () => { file.value = ""; } });
  const sets = h("select", { id: "try-dataset" }, h("option", { value: "" }, model.job_id ? "that of the job which made the model" : "none"));
  const at = h("input", { type: "number", id: "try-example", min: 0, value: 0 });
  const split = h("select", { id: "try-split" }, [["", "test, where it has one"], ["train", "train"], ["test", "test"]].map(([value, label]) => h("option", { value }, label)));
  const example = worker("Ask about the example", async () => {
    set(place);
    await ask(JSON.stringify({ examples: [Number(at.value)], ...(split.value && { split: split.value }) }), "application/json");
  });
  let listed = false;
  /** The data sets are asked for when somebody wants one. */
  async function list({ target }) {
    if (!target.open || listed) return;
    listed = true;
    const { data } = await get(`v1/datasets${query({ limit: 100 })}`, signal);
    for (const { id, name } of data) sets.append(h("option", { value: id }, name));
  }
  const field = (label, control, hint) => h("div", { class: "field" }, h("label", { for: control.id }, label), control, hint && h("p", { class: "hint" }, hint));
  const send = worker("Ask the model", async () => {
    set(place);
    const [chosen] = file.files;
    const typed = text.value.trim();
    if (chosen) await ask(chosen, "application/octet-stream");
    else if (typed) {
      const [body, type] = typedBody(typed, summary);
      if (type === "text/plain" && summary.inputs.every((input) => input.dtype.startsWith("float"))) throw new Error("This model takes numbers: write them as JSON, as below the field.");
      await ask(body, type);
    }
    else set(place, problem(new Error("Choose a file, or write a text or JSON.")));
  });
  return section("Try it", null,
    quiet(model.job_id ? "An image, a recording or a text is prepared as in the job that made the model, if that had such." : "No job made this model, so that nothing is known of how its inputs are prepared: pixels are divided by 255, numbers taken as they are. Say it below where it is otherwise."),
    h("details", null, h("summary", null, "Ask the model about an example"),
      h("div", { class: "fields pair" },
        h("div", { class: "field" }, h("label", { for: "try-file" }, "A file"), file, h("p", { class: "hint" }, "png, jpg, webp, bmp, wav, flac, ogg, mp3 or txt.")),
        h("div", { class: "field" }, h("label", { for: "try-text" }, "Or a text, or JSON"), text, h("p", { class: "hint" }, `Numbers as {"inputs": {${summary.inputs.map((input) => `"${input.name}": [[…]]`).join(", ")}}}, a list of examples for each input${summary.inputs.length === 1 ? ", or as a list alone" : ""}.`))),
      known && h("div", { class: "field check" }, h("label", null, alike, " Numbers are as the data set had them: prepare them as the job did")),
      h("div", { class: "actions" }, send)),
    h("details", { ontoggle: list }, h("summary", null, "Ask about an example of a data set"),
      h("div", { class: "fields pair" }, field("Example", at, "Its place, counted from 0 in the order in which the data set is stored: that of the file for numbers; texts and files are mixed, always alike, and the answer says which one it is."), field("Split", split)),
      h("div", { class: "actions" }, example)),
    h("details", { ontoggle: list }, h("summary", null, "Data set, and how examples are prepared"),
      h("div", { class: "fields pair" }, field("Data set", sets, "Of its examples, of its tokenizer where the model has none, and of the names of classes."), numbers.map(([, element]) => element))),
    place);
}
