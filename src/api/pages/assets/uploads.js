// Uploading a model or a data set: dropped or chosen files, options, progress.

import { query, upload } from "./api.js";
import { announce, button, h, problem, quiet, select, set, unique } from "./dom.js";
import { bytes, inFields, percent, plural, sentence } from "./format.js";

const FORMATS = ["npz", "idx", "csv", "jsonl", "parquet", "safetensors", "images", "texts", "audio"];

const KINDS = {
  models: {
    noun: "model", accept: ".onnx,.safetensors,.data,.bin,.json",
    hint: "ONNX, ONNX with its external data, or safetensors; tokenizer.json beside a model of texts.",
  },
  datasets: {
    noun: "data set", accept: null,
    hint: "npz (x and y, or x_train, y_train, x_test, y_test), IDX, CSV, JSON lines, Parquet, safetensors; zip or tar of images, texts or recordings. Files with train and test in their names are splits.",
  },
};

/** The form; `ondone` gets what the server made of it. */
export function uploader(folder, ondone) {
  const { noun, accept, hint } = KINDS[folder];
  const id = unique("upload");
  const options = { format: "", damaged: "" };
  let files = [];
  let running = null;

  const chooser = h("input", { type: "file", id: `${id}-files`, multiple: true, accept, "aria-describedby": `${id}-hint`, onchange: () => choose([...chooser.files]) });
  const name = h("input", { type: "text", id: `${id}-name`, maxlength: 200, autocomplete: "off" });
  const target = h("input", { type: "text", id: `${id}-target`, autocomplete: "off" });
  const text = h("input", { type: "text", id: `${id}-text`, autocomplete: "off" });
  const classes = h("input", { type: "text", id: `${id}-classes`, autocomplete: "off" });
  const exclude = h("input", { type: "text", id: `${id}-exclude`, autocomplete: "off" });
  const chosen = h("p", { class: "chosen" });
  const send = h("button", { class: "primary" }, "Upload");
  const cancel = button("Cancel", () => {
    running?.abort();
    files = [];
    chooser.value = "";
    show();
  });
  const bar = h("progress", { max: 1, value: 0, "aria-label": `Upload of a ${noun}` });
  const state = h("span", { class: "quiet" });
  const line = h("p", { class: "bar-line", hidden: true }, bar, " ", state);
  const result = h("div");

  const rest = h("div", { class: "upload-rest", hidden: true },
    chosen,
    h("div", { class: "field" }, h("label", { for: name.id }, "Name"), name),
    folder === "datasets" && h("details", null, h("summary", null, "Format and columns"),
      select("Format", [["", "detected"], ...FORMATS], "", (value) => { options.format = value; }),
      h("div", { class: "field" }, h("label", { for: target.id }, "Target"), target,
        h("p", { class: "hint" }, "The column of a table or manifest, the last one when empty; the array of an npz, “y”, “target”, “label” or “labels” when empty.")),
      h("div", { class: "field" }, h("label", { for: text.id }, "Text column"), text,
        h("p", { class: "hint" }, "One, or two with a comma between.")),
      h("div", { class: "field" }, h("label", { for: exclude.id }, "Columns to leave out"), exclude,
        h("p", { class: "hint" }, "Of a table: an index, for instance; commas between.")),
      h("div", { class: "field" }, h("label", { for: classes.id }, "Order of the classes"), classes,
        h("p", { class: "hint" }, "Their names with commas between, as the model numbers them from 0 on; in the order of the alphabet when empty. Of numbers it is what they are called.")),
      select("Examples that can't be used", [["", "refuse the upload"], ["skip", "skip them"]], "", (value) => { options.damaged = value; }),
      quiet("Damaged files, texts that are empty or too long, rows in which something is missing.")),
    h("div", { class: "actions" }, send, cancel), line);

  function choose(list) {
    if (list.length === 0 || running) return;
    // One kind dropped where the other belongs is told before it goes up.
    const stray = list.find((file) => folder === "models" ? /\.(npz|npy|csv|jsonl|parquet|zip|tar|gz)$/i.test(file.name) : /\.onnx$/i.test(file.name));
    if (stray) {
      chooser.value = "";
      set(result, problem(new Error(`${stray.name} looks like a ${folder === "models" ? "data set" : "model"}: upload it as one.`), { tabindex: "-1" }));
      result.firstChild.focus();
      return;
    }
    files = list;
    if (!name.value || name.dataset.own !== "yes") name.value = titleOf(files);
    set(result);
    show();
    announce(`${plural(files.length, "file")} chosen`);
  }

  const stem = (file) => file.name.replace(/\.(onnx|tar\.gz|[a-z0-9]+)$/i, "");
  /** A name to begin with; of several tables no split alone. */
  const titleOf = (list) => {
    const tables = list.filter((file) => file.name !== "tokenizer.json");
    return folder === "models" || tables.length < 2 || tables.length > 4 ? stem(main(list)) : tables.map(stem).join(", ");
  };
  const main = (list) => list.find((file) => /\.(onnx|safetensors)$/i.test(file.name)) || list[0];

  function show() {
    rest.hidden = files.length === 0;
    set(chosen, files.map((file, index) => [index > 0 && ", ", h("code", null, file.name), ` ${bytes(file.size)}`]));
    line.hidden = !running;
    send.disabled = Boolean(running);
  }

  async function submit(event) {
    event.preventDefault();
    if (files.length === 0 || running) return;
    running = new AbortController();
    set(result);
    bar.value = 0;
    show();
    const form = new FormData();
    for (const file of files) form.append("file", file, file.name);
    const parameters = { name: name.value.trim(), ...(folder === "datasets" ? { ...options, target: target.value.trim(), text: text.value.trim(), classes: classes.value.trim(), exclude: exclude.value.trim() } : {}) };
    try {
      const made = await upload(`v1/${folder}${query(parameters)}`, form, {
        signal: running.signal,
        onprogress(share, loaded) {
          if (share === null) bar.removeAttribute("value");
          else bar.value = share;
          state.textContent = share >= 1 ? "checking" : share === null ? bytes(loaded) : percent(share);
        },
      });
      files = [];
      name.value = "";
      delete name.dataset.own;
      chooser.value = "";
      const look = h("a", { href: `#/${folder}/${made.id}` }, "Look at it");
      set(result, h("p", { class: "done" }, `${sentence(noun)} ${made.name} uploaded. `, look),
        folder === "datasets" && !made.target && quiet("No target was found: only losses without labels can use it. ", ["images", "texts", "audio"].includes(made.format)
          ? "Put the files into one folder for each class, or a manifest with their names and labels (metadata.csv) beside them, and upload that."
          : "If one of its arrays or columns is the target, name it by “Read in another way” on its page."));
      look.focus();
      announce(`${sentence(noun)} ${made.name} uploaded`);
      // What comes of showing it is no fault of the upload.
      Promise.resolve(ondone(made)).catch(() => {});
    } catch (error) {
      if (error.name !== "AbortError") {
        if (error.problem) error.problem.detail = inFields(error.problem.detail).replace("upload with damaged=skip (`--damaged skip`, “skip them” on the page) to leave such ones out", "“Format and columns” has “skip them”");
        set(result, problem(error, { tabindex: "-1" }));
        result.firstChild.focus();
      }
    } finally {
      running = null;
      show();
    }
  }

  name.addEventListener("input", () => { name.dataset.own = "yes"; });

  const zone = h("form", { class: "drop", onsubmit: submit, "aria-label": `Upload a ${noun}` },
    h("p", null, h("label", { for: chooser.id }, `Upload a ${noun}`), h("span", { class: "quiet" }, " or drop files here")),
    chooser, h("p", { class: "hint", id: `${id}-hint` }, hint), rest, result);
  let depth = 0;
  const over = (on) => zone.classList.toggle("over", on);
  zone.addEventListener("dragenter", () => { depth += 1; over(true); });
  zone.addEventListener("dragleave", () => { depth -= 1; over(depth > 0); });
  zone.addEventListener("drop", (event) => {
    depth = 0;
    over(false);
    chooser.files = event.dataTransfer.files;
    choose([...event.dataTransfer.files]);
  });
  return zone;
}
