// What a job came to: figures before and after, layers, confusion, Pareto front, trials, steps.

import { call, get, names } from "./api.js";
import { add, h, link, marked, number, quiet, row, section, select, set, table } from "./dom.js";
import { bars, scatter } from "./charts.js";
import { COSTS, bytes, count, digits, duration, kindName, largerIsBetter, lossName, mainMetric, milliseconds, percent, plural, ratio, sentence, shortId, signed, words } from "./format.js";

const figure = (label) => ({ label, number: true });
const modelLink = (id, label) => link(`#/models/${id}`, label || names.get(id) || shortId(id));

/** Metrics in the order in which they were asked for. */
const inOrder = (metrics, asked = []) => Object.entries(metrics).sort(([one], [other]) => (asked.indexOf(one) + 1 || 99) - (asked.indexOf(other) + 1 || 99));

/** Before, after, what the control and the teacher reached: one row a figure. */
function comparison(result, asked) {
  const { before, after, distill, search } = result;
  const control = distill?.control || search?.control;
  const teacher = distill && Object.keys(distill.teacher).length > 0 ? distill.teacher : null;
  const columns = ["Figure", ...(after ? [{ ...figure("Before"), wide: true }, figure("After"), figure("Change")] : [figure("Value")]),
    ...(teacher ? [figure("Teacher")] : []), ...(control ? [figure("Control")] : [])];
  const rest = (metric) => [...(teacher ? [number(teacher[metric], digits)] : []), ...(control ? [number(control.metrics[metric], digits)] : [])];
  // The control of a distillation is the same network, and a single teacher the model that came.
  const known = (label, of, format) => {
    const counted = ["Parameters", "MACs"].includes(label);
    return [...(teacher ? [number(counted && distill.teachers === 1 ? of(before) : null, format)] : []), ...(control ? [number(counted && distill && after ? of(after) : null, format)] : [])];
  };
  // A narrow screen has no room for a column of it: there it is below what came of it.
  const earlier = (value, format) => {
    const cell = number(value, format);
    if (after) cell.classList.add("wide");
    return cell;
  };
  const later = (value, was, format) => number(value, format, h("span", { class: "quiet narrow" }, `before ${Number.isFinite(was) ? format(was) : "–"}`));
  const costs = [...COSTS, ["p90", "Latency, 90th percentile", milliseconds, (m) => m.latency_ms?.p90]]
    .filter(([, , , of]) => of(before) !== undefined && of(before) !== null)
    .map(([, label, format, of]) => {
      const was = of(before);
      const is = after && of(after);
      return [label, earlier(was, format), ...(after ? [later(is, was, format), h("td", { class: "number" }, is !== null && is !== undefined && was ? ratio(is / was) : "–")] : []), ...known(label, of, format)];
    });
  const metrics = inOrder({ ...before.metrics, ...after?.metrics }, asked).map(([metric]) => {
    const was = before.metrics[metric];
    const is = after?.metrics[metric];
    // What reads the same is the same.
    const difference = after ? digits(is) === digits(was) ? 0 : is - was : null;
    const verdict = difference && (difference > 0) === largerIsBetter(metric) ? "better" : difference ? "worse" : "same";
    return [sentence(metric), earlier(was, digits), ...(after ? [later(is, was, digits),
      h("td", { class: `number ${verdict}` }, Number.isFinite(difference) ? difference ? [signed(difference), ` ${verdict}`] : verdict : "–")] : []), ...rest(metric)];
  });
  return table("Figures before and after", columns, [...costs, ...metrics], { class: "fit" });
}

