// The form of a new job: fields, the request as JSON, the same as curl, the plan, problems at their fields.

import { all, get, hasKey, learn, post, query } from "./api.js";
import { add, button, copy, h, problem, quiet, scroller, section, set, unique } from "./dom.js";
import { isTrial } from "./lists.js";
import { KIND_NAMES, count, inFields, kindName, numberOf, plural, pretty, sentence, shortId, words } from "./format.js";
import { COMMON, KINDS } from "./kinds.js";

const read = (body, path) => path.split(".").reduce((value, key) => value?.[key], body);

/** Sets a value; `undefined` removes it, and objects that are then empty. */
function write(body, path, value) {
  const keys = path.split(".");
  const last = keys.pop();
  const chain = [body];
  for (const key of keys) {
    const inner = chain.at(-1)[key];
    if (typeof inner !== "object" || inner === null) {
      if (value === undefined) return;
      chain.at(-1)[key] = {};
    }
    chain.push(chain.at(-1)[key]);
  }
  if (value !== undefined) {
    chain.at(-1)[last] = value;
    return;
  }
  delete chain.at(-1)[last];
  for (let depth = keys.length - 1; depth >= 0 && Object.keys(chain[depth + 1]).length === 0; depth -= 1) {
    if (depth > 0 || keys[0] !== "params") delete chain[depth][keys[depth]];
  }
}

/** A request that was accepted, without what says nothing. */
function compact(value) {
  if (Array.isArray(value)) return value.map(compact);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).filter(([, inner]) => inner !== null).map(([key, inner]) => [key, compact(inner)])
    .filter(([, inner]) => typeof inner !== "object" || Object.keys(inner).length > 0));
}

const split = (text) => text.split(",").map((part) => part.trim()).filter(Boolean);
const orNothing = (list) => list.length ? list : undefined;
/** Numbers as people have them: with commas, or as NumPy prints them; one alone may have a decimal comma. */
const numbersOf = (text) => /^\s*-?0,\d{2,}\s*$/.test(text) ? [numberOf(text)] : text.replace(/[[\]()]/g, " ").split(/[\s,;]+/).filter(Boolean).map(numberOf);

const untagged = (text) => split(text).some((part) => part.indexOf("=") < 1);

// How each type of a field turns text into a value and back. What is no number goes to the server as it
// is, whose problem then says so.
const TEXTS = {
  text: [(text) => text.trim() || undefined, (value) => value],
  number: [numberOf, (value) => value],
  list: [(text) => orNothing(split(text)), (value) => value.join(", ")],
  numbers: [(text) => orNothing(numbersOf(text)), (value) => [value].flat().join(", ")],
  tags: [(text) => { if (untagged(text)) return text; const pairs = split(text).map((pair) => [pair.split("=")[0].trim(), pair.split("=").slice(1).join("=").trim()]); return pairs.length ? Object.fromEntries(pairs) : undefined; },
    (value) => typeof value === "string" ? value : Object.entries(value).map(([key, word]) => `${key}=${word}`).join(", ")],
};

/** Opens all that an element is folded into, so that it can be seen and focused. */
function unfold(element) {
  for (let parent = element.closest("details"); parent; parent = parent.parentElement.closest("details")) parent.open = true;
}

