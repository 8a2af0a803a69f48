// Curves (uPlot, loaded when the first one is shown) and scatter plots (SVG).

import { add, colour, h, set, svg, table, number } from "./dom.js";
import { count, digits, words } from "./format.js";

let library = null;

/** uPlot and its style sheet, once. */
function uplot() {
  library ??= (async () => {
    const sheet = h("link", { rel: "stylesheet", href: "assets/uplot.css" });
    const ready = new Promise((resolve) => { sheet.addEventListener("load", resolve); sheet.addEventListener("error", resolve); });
    document.head.append(sheet);
    const [module] = await Promise.all([import("./uplot.js"), ready]);
    return module.default;
  })();
  return library;
}

// Dashes tell lines apart where colours don't.
const DASHES = [[], [7, 4], [2, 3], [9, 3, 2, 3], [4, 2], [12, 4]];
const paletteName = (index) => `c${(index % 6) + 1}`;

function aligned(series) {
  const steps = [...new Set(series.flatMap(({ points }) => points.map((point) => point.step)))].sort((a, b) => a - b);
  const place = new Map(steps.map((step, index) => [step, index]));
  return [steps, ...series.map(({ points }) => {
    const values = new Array(steps.length).fill(null);
    for (const { step, value } of points) values[place.get(step)] = value;
    return values;
  })];
}

/** Figures that can't be above 1. */
const SHARES = /accuracy|f1|precision|recall|auc/;

/** Whose curve it is, where the figure stands above: `control_validation/loss` as `control, validation`. */
const whose = (name) => words(name.split("/").slice(0, -1).join(", ").replace(/^control_/, "control, ")) || words(name);

function curve(title, most) {
  const plot = h("div", { class: "plot", "aria-hidden": "true" });
  const legend = h("div", { class: "legend", role: "group", "aria-label": `Curves of ${title}` });
  const element = h("figure", { class: "curve" }, h("figcaption", null, title), plot, legend);
  const off = new Set();
  const bounded = ([low, high]) => [low, low < most ? Math.min(high, most) : high];
  let chart = null;
  let shown = [];
  let outputs = [];

  function values(index) {
    outputs.forEach((output, place) => {
      const column = chart.data[place + 1];
      let at = index ?? column.length - 1;
      while (at > 0 && column[at] === null) at -= 1;
      output.textContent = digits(column[at]);
    });
  }

  function build(Plot, series, data) {
    chart?.destroy();
    shown = series.map(({ name }) => name);
    const grid = { stroke: colour("line"), width: 1 };
    const axis = { stroke: colour("quiet"), grid, ticks: { ...grid, size: 4 }, font: "12px system-ui, sans-serif" };
    outputs = series.map(() => h("output"));
    set(legend, series.map(({ name }, index) => h("label", null,
      h("input", {
        type: "checkbox", checked: !off.has(name),
        onchange: (event) => {
          if (event.target.checked) off.delete(name);
          else off.add(name);
          chart.setSeries(index + 1, { show: event.target.checked });
        },
      }),
      svg("svg", { width: 26, height: 8, "aria-hidden": "true" }, svg("line", {
        x1: 0, x2: 26, y1: 4, y2: 4, "stroke-width": 2, class: paletteName(index), "stroke-dasharray": DASHES[index % 6].join(" ") || null,
      })), whose(name), " ", outputs[index])));
    chart = new Plot({
      width: Math.max(200, plot.clientWidth), height: 210, legend: { show: false },
      padding: [12, 12, 0, 0], cursor: { y: false, points: { size: 6 }, drag: { x: true, y: false } },
      // A curve that is level gets some room, and not the whole way to zero.
      scales: { x: { time: false }, y: { range: (_, least, greatest) => least === null ? [0, 1] : bounded(extent([least, greatest])) } },
      axes: [
        { ...axis, size: 34, values: (_, ticks) => ticks.map((tick) => Number.isInteger(tick) ? count(tick) : "") },
        { ...axis, size: (_, labels) => 16 + 7 * Math.max(3, ...(labels || []).map((label) => label.length)), values: (_, ticks) => ticks.map(digits) },
      ],
      series: [{}, ...series.map(({ name, points }, index) => ({
        label: name, show: !off.has(name), stroke: colour(paletteName(index)), width: 1.6, dash: DASHES[index % 6],
        spanGaps: true, points: { show: points.length < 40, size: 5 },
      }))],
      hooks: { setCursor: [(self) => values(self.cursor.idx)] },
    }, data, plot);
    values(null);
  }

  new ResizeObserver(() => chart?.setSize({ width: Math.max(200, plot.clientWidth), height: 210 })).observe(plot);
  return {
    element,
    draw(Plot, series, anew) {
      const data = aligned(series);
      if (!chart || anew || series.map(({ name }) => name).join() !== shown.join()) build(Plot, series, data);
      else {
        chart.setData(data);
        values(null);
      }
    },
  };
}