function headline(result, asked) {
  const { before, after, change } = result;
  const tile = (label, value, more) => h("div", { class: "tile" }, h("dt", null, label), h("dd", null, h("strong", null, value), more && quiet(more)));
  // An evaluation makes no model.
  if (!after || !change) return h("dl", { class: "tiles" }, inOrder(before.metrics, asked).map(([name, value]) => tile(sentence(name), digits(value))));
  // What the job was judged by.
  const judge = result.prune?.judged_by ?? result.search?.objectives[0].metric;
  const metric = judge in change.metrics ? judge : mainMetric(change.metrics);
  return h("dl", { class: "tiles" },
    tile("Parameters, nonzero", ratio(change.nonzero_parameters_ratio), `${count(before.nonzero_parameters)} → ${count(after.nonzero_parameters)}`),
    change.macs_ratio !== null && change.macs_ratio !== undefined && tile("MACs", ratio(change.macs_ratio), `${count(before.macs)} → ${count(after.macs)}`),
    tile("File size", ratio(change.size_ratio), `${bytes(before.size_bytes)} → ${bytes(after.size_bytes)}`),
    change.speedup && tile("Speed in Sinter", ratio(change.speedup), `${milliseconds(before.latency_ms.p50)} → ${milliseconds(after.latency_ms.p50)} for one example; other runtimes gain more or less`),
    metric && after.metrics[metric] !== undefined && tile(sentence(metric), digits(after.metrics[metric]), `before ${digits(before.metrics[metric])}`));
}

/** The result in short. */
function summary({ result, request }) {
  const method = result.distill ?? result.search;
  const helped = method?.helped;
  const control = result.distill ? "the same student trained without a teacher" : "random search with as much training";
  const both = method?.comparison;
  const beside = both ? `${words(both.metric)} ${digits(both.value)}, and ${digits(both.control)} of the control, ${control}` : `the control is ${control}`;
  const same = both && both.value === both.control;
  const open = both && !same && method.significant === false;
  const chance = open ? ` (p = ${both.p_value.toFixed(2)}, paired over the test examples)` : "";
  const verdict = same ? "It made no difference" : open ? "It made no difference that can be told from chance" : helped ? "It helped" : "It did not help";
  return section("Result", null,
    result.model && h("p", null, "New model: ", modelLink(result.model)), headline(result, request.params.metrics),
    helped !== null && helped !== undefined && h("p", null, h("strong", null, verdict), `: ${beside}${chance}.`),
    unchanged(result) && h("p", null, h("strong", null, "No candidate was better than the architecture that the model came with."), result.search.front.length > 1 && " The other trials of the Pareto front below are smaller, each a model of its own."));
}

/** Whether a search among architectures chose the model's own. */
function unchanged({ search, change }) {
  const architecture = search?.space.filter((dimension) => dimension.name.includes(":")) ?? [];
  return change?.parameters_ratio === 1 && change.macs_ratio === 1 && architecture.length > 0 && architecture.every(({ name }) => /^(width|depth):/.test(name));
}

function figures({ result, request }, dataset) {
  const { training, environment } = result;
  const drawn = dataset?.splits.test === 0;
  return section("Figures", null, comparison(result, request.params.metrics),
    quiet(environment.data ? `Measured on the test split of ${plural(environment.data.splits.test, "example")}` : "Measured without data", `, device ${environment.device}; latency is that of Sinter's own engine, one example at a time`,
      training && `; trained ${duration(training.seconds)}, ${count(Math.round(training.examples_per_second))} examples/s`),
    environment.data?.prepared?.map((how) => quiet("Prepared: ", marked(how), ".")),
    (result.after || result.before).quality && quiet("The report (report.html below) has calibration and confidence, too."),
    drawn && quiet("The data set has no test split, so these examples were drawn from all of it: the model as it came may have been trained on them, and its figures may flatter it."));
}

const MEASURES = [["parameters", "Parameters", "parameters_before", "parameters_after"], ["macs", "MACs", "macs_before", "macs_after"],
  ["nonzero", "Nonzero parameters", "nonzero_before", "nonzero_parameters_after"]];