/** One field: its element, and how to bring it in line with the request. */
function field([path, label, type, options = {}], form) {
  const id = unique("field");
  const { hint, when, then } = options;
  const fault = h("p", { class: "fault", id: `${id}-fault`, hidden: true });
  const note = hint && h("p", { class: "hint", id: `${id}-hint` }, hint);
  const described = [hint && `${id}-hint`, `${id}-fault`].filter(Boolean).join(" ");
  const changed = (value) => { write(form.body, path, value); then?.(form.body); form.update(control); };
  let control;
  let wrong = null;
  let sync;
  let element;

  if (type === "check") {
    control = h("input", { type: "checkbox", id, "aria-describedby": described, onchange: () => changed(control.checked || undefined) });
    sync = () => { control.checked = read(form.body, path) === true; };
    element = h("div", { class: "field check" }, h("label", null, control, " ", label), note, fault);
  } else if (type === "select" || type === "model" || type === "dataset") {
    control = h("select", { id, "aria-describedby": described, onchange: () => changed(control.value || undefined) });
    const listed = type === "model" ? form.models : type === "dataset" ? form.datasets : null;
    sync = () => {
      const value = read(form.body, path) ?? "";
      // Of data sets those that the model can't read are told; the service knows for sure.
      const reader = form.models.find((one) => one.id === form.body.model);
      const about = (one) => listed === form.models ? [`${count(one.summary.parameters)} parameters`]
        : [one.format, plural(one.splits.train, "example"), one.target ? `target ${one.target.name}` : "no target"];
      const given = listed ? [["", options.none || "choose…"], ...listed.map((one) => [one.id, `${listed === form.datasets && reader && !fits(reader, one) ? "✕ does not fit: " : ""}${one.name} (${[...about(one), shortId(one.id)].filter(Boolean).join(", ")})`])]
        : (path === "device" ? ["", ...form.devices] : options.options).map((one) => Array.isArray(one) ? one : [one, one === "" ? `default: ${words(options.usual)}` : words(one)]);
      // A value that the list does not know must not be lost by looking at it.
      if (!given.some(([one]) => one === value)) given.push([value, String(value)]);
      set(control, given.map(([one, text]) => h("option", { value: one }, text)));
      control.value = value;
    };
  } else if (type === "choices") {
    const boxes = options.options.map((one) => h("input", {
      type: "checkbox", value: one,
      onchange: () => changed(orNothing(boxes.filter((box) => box.checked).map((box) => box.value))),
    }));
    control = boxes[0];
    sync = () => { for (const box of boxes) box.checked = (read(form.body, path) || []).includes(box.value); };
    element = h("fieldset", { class: "field wide", "aria-describedby": described }, h("legend", null, label), note,
      h("ul", { class: "checks" }, boxes.map((box) => h("li", null, h("label", null, box, " ", words(box.value))))), fault);
  } else if (type === "steps") {
    return Object.assign(stepsField(path, options, form), { path, label });
  } else if (type === "rows") {
    const place = h("div");
    const more = button(`Add ${options.noun === "objective" ? "an" : "a"} ${options.noun}`, () => {
      write(form.body, path, [...(read(form.body, path) || []), structuredClone(options.fresh)]);
      sync();
      form.update(null);
      [...place.querySelectorAll("select, input")].at(-options.columns.length)?.focus();
    });
    control = more;
    sync = () => {
      const rows = [read(form.body, path) ?? []].flat();
      set(place, rows.map((line, index) => h("div", { class: "row", role: "group", "aria-label": `${sentence(options.noun)} ${index + 1}` },
        options.columns.map((column) => cell(line, index, column)), h("p", { class: "fault", id: `${id}-fault-${index}`, hidden: true }),
        button("Remove", () => {
          write(form.body, path, orNothing(rows.filter((_, other) => other !== index)));
          sync();
          form.update(null);
          more.focus();
        }, { "aria-label": `Remove ${options.noun} ${index + 1}` }))));
    };
    // What is given but not in the list must not be lost by looking at it.
    const named = (values, value) => {
      const pairs = values.map((one) => Array.isArray(one) ? one : [one, words(one)]);
      return value && !pairs.some(([one]) => one === value) ? [...pairs, [value, words(value)]] : pairs;
    };
    const cell = (line, index, [key, name, kind, values]) => {
      const own = unique("cell");
      const value = typeof line === "object" ? line[key] : undefined;
      const store = (given) => { write(read(form.body, path)[index], key, given); form.update(input); };
      const input = kind === "select" ? h("select", { id: own, onchange: () => store(input.value) }, named(values, value).map(([one, text]) => h("option", { value: one }, text)))
        : h("input", { id: own, type: "text", inputmode: "decimal", autocomplete: "off", value: typeof value === "object" ? JSON.stringify(value) : value ?? "", oninput: () => store(numberOf(input.value)) });
      if (kind === "select" && value) input.value = value;
      input.dataset.path = `${path}.${index}.${key}`;
      input.setAttribute("aria-describedby", `${id}-fault-${index}`);
      return h("div", null, h("label", { for: own }, name), input);
    };
    element = h("fieldset", { class: "field wide" }, h("legend", null, label), note, place, more, fault);
  } else {
    const [parse, format] = TEXTS[type];
    control = h("input", { id, type: "text", inputmode: type === "number" ? "decimal" : null, autocomplete: "off", "aria-describedby": described, oninput() {
      control.setCustomValidity(type === "tags" && untagged(control.value) ? "Write name=value, with commas between several." : "");
      changed(parse(control.value));
    } });
    sync = () => {
      const value = read(form.body, path);
      control.value = value === undefined ? "" : typeof value === "object" && type !== "tags" && !Array.isArray(value) ? JSON.stringify(value) : format(value);
    };
  }
  element ??= h("div", { class: "field" }, h("label", { for: id }, label), control, note, fault);
  /** The row that a pointer goes into, and its control. */
  const rowAt = (at) => {
    const [index] = type === "rows" && at.startsWith(`${path}.`) ? at.slice(path.length + 1).split(".") : [];
    const row = index === undefined ? null : [...element.querySelectorAll(".row")][Number(index)];
    if (!row) return null;
    const inputs = [...row.querySelectorAll("[data-path]")];
    return { note: row.querySelector(".fault"), input: inputs.find((one) => at === one.dataset.path || at.startsWith(`${one.dataset.path}.`)) || inputs[0] };
  };
  return {
    path, element, label,
    sync(source) {
      element.hidden = Boolean(when && !when(form.body));
      if (source !== control && !(type === "rows" && element.contains(source))) sync();
    },
    complain(text, at = "") {
      if (!text) {
        for (const marked of element.querySelectorAll("[aria-invalid]")) marked.removeAttribute("aria-invalid");
        for (const note of element.querySelectorAll(".fault")) set(note).hidden = true;
        wrong = null;
        return;
      }
      const row = rowAt(at);
      const column = row?.input.closest("div")?.querySelector("label")?.textContent;
      if (column) text = `${column}: ${text}`;
      const note = row?.note || fault;
      note.hidden = false;
      // Several faults can be those of one field.
      if (!note.textContent.split("; ").includes(text)) note.textContent = [note.textContent, text].filter(Boolean).join("; ");
      const marked = row ? row.input : control;
      wrong ??= marked;
      marked?.setAttribute("aria-invalid", "true");
      unfold(element);
    },
    focus: () => (wrong || control).focus(),
  };
}

