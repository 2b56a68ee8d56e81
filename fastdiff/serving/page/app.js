// The form, and what the server is asked and says.

import { generate, getStatus, ServerError } from "./api.js";
import { Run } from "./run.js";
import { asCurl, asPython } from "./snippets.js";

const PARTIAL_IMAGES = 24; // estimates of each image on its way
const MAX_RUNS = 20; // requests that stay on the page
const $ = (id) => document.getElementById(id);
const form = $("form");

let models = new Map();
let offered = ""; // the parameters that the form shows
let imagesWithoutLabels = ""; // what the field said before several labels decided it
let running = null; // the AbortController of the request on its way

// ---- what the server has ----

async function watch() {
  if (!document.hidden) await refresh();
  setTimeout(watch, running ? 500 : 2000);
}

async function refresh() {
  try {
    const { models: found } = await getStatus($("key").value);
    models = new Map(found.map((model) => [model.name, model]));
    offer($("model"), [...models.keys()]);
    offerParameters();
    showStatus();
  } catch (error) {
    $("state").textContent = error.status === 401 ? "needs an API key" : "unreachable";
    if (error.status === 401) $("key-field").hidden = false;
  }
}

function showStatus() {
  const model = models.get($("model").value);
  $("state").textContent = model?.state ?? "no model";
  $("waiting").textContent = model?.waiting_rows ?? 0;
  $("running").textContent = model?.running_rows ?? 0;
  $("speed").textContent = Math.round(model?.row_steps_per_second ?? 0);
}

/** Show the fields that the chosen model takes, with its limits. */
function offerParameters() {
  const takes = models.get($("model").value)?.parameters;
  if (!takes || offered === JSON.stringify(takes)) return;
  offered = JSON.stringify(takes);
  $("prompt-field").hidden = !takes.prompt;
  $("class-field").hidden = !takes.num_classes;
  $("negative-field").hidden = !takes.negative_prompt;
  $("guidance-field").hidden = !takes.guidance_scale;
  $("size-field").hidden = takes.sizes.length < 2;
  $("prompt").required = takes.prompt;
  $("class-hint").textContent =
    `0 to ${takes.num_classes - 1}; several, as 3 7 7, for one image each.`;
  $("n").max = takes.max_n;
  $("steps").max = takes.max_steps;
  $("steps").value = Math.min($("steps").value, takes.max_steps);
  offer($("solver"), takes.solvers, takes.default_solver);
  offer($("size"), takes.sizes);
  countImages();
  showSnippets();
}

/** Fill a list, keeping what is chosen if it can be. */
function offer(list, names, fallback = names[0]) {
  if ([...list.options].map((option) => option.value).join() === names.join()) return;
  const chosen = names.includes(list.value) ? list.value : fallback;
  list.replaceChildren(...names.map((name) => new Option(name)));
  list.value = chosen;
}

// ---- the request ----

/** Return the class labels of the form; none where it holds anything else. */
function readLabels() {
  const words = shown("class").split(/[\s,]+/).filter(Boolean);
  return words.every((word) => /^\d+$/.test(word)) ? words.map(Number) : [];
}

/** Return what a field says, nothing if it is not offered. */
function shown(id) {
  return $(id).closest("[hidden]") ? "" : $(id).value.trim();
}

/** Several labels are an image each, so that they decide how many images there are. */
function countImages() {
  const { length } = readLabels();
  if ($("n").readOnly !== length > 1) {
    if (length > 1) imagesWithoutLabels = $("n").value;
    else $("n").value = imagesWithoutLabels;
    $("n").readOnly = length > 1;
  }
  if (length > 1) $("n").value = length;
}

/** Return what the form asks for, with the names of the API. */
function readRequest() {
  const request = { model: $("model").value, n: Number($("n").value) };
  const labels = readLabels();
  if (labels.length > 1) request.class_labels = labels;
  else if (shown("prompt") || shown("class")) request.prompt = shown("prompt") || shown("class");
  request.num_inference_steps = Number($("steps").value);
  request.solver = $("solver").value;
  if (Number(shown("guidance") || 1) !== 1) request.guidance_scale = Number($("guidance").value);
  if (shown("negative")) request.negative_prompt = shown("negative");
  if (shown("size")) request.size = shown("size");
  if (shown("seed")) request.seed = BigInt($("seed").value);
  return request;
}

async function submit() {
  if (running) return;
  const run = new Run(readRequest(), (text) => ($("announcement").textContent = text));
  clearError();
  running = new AbortController();
  setBusy(true);
  $("empty")?.remove();
  $("results").prepend(run.element);
  $("results").children[MAX_RUNS]?.remove();
  const stream = { ...run.request, stream: true, partial_images: PARTIAL_IMAGES };
  try {
    for await (const event of generate(stream, $("key").value, running.signal)) run.show(event);
    run.finish();
  } catch (error) {
    if (error.name === "AbortError") run.cancel();
    else showError(error, run);
  } finally {
    running = null;
    setBusy(false);
  }
}

function cancel() {
  running?.abort();
}

function setBusy(busy) {
  $("generate").setAttribute("aria-disabled", busy);
  if (!busy && document.activeElement === $("cancel")) $("generate").focus();
  $("cancel").hidden = !busy;
}

function showError(error, run) {
  if (!(error instanceof ServerError)) throw error;
  run.fail();
  const when = error.retrySeconds ? ` Try again in ${error.retrySeconds} s.` : "";
  if (error.status === 401) $("key-field").hidden = false;
  const field = fieldOf(error.status === 401 ? "key" : error.parameter);
  $("error").textContent = inLabels(error.message, error.parameter, field) + when;
  field?.setAttribute("aria-invalid", "true");
  field?.setAttribute("aria-errormessage", "error");
  field?.focus();
}

function clearError() {
  $("error").textContent = "";
  for (const field of form.elements) field.removeAttribute("aria-invalid");
}

/** Return the field behind a parameter of the API; a class may travel as the prompt. */
function fieldOf(parameter) {
  const names = parameter === "prompt" ? ["prompt", "class_labels"] : [parameter];
  return [...form.elements].find((f) => names.includes(f.name) && !f.closest("[hidden]"));
}

/** Return a message of the API with the labels of the form instead of its parameters' names. */
function inLabels(message, parameter, field) {
  const labelOf = (own) => own?.labels?.[0]?.textContent;
  const start = field && message.startsWith(`${parameter}: `) ? parameter.length : 0;
  const rest = message
    .slice(start)
    .replace(/\b[a-z]+(_[a-z]+)+\b/g, (name) => labelOf(form.elements[name]) ?? name);
  return start ? labelOf(field) + rest : rest;
}

// ---- the same from code ----

function showSnippets() {
  const base = new URL("v1", document.baseURI).href;
  const withKey = !$("key-field").hidden;
  const request = form.checkValidity() ? readRequest() : null;
  if (!request) return;
  $("curl").textContent = asCurl(base, request, withKey);
  $("python").textContent = asPython(base, request, withKey);
}

async function copy(button) {
  const code = $(button.dataset.from);
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(code.textContent);
    $("announcement").textContent = "Copied.";
  } else {
    // Browsers lend the clipboard to https and localhost alone.
    getSelection().selectAllChildren(code);
    $("announcement").textContent = "Selected; copy it with your keyboard.";
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
form.addEventListener("input", () => {
  countImages();
  showSnippets();
});
$("model").addEventListener("change", () => {
  offerParameters();
  showStatus();
});
$("key").addEventListener("change", refresh);
$("cancel").addEventListener("click", cancel);
document.addEventListener("keydown", (event) => event.key === "Escape" && cancel());
for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", () => copy(button));
}
watch();
