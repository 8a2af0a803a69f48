// One model: summary, lineage, layers as a table and as cards with the groups that are coupled.

import { get, learn, learnNames, names, query, save } from "./api.js";
import { bars } from "./charts.js";
import { h, link, number, problem, quiet, section, set, table, worker } from "./dom.js";
import { bytes, count, ratio, shortId, when } from "./format.js";
import { jobTitle, statusMark } from "./jobs.js";
import { deleter, fact, modelFile, newJobs, renamer, shape, tensor } from "./lists.js";
import { trySection } from "./try.js";

/** The model that this one was made from, the one before that, and so on. */
async function ancestors(model, signal) {
  const chain = [];
  let id = model.parent_id;
  while (id && chain.length < 50) {
    try {
      const parent = await get(`v1/models/${id}`, signal);
      chain.unshift(parent);
      id = parent.parent_id;
    } catch (error) {
      if (error.status !== 404) throw error;
      chain.unshift({ id, name: null });
      break;
    }
  }
  learn(chain);
  return chain;
}

async function lineage(model, signal) {
  const quietly = (error) => { if (error.status !== 404) throw error; return null; };
  const [chain, jobs, maker] = await Promise.all([ancestors(model, signal), get(`v1/jobs${query({ model: model.id, limit: 100 })}`, signal).then(({ data }) => data),
    model.job_id && get(`v1/jobs/${model.job_id}`, signal).catch(quietly)]);
  await learnNames("models", jobs.map((job) => job.result?.model), signal);
  const short = (one) => one.summary && quiet(`${count(one.summary.nonzero_parameters)} parameters, ${count(one.summary.macs)} MACs`);
  const own = h("li", { "aria-current": "true" }, h("strong", null, model.name), short(model),
    jobs.length > 0 && h("ul", null, jobs.map((job) => h("li", null, link(`#/jobs/${job.id}`, jobTitle(job)), " ", statusMark(job.status),
      job.result?.model && [" → ", names.get(job.result.model) === null ? h("span", { class: "quiet" }, "deleted model") : link(`#/models/${job.result.model}`, names.get(job.result.model) || shortId(job.result.model))],
      job.result?.search?.front.map((entry) => [", ", link(`#/models/${entry.model}`, `trial ${entry.trial}`)])))));
  // Each generation is a list in the item of the one before.
  const tree = chain.reduceRight((inner, one) => h("li", null,
    one.name === null ? h("span", { class: "quiet" }, `deleted model ${shortId(one.id)}`) : link(`#/models/${one.id}`, one.name), short(one), h("ul", null, inner)), own);
  return section("Lineage", null,
    model.job_id && h("p", null, "Made by ", link(`#/jobs/${model.job_id}`, maker ? jobTitle(maker) : `job ${shortId(model.job_id)}`), "."),
    h("ul", { class: "tree" }, tree), jobs.length === 0 && quiet("No job has started from this model."));
}

/** Groups get a colour each, and always their name beside it. */
function groupMarks(layers) {
  const groups = [...new Set(layers.map((layer) => layer.group).filter(Boolean))];
  const size = (group) => layers.filter((layer) => layer.group === group && layer.prunable).length;
  const hue = (group) => String(Math.round(groups.indexOf(group) * 137.5) % 360);
  return {
    groups,
    mark: (group) => h("span", { class: "group", css: { "--hue": hue(group) } }, group, size(group) > 1 && ` (${size(group)} coupled)`),
    edge: (group) => group ? { "--hue": hue(group) } : {},
  };
}