/** A field of a step, which is like that of a job of its kind but for its place. */
function ofStep([path, label, type, options = {}], at) {
  // What a step's fields look at is the step, and a job's parameters are in its place.
  const scoped = (work) => work && ((body) => {
    const step = read(body, at);
    step.params ??= {};
    return work(step);
  });
  return [`${at}.${path}`, label, type, { ...options, ...options.step, when: scoped(options.when), then: scoped(options.then) }];
}

/** The steps of a pipeline: of each its kind, and the fields of that kind. */
function stepsField(path, { kinds, fresh }, form) {
  const place = h("div");
  const fault = h("p", { class: "fault", hidden: true });
  const element = h("div", { class: "field wide" }, place, fault);
  let inner = [];
  let shown = null;
  // What was typed as JSON may be anything.
  const stepsOf = () => [read(form.body, path) ?? []].flat().filter((step) => step && typeof step === "object");
  const change = (steps, focused) => {
    write(form.body, path, orNothing(steps));
    form.update(null);
    place.querySelectorAll("[data-focus]")[focused]?.focus();
  };
  const swapped = (index, other) => {
    const steps = [...stepsOf()];
    [steps[index], steps[other]] = [steps[other], steps[index]];
    change(steps, other);
  };
  const more = button("Add a step", () => change([...stepsOf(), structuredClone(fresh)], stepsOf().length));
  add(element, more);

  function view(step, index, count) {
    const at = `${path}.${index}`;
    const make = (specification) => {
      const one = field(ofStep(specification, at), form);
      one.label = `Step ${index + 1}, ${one.label}`;
      inner.push(one);
      return one.element;
    };
    const { fields = [], more: groups = [], step: own = [] } = kinds[step.kind] || {};
    const id = unique("kind");
    const kind = h("select", { id, "data-focus": true, onchange: () => change(stepsOf().map((one, other) => other === index ? { kind: kind.value, ...structuredClone(kinds[kind.value].body) } : one), index) },
      Object.keys(kinds).map((one) => h("option", { value: one }, kindName(one))));
    kind.value = step.kind;
    return h("fieldset", { class: "step" }, h("legend", null, `Step ${index + 1}`),
      h("div", { class: "actions" }, h("label", { for: id }, "Kind"), kind,
        index > 0 && button("Earlier", () => swapped(index, index - 1), { "aria-label": `Step ${index + 1} earlier` }),
        index < count - 1 && button("Later", () => swapped(index, index + 1), { "aria-label": `Step ${index + 1} later` }),
        button("Remove", () => change(stepsOf().filter((_, other) => other !== index), Math.max(0, index - 1)), { "aria-label": `Remove step ${index + 1}` })),
      h("div", { class: "fields" }, [...own, ...fields].map(make)),
      groups.map(({ title, fields: list }) => h("details", null, h("summary", null, title), h("div", { class: "fields" }, list.map(make)))));
  }

  return {
    element,
    get inner() { return inner; },
    sync(source) {
      const steps = stepsOf();
      const kindsNow = JSON.stringify(steps.map((step) => step.kind));
      // Fields stay as long as the steps are of the same kinds, so that none loses the focus.
      if (kindsNow !== shown) {
        shown = kindsNow;
        inner = [];
        set(place, steps.map((step, index) => view(step, index, steps.length)));
      }
      for (const one of inner) one.sync(source);
    },
    complain(text) {
      fault.hidden = !text;
      fault.textContent = text;
      if (!text) for (const one of inner) one.complain("");
    },
    focus: () => more.focus(),
  };
}