const ORDER = ["loss", "accuracy", "value", "best"];
const rank = (name) => name === "learning_rate" ? 99 : ORDER.indexOf(name) < 0 ? 50 : ORDER.indexOf(name);

/** All curves of a job: those of the same figure in one plot, redrawn as points arrive. */
export function curves(signal) {
  const grid = h("div", { class: "curves" });
  const figures = h("div");
  const plots = new Map();
  let latest = [];

  async function draw(anew) {
    const groups = Map.groupBy ? Map.groupBy(latest, ({ name }) => name.split("/").at(-1))
      : latest.reduce((map, one) => map.set(one.name.split("/").at(-1), [...(map.get(one.name.split("/").at(-1)) || []), one]), new Map());
    if (groups.size === 0) return;
    const Plot = await uplot();
    for (const name of [...groups.keys()].sort((a, b) => rank(a) - rank(b))) {
      if (!plots.has(name)) plots.set(name, curve(`${words(name)} by ${["value", "best"].includes(name) ? "trial" : "step"}`, SHARES.test(name) ? 1 : Infinity));
      const plot = plots.get(name);
      if (plot.element.parentNode !== grid) grid.append(plot.element);
      plot.draw(Plot, groups.get(name), anew);
    }
    const open = figures.querySelector("details")?.open;
    set(figures, h("details", { open }, h("summary", null, "Curves as numbers"),
      table("Curves: first, last, least and greatest values", ["Curve", ...["Points", "Last step", "First", "Last", "Least", "Greatest"].map((label) => ({ label, number: true }))],
        latest.map(({ name, points }) => {
          const all = points.map((point) => point.value);
          return [name, number(all.length, count), number(points.at(-1)?.step, count), number(all[0], digits), number(all.at(-1), digits),
            number(all.reduce((a, b) => Math.min(a, b), Infinity), digits), number(all.reduce((a, b) => Math.max(a, b), -Infinity), digits)];
        }))));
  }

  addEventListener("sinter-theme", () => draw(true), { signal });
  return {
    element: h("div", null, grid, figures),
    show(series) {
      latest = series.filter(({ points }) => points.length > 0);
      return draw(false);
    },
  };
}

function ticks(least, greatest) {
  const span = greatest - least;
  const raw = span / 4;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= raw);
  const list = [];
  for (let tick = Math.ceil(least / step) * step; tick <= greatest + step * 1e-6; tick += step) list.push(Math.abs(tick) < step * 1e-9 ? 0 : tick);
  return list;
}

function extent(numbers) {
  const least = Math.min(...numbers);
  const greatest = Math.max(...numbers);
  const room = (greatest - least || Math.abs(greatest) || 1) * 0.08;
  return [least - room, greatest + room];
}

/**
 * A scatter plot. Points have `x`, `y`, `label`, `kind` (`main`, `other` or `start`: a disc, a small
 * ring, a diamond) and, where they lead somewhere, `href`; what is pointed at or focused says its numbers.
 */
