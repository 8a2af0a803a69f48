// A model's graph, drawn from its inputs down: a row for each step, and lanes for the tensors that are still to be read.

import { h, hidden, quiet, scroller, svg } from "./dom.js";
import { count } from "./format.js";

const ROW = 46;
const LANE = 16;

/** Nodes joined to what one reads without a branch, so that a row is a layer with all that only goes on behind it. */
function steps(inputs, nodes, given) {
  const rows = inputs.map((input) => ({ name: input.name, operator: "input", outputs: [input.name], from: [], tail: [], parameters: 0, node: null }));
  const maker = new Map(rows.map((row) => [row.name, row]));
  const readers = new Map();
  for (const node of nodes) for (const name of new Set(node.inputs)) readers.set(name, (readers.get(name) || 0) + 1);
  for (const node of nodes) {
    const from = [...new Set(node.inputs.map((name) => maker.get(name)).filter(Boolean))];
    const [only] = from;
    // An output of the model ends its row.
    const follows = from.length === 1 && only.node && node.macs === 0 && !only.outputs.some((name) => given.has(name))
      // All that the row before gives goes here and nowhere else.
      && only.outputs.every((name) => !readers.has(name) || (readers.get(name) === 1 && node.inputs.includes(name)));
    if (follows) {
      only.tail.push(node);
      only.outputs = node.outputs;
      only.parameters += node.parameters;
    } else rows.push({ name: node.name, operator: node.operator, outputs: node.outputs, from, tail: [], parameters: node.parameters, node });
    for (const name of node.outputs) maker.set(name, follows ? only : rows.at(-1));
  }
  rows.forEach((row, index) => { row.index = index; });
  return rows;
}

/** Which lane each row stands in, and from where to where the lines go. */
function laid(rows) {
  const last = new Map();
  for (const row of rows) for (const source of row.from) last.set(source, row.index);
  const lanes = [];
  const lines = [];
  for (const row of rows) {
    const ending = row.from.filter((source) => last.get(source) === row.index);
    const place = ending.map((source) => source.lane).sort((a, b) => a - b)[0];
    for (const source of ending) lanes[source.lane] = null;
    const free = lanes.findIndex((held) => !held);
    row.lane = place ?? (free < 0 ? lanes.length : free);
    for (const source of row.from) lines.push([source, row]);
    lanes[row.lane] = last.has(row) ? row : null;
  }
  return { lines, width: Math.max(1, lanes.length) };
}

/** A line that leaves its row, goes down in the lane of it, and turns to where it is read. */
function path([from, to]) {
  const [x, y, u, v] = [from.lane * LANE + LANE / 2, from.index * ROW + ROW / 2, to.lane * LANE + LANE / 2, to.index * ROW + ROW / 2];
  return x === u ? `M${x} ${y}V${v}` : `M${x} ${y}V${v - ROW * 0.7}C${x} ${v - ROW * 0.3} ${u} ${v - ROW * 0.5} ${u} ${v}`;
}

/** The drawing; `mark` shows a group, `edge` is its colour, `found` says whether a row is looked for. */
export function graphView({ inputs, outputs }, nodes, { mark, edge, found }) {
  const given = new Set(outputs.map((output) => output.name));
  const rows = steps(inputs, nodes, given);
  const { lines, width } = laid(rows);
  const size = [width * LANE, rows.length * ROW];
  const drawing = svg("svg", { class: "lanes", width: size[0], height: size[1], viewBox: `0 0 ${size[0]} ${size[1]}`, "aria-hidden": "true" },
    lines.map((line) => svg("path", { d: path(line) })),
    rows.map((row) => svg("circle", { cx: row.lane * LANE + LANE / 2, cy: row.index * ROW + ROW / 2, r: row.parameters ? 5.5 : 3.5, class: row.node?.group ? "grouped" : null, css: edge(row.node?.group) })));
  const items = rows.map((row) => {
    const { node } = row;
    const costs = [row.parameters && `${count(row.parameters)} parameters`, node?.macs && `${count(node.macs)} MACs`];
    const last = row.tail.at(-1) || node;
    const text = [row.operator, ...row.tail.map((one) => one.operator)].join(" → ");
    return h("li", { class: found(`${row.name} ${text} ${node?.group || ""} ${(node?.input_groups || []).join(" ")} ${row.outputs.join(" ")}`) ? null : "faint" },
      h("p", null, h("strong", null, text), " ", h("code", null, row.name), row.outputs.some((name) => given.has(name)) && h("span", { class: "quiet" }, ` output ${row.outputs.find((name) => given.has(name))}`),
        row.from.length > 0 && hidden(`, reads ${row.from.map((source) => source.name).join(" and ")}`)),
      h("p", { class: "quiet" }, node?.group && [mark(node.group), " "],
        [last?.output_shape.length > 0 && `[${last.output_shape.join(", ")}]`, ...costs].filter(Boolean).join(", ")));
  });
  return [
    quiet("From the inputs at the top. A line is a tensor on its way to what reads it, a large dot has weights, a colour is a group."),
    scroller("The graph", h("div", { class: "graph" }, drawing, h("ol", { css: { "--row": `${ROW}px` } }, items))),
  ];
}