/** An object of the request as JSON; what can't be read is said at once and not taken. */
function jsonEditor(key, label, form) {
  const id = unique("json");
  const fault = h("p", { class: "fault", id: `${id}-fault`, hidden: true });
  const say = (text) => { fault.hidden = !text; fault.textContent = text; };
  const valid = (message) => {
    area.setCustomValidity(message);
    if (message) area.setAttribute("aria-invalid", "true");
    else area.removeAttribute("aria-invalid");
    say(message);
  };
  const area = h("textarea", { id, spellcheck: "false", "aria-describedby": `${id}-fault`, oninput() {
    try {
      form.body[key] = JSON.parse(area.value);
      valid("");
      form.update(area);
    } catch (error) {
      valid(error.message);
      form.broken(error.message);
    }
  } });
  area.addEventListener("judged", () => say(area.validationMessage));
  const element = h("div", { class: "field wide" }, h("label", { for: id }, label), area, fault);
  return {
    path: key, element, label, whole: true,
    sync(source) {
      if (source === area) return;
      area.value = pretty(form.body[key] ?? {});
      area.rows = Math.min(16, area.value.split("\n").length + 1);
      valid("");
    },
    complain(text) {
      say([text && fault.textContent, text].filter(Boolean).join("; "));
      if (text) area.setAttribute("aria-invalid", "true");
      if (text) unfold(element);
    },
    focus: () => area.focus(),
  };
}