export function scatter({ title, x, y, points, line = false }) {
  const tip = h("div", { class: "tip", hidden: true });
  const box = h("div", { class: "scatter" });
  const element = h("figure", { class: "curve" }, h("figcaption", null, title), box,
    h("p", { class: "legend" }, [["main", points.some((p) => p.kind === "main")], ["other", points.some((p) => p.kind === "other")], ["start", points.some((p) => p.kind === "start")]]
      .filter(([, used]) => used).map(([kind]) => h("span", null, svg("svg", { width: 14, height: 14, "aria-hidden": "true" }, mark(kind, 7, 7)),
        " ", { main: line ? "Pareto front" : "after", other: "other trials", start: "before" }[kind]))));
  const usable = points.filter((point) => Number.isFinite(point.x) && Number.isFinite(point.y));
  if (usable.length === 0) return h("p", { class: "quiet" }, "There is nothing to plot: the figures are missing.");
  /** Ticks as texts: with more digits where several would read the same. */
  const told = (list, format) => {
    const texts = list.map(format);
    return new Set(texts).size === texts.length ? texts : list.map((tick) => String(Number(tick.toPrecision(6))));
  };
  const text = (point) => `${point.label}: ${x.label} ${x.format(point.x)}, ${y.label} ${y.format(point.y)}`;

  function draw() {
    const width = Math.max(260, box.clientWidth);
    const height = 280;
    const edge = { left: 58, right: 14, top: 10, bottom: 46 };
    const [x0, x1] = extent(usable.map((point) => point.x));
    const [y0, y1] = extent(usable.map((point) => point.y));
    const px = (value) => edge.left + (value - x0) / (x1 - x0) * (width - edge.left - edge.right);
    const py = (value) => height - edge.bottom - (value - y0) / (y1 - y0) * (height - edge.top - edge.bottom);
    const picture = svg("svg", { width, height, role: "group", "aria-label": title });
    const many = width < 400 ? 2 : 1;
    const across = ticks(x0, x1);
    const words = told(across, x.format);
    across.forEach((tick, index) => add(picture,
      svg("line", { class: "grid", x1: px(tick), x2: px(tick), y1: edge.top, y2: height - edge.bottom }),
      index % many === 0 && svg("text", { x: px(tick), y: height - edge.bottom + 16, "text-anchor": "middle" }, words[index])));
    const up = ticks(y0, y1);
    const heights = told(up, y.format);
    for (const [index, tick] of up.entries()) {
      add(picture, svg("line", { class: "grid", x1: edge.left, x2: width - edge.right, y1: py(tick), y2: py(tick) }),
        svg("text", { x: edge.left - 6, y: py(tick) + 4, "text-anchor": "end" }, heights[index]));
    }
    add(picture, svg("text", { x: (edge.left + width - edge.right) / 2, y: height - 8, "text-anchor": "middle", class: "axis" }, x.label),
      svg("text", { x: -(edge.top + height - edge.bottom) / 2, y: 13, transform: "rotate(-90)", "text-anchor": "middle", class: "axis" }, y.label));
    if (line) {
      const front = usable.filter((point) => point.kind === "main").sort((a, b) => a.x - b.x);
      add(picture, svg("polyline", { class: "front", points: front.map((point) => `${px(point.x)},${py(point.y)}`).join(" ") }));
    }
    for (const kind of ["other", "start", "main"]) {
      for (const point of usable.filter((one) => one.kind === kind)) {
        const show = () => {
          tip.textContent = text(point);
          tip.hidden = false;
          const left = Math.min(Math.max(0, px(point.x) - tip.offsetWidth / 2), width - tip.offsetWidth);
          tip.style.left = `${left}px`;
          tip.style.top = `${py(point.y) - tip.offsetHeight - 12 < 0 ? py(point.y) + 14 : py(point.y) - tip.offsetHeight - 12}px`;
        };
        const hide = () => { tip.hidden = true; };
        const events = { onmouseenter: show, onmouseleave: hide, onfocus: show, onblur: hide };
        const shapes = [svg("circle", { cx: px(point.x), cy: py(point.y), r: 13, class: "hit" }), mark(kind, px(point.x), py(point.y))];
        // Only points that matter are stops of the Tab key; the table beside the plot has them all.
        add(picture, point.href ? svg("a", { href: point.href, "aria-label": text(point), ...events }, shapes)
          : svg("g", { role: "img", "aria-label": text(point), ...(kind === "other" ? {} : { tabindex: "0" }), ...events }, shapes));
      }
    }
    set(box, picture, tip);
  }

  let last = 0;
  new ResizeObserver(() => {
    if (box.clientWidth && box.clientWidth !== last) {
      last = box.clientWidth;
      draw();
    }
  }).observe(box);
  return element;
}

function mark(kind, x, y) {
  if (kind === "start") return svg("rect", { x: x - 4.5, y: y - 4.5, width: 9, height: 9, transform: `rotate(45 ${x} ${y})`, class: "mark start" });
  return svg("circle", { cx: x, cy: y, r: kind === "main" ? 5.5 : 3.5, class: `mark ${kind}` });
}

/** Two bars, one over the other, of what was and what is; the numbers stand beside as text. */
export function bars(before, after, most) {
  const bar = (value, kind) => h("span", { class: `bar ${kind}`, css: { width: `${most > 0 ? Math.max(value > 0 ? 0.5 : 0, value / most * 100) : 0}%` } });
  return h("span", { class: "bars", "aria-hidden": "true" }, before !== null && bar(before, "before"), after !== null && bar(after, "after"));
}
