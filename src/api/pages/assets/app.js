// The shell: routes by hash, titles and focus, theme, key.

import { askForKey, hasKey } from "./api.js";
import { announce, h, problem, quiet, sleep } from "./dom.js";

// Views are loaded when they are first visited; each answers {title, content, start}.
const ROUTES = [
  [/^$/, () => import("./overview.js"), "overview"],
  [/^jobs$/, () => import("./jobs.js"), "jobsPage"],
  [/^jobs\/([^/]+)$/, () => import("./job.js"), "jobPage"],
  [/^models$/, () => import("./lists.js"), "modelsPage"],
  [/^models\/([^/]+)$/, () => import("./model.js"), "modelPage"],
  [/^datasets$/, () => import("./lists.js"), "datasetsPage"],
  [/^datasets\/([^/]+)$/, () => import("./dataset.js"), "datasetPage"],
  [/^new\/([^/]+)$/, () => import("./forms.js"), "formPage"],
  [/^compare$/, () => import("./compare.js"), "comparePage"],
];

const main = document.getElementById("main");
let current = new AbortController();
let first = true;

function markNavigation(path) {
  const top = path.split("/")[0];
  for (const anchor of document.querySelectorAll("#nav a")) {
    const target = anchor.getAttribute("href").slice(2).split("/")[0];
    if (target === top) anchor.setAttribute("aria-current", target === path || top === "new" ? "page" : "true");
    else anchor.removeAttribute("aria-current");
  }
}

function show({ title, content }) {
  document.title = title ? `${title} – Sinter` : "Sinter";
  main.replaceChildren(h("h1", { tabindex: "-1" }, title || "Overview"), ...[content].flat());
  main.removeAttribute("aria-busy");
  // After the first load the focus stays before the skip link.
  if (!first) {
    scrollTo(0, 0);
    main.querySelector("h1").focus({ preventScroll: true });
  }
  first = false;
}

/** Waits until the server answers again. */
async function returned(signal) {
  for (;;) {
    await sleep(5000, signal);
    if (signal.aborted) throw new DOMException("Another view was opened.", "AbortError");
    try {
      await fetch("healthz", { cache: "no-store", signal });
      return;
    } catch (error) {
      if (error.name === "AbortError") throw error;
    }
  }
}

async function navigate() {
  current.abort();
  current = new AbortController();
  const { signal } = current;
  const [path, search] = location.hash.replace(/^#\/?/, "").split("?");
  const route = ROUTES.find(([pattern]) => pattern.test(path));
  markNavigation(path);
  if (!route) {
    show({ title: "Not found", content: h("p", null, "There is no such page. ", h("a", { href: "#/" }, "Overview")) });
    return;
  }
  main.setAttribute("aria-busy", "true");
  try {
    const [pattern, load, name] = route;
    const module = await load();
    const args = pattern.exec(path).slice(1).map(decodeURIComponent);
    const page = await module[name]({ args, query: new URLSearchParams(search), signal });
    if (signal.aborted) return;
    show(page);
    page.start?.();
  } catch (error) {
    if (signal.aborted || error.name === "AbortError") return;
    // A view that was not loaded yet can't be while the server is away.
    const shown = error instanceof TypeError && /dynamically imported|module script/i.test(error.message) ? new Error("The server can't be reached.") : error;
    const list = path.split("/")[0];
    show({
      title: error.status === 404 ? "Not found" : "Problem",
      content: [problem(shown), quiet(h("button", { type: "button", onclick: navigate }, "Try again"),
        ["jobs", "models", "datasets"].includes(list) && path !== list && [" ", h("a", { href: `#/${list}` }, `All ${list === "datasets" ? "data sets" : list}`)])],
    });
    // A server that is away may come back; whoever reads the problem meanwhile is not disturbed.
    if (shown !== error || error.message === "The server can't be reached.") await returned(signal).then(navigate, () => {});
  }
}

const themes = matchMedia("(prefers-color-scheme: dark)");
const themeButton = document.getElementById("theme");
const isDark = () => (document.documentElement.dataset.theme || (themes.matches ? "dark" : "light")) === "dark";

function nameTheme() {
  themeButton.textContent = isDark() ? "Light theme" : "Dark theme";
  dispatchEvent(new Event("sinter-theme"));
}

themeButton.addEventListener("click", () => {
  const theme = isDark() ? "light" : "dark";
  // The system's own theme is followed again once it is asked for.
  const follows = (theme === "dark") === themes.matches;
  if (follows) delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  try {
    if (follows) localStorage.removeItem("sinter-theme");
    else localStorage.setItem("sinter-theme", theme);
  } catch {
    // Without storage the choice lasts as long as the page.
  }
  nameTheme();
  announce(`${theme} theme`);
});
themes.addEventListener("change", nameTheme);

const keyButton = document.getElementById("key");
keyButton.addEventListener("click", () => askForKey(false).then(navigate, () => {}));
addEventListener("sinter-key", () => { keyButton.hidden = false; });
keyButton.hidden = !hasKey();

document.getElementById("skip").addEventListener("click", (event) => {
  // The hash belongs to the routes.
  event.preventDefault();
  main.focus();
});

// A file that misses its place must not replace the page.
for (const type of ["dragover", "drop"]) addEventListener(type, (event) => event.preventDefault());

addEventListener("hashchange", () => {
  // What a dialog asks is about the view that it was opened from.
  for (const open of document.querySelectorAll("dialog[open]")) open.close("");
  navigate();
});
nameTheme();
navigate();