/** The command as a POSIX shell reads it. */
function curl(text) {
  const url = new URL("v1/jobs", document.baseURI).href;
  return [`curl -s '${url}'`, ...(hasKey() ? ['  -H "Authorization: Bearer $SINTER_KEY"'] : []), "  -H 'Content-Type: application/json'", `  -d '${text.replaceAll("'", "'\\''")}'`].join(" \\\n");
}

/** A fault in the words of the form: parameters by the labels of their fields, where they have one. */
function inWords(detail, fields) {
  const shown = fields.filter((one) => !one.whole && !one.element.hidden);
  const labels = (name) => {
    const exact = shown.filter((one) => one.path === name || one.path.endsWith(`.${name}`));
    // An object has the fields of its parts.
    return new Set((exact.length ? exact : shown.filter((one) => one.path.includes(`.${name}.`)).slice(0, 1)).map((one) => one.label));
  };
  const label = (text, name) => {
    const [only, ...others] = labels(name);
    return only && others.length === 0 ? `“${only}”` : text;
  };
  // Of a list of what could be given, what the form has now.
  const [, list] = detail.match(/^needs one of ([a-z_, ]+)$/) || [];
  if (list) {
    const known = list.split(", ").map((name) => label("", name)).filter(Boolean);
    if (known.length) return `Needs one of ${known.join(", ")}.`;
  }
  // What a word could be instead is no field.
  const [said, ...expected] = detail.split(", expected ");
  return [inFields(said)
    .replace(/ \(`\?target=` of the upload, `--target` of the terminal choose another one; `\?files_of=` reads the same files again\)/g, " (“Read in another way” on the data set's page chooses another one)")
    .replace(/,? or the one that `\?target=` of the upload names; `\?files_of=` reads the same files again/g, "; “Read in another way” on the data set's page makes another array the target")
    .replace(/ unless `\?target=` of the upload names another one; `\?files_of=` reads the same files again/g, "; “Read in another way” on the data set's page makes another one the target")
    // Words of the language are no parameters unless they are marked as such.
    .replace(/`([a-z][a-z_.]*)`|\b([a-z]+(?:[_.][a-z]+)+|sparsity)\b/g, (text, marked, plain) => label(text, marked || plain)), ...expected].join(", expected ");
}

/** Shows each fault at the field that it is about, or at the JSON that has it; the fields, and the faults that have no place. */
function distribute(faults, given) {
  const fields = given.flatMap((one) => [one, ...(one.inner || [])]);
  const lost = [];
  const places = new Set();
  for (const { pointer, detail } of faults) {
    const path = (pointer || "").split("/").slice(1).map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~")).join(".");
    const seen = fields.filter((one) => !one.element.hidden && path !== "");
    const around = seen.filter((one) => path === one.path || path.startsWith(`${one.path}.`)).sort((a, b) => b.path.length - a.path.length)[0];
    // A field of what is wrong as a whole is nearer than the JSON of everything.
    const place = around && !around.whole ? around : seen.find((one) => !one.whole && one.path.startsWith(`${path}.`)) || around;
    if (place) {
      const chosen = detail === "is missing" && place.element.querySelector("select");
      place.complain(place.whole ? `${pointer}: ${detail}` : chosen ? "Nothing is chosen." : inWords(detail, fields), path);
      places.add(place);
    } else lost.push({ pointer, detail });
  }
  // In the order of the form, whatever that of the answer.
  const inOrder = [...places].sort((a, b) => a.element.compareDocumentPosition(b.element) & Node.DOCUMENT_POSITION_FOLLOWING ? -1 : 1);
  inOrder[0]?.focus();
  return { places: inOrder, lost };
}

const DRAFT = "sinter-draft";
const hasDraft = () => /[?&]draft=/.test(location.hash);

/** What was typed and not submitted, by kind of job, and what all kinds share. */
function draft(value) {
  try {
    if (value === null) sessionStorage.removeItem(DRAFT);
    else if (value) sessionStorage.setItem(DRAFT, JSON.stringify(value));
    return JSON.parse(sessionStorage.getItem(DRAFT)) || { params: {} };
  } catch {
    // Storage may be forbidden or full; then nothing is kept.
    return { params: {} };
  }
}

