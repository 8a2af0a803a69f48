// A person's way through Sinter's web page, in a real browser: uploads, forms, a running job, its result,
// comparison, a model's page, keyboard, phone, both themes, and axe-core on every route.
//
//     node journey.mjs BASE_URL OUTPUT_FOLDER
//
// SINTER_CHROMIUM   the browser, /usr/bin/chromium when unset
// SINTER_PAGE_KEY   a key, where the server needs one: the page is then seen to ask for it
// SINTER_PAGE_DIR   a folder with index.html and assets/: the page is served from there and not from the
//                   server, so that one can work on it without building. The API is the server's all the same.

import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

import { chromium } from "playwright-core";

const [base, output] = process.argv.slice(2);
if (!base || !output) {
  console.error("usage: node journey.mjs BASE_URL OUTPUT_FOLDER");
  process.exit(2);
}
mkdirSync(output, { recursive: true });

const here = dirname(fileURLToPath(import.meta.url));
const examples = resolve(here, "../../examples");
const MODEL = join(examples, "models/digits_cnn.onnx");
const DATA = join(examples, "data/digits.npz");
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const KEY = process.env.SINTER_PAGE_KEY || "";
const PAGE_DIR = process.env.SINTER_PAGE_DIR;
const POLICY = (await fetch(base)).headers.get("content-security-policy");
const TYPES = { html: "text/html; charset=utf-8", js: "text/javascript; charset=utf-8", css: "text/css; charset=utf-8", svg: "image/svg+xml" };
const WAIT = 120_000;

const complaints = [];
// Answers that the journey provokes; the browser writes each one to the console.
const expected = new Set();
let steps = 0;

function check(condition, message) {
  if (!condition) throw new Error(message);
}

async function step(name, work) {
  const began = Date.now();
  try {
    const result = await work();
    steps += 1;
    console.log(`ok  ${name} (${Date.now() - began} ms)`);
    return result;
  } catch (error) {
    error.message = `${name}: ${error.message}`;
    throw error;
  }
}

const api = async (path, options = {}) => {
  const response = await fetch(base + path, { ...options, headers: { ...(KEY ? { Authorization: `Bearer ${KEY}` } : {}), ...options.headers } });
  check(response.ok, `${path} answered ${response.status}`);
  return response;
};
const json = async (path) => (await api(path)).json();

const browser = await chromium.launch({
  timeout: WAIT,
  executablePath: process.env.SINTER_CHROMIUM || "/usr/bin/chromium",
  args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});

async function open(options) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, colorScheme: "light", acceptDownloads: true, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(WAIT);
  page.on("console", (message) => {
    if (!["error", "warning"].includes(message.type())) return;
    const status = /status of (\d+)/.exec(message.text())?.[1];
    if (status && expected.has(status)) return;
    complaints.push(`${message.type()}: ${message.text()} (${message.location().url})`);
  });
  page.on("pageerror", (error) => complaints.push(`exception: ${error.stack}`));
  await page.addInitScript(() => addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`)));
  if (PAGE_DIR) {
    const own = (url) => url.href.startsWith(base) && (url.pathname === "/" || url.pathname.startsWith("/assets/"));
    await page.route(own, (route) => {
      const { pathname } = new URL(route.request().url());
      const file = join(PAGE_DIR, pathname === "/" ? "index.html" : pathname);
      // The style sheet of reports is not the page's own.
      if (!existsSync(file)) return route.continue();
      return route.fulfill({ body: readFileSync(file), headers: { "Content-Type": TYPES[file.split(".").pop()], "Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache" } });
    });
  }
  return page;
}

/** Goes to a route and waits until its view stands. */
async function go(page, hash) {
  if (page.url().startsWith(base)) {
    // Until the page has heard of it: the view from before stands as well.
    await page.evaluate((to) => new Promise((resolve) => {
      if (location.hash === to) return resolve();
      addEventListener("hashchange", () => resolve(), { once: true });
      location.hash = to;
    }), hash);
  } else await page.goto(`${base}/${hash}`);
  await settled(page);
}

const settled = (page) => page.waitForFunction(() => document.querySelector("main h1") && !document.querySelector("main[aria-busy]") && !document.querySelector("main > p")?.textContent.startsWith("Loading"));
const picture = (page, name, fullPage = true) => page.screenshot({ path: join(output, `${name}.png`), fullPage, animations: "disabled" });
const heading = (page) => page.locator("main h1").textContent();
const jobId = (page) => /#\/jobs\/([^?]+)/.exec(page.url())[1];
const ended = (page, status) => page.locator(`main .state .status.${status}`).waitFor({ timeout: WAIT });

/** Opens all that is folded. */
async function unfold(page) {
  const folded = page.locator("main details:not([open]) > summary:visible");
  while (await folded.count() > 0) await folded.first().click();
  // What is wider than its place is told apart when it was laid out.
  await page.evaluate(() => new Promise((resolve) => { requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(resolve, 50))); }));
}

async function accessible(page, what) {
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }));
  const text = violations.map((one) => `${one.id}: ${one.help}\n${one.nodes.slice(0, 4).map((node) => `    ${node.target}: ${node.failureSummary.replaceAll("\n", " ")}`).join("\n")}`).join("\n  ");
  check(violations.length === 0, `axe-core on ${what}:\n  ${text}`);
}

/** Tab until an element is focused that the selector fits; from where the focus is. */
async function tabTo(page, selector, most = 80) {
  for (let presses = 0; presses < most; presses += 1) {
    await page.keyboard.press("Tab");
    const found = await page.evaluate((wanted) => document.activeElement?.matches(wanted), selector);
    if (!found) continue;
    const visible = await page.evaluate(() => {
      const style = getComputedStyle(document.activeElement);
      return style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
    });
    check(visible, `the focus can't be seen on ${selector}`);
    return;
  }
  throw new Error(`the Tab key never came to ${selector}`);
}