/** Bars of each layer; `layers` are as a pruning reports them. */
function layerBars(layers, after = true) {
  const place = h("div");
  const draw = (measure) => {
    const [, label, was, is] = MEASURES.find(([key]) => key === measure);
    // Before a pruning hardly any weight is zero, and its report does not count those.
    const before = (layer) => layer[was] ?? layer.parameters_before ?? null;
    const most = Math.max(...layers.flatMap((layer) => [before(layer) || 0, layer[is] || 0]));
    set(place, table(`${label} of each layer`, ["Layer", { label: "Bars", hide: true }, ...(after ? [figure("Before"), figure("After"), figure("Ratio")] : [figure(label)])],
      layers.map((layer) => [
        h("th", { scope: "row" }, h("code", null, layer.name), quiet(layer.operator)),
        h("td", { class: "bar-cell" }, bars(before(layer), after ? layer[is] : null, most)),
        number(before(layer), count),
        ...(after ? [number(layer[is], count), h("td", { class: "number" }, before(layer) && layer[is] !== null ? ratio(layer[is] / before(layer)) : "–")] : []),
      ])));
  };
  // Where no channel has left, what counts is how many weights are zero.
  const first = !after || layers.some((layer) => layer.parameters_after !== layer.parameters_before) ? "parameters" : "nonzero";
  draw(first);
  return [h("div", { class: "filters" }, select("Measure", MEASURES.map(([key, label]) => [key, label]), first, draw),
    after && h("p", { class: "legend" }, h("span", null, h("span", { class: "swatch before" }), " before"), h("span", null, h("span", { class: "swatch after" }), " after"))), place];
}

/** Layers of the model that came in and of the one that went out, matched by name. */
async function matchedLayers(job, signal) {
  const { result, request } = job;
  const pruned = result.prune?.layers;
  if (!result.model) return null;
  try {
    const [before, after] = await Promise.all([request.model, result.model].map((id) => get(`v1/models/${id}/layers`, signal)));
    // A student of its own has other layers, whatever they are called.
    if (request.params.student?.model) before.data = [];
    const found = new Map(after.data.map((layer) => [layer.name, layer]));
    const rows = before.data.map((layer) => {
      const now = found.get(layer.name);
      found.delete(layer.name);
      return {
        name: layer.name, operator: layer.operator, parameters_before: layer.parameters, macs_before: layer.macs, nonzero_before: layer.nonzero_parameters,
        parameters_after: now?.parameters ?? null, macs_after: now?.macs ?? null, nonzero_parameters_after: now?.nonzero_parameters ?? null,
      };
    });
    for (const layer of found.values()) {
      rows.push({
        name: layer.name, operator: before.data.length > 0 ? `${layer.operator}, new` : layer.operator, parameters_before: null, macs_before: null, nonzero_before: null,
        parameters_after: layer.parameters, macs_after: layer.macs, nonzero_parameters_after: layer.nonzero_parameters,
      });
    }
    return rows;
  } catch (error) {
    // One of the models may have been deleted since; a pruning's report has the layers itself.
    if (error.name === "AbortError") throw error;
    return pruned || null;
  }
}

function confusion(job) {
  const { before, after, environment } = job.result;
  const given = [["after", after], ["before", before]].filter(([, measured]) => measured?.quality);
  if (given.length === 0) return null;
  const classes = environment.data?.class_names || [];
  const name = (index) => classes[index] || String(index);
  const place = h("div");
  const draw = (which) => {
    const { confusion: matrix } = given.find(([key]) => key === which)[1].quality;
    if (matrix.length > 24) {
      const wrong = matrix.flatMap((line, label) => line.map((examples, said) => ({ label, said, examples }))).filter(({ label, said, examples }) => label !== said && examples > 0)
        .sort((a, b) => b.examples - a.examples).slice(0, 20);
      set(place, table("The most frequent confusions", ["Label", "Taken for", figure("Examples")], wrong.map((one) => [name(one.label), name(one.said), number(one.examples, count)]), { class: "fit" }));
      return;
    }
    set(place, table("Examples by label (rows) and by the class that the model says (columns)",
      ["Label", ...matrix.map((_, index) => figure(name(index))), figure("Right")],
      matrix.map((line, label) => {
        const total = line.reduce((sum, examples) => sum + examples, 0);
        return [name(label), ...line.map((examples, said) => h("td", {
          class: `number cell ${said === label ? "diagonal" : "off"}`, css: { "--share": total ? String(examples / total) : "0" },
        }, String(examples))), h("td", { class: "number" }, total ? percent(line[label] / total) : "–")];
      }), { class: "fit confusion", visible: true }));
  };
  draw(given[0][0]);
  const other = before?.quality?.order && h("p", null, h("strong", null, "The answers of the model as it came fit the labels in another order of the classes."),
    " Words are numbered in the order of the alphabet; labels that are whole numbers are taken as they are.");
  return section("Confusion matrix", null, other, given.length > 1 && h("div", { class: "filters" }, select("Model", given.map(([key]) => [key, `${key} the job`]), given[0][0], draw)), place);
}