function layersView(model, layers, signal) {
  const { groups, mark, edge } = groupMarks(layers);
  const place = h("div");
  const found = h("span", { class: "quiet", role: "status" });
  const most = Math.max(...layers.map((layer) => layer.macs || layer.parameters));
  const text = (layer) => `${layer.name} ${layer.operator} ${layer.group || ""} ${(layer.input_groups || []).join(" ")} ${layer.output || ""}`.toLowerCase();
  // One sentence for all, where none has shapes.
  const open = layers.length > 1 && layers.every((layer) => layer.blocked_by === "the shapes of the graph can't be inferred");
  const detail = (layer) => [layer.group ? mark(layer.group) : h("span", { class: "quiet" }, open ? "–" : layer.blocked_by || "follows its input"),
    layer.input_groups && quiet(`takes in ${layer.input_groups.join(", ")}`)];
  const nonzero = (layer) => layer.nonzero_parameters < layer.parameters ? quiet(`${count(layer.nonzero_parameters)} nonzero, ${ratio(layer.nonzero_parameters / layer.parameters)}`) : null;

  const asTable = (rows) => table("Layers in order", ["Layer", "Group", "Output", { label: "Parameters", number: true }, { label: "MACs", number: true }, "MACs beside the largest"],
    rows.map((layer) => [[h("code", null, layer.name), quiet(layer.operator)], h("td", null, detail(layer)), shape(layer.output_shape),
      number(layer.parameters, count, nonzero(layer)), number(layer.macs, count), h("td", { class: "bar-cell" }, bars(null, layer.macs || 0, most))]));
  const asCards = (rows) => h("ol", { class: "cards" }, rows.map((layer) => h("li", { class: layer.group ? "grouped" : null, css: edge(layer.group) },
    h("h3", null, layer.operator, " ", h("code", null, layer.name)), h("p", null, detail(layer)),
    quiet(`${shape(layer.output_shape)}, ${count(layer.parameters)} parameters, ${count(layer.macs)} MACs`), nonzero(layer),
    layer.output && quiet("tensor ", h("code", null, layer.output)))));

  // What is looked at stays in the address.
  const kept = new URLSearchParams(location.hash.split("?")[1]);
  const keep = () => history.replaceState(null, "", location.hash.split("?")[0] + query({ view: view === "table" ? "" : view, search: search.value, group: group.value }));
  let view = ["cards", "graph"].includes(kept.get("view")) ? kept.get("view") : "table";
  let nodes = null;
  const search = h("input", { type: "search", id: "layer-search", autocomplete: "off", value: kept.get("search") || "", oninput: () => { draw(); keep(); } });
  const group = h("select", { id: "layer-group", onchange: () => { draw(); keep(); } }, h("option", { value: "" }, "all"), groups.map((name) => h("option", { value: name }, name)));
  const chooser = h("select", { id: "layer-view", onchange: () => { view = chooser.value; draw(); keep(); } },
    [["table", "table"], ["cards", "cards in order"], ["graph", "graph"]].map(([value, text]) => h("option", { value }, text)));
  /** The whole graph, with what is not looked for in the background. */
  async function drawGraph(isFound) {
    set(place, quiet("Loading…"));
    try {
      nodes ??= (await get(`v1/models/${model.id}/graph`, signal)).data;
      const { graphView } = await import("./graph.js");
      if (view === "graph") set(place, graphView(model.summary, nodes, { mark, edge, found: isFound }));
    } catch (error) {
      if (error.name !== "AbortError") set(place, problem(error));
    }
  }
  function draw() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = layers.filter((layer) => (!group.value || layer.group === group.value || layer.input_groups?.includes(group.value)) && words.every((word) => text(layer).includes(word)));
    found.textContent = `${rows.length} of ${layers.length}`;
    if (view === "graph") drawGraph((about) => (!group.value || about.includes(group.value)) && words.every((word) => about.toLowerCase().includes(word)));
    else set(place, (view === "cards" ? asCards : asTable)(rows));
  }
  if (groups.includes(kept.get("group"))) group.value = kept.get("group");
  chooser.value = view;
  draw();
  const choice = (label, control) => h("div", { class: "choice" }, h("label", { for: control.id }, label), control);
  return section("Layers", null,
    open && h("p", null, "The file leaves open how long its inputs are, so that shapes, costs and groups are not known here. A job's data set settles that: its plan has them."),
    quiet("Channels of layers with the same group leave together; with them the weights of layers that take them in."),
    h("div", { class: "filters" }, choice("Search", search), choice("Group", group), choice("View", chooser), found), place);
}

export async function modelPage({ args: [id], signal }) {
  const path = `v1/models/${encodeURIComponent(id)}`;
  const model = learn([await get(path, signal)])[0];
  const { summary } = model;
  const [tree, layers] = await Promise.all([lineage(model, signal), get(`${path}/layers`, signal).then(({ data }) => data, () => [])]);
  const operators = Object.entries(summary.operators).sort((a, b) => b[1] - a[1]);
  return {
    title: model.name,
    content: [
      h("div", { class: "actions" },
        newJobs(`model=${model.id}`),
        worker("Download", () => save(`${path}/content`, modelFile(model))),
        renamer("model", path, model.name),
        deleter("model", path, model.name, () => { location.hash = "#/models"; })),
      h("dl", { class: "facts" },
        fact("Format", `${model.format}${summary.opset ? `, opset ${summary.opset}` : ""}`), fact("Producer", summary.producer || "–"),
        fact("Parameters", count(summary.parameters), summary.nonzero_parameters < summary.parameters && `, ${count(summary.nonzero_parameters)} nonzero`),
        fact("MACs", count(summary.macs)), fact("File size", bytes(model.size_bytes)),
        fact("Inputs", summary.inputs.map(tensor).join("; ") || "–"), fact("Outputs", summary.outputs.map(tensor).join("; ") || "–"),
        Number.isInteger(summary.inputs[0]?.shape[0]) && fact("Batch size", `fixed at ${summary.inputs[0].shape[0]}`, quiet("It trains in batches of this size; export it with an open one to train faster.")),
        fact("Trainable", summary.trainable ? "yes" : `no${summary.not_trainable_because ? `: ${summary.not_trainable_because}` : ""}`),
        summary.unsupported_operators.length > 0 && fact("Unsupported operators", summary.unsupported_operators.join(", ")),
        fact("Operators", operators.map(([name, times]) => `${name} ${times}`).join(", ") || "–"),
        fact("Created", when(model.created_at)), fact("SHA-256", h("code", null, model.digest.replace("sha256:", ""))), fact("Id", h("code", null, model.id))),
      tree,
      summary.opset && trySection(model, signal),
      layers.length > 0 && layersView(model, layers, signal),
    ].filter(Boolean),
  };
}