/** Elements of one example, as far as they are known. */
const elements = (sizes) => sizes.every((size) => Number.isInteger(size) && size > 0) ? sizes.reduce((product, size) => product * size, 1) : null;

/** Whether a data set looks as if the model could read it; the service knows for sure. */
function fits({ summary: { inputs, outputs } }, { inputs: arrays, target }) {
  if (inputs.length === 0) return false;
  const [first] = inputs;
  const alike = (input, array) => {
    const [own, other] = [elements(input.shape.slice(1)), elements(array.shape)];
    return own === null || other === null || own === other;
  };
  const reads = arrays.some((array) => array.media === "image") ? first.shape.length === 4
    : arrays.some((array) => array.media === "text") ? first.dtype.startsWith("int")
      : arrays.some((array) => array.media) ? first.dtype.startsWith("float")
        : inputs.length === 1 && arrays.length === 1 ? alike(first, arrays[0])
          : inputs.every((input) => arrays.some((array) => array.name === input.name && alike(input, array)));
  const said = elements(outputs.find((output) => output.dtype.includes("float"))?.shape.slice(1) || []);
  // A single output is for a value, or for yes and no.
  return reads && (!target || said === null || (target.classes && said > 1 ? target.classes <= said : (elements(target.shape) ?? said) === said));
}

/** The model and the data set that a form begins with: the newest that go together, of a chosen model the data set `latest` that
    it was last used with. What jobs made comes after uploads. */
function beginning(models, datasets, model, dataset, latest) {
  const ordered = [...models.filter((one) => !one.parent_id), ...models.filter((one) => one.parent_id)].filter((one) => !model || one.id === model);
  const readable = datasets.filter((one) => !dataset || one.id === dataset);
  for (const one of ordered) {
    const found = readable.find((other) => other.id === latest && fits(one, other)) || readable.find((other) => fits(one, other));
    if (found) return [one.id, found.id];
  }
  return [model || (dataset ? "" : ordered[0]?.id || ""), dataset || ""];
}