/** Weights and channels are whole, so a share is met to the nearest of them. */
function met(target, { asked: { [target]: asked }, reached: { [target]: reached } }) {
  if (asked === undefined || reached === undefined) return "–";
  return (target.endsWith("sparsity") ? reached >= asked - 0.001 : reached <= asked + 1e-9) ? "yes" : "no";
}

function pruneDetails({ prune, environment }) {
  if (!prune) return null;
  const judges = environment.data?.splits.validation;
  const asked = Object.keys({ ...prune.asked, ...prune.reached });
  const metrics = (of) => [...new Set(of.flatMap((one) => Object.keys(one.metrics)))];
  const stages = prune.stages || [];
  const sensitivity = prune.sensitivity || [];
  const shares = sensitivity[0]?.points.map((point) => point.sparsity) || [];
  const judged = sensitivity.length ? ["accuracy", "loss"].find((metric) => metric in sensitivity[0].points[0].metrics) || Object.keys(sensitivity[0].points[0].metrics)[0] : null;
  return section("Pruning", null,
    asked.length > 0 && table("Targets", ["Target", figure("Asked"), figure("Reached"), "Met"],
      asked.map((target) => [words(target), number(prune.asked[target], digits), number(prune.reached[target], digits), met(target, prune)]), { class: "fit", visible: true }),
    ("max_accuracy_drop" in prune.asked || "max_worsening" in prune.asked) && judges && quiet(`How much worse it is, is held against the ${plural(judges, "validation example")}, which choose the model; the figures above are of the test split. `),
    prune.limited_by && h("p", null, `No smaller model was tried: ${prune.limited_by}.`),
    prune.round_to && quiet(`Channel counts are multiples of ${prune.round_to}.`),
    stages.length > 0 && h("details", null, h("summary", null, "Quality on the way"),
      table("Metrics of the validation split at each stage", ["Stage", ...metrics(stages).map((metric) => figure(words(metric)))],
        stages.map((stage) => [`${stage.stage}, step ${stage.step}`, ...metrics(stages).map((metric) => number(stage.metrics[metric], digits))]), { class: "fit" })),
    sensitivity.length > 0 && h("details", { open: true }, h("summary", null, "Sensitivity"),
      table(`${sentence(judged)} of the validation split when one group alone loses a share of its units`, ["Group", ...shares.map((share) => figure(`${percent(share)} gone`))],
        sensitivity.map((one) => [[one.name, quiet(one.layers.join(", "))], ...one.points.map((point) => number(point.metrics[judged], digits))]), { class: "fit", visible: true })),
    prune.trials?.length > 0 && h("details", null, h("summary", null, "Models that were tried"),
      table("Models that were tried", ["Asked", figure("Worse by"), "Good enough"],
        prune.trials.map((one) => [Object.entries(one.asked).map(([key, value]) => `${words(key)} ${digits(value)}`).join(", "), number(one.worsening, digits), one.within ? "yes" : "no"]), { class: "fit" })),
    prune.blocked?.length > 0 && h("details", null, h("summary", null, `Layers that could not be cut: ${prune.blocked.length}`),
      h("ul", null, prune.blocked.map((one) => h("li", null, h("code", null, one.layer), " ", one.reason)))));
}

function distillDetails(distill) {
  if (!distill) return null;
  return section("Distillation", null,
    h("p", null, `${plural(distill.teachers, "teacher")}${distill.views > 1 ? `, averaged over ${distill.views} views of each example` : ""}, outputs ${distill.source}; losses ${distill.losses.map((term) => lossName(term.name)).join(", ")}.`),
    Object.keys(distill.agreement).length > 0 && table("How near the student is to its teachers on the test split", ["Measure", figure("Value")],
      Object.entries(distill.agreement).map(([measure, value]) => [sentence(measure), number(value, digits)]), { class: "fit", visible: true }));
}

