// Asking a model about an example: a file, a text, or numbers.

import { call, query } from "./api.js";
import { announce, h, number, problem, quiet, section, set, table, worker } from "./dom.js";
import { digits, percent, pretty } from "./format.js";

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

function answered({ top, outputs }) {
  const numbers = (output) => {
    const text = pretty(output.values);
    return output.shape.reduce((product, size) => product * size, 1) > MOST_NUMBERS ? quiet("too many numbers to show") : h("pre", null, text);
  };
  return [
    top && top.map((classes, example) => table(top.length > 1 ? `Likeliest classes of example ${example + 1}` : "Likeliest classes", ["Class", { label: "Probability", number: true }],
      classes.map((one) => [one.class ? `${one.class} (${one.label})` : String(one.label), number(one.probability, (share) => share > 0.995 || share < 0.01 ? digits(share) : percent(share))]), { class: "fit", visible: true })),
    h("details", { open: !top }, h("summary", null, "Outputs"), outputs.map((output) => [h("p", null, h("code", null, output.name), ` ${output.dtype} [${output.shape.join(", ")}]`), numbers(output)])),
  ];
}

export function trySection(model, signal) {
  const { summary } = model;
  const place = h("div");
  const path = (parameters) => `v1/models/${encodeURIComponent(model.id)}/predict${query(parameters)}`;
  const ask = async (body, type) => {
    set(place);
    const answer = await call(path({}), { method: "POST", body, signal, headers: { "Content-Type": type } }).then((response) => response.json(), (error) => {
      // Where in the JSON it is says nothing to who typed a list.
      if (error.problem) error.problem.detail = error.problem.detail.replace(/^\/[\w/]*: /, "");
      throw error;
    });
    set(place, answered(answer));
    announce("The model has answered");
  };
  const file = h("input", { type: "file", id: "try-file" });
  const text = h("textarea", { id: "try-text", rows: 4, spellcheck: "false", value: sizeOf(summary) <= 64 ? pretty(sample(summary)) : "", oninput: () => { file.value = ""; } });
  const send = worker("Ask the model", async () => {
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
  return section("Try it", null, h("details", null, h("summary", null, "Ask the model about an example"),
    quiet("An image, a recording or a text is prepared as in the job that made the model; numbers are taken as they are."),
    h("div", { class: "fields pair" },
      h("div", { class: "field" }, h("label", { for: "try-file" }, "A file"), file, h("p", { class: "hint" }, "png, jpg, webp, bmp, wav, flac, ogg, mp3 or txt.")),
      h("div", { class: "field" }, h("label", { for: "try-text" }, "Or a text, or JSON"), text, h("p", { class: "hint" }, `Numbers as {"inputs": {${summary.inputs.map((input) => `"${input.name}": [[…]]`).join(", ")}}}, a list of examples for each input${summary.inputs.length === 1 ? ", or as a list alone" : ""}.`))),
    h("div", { class: "actions" }, send), place));
}