export async function formPage({ args: [kind], query: given, signal }) {
  if (!KIND_NAMES[kind]) throw Object.assign(new Error(`There is no kind of job that is called “${kind}”.`), { status: 404 });
  const definition = KINDS[kind] || { about: "", body: { params: {} }, fields: [], more: [] };
  const from = given.get("from");
  const [models, datasets, devices, earlier] = await Promise.all([all("v1/models", 500, signal), all("v1/datasets", 500, signal), get("v1/devices", signal), from && get(`v1/jobs/${encodeURIComponent(from)}`, signal)]);
  learn(models);
  learn(datasets);

  const fields = [];
  const code = h("pre", { class: "curl" });
  const body = { kind, model: "", dataset: "", ...structuredClone(definition.body) };
  if (earlier) {
    Object.assign(body, compact(earlier.request));
    delete body.dry_run;
    // Two of one name could not be told from each other.
    if (body.name) body.name = `${body.name.replace(/, again$/, "").slice(0, 60)}, again`;
    // What a warning of that job advises.
    if (given.has("preprocess")) {
      const { scale, mean, std, ...rest } = body.data?.preprocess || {};
      write(body, "data.preprocess", { ...rest, ...JSON.parse(given.get("preprocess")) });
    }
    if (given.has("dataset")) body.dataset = given.get("dataset");
  } else {
    const chosen = models.find((one) => one.id === given.get("model"));
    const used = chosen && !given.has("dataset") ? await get(`v1/jobs${query({ model: chosen.id, limit: 1 })}`, signal) : null;
    const maker = chosen?.job_id && used?.data.length === 0 ? await get(`v1/jobs/${chosen.job_id}`, signal).catch(() => null) : null;
    const latest = (used?.data[0] || maker)?.request.dataset;
    [body.model, body.dataset] = beginning(models, datasets, given.get("model"), given.get("dataset"), latest);
  }
  const kept = given.has("draft") ? draft() : draft(null);
  if (kept.shared) {
    // What was cleared does not come back.
    const params = kept.params[kind] ?? body.params;
    for (const key of Object.keys(body)) delete body[key];
    Object.assign(body, { kind, ...kept.shared, params });
  }
  for (const key of ["model", "dataset"]) if (!body[key]) delete body[key];

  const form = {
    body, datasets,
    // Candidates of searches would hide what people have uploaded.
    models: models.filter((one) => !isTrial(one) || one.id === body.model), devices: ["auto", ...devices.data.map((device) => device.name)],
    text: (extra) => pretty({ ...form.body, ...extra }),
    update(source) {
      suit();
      if (source) keep();
      // A plan is of the form as it was.
      set(plan);
      for (const one of fields) {
        one.sync(source);
        // What was said of a value is not said of another.
        if (source) for (const part of one.inner || [one]) if (part.element.contains(source)) part.complain("");
      }
      code.textContent = curl(form.text());
    },
    // A command that is not what the fields show would be taken for it.
    broken(message) { code.textContent = `# This is no JSON yet: ${message.replaceAll("\n", " ")}`; },
  };
  /** Usual values that are those of another task become those of this one. */
  function suit() {
    if (!definition.usual) return;
    const { path, classes, values } = definition.usual;
    const target = datasets.find((one) => one.id === body.dataset)?.target;
    const output = models.find((one) => one.id === body.model)?.summary.outputs.find((one) => one.dtype.includes("float"));
    const single = elements(output?.shape.slice(1) || [0]) === 1;
    // As the service tells a task from the target.
    const task = body.task || (!target ? "" : target.shape.length === 0 && target.classes && !single ? "classification"
      : target.shape.length === 1 && target.shape[0] !== 0 && !target.dtype.startsWith("float") ? "multilabel" : target.shape[0] === 0 ? "token_classification" : "regression");
    // Several labels have an accuracy, but no softmax.
    const [wanted, other] = task === "regression" || (task === "multilabel" && kind === "distill") ? [values, classes] : [classes, values];
    if (JSON.stringify(read(body, path)) === JSON.stringify(other)) write(body, path, structuredClone(wanted));
  }
  /** Keeps what was typed for another kind and for a reload. */
  function keep() {
    const { kind: _, params, ...shared } = body;
    draft({ shared, params: { ...draft().params, [kind]: params } });
    if (!hasDraft()) history.replaceState(null, "", `${location.hash}${location.hash.includes("?") ? "&" : "?"}draft=1`);
  }
  const make = (specification) => {
    const made = field(specification, form);
    fields.push(made);
    return made.element;
  };
  const editor = (key, label) => {
    const made = jsonEditor(key, label, form);
    fields.push(made);
    return made.element;
  };
  const group = ({ title, fields: list }) => h("details", null, h("summary", null, title), h("div", { class: "fields" }, list.map(make)));

  const answer = h("div");
  const plan = h("div");
  const buttons = [];

  async function send(extra, use) {
    set(answer);
    for (const one of fields) one.complain("");
    for (const control of document.querySelectorAll("form.job textarea, form.job input")) {
      if (!control.closest("[hidden]") && !control.checkValidity()) {
        control.dispatchEvent(new CustomEvent("judged", { bubbles: true }));
        unfold(control);
        control.setAttribute("aria-invalid", "true");
        const of = control.tagName === "TEXTAREA" ? `${control.closest('[role="group"]')?.ariaLabel || "The field"} holds no JSON: ` : "";
        set(answer, problem(new Error(of + control.validationMessage)));
        control.focus();
        return;
      }
    }
    for (const control of buttons) control.disabled = true;
    try {
      await use(await (await post("v1/jobs", form.text(extra))).json());
    } catch (error) {
      // Buttons come back before a field gets the focus.
      for (const control of buttons) control.disabled = false;
      if (error.name === "AbortError") return;
      // What can't be planned is no fault of a field.
      if (error.problem?.errors?.[0]?.pointer === "/dry_run") {
        set(answer, h("p", { class: "quiet", role: "status" }, `A plan can't foretell this target: ${inWords(error.problem.errors[0].detail, fields)}. The job itself is no worse for that.`));
        return;
      }
      const { places, lost } = distribute(error.problem?.errors || [], fields);
      // What stands at its field is not said once more.
      set(answer, places.length > 0 && lost.length === 0 ? elsewhere(error, places) : problem(error));
      if (places.length === 0) {
        answer.tabIndex = -1;
        answer.focus();
      }
    } finally {
      for (const control of buttons) control.disabled = false;
    }
  }

  const elsewhere = (error, places) => problem({ problem: { ...error.problem, errors: [], detail: `${[...new Set(places.map((one) => one.label))].join(", ")}: ${places.length === 1 && error.problem.errors.length === 1 ? inWords(error.problem.errors[0].detail, fields) : "see what stands at these fields"}` } });

  buttons.push(h("button", { class: "primary" }, "Submit job"));
  buttons.push(button("Plan", () => send({ dry_run: true }, async (dry) => {
    const { planView } = await import("./results.js");
    set(plan, section("Plan", { class: "plan" }, planView(dry)));
    plan.querySelector("h2").tabIndex = -1;
    plan.querySelector("h2").focus();
  })));
  const copier = button("Copy", () => copy(code.textContent, copier), { "aria-label": "Copy the command" });
  const kinds = Object.keys(KIND_NAMES).filter((one) => KINDS[one] || one === kind);
  const address = (one) => `#/new/${one}?${new URLSearchParams([["model", body.model || ""], ["dataset", body.dataset || ""], ["draft", hasDraft() ? "1" : ""]].filter(([, value]) => value))}`;

  const element = h("form", { class: "job", novalidate: true, onsubmit: (event) => { event.preventDefault(); send({}, (job) => { draft(null); location.hash = `#/jobs/${job.id}`; }); } },
    h("div", { class: "fields pair" }, make(["model", kind === "distill" ? "Teacher" : "Model", "model"]), make(["dataset", "Data set", "dataset", { none: "none" }]), make(["name", "Name of the job", "text"])),
    h("h2", null, kindName(kind)), definition.about && quiet(definition.about),
    h("div", { class: "fields" }, definition.fields.map(make)),
    definition.more.map(group), group(COMMON.data), group(COMMON.run),
    h("details", { open: definition.fields.length === 0 }, h("summary", null, "Parameters as JSON"),
      quiet("All that the API takes: see ", h("a", { href: "docs/" }, "its description"), ". Fields and JSON follow each other."),
      h("div", { class: "fields" }, editor("params", "params"), editor("data", "data"))),
    h("div", { class: "actions" }, buttons), answer);
  form.update(null);
  // What an earlier job had goes along to the other kinds, too.
  if (earlier) keep();
  return {
    title: `New job: ${kindName(kind).toLowerCase()}`,
    content: [
      h("nav", { "aria-label": "Kind of job" }, h("ul", { class: "tabs" }, kinds.map((one) => h("li", null, h("a", {
        href: address(one), "aria-current": one === kind ? "page" : null,
        // What was chosen here goes along to the other kind.
        onclick: (event) => { event.currentTarget.href = address(one); },
      }, kindName(one)))))),
      models.length === 0 && h("p", { class: "problem" }, "There is no model yet. ", h("a", { href: "#/models" }, "Upload one"), " first."),
      h("div", { class: "form-page" }, h("div", null, element, plan),
        h("section", { class: "command", "aria-labelledby": "curl-title" }, h("h2", { id: "curl-title" }, "As a command"), h("div", { class: "actions" }, copier), scroller("The command", code),
          hasKey() && quiet("SINTER_KEY is a variable of your shell that has the key."))),
    ].filter(Boolean),
  };
}