const FORMATS = { macs: count, parameters: count, nonzero_parameters: count, size_bytes: bytes, latency_ms: milliseconds };
const formatOf = (metric) => FORMATS[metric] || digits;
const configText = (config) => Object.entries(config).map(([key, value]) => key.startsWith("depth:") ? `${key} ${value ? "kept" : "removed"}` : `${key} ${typeof value === "number" && !Number.isInteger(value) ? digits(value) : typeof value === "object" ? JSON.stringify(value) : value}`).join(", ");

async function searchDetails(job, signal) {
  const { search } = job.result;
  if (!search) return null;
  const read = async (name) => (await call(`v1/jobs/${job.id}/artifacts/${name}`, { signal })).json();
  const [trials, pareto] = await Promise.all([read("trials.json"), read("pareto.json")]);
  const front = new Map(pareto.front.map((entry) => [entry.trial, entry]));
  const first = search.objectives[0].metric;
  // One objective has no front to speak of; its trials are shown against their cost.
  const second = search.objectives[1]?.metric || "macs";
  const value = (trial, metric) => trial.values[metric] ?? trial.metrics[metric] ?? trial.cost?.[metric];
  const judged = trials.trials.filter((trial) => Object.keys(trial.values).length > 0);
  const importance = search.space.filter((dimension) => dimension.importance !== null && dimension.importance !== undefined);
  const metrics = [...new Set([...search.objectives.map((one) => one.metric), "macs", "parameters"])];
  const shown = 25;
  const body = h("tbody");
  const line = (trial) => {
    const entry = front.get(trial.trial);
    return row([`Trial ${trial.trial}${search.best[0]?.trial === trial.trial ? ", the winner" : ""}`,
      h("td", null, entry ? ["Pareto front: ", modelLink(entry.model, "its model")] : trial.status), ...metrics.map((metric) => number(value(trial, metric), formatOf(metric))),
      h("td", { class: "config" }, configText(trial.config), trial.error && quiet(trial.error))]);
  };
  const rises = search.objectives[0].goal ? search.objectives[0].goal === "maximize" : largerIsBetter(first);
  const rank = (trial) => { const at = value(trial, first); return Number.isFinite(at) ? rises ? -at : at : Infinity; };
  const sorted = [...trials.trials].sort((a, b) => front.has(b.trial) - front.has(a.trial) || rank(a) - rank(b) || a.trial - b.trial);
  add(body, sorted.slice(0, shown).map(line));
  return section("Search", null,
    h("p", null, `The winner is the best by ${words(first)} alone, of the trials within the constraints; the Pareto front has the smaller ones. `,
      `${search.strategy === "tpe" ? "TPE" : sentence(search.strategy)}: ${plural(search.trials, "trial")} judged`, search.failed > 0 && `, ${search.failed} failed or infeasible`,
      `, ${plural(search.epochs, "epoch")} of training in all`, search.hypervolume !== null && search.hypervolume !== undefined && `; the front dominates ${percent(search.hypervolume)} of the box between the best and the worst figures`, "."),
    search.not_applicable?.length > 0 && h("p", null, `These of the space leave no choice in this model: ${search.not_applicable.join(", ")}.`),
    search.exceeds && h("p", { class: "error" }, `The winner, trained in full, exceeds the constraint on ${words(search.exceeds)}.`),
    h("div", { class: "columns" },
      scatter({
        title: `${sentence(first)} and ${words(second)} of each trial`, line: true,
        x: { label: sentence(second), format: formatOf(second) }, y: { label: sentence(first), format: formatOf(first) },
        points: judged.map((trial) => ({
          x: value(trial, second), y: value(trial, first), label: `Trial ${trial.trial}`,
          kind: front.has(trial.trial) ? "main" : "other", href: front.has(trial.trial) ? `#/models/${front.get(trial.trial).model}` : null,
        })),
      }),
      importance.length > 0 && table(`Share of the variance of ${words(first)} that each dimension explains`, ["Dimension", { label: "Bar", hide: true }, figure("Importance")],
        importance.sort((a, b) => b.importance - a.importance).map((dimension) => [dimension.name, h("td", { class: "bar-cell" }, bars(null, dimension.importance, 1)), number(dimension.importance, percent)]), { visible: true })),
    h("h3", null, "Trials"),
    quiet("Figures of a trial are of the examples that it was judged on, after the training of a trial. Each of the Pareto front is a model as it was then; the winner was trained in full after that, and is the new model above, measured on the test split."),
    table(`Trials, those of the Pareto front first, by ${words(first)}`, ["Trial", "Status", ...metrics.map((metric) => figure(words(metric))), "Configuration"], [], { body }),
    sorted.length > shown && h("p", null, h("button", { type: "button", onclick: (event) => { add(body, sorted.slice(shown).map(line)); event.target.remove(); } }, `Show all ${sorted.length}`)));
}

