// Numbers, times and names as people read them: three significant digits, units, powers of ten for what is tiny.

const minus = (text) => text.replace("-", "−");

/** Three significant digits. */
export function digits(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.floor(Math.log10(Math.abs(value)));
  if (size < -5) return minus(`${(value / 10 ** size).toFixed(2)}·10⁻${[...String(-size)].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]).join("")}`);
  return minus(value.toFixed(Math.min(15, Math.max(0, 2 - size))));
}

function scaled(value, units, base = "") {
  if (value === null || value === undefined) return "–";
  for (const [unit, size] of units) {
    // From 999.5 on, three digits would read as 1000 of the smaller unit.
    if (Math.abs(value) >= size * 0.9995) return `${digits(value / size)} ${unit}`;
  }
  return (Number.isInteger(value) ? minus(String(value)) : digits(value)) + base;
}

/** A whole number with all its digits. */
export const whole = (value) => value.toLocaleString("en").replaceAll(",", "\u202f");

export const count = (value) => scaled(value, [["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3]]);
export const bytes = (value) => scaled(value, [["TB", 1e12], ["GB", 1e9], ["MB", 1e6], ["kB", 1e3]], " B");

export function milliseconds(value) {
  if (value === null || value === undefined) return "–";
  return value < 0.0995 ? `${digits(value * 1000)} µs` : value < 999.5 ? `${digits(value)} ms` : `${digits(value / 1000)} s`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

export const ratio = (value) => value === null || value === undefined ? "–"
  : `×${value >= 0.0095 || value === 0 ? value.toFixed(2) : digits(value)}`;
export const percent = (share) => `${Math.round(share * 100)} %`;
export const signed = (value) => value > 0 ? `+${digits(value)}` : digits(value);

/** JSON with what is short on one line. */
export function pretty(value, indent = "") {
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const inner = `${indent}  `;
  const parts = Object.entries(value).filter(([, part]) => part !== undefined).map(([key, part]) => (open === "[" ? "" : `${JSON.stringify(key)}: `) + pretty(part, inner));
  const line = open + parts.join(", ") + close;
  return line.length + indent.length < 56 && !line.includes("\n") ? line : `${open}\n${inner}${parts.join(`,\n${inner}`)}\n${indent}${close}`;
}

const moment = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
export const when = (time) => time ? moment.format(new Date(time)) : "–";
export const clock = (time) => new Date(time).toLocaleTimeString();

/** The end of an id: UUIDv7 begin with the time, so that their beginnings are all alike. */
export const shortId = (id) => `…${id.slice(-8)}`;
export const words = (name) => name.replaceAll("_", " ").replace(/^macs\b/, "MACs");
export const sentence = (name) => words(name).replace(/^./, (letter) => letter.toUpperCase());
export const plural = (number, noun) => `${number} ${noun}${number === 1 ? "" : noun.endsWith("s") ? "es" : "s"}`;

/** Says of a name whether several of these are called so. */
export const shared = (names) => (name) => names.indexOf(name) !== names.lastIndexOf(name);

export const KIND_NAMES = {
  train: "Train", evaluate: "Evaluate", prune: "Prune", distill: "Distill",
  search: "Search", quantize: "Quantize", pipeline: "Pipeline",
};
export const kindName = (kind) => KIND_NAMES[kind] || sentence(kind);

/** A loss of a distillation: that of the labels is the task's own, whatever the task. */
export const lossName = (name) => name === "cross_entropy" ? "labels" : words(name);

/** Whether a larger value of a metric is a better one. */
export const largerIsBetter = (metric) => !/loss|error|perplexity|cross_entropy|macs|parameters|bytes|latency/.test(metric);

/** The metric that judges first: accuracy where there is one. */
export const mainMetric = (metrics) => ["accuracy", "f1", "mean_absolute_error", "mean_squared_error", "loss"].find((name) => name in metrics) || Object.keys(metrics)[0];

/** The figures of a `Measurement` that are costs: name, heading, format, value. */
export const COSTS = [
  ["parameters", "Parameters", count, (m) => m.parameters],
  ["nonzero_parameters", "Nonzero parameters", count, (m) => m.nonzero_parameters],
  ["macs", "MACs", count, (m) => m.macs],
  ["size_bytes", "File size", bytes, (m) => m.size_bytes],
  ["compressed_bytes", "Size compressed (deflate)", bytes, (m) => m.compressed_bytes],
  ["latency_ms", "Latency, median", milliseconds, (m) => m.latency_ms?.p50],
];

/** A number, also with a decimal comma or as a fraction such as 1/255. */
export function numberOf(text) {
  const given = text.trim();
  if (given === "") return undefined;
  const parts = given.replace(/^(-?\d+),(\d+)$/, "$1.$2").split("/");
  const value = parts.length > 2 || parts.some((part) => part.trim() === "") ? NaN : Number(parts[0]) / Number(parts[1] ?? 1);
  return Number.isFinite(value) ? value : given;
}

const FIELDS = { target: "Target", text: "Text column", classes: "Order of the classes", exclude: "Columns to leave out", dataset: "Data set" };

/** A message with the names of the forms' fields in the place of those of the API's query. */
export const inFields = (detail) => detail
  .replace(/the query parameter `(target|text|classes|exclude|dataset)`( \([^)]*on the page\))?/g, (all, name) => `“${FIELDS[name]}”`)
  .replace(/`\?exclude=`/g, "“Columns to leave out” there");

const OF_JOBS = {
  "optimizer.learning_rate": "Learning rate", "schedule.steps": "Cuts", "strategy.first": "Trials at random first",
  "data.validation_fraction": "Validation fraction", "data.test_fraction": "Test fraction", "trial.weights": "Weights at the start",
};
/** A warning with the names of a form's fields in the place of those of parameters. */
export const inForms = (message) => Object.entries(OF_JOBS).reduce((text, [name, label]) => text.replaceAll(`\`${name}\``, `“${label}”`).replaceAll(name, `“${label}”`), message);