async function journey() {
  const page = await open();

  await step("the first page", async () => {
    if (KEY) expected.add("401");
    await page.goto(base);
    if (KEY) {
      const dialog = page.getByRole("dialog", { name: "Key" });
      await dialog.waitFor();
      await picture(page, "key", false);
      await accessible(page, "the dialog for the key");
      await dialog.getByLabel("Key").fill("wrong");
      await dialog.getByRole("button", { name: "Use key" }).click();
      await page.getByText("did not take this key").waitFor();
      await page.getByRole("dialog").getByLabel("Key").fill(KEY);
      await page.keyboard.press("Enter");
    }
    await settled(page);
    check(await page.title() === "Sinter", "the title of the overview");
    check(await heading(page) === "Overview", "the heading of the overview");
    await page.getByText("Upload a model below").waitFor();
    await accessible(page, "the empty overview");
    await picture(page, "overview-empty");
  });

  await step("a model is uploaded by the file button", async () => {
    const form = page.getByRole("form", { name: "Upload a model" });
    await form.locator("input[type=file]").setInputFiles(MODEL);
    check(await form.getByLabel("Name").inputValue() === "digits_cnn", "the name follows the file");
    await form.getByLabel("Name").fill("digits");
    await form.getByRole("button", { name: "Upload", exact: true }).click();
    await form.getByText("Model digits uploaded").waitFor();
    await page.getByRole("link", { name: "digits", exact: true }).first().waitFor();
  });

  await step("a file that is no model is refused where it was chosen", async () => {
    expected.add("422").add("400").add("415");
    const form = page.getByRole("form", { name: "Upload a model" });
    await form.locator("input[type=file]").setInputFiles({ name: "broken.onnx", mimeType: "application/octet-stream", buffer: Buffer.from("no model") });
    await form.getByRole("button", { name: "Upload", exact: true }).click();
    const problem = form.getByRole("alert");
    await problem.waitFor();
    check(/docs\/problems#/.test(await problem.getByRole("link").getAttribute("href")), "the problem leads to its description");
    await form.getByRole("button", { name: "Cancel" }).click();
  });

  await step("a data set is dropped", async () => {
    const form = page.getByRole("form", { name: "Upload a data set" });
    const transfer = await page.evaluateHandle((encoded) => {
      const data = new DataTransfer();
      data.items.add(new File([Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0))], "digits.npz"));
      return data;
    }, readFileSync(DATA).toString("base64"));
    await form.dispatchEvent("dragenter", { dataTransfer: transfer });
    await form.dispatchEvent("drop", { dataTransfer: transfer });
    await form.getByText("digits.npz").waitFor();
    await form.getByRole("button", { name: "Upload", exact: true }).click();
    await form.getByText("Data set digits uploaded").waitFor();
  });

  const [model] = (await json("/v1/models")).data;
  const [dataset] = (await json("/v1/datasets")).data;

  await step("the forms of all kinds", async () => {
    for (const kind of ["Train", "Evaluate", "Distill", "Search", "Pipeline", "Prune"]) {
      if (!page.url().includes("#/new/")) await go(page, `#/new/prune?model=${model.id}`);
      await page.getByRole("navigation", { name: "Kind of job" }).getByRole("link", { name: kind }).click();
      await page.getByRole("heading", { level: 1, name: `New job: ${kind.toLowerCase()}` }).waitFor();
      await settled(page);
      check((await page.title()).startsWith(`New job: ${kind.toLowerCase()}`), `the title of ${kind}`);
      check(await page.evaluate(() => document.activeElement === document.querySelector("main h1")), `the focus after going to ${kind}`);
      await unfold(page);
      await accessible(page, `the form of ${kind}`);
      // Each form begins with something that the server takes.
      const command = await page.locator("pre.curl").textContent();
      const body = JSON.parse(/-d '([^]*)'$/.exec(command)[1]);
      check(body.model === model.id && body.dataset === dataset.id, `the form of ${kind} has model and data set`);
      check(command.includes("$SINTER_KEY") === Boolean(KEY), "the command names the key where there is one");
    }
  });

  await step("a bad form shows the problem at its field", async () => {
    await go(page, "#/new/prune");
    const field = page.getByLabel("MACs after ÷ before");
    await field.fill("");
    await page.getByRole("button", { name: "Submit job" }).click();
    await page.getByRole("alert").waitFor();
    const missing = await page.locator(".fault:visible").first().textContent();
    check(/“MACs after ÷ before”/.test(missing) && !/macs_ratio/.test(missing), `parameters by their labels: ${missing}`);
    await field.fill("5");
    await page.getByLabel("Cuts", { exact: true }).fill("-3");
    check((await page.locator("pre.curl").textContent()).includes('"macs_ratio": 5'), "the command follows the keys");
    await page.getByRole("button", { name: "Submit job" }).click();
    await page.getByRole("alert").waitFor();
    check(await field.getAttribute("aria-invalid") === "true", "the field is marked");
    const described = await field.getAttribute("aria-describedby");
    const fault = await page.locator(`#${described.split(" ").at(-1)}`).textContent();
    check(/below 1/.test(fault), `the problem at the field: ${fault}`);
    check(await page.evaluate(() => document.activeElement?.getAttribute("aria-invalid")) === "true", "the field has the focus");
    check(await page.getByLabel("Cuts", { exact: true }).getAttribute("aria-invalid") === "true", "so is what is wrong beside it");
    await accessible(page, "a form with a problem");
    await picture(page, "form-problem");
    await page.getByLabel("Cuts", { exact: true }).fill("");
  });

  await step("fields and JSON follow each other", async () => {
    const editor = page.getByLabel("params", { exact: true });
    if (!await editor.isVisible()) await page.locator("summary", { hasText: "Parameters as JSON" }).click();
    const params = JSON.parse(await editor.inputValue());
    params.target.macs_ratio = 0.5;
    params.sensitivity = true;
    await editor.fill(JSON.stringify(params));
    check(await page.getByLabel("MACs after ÷ before").inputValue() === "0.5", "the field follows the JSON");
    await editor.fill("{");
    check(await editor.getAttribute("aria-invalid") === "true", "broken JSON is marked");
    check(/^# This is no JSON/.test(await page.locator("pre.curl").textContent()), "no command stands beside broken JSON");
    await editor.fill(JSON.stringify(params));
    await page.locator("summary", { hasText: "Data" }).first().click();
    await page.getByLabel("Scale", { exact: true }).fill("0.0625");
    check((await page.locator("pre.curl").textContent()).includes('"scale": 0.0625'), "the command has the scale");
  });

  await step("the plan", async () => {
    await page.getByRole("button", { name: "Plan" }).click();
    await page.getByRole("heading", { name: "Plan" }).waitFor();
    await page.getByRole("table", { name: "Groups of coupled channels" }).waitFor();
    await accessible(page, "a plan");
    await picture(page, "form");
  });

  const first = await step("a pruning is submitted, watched and ends", async () => {
    await page.getByLabel("Name of the job").fill("half the MACs");
    // Long enough to be watched by a browser that is slow.
    await page.getByLabel("Epochs of fine-tuning").fill("60");
    await page.getByRole("button", { name: "Submit job" }).click();
    await page.waitForURL(/#\/jobs\//);
    await page.getByRole("heading", { level: 1, name: "half the MACs" }).waitFor();
    const bar = page.getByRole("progressbar", { name: "Progress of half the MACs" });
    await bar.waitFor();
    await page.waitForFunction(() => document.querySelector("main progress")?.value > 0, null, { timeout: WAIT });
    await page.locator(".curves canvas").first().waitFor({ timeout: WAIT });
    await page.getByText("job_started").waitFor();
    check(await page.locator("#announcer").evaluate((one) => !/epoch|step/.test(one.textContent)), "steps are not announced");
    await picture(page, "job-running");
    await ended(page, "succeeded");
    await page.getByRole("heading", { name: "Confusion matrix" }).waitFor();
    await page.waitForFunction(() => /succeeded/.test(document.getElementById("announcer").textContent));
    return jobId(page);
  });

  await step("its result", async () => {
    await page.getByRole("heading", { name: "Artifacts" }).waitFor();
    const { result } = await json(`/v1/jobs/${first}`);
    const figures = page.getByRole("table", { name: "Figures before and after" });
    const shown = await figures.getByRole("row", { name: /^MACs/ }).textContent();
    check(shown.includes(`×${result.change.macs_ratio.toFixed(2)}`), `the ratio of the MACs: ${shown}`);
    for (const name of ["Result", "Figures", "Pruning", "Layers", "Confusion matrix", "Curves", "Artifacts", "Events"]) check(await page.getByRole("heading", { level: 2, name, exact: true }).count() === 1, `the section ${name}`);
    await page.getByLabel("Measure", { exact: true }).selectOption("macs");
    const layers = await page.getByRole("table", { name: "MACs of each layer" }).getByRole("row").count();
    check(layers === result.prune.layers.length + 1, `a row for each layer, not ${layers}`);
    await page.getByText("Sensitivity", { exact: true }).waitFor();
    await page.locator("summary", { hasText: "Curves as numbers" }).click();
    await page.getByRole("cell", { name: "train/loss" }).or(page.getByRole("rowheader", { name: "train/loss" })).first().waitFor();
    await accessible(page, "an ended job");
    await picture(page, "job");
  });

  await step("the new model is downloaded, byte for byte", async () => {
    const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: "Download model.onnx" }).click()]);
    const digest = `sha256:${createHash("sha256").update(readFileSync(await download.path())).digest("hex")}`;
    const artifact = (await json(`/v1/jobs/${first}/artifacts`)).data.find((one) => one.name === "model.onnx");
    check(digest === artifact.digest, `the file has ${digest}, the API says ${artifact.digest}`);
  });

  await step("the report is read in a tab of its own", async () => {
    const [tab] = await Promise.all([page.waitForEvent("popup"), page.getByRole("button", { name: "Open the report in another tab" }).click()]);
    await tab.getByRole("heading", { level: 1, name: "half the MACs" }).waitFor();
    check(await tab.evaluate(() => getComputedStyle(document.querySelector("main")).maxWidth) === "960px", "the report has its styles");
    await tab.close();
  });

  await step("a data set's page", async () => {
    await page.locator(`dl.facts a[href="#/datasets/${dataset.id}"]`).click();
    await page.waitForURL(`**/#/datasets/${dataset.id}`);
    await settled(page);
    check(await heading(page) === dataset.name, "the heading of the data set");
    check((await page.locator("dl.facts").textContent()).includes(`${dataset.splits.train} examples`), "the examples of its train split");
    check((await page.locator("dl.facts").textContent()).includes("numbers from 0 to 16"), "the range of its input");
    const classes = page.getByRole("table", { name: "Classes, numbered as the model's outputs" });
    check(await classes.getByRole("row").count() === 11, "a row for each class");
    await page.getByRole("table", { name: /^Jobs with this data set/ }).getByRole("link", { name: "half the MACs" }).waitFor();
    await page.getByRole("button", { name: "Read in another way" }).click();
    await accessible(page, "a dialog");
    await page.getByLabel("Name", { exact: true }).fill("digits, read again");
    await page.getByRole("button", { name: "Read", exact: true }).click();
    await page.getByRole("heading", { level: 1, name: "digits, read again" }).waitFor();
    await go(page, `#/datasets/${dataset.id}`);
    await page.getByRole("link", { name: "Evaluate…" }).click();
    await page.getByRole("heading", { level: 1, name: "New job: evaluate" }).waitFor();
    await settled(page);
    check(await page.getByLabel("Data set", { exact: true }).inputValue() === dataset.id, "the form has the data set");
    await go(page, `#/jobs/${first}`);
    await page.getByRole("heading", { name: "Artifacts" }).waitFor();
  });

  const second = await step("the same again with changes", async () => {
    await page.getByRole("link", { name: "Submit again with changes" }).click();
    await page.getByRole("heading", { level: 1, name: "New job: prune" }).waitFor();
    check(await page.getByLabel("Epochs of fine-tuning").inputValue() === "60", "the form has what the job had");
    await page.getByLabel("Name of the job").fill("a quarter of the MACs");
    await page.getByLabel("MACs after ÷ before").fill("0.25");
    await page.getByLabel("Epochs of fine-tuning").fill("5");
    await page.getByRole("button", { name: "Submit job" }).click();
    await page.getByRole("heading", { level: 1, name: "a quarter of the MACs" }).waitFor();
    await ended(page, "succeeded");
    return jobId(page);
  });

  await step("both are compared", async () => {
    await go(page, "#/jobs");
    await page.getByLabel("Compare half the MACs").check();
    await page.getByLabel("Compare a quarter of the MACs").check();
    await page.getByRole("link", { name: "Compare 2" }).click();
    await page.getByRole("heading", { level: 1, name: "Compare" }).waitFor();
    const table = page.getByRole("table", { name: /Jobs compared/ });
    check(await table.getByRole("row").count() === 4, "a heading, where both began, and both");
    check(/best/.test(await table.getByRole("row", { name: /a quarter of the MACs/ }).textContent()), "the smaller one is the best in something");
    await page.getByLabel("Against", { exact: true }).selectOption("latency_ms");
    const point = page.getByRole("link", { name: /^half the MACs: Latency/ });
    await point.focus();
    check(/half the MACs: Latency/.test(await page.locator(".tip").textContent()), "the focused point says its numbers");
    await accessible(page, "a comparison");
    await picture(page, "compare");
  });

  await step("a warning says what to do, and does it", async () => {
    // Levels up to 16 are taken for those of 255.
    await go(page, "#/new/evaluate");
    await page.getByRole("heading", { level: 1, name: "New job: evaluate" }).waitFor();
    await page.getByRole("button", { name: "Submit job" }).click();
    await page.waitForURL(/#\/jobs\//);
    await ended(page, "succeeded");
    const warning = page.getByRole("list", { name: "Warnings" }).getByRole("listitem").first();
    await warning.waitFor();
    check((await warning.locator("code").first().textContent()) === "data.preprocess", "what is code is shown as such");
    await warning.getByRole("link", { name: "Submit again so" }).click();
    await page.getByRole("heading", { level: 1, name: "New job: evaluate" }).waitFor();
    const scale = page.getByLabel("Scale", { exact: true });
    const given = await scale.inputValue();
    check(given !== "", "the form has the better scale");
    await page.getByRole("navigation", { name: "Kind of job" }).getByRole("link", { name: "Prune" }).click();
    await page.getByRole("heading", { level: 1, name: "New job: prune" }).waitFor();
    check(await scale.inputValue() === given, "what was filled in goes along to another kind");
  });

  const search = await step("a search with two objectives", async () => {
    await go(page, `#/new/search?model=${model.id}&dataset=${dataset.id}`);
    await page.getByLabel("Name of the job").fill("narrower");
    await page.getByLabel("Trials at most").fill("8");
    await page.getByLabel("Epochs of a trial").fill("1");
    await page.getByLabel("Epochs of the winner").fill("1");
    await page.getByLabel("Learning rate from, to").fill("0.0001, 0.1");
    await page.locator("summary", { hasText: "Data" }).click();
    await page.getByLabel("Scale", { exact: true }).fill("0.0625");
    await page.getByRole("button", { name: "Plan" }).click();
    await page.getByRole("table", { name: "Dimensions of the space" }).waitFor();
    await page.getByRole("button", { name: "Submit job" }).click();
    await page.getByRole("heading", { level: 1, name: "narrower" }).waitFor();
    await ended(page, "succeeded");
    await page.getByRole("heading", { name: "Trials" }).waitFor();
    const { result } = await json(`/v1/jobs/${jobId(page)}`);
    const points = page.locator(".scatter a");
    // They are drawn when the plot knows its size.
    await points.first().waitFor({ state: "attached" });
    check(await points.count() === result.search.front.length, "a link for each model of the front");
    await points.first().focus();
    check(/^Trial \d+: MACs/i.test(await page.locator(".tip").textContent()), "a point of the front says its numbers");
    await accessible(page, "a search");
    await picture(page, "search");
    return jobId(page);
  });

  await step("a distillation", async () => {
    await go(page, `#/new/distill?model=${model.id}&dataset=${dataset.id}`);
    await page.getByLabel("Name of the job").fill("half as wide");
    const editor = page.getByLabel("params", { exact: true });
    await page.locator("summary", { hasText: "Parameters as JSON" }).click();
    await editor.fill((await editor.inputValue()).replaceAll(/"epochs": \d+/g, '"epochs": 1'));
    await page.getByLabel("data", { exact: true }).fill('{"preprocess": {"scale": 0.0625}}');
    await page.getByRole("button", { name: "Submit job" }).click();
    await page.getByRole("heading", { level: 1, name: "half as wide" }).waitFor();
    await ended(page, "succeeded");
    await page.getByRole("heading", { level: 2, name: "Distillation", exact: true }).waitFor();
    const figures = page.getByRole("table", { name: "Figures before and after" });
    for (const column of ["Teacher", "Control"]) check(await figures.getByRole("columnheader", { name: column }).count() === 1, `the column ${column}`);
    check(await page.getByRole("button", { name: "Download control.onnx" }).count() === 1, "the control's model is there");
    await accessible(page, "the job of kind distill");
    await picture(page, "distill");
  });

  await step("a pipeline, step by step", async () => {
    await go(page, `#/new/pipeline?model=${model.id}&dataset=${dataset.id}`);
    await page.getByLabel("Name of the job").fill("in three steps");
    const steps = page.locator("fieldset.step");
    const body = async () => JSON.parse(/-d '([^]*)'$/.exec(await page.locator("pre.curl").textContent())[1]);
    check(await steps.count() === 3, "three steps to begin with");
    check(await steps.nth(1).getByLabel("Teacher", { exact: true }).inputValue() === "original", "the original teaches");
    await steps.nth(0).getByLabel("Epochs of fine-tuning").fill("1");
    await steps.nth(1).getByLabel("Epochs", { exact: true }).fill("1");
    await page.getByRole("button", { name: "Add a step" }).click();
    check(await steps.count() === 4 && await steps.nth(3).getByLabel("Kind").evaluate((one) => one === document.activeElement), "the new step has the focus");
    await steps.nth(3).getByLabel("Epochs", { exact: true }).fill("1");
    await page.getByRole("button", { name: "Step 4 earlier" }).click();
    check((await body()).params.steps.map((one) => one.kind).join() === "prune,distill,train,evaluate", "the steps changed places");
    check((await body()).params.steps[2].params.epochs === 1, "with what was typed");
    await steps.nth(2).getByLabel("Kind").selectOption("prune");
    check((await body()).params.steps[2].params.target.macs_ratio === 0.5, "another kind has its own usual parameters");
    await page.getByRole("button", { name: "Remove step 3" }).click();
    await accessible(page, "the form of a pipeline");
    await picture(page, "pipeline-form");
    await steps.nth(0).getByLabel("MACs after ÷ before").fill("2");
    await page.locator("summary", { hasText: /^Data$/ }).click();
    await page.getByLabel("Scale", { exact: true }).fill("0.0625");
    await page.getByRole("button", { name: "Submit job" }).click();
    await steps.nth(0).locator(".fault", { hasText: "below 1" }).waitFor();
    check(await steps.nth(0).getByLabel("MACs after ÷ before").getAttribute("aria-invalid") === "true", "the fault is at the field of its step");
    await steps.nth(0).getByLabel("MACs after ÷ before").fill("0.5");
    await page.getByRole("button", { name: "Submit job" }).click();
    await page.getByRole("heading", { level: 1, name: "in three steps" }).waitFor();
    await ended(page, "succeeded");
    await page.getByRole("heading", { level: 2, name: "Steps", exact: true }).waitFor();
    await accessible(page, "the job of kind pipeline");
    await picture(page, "pipeline");
  });

  await step("a model's page", async () => {
    await go(page, `#/models/${model.id}`);
    check(await heading(page) === "digits", "the heading of the model");
    await page.getByRole("table", { name: "Layers in order" }).getByText("g0", { exact: true }).first().waitFor();
    await page.getByLabel("Search", { exact: true }).fill("conv2");
    check(await page.getByText(/^1 of /).count() === 1, "the search finds one layer");
    await page.getByLabel("Search", { exact: true }).fill("");
    await page.getByLabel("View", { exact: true }).selectOption("cards");
    await accessible(page, "a model's page with cards");
    await page.getByLabel("View", { exact: true }).selectOption("graph");
    const drawn = page.locator(".graph li");
    await drawn.first().waitFor();
    check(/^input/.test(await drawn.first().textContent()), "the graph begins with the input");
    check(/Conv → BatchNormalization → Relu/.test(await drawn.nth(1).textContent()), "what only goes on is a step");
    check(await page.locator(".lanes circle").count() === await drawn.count(), "a dot for each step");
    await accessible(page, "a model's graph");
    await picture(page, "graph");
    await page.locator("summary", { hasText: "Ask the model about an example" }).click();
    await page.getByRole("button", { name: "Ask the model" }).click();
    await page.getByRole("table", { name: "Likeliest classes" }).waitFor();
    await accessible(page, "a model that was asked");
    await page.getByRole("button", { name: "Rename" }).click();
    await page.getByLabel("Name", { exact: true }).fill("digits, renamed");
    await page.getByRole("dialog").getByRole("button", { name: "Rename" }).click();
    await page.getByRole("heading", { level: 1, name: "digits, renamed" }).waitFor();
    check((await json(`/v1/models/${model.id}`)).name === "digits, renamed", "the server has the new name");
    await page.getByRole("button", { name: "Rename" }).click();
    await page.getByLabel("Name", { exact: true }).fill("digits");
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { level: 1, name: "digits", exact: true }).waitFor();
    await picture(page, "model");
    const { model: made } = (await json(`/v1/jobs/${first}`)).result;
    await page.getByRole("link", { name: "half the MACs" }).nth(1).click();
    await page.waitForURL(`**/#/models/${made}`);
    await page.getByRole("link", { name: "digits", exact: true }).waitFor();
    await page.getByRole("link", { name: "Distill…" }).click();
    await page.getByRole("heading", { level: 1, name: "New job: distil" }).waitFor();
    check(await page.getByLabel("Teacher", { exact: true }).inputValue() === made, "the form has the model");
  });

  const canceled = await step("a running job is cancelled, then tried again", async () => {
    await go(page, `#/new/train?model=${model.id}&dataset=${dataset.id}`);
    await page.getByLabel("Name of the job").fill("long");
    await page.getByLabel("Epochs", { exact: true }).fill("5000");
    await page.getByRole("button", { name: "Submit job" }).click();
    await page.locator("main .state .status.running").waitFor({ timeout: WAIT });
    await page.waitForFunction(() => document.querySelector("main progress")?.value > 0, null, { timeout: WAIT });
    // Some of its curves are to be left when it has ended.
    await page.locator(".curves canvas").first().waitFor({ timeout: WAIT });
    await page.getByRole("button", { name: "Cancel" }).click();
    const dialog = page.getByRole("dialog", { name: /^Cancel “/ });
    await accessible(page, "a dialog");
    await dialog.getByRole("button", { name: "Keep it" }).click();
    check(await page.locator("main .state .status.running").count() === 1, "the job is kept");
    await page.getByRole("button", { name: "Cancel" }).click();
    await dialog.getByRole("button", { name: "Cancel the job" }).click();
    await ended(page, "canceled");
    check(await page.getByRole("button", { name: "Retry" }).count() === 1, "a cancelled job can be tried again");
    await page.getByRole("button", { name: "Retry" }).click();
    await page.locator("main .state .status.running").waitFor({ timeout: WAIT });
    await page.getByRole("button", { name: "Cancel" }).click();
    await dialog.getByRole("button", { name: "Cancel the job" }).click();
    await ended(page, "canceled");
    await page.waitForFunction(() => document.querySelector(".log").textContent.split("job_canceled").length === 3);
    return jobId(page);
  });

  await step("filters and deletion", async () => {
    await go(page, "#/jobs");
    await page.getByLabel("Status", { exact: true }).selectOption("canceled");
    await page.waitForURL(/status=canceled/);
    await page.waitForFunction(() => document.querySelectorAll("main tbody tr").length === 1);
    // All that the page asks for, which is 404 after the deletion.
    const last = page.waitForResponse(/\/deliveries$/);
    await page.getByRole("link", { name: "long" }).click();
    await Promise.all([last, page.locator(".curves canvas").first().waitFor(), page.locator(".log").getByText("job_canceled").nth(1).waitFor()]);
    await page.getByRole("button", { name: "Delete" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Delete the job" }).click();
    await page.getByRole("heading", { level: 1, name: "Jobs" }).waitFor();
    check((await json("/v1/jobs?limit=100")).data.every((job) => job.id !== canceled), "the job is gone");
  });

  await step("what is not there is said", async () => {
    expected.add("404");
    await go(page, "#/jobs/01a227cd-da3f-72fb-a2b5-8b3f2ad70000");
    await page.getByRole("heading", { level: 1, name: "Not found" }).waitFor();
    await go(page, "#/nowhere");
    await page.getByRole("heading", { level: 1, name: "Not found" }).waitFor();
    expected.delete("404");
  });

  await step("long lists go on page by page", async () => {
    const content = readFileSync(MODEL);
    for (let copy = 0; copy < 21; copy += 1) await api(`/v1/models?name=copy-${copy}`, { method: "POST", body: content, headers: { "Content-Type": "application/octet-stream" } });
    const markup = await (await api(`/v1/models?name=${encodeURIComponent("<i>copy</i>")}`, { method: "POST", body: content, headers: { "Content-Type": "application/octet-stream" } })).json();
    await go(page, "#/models");
    check(await page.getByRole("link", { name: "<i>copy</i>", exact: true }).count() === 1, "a name is text, whatever is in it");
    await api(`/v1/models/${markup.id}`, { method: "DELETE" });
    await go(page, "#/jobs");
    await go(page, "#/models");
    const rows = page.locator("main tbody tr");
    await page.getByRole("link", { name: "copy-20", exact: true }).waitFor();
    check(await rows.count() === 20, `a page has 20 rows, not ${await rows.count()}`);
    await page.getByRole("button", { name: "Show more" }).click();
    await page.getByRole("link", { name: "digits", exact: true }).first().waitFor();
    const all = (await json("/v1/models?limit=100")).data;
    const uploaded = all.filter((one) => !/\(trial-\d+\)$/.test(one.name));
    check(uploaded.length < all.length && await rows.count() === uploaded.length, "all models but the candidates of a search are there");
    await page.getByLabel("show candidates that searches kept, too").check();
    check(await rows.count() === all.length, "and those, too");
    await page.getByLabel("show candidates that searches kept, too").uncheck();
    check(await page.getByRole("button", { name: "Show more" }).count() === 0, "there is no more");
    for (const copy of (await json("/v1/models?limit=100")).data.filter((one) => one.name.startsWith("copy-"))) await api(`/v1/models/${copy.id}`, { method: "DELETE" });
  });

  const routes = ["#/", "#/jobs", `#/jobs/${first}`, `#/jobs/${search}`, "#/models", `#/models/${model.id}`, "#/datasets", `#/datasets/${dataset.id}`, "#/compare", `#/compare?jobs=${first},${second},${search}`,
    ...["train", "evaluate", "prune", "distill", "search", "pipeline"].map((kind) => `#/new/${kind}`)];

  await step("every route in both themes", async () => {
    for (const theme of ["dark", "light"]) {
      await page.getByRole("button", { name: `${theme === "dark" ? "Dark" : "Light"} theme` }).click();
      // The system's own theme, light here, is followed and not kept.
      const kept = theme === "dark" ? "dark" : null;
      check(await page.evaluate(() => localStorage.getItem("sinter-theme")) === kept, "the theme is kept");
      for (const route of routes) {
        await go(page, route);
        if (route.startsWith("#/jobs/")) await page.getByRole("heading", { name: "Artifacts" }).waitFor();
        await accessible(page, `${route} in the ${theme} theme`);
        if (theme === "dark" && route === `#/jobs/${search}`) {
          await page.locator(".curves canvas").first().waitFor();
          await picture(page, "dark");
        }
        if (theme === "light" && route === "#/") await picture(page, "overview");
      }
      await page.reload();
      await settled(page);
      check(await page.evaluate(() => document.documentElement.dataset.theme) === (kept ?? undefined), "the theme holds after loading again");
      await page.getByRole("button", { name: `${theme === "dark" ? "Light" : "Dark"} theme` }).waitFor();
    }
  });

  await step("by keyboard alone", async () => {
    await page.goto("about:blank");
    await page.goto(base);
    await settled(page);
    await page.keyboard.press("Tab");
    check(await page.evaluate(() => document.activeElement.id) === "skip", "the first stop is the skip link");
    await page.keyboard.press("Enter");
    check(await page.evaluate(() => document.activeElement.id) === "main", "the skip link leads to the content");
    await page.evaluate(() => document.activeElement.blur());
    await tabTo(page, '#nav a[href="#/new/prune"]');
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { level: 1, name: "New job: prune" }).waitFor();
    await settled(page);
    await tabTo(page, "form.job select");
    await tabTo(page, "form.job input[type=text]");
    await page.keyboard.type("by keys");
    check((await page.locator("pre.curl").textContent()).includes('"name": "by keys"'), "the command follows the keys");
    await tabTo(page, "form.job summary");
    await page.keyboard.press("Enter");
    check(await page.locator("form.job details[open]").count() > 0, "Enter opens what is folded");
    await tabTo(page, "form.job button.primary");
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { level: 1, name: "by keys" }).waitFor();
    await settled(page);
    // Its end makes other buttons, which must not happen while a dialog is to give the focus back to one.
    await ended(page, "succeeded");
    await tabTo(page, "main .actions button");
    await page.keyboard.press("Enter");
    await page.getByRole("dialog").waitFor();
    await page.keyboard.press("Escape");
    check(await page.getByRole("dialog").count() === 0, "Escape closes the dialog");
    check(await page.evaluate(() => document.activeElement.tagName) === "BUTTON", "the focus comes back from the dialog");
    // The end of the page is reached: there is no trap.
    await tabTo(page, "details.request summary", 150);
    await page.keyboard.press("Tab");
  });

  await step("a phone of 360 pixels", async () => {
    const phone = await open({ viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true, deviceScaleFactor: 2, reducedMotion: "reduce" });
    if (KEY) await phone.addInitScript((key) => sessionStorage.setItem("sinter-key", key), KEY);
    for (const route of routes) {
      await go(phone, route);
      if (route.startsWith("#/jobs/")) {
        await phone.getByRole("heading", { name: "Artifacts" }).waitFor();
        await phone.locator(".curves canvas").first().waitFor();
      }
      await unfold(phone);
      const [width, window] = await phone.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
      check(width <= window && window === 360, `${route} is ${width} pixels wide in a window of ${window}`);
      await accessible(phone, `${route} on a phone`);
      if (route === "#/") await picture(phone, "phone");
      if (route === `#/jobs/${first}`) await picture(phone, "phone-job");
    }
    await phone.context().close();
  });

  check(complaints.length === 0, `the console has ${complaints.length} complaints:\n  ${complaints.join("\n  ")}`);
}

try {
  await journey();
  console.log(`${steps} steps, screenshots in ${output}`);
} catch (error) {
  console.error(`FAILED: ${error.message}`);
  if (complaints.length > 0) console.error(`the console said:\n  ${complaints.join("\n  ")}`);
  const [context] = browser.contexts();
  await context?.pages()[0]?.screenshot({ path: join(output, "failure.png"), fullPage: true }).catch(() => {});
  process.exitCode = 1;
} finally {
  await browser.close();
}