/** What has been judged of a search that has no result yet, or never will. */
export function trialsSoFar(all, { objectives }) {
  const trials = all.filter((trial) => trial.values);
  if (trials.length === 0) return null;
  const names = [...new Set(trials.flatMap((trial) => Object.keys(trial.values)))];
  const first = objectives?.[0]?.metric || names[0];
  const rises = objectives?.[0]?.goal ? objectives[0].goal === "maximize" : largerIsBetter(first);
  const rank = (trial) => Number.isFinite(trial.values[first]) ? rises ? -trial.values[first] : trial.values[first] : Infinity;
  const columns = [...new Set([...names, "macs", "parameters"])];
  return section("Trials so far", null, table(`The best by ${words(first)} first, of ${plural(trials.length, "trial")}`,
    ["Trial", "Status", ...columns.map((name) => figure(words(name))), "Configuration"],
    trials.sort((a, b) => rank(a) - rank(b) || a.trial - b.trial).slice(0, 10).map((trial) => [`Trial ${trial.trial}`, words(trial.status),
      ...columns.map((name) => number(trial.values[name] ?? trial.cost?.[name], formatOf(name))), h("td", { class: "config" }, configText(trial.config))]), { visible: true }));
}

function steps(result) {
  if (!result.steps?.length) return null;
  const metrics = [...new Set(result.steps.flatMap((step) => Object.keys(step.after.metrics)))];
  return section("Steps", null, table("The model after each step of the pipeline",
    ["Step", figure("Nonzero parameters"), figure("MACs"), figure("File size"), ...metrics.map((metric) => figure(words(metric))), "Remarks"],
    [["Before", result.before, null], ...result.steps.map((step, index) => [`${index + 1}. ${kindName(step.kind)}`, step.after, step])].map(([label, measured, step]) => [
      label, number(measured.nonzero_parameters, count), number(measured.macs, count), number(measured.size_bytes, bytes),
      ...metrics.map((metric) => number(measured.metrics[metric], digits)),
      h("td", null, step?.prune && Object.entries(step.prune.reached).map(([key, value]) => `${words(key)} ${digits(value)}`).join(", "),
        step?.distill?.control && `control ${digits(Object.values(step.distill.control.metrics)[0])}`),
    ])));
}

/** All sections of a job that has succeeded. */
export async function results(job, signal) {
  const data = job.request.dataset;
  // It may have been deleted since.
  const asked = data && get(`v1/datasets/${data}`, signal).catch((error) => { if (error.name === "AbortError") throw error; return null; });
  const [layers, search, dataset] = await Promise.all([matchedLayers(job, signal), searchDetails(job, signal), asked]);
  // With the teacher's and the control's figures the table needs the whole width.
  const wide = job.result.distill || job.result.search?.control || job.result.before.quality?.confusion.length > 7;
  return [
    summary(job), ...(wide ? [figures(job, dataset), confusion(job)] : [h("div", { class: "columns" }, figures(job, dataset), confusion(job))]), search, steps(job.result), pruneDetails(job.result), distillDetails(job.result.distill),
    layers?.length > 0 && section("Layers", null, layerBars(layers)),
  ].filter(Boolean);
}

/** What a search would do. */
function searchPlan(plan) {
  const few = (one) => typeof one === "boolean" ? one ? "kept" : "removed" : typeof one === "object" ? JSON.stringify(one) : typeof one === "number" && !Number.isInteger(one) ? digits(one) : String(one);
  return [
    h("p", null, plan.space_size === null ? "Infinitely many candidates" : `${count(plan.space_size)} candidates`, `; at most ${plural(plan.trials, "trial")} and ${plural(plan.epochs, "epoch")} of training, to which those of the winner come, and of a control if there is one. `,
      `${percent(plan.feasible_share)} of candidates at random meet the constraints.`),
    plan.warnings?.map((warning) => h("p", { class: "error" }, sentence(warning), ".")),
    plan.nearest && h("p", { class: "error" }, `None of a hundred did: ${plan.nearest}. A search may find one, and fails where it does not; milder constraints or more choices in the space make it likelier.`),
    plan.not_applicable?.length > 0 && h("p", null, `These of the space leave no choice in this model: ${plan.not_applicable.join(", ")}.`),
    table("Dimensions of the space", ["Dimension", "Choices or range"], plan.space.map((dimension) => [dimension.name,
      (dimension.choices || dimension.range || []).map(few).join(dimension.range ? " to " : ", ")]), { class: "fit" }),
  ];
}

/** Costs of two models beside each other. */
const costsBeside = (caption, [first, was], [second, is]) => table(caption, ["Figure", figure(first), figure(second), figure("Ratio")],
  COSTS.slice(0, 3).map(([key, label, format]) => [label, number(was[key], format), number(is[key], format), h("td", { class: "number" }, was[key] ? ratio(is[key] / was[key]) : "–")]), { class: "fit" });

/** What one method, or one step of a pipeline, would do. */
const PLANS = {
  search: searchPlan,
  prune: ({ before, after, outcome, groups }) => [
    costsBeside("Cost before and after", ["Before", before], ["After", after]),
    groups?.length > 0 && table("Groups of coupled channels", ["Group", figure("Units"), figure("Removed"), "Layers"],
      groups.map((group) => [group.name, number(group.units, count), number(group.removed.length, count), h("td", null, group.layers.join(", "))]), { class: "fit" }),
    outcome?.layers?.length > 0 && h("details", null, h("summary", null, "Layers"), layerBars(outcome.layers)),
  ],
  distill: ({ teacher, student, teachers, losses, epochs, control }) => [
    h("p", null, `${plural(teachers, "teacher")}; ${plural(epochs, "epoch")} of the student${control ? ", and as many of its control" : ""}.`),
    costsBeside("Cost of teacher and student", ["Teacher", teacher], ["Student", student]),
    table("Losses", ["Loss", "Compares"], losses.map((loss) => [lossName(loss.name),
      h("td", null, loss.name === "cross_entropy" ? "the student's outputs with the target" : !loss.pairs ? "the outputs" : loss.pairs.map((pair) => h("div", null, h("code", null, pair.teacher), ` [${pair.teacher_shape.join(", ")}] with `, h("code", null, pair.student), ` [${pair.student_shape.join(", ")}]`, pair.projected && ", projected")))]), { class: "fit" }),
  ],
  train: ({ cost, epochs }) => [h("p", null, `${plural(epochs, "epoch")} of a model of ${count(cost.parameters)} parameters${cost.macs ? ` and ${count(cost.macs)} MACs` : ""}.`)],
  evaluate: ({ metrics, test_examples: examples }) => [h("p", null, `${sentence(metrics.map(words).join(", "))}, of ${plural(examples, "example")}.`)],
  pipeline: ({ steps }) => steps.map((step, index) => h("div", null, h("h3", null, `${index + 1}. ${kindName(step.kind)}`), PLANS[step.kind](step.plan))),
};

/** What a dry run tells. */
export const planView = ({ kind, plan, data, steps }) => [
  PLANS[kind](plan),
  data && kind !== "evaluate" && quiet(`Trains on ${plural(data.splits.train, "example")}, selects on ${data.splits.validation}, tests on ${data.splits.test}`, steps > 0 && `; at most ${count(steps)} optimizer steps in all`, "."),
  data?.prepared?.map((how) => quiet(marked(how), ".")),
  !data && kind !== "evaluate" && quiet("This is a plan without a data set. The job itself needs one, unless it prunes by the weights alone and does not fine-tune."),
  data?.batch_size === 1 && kind !== "evaluate" && h("p", { class: "error" }, "The model's file fixes its batch size at 1: it would train one example at a time, which is slow and another training than in batches. Export it with an open one."),
];
