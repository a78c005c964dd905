"use strict";
// Renders /openapi.json and sends predictions. Everything from the server is put in as text, never as markup.

const SHOWN = 12; // contributions shown; the rest are added up

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  made.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return made;
}

const fetched = async (path) => {
  const response = await fetch(path);
  if (!response.ok) throw new Error(path + " answers " + response.status);
  return response.json();
};

const post = async (path, body) => {
  const response = await fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body });
  return { status: response.status, found: await response.json() };
};

const types = (schema) => [].concat(schema.type);
const short = (digest) => digest.slice(0, 12);
const number = (value, digits = 3) => Number(value).toLocaleString("en", { maximumSignificantDigits: digits });
const signed = (value) => (value < 0 ? "\u2212" : "+") + Math.abs(value).toFixed(3);

function demands(schema) {
  const parts = [schema.format === "date-time" ? "time with an offset, ISO 8601" : types(schema)[0]];
  if (schema.minimum !== undefined) parts.push("at least " + schema.minimum);
  if (schema.maximum !== undefined) parts.push("at most " + schema.maximum);
  if (schema.maxLength !== undefined) parts.push("up to " + schema.maxLength + " characters");
  if (schema.enum) parts.push("one of " + schema.enum.filter((value) => value !== null).join(", "));
  if (schema.pattern) parts.push("matching " + schema.pattern);
  if (types(schema).includes("null")) parts.push("or null");
  return parts.join(", ");
}

// -- what serves ------------------------------------------------------------------------------------------------------

function facts(card) {
  const list = element("dl");
  const fact = (name, ...value) => list.append(element("div", {}, element("dt", {}, name), element("dd", {}, ...value)));
  for (const arm of card.arms) {
    const share = card.arms.length > 1 ? " (" + number(100 * arm.share) + " %)" : "";
    fact(arm.arm + share, element("span", { class: "digest", title: arm.bundle }, short(arm.bundle)));
    fact("trained as of", arm.trained_as_of);
  }
  if (card.owner) fact("owner", card.owner);
  fact("predicts", card.label);
  fact("risk", card.risk);
  fact("online features of", card.online_as_of || "none yet");
  for (const [name, value] of Object.entries(card.arms[0].metrics)) if (value !== null) fact(name.replaceAll("_", " "), number(value));
  return list;
}

function features(card) {
  const rows = card.arms[0].features.map((feature) => {
    const known = feature.type === "category" ? feature.values.join(", ") : feature.low === undefined ? "" : number(feature.low, 4) + " to " + number(feature.high, 4);
    return element("tr", {}, element("td", {}, element("code", {}, feature.name)), element("td", {}, feature.type), element("td", {}, known));
  });
  return folded("The model's " + rows.length + " features", table(["feature", "type", "known from training"], rows));
}

function table(titles, rows) {
  return element("table", {}, element("thead", {}, element("tr", {}, ...titles.map((title) => element("th", {}, title)))), element("tbody", {}, ...rows));
}

function folded(title, ...content) {
  return element("details", {}, element("summary", {}, title), ...content);
}

function contract(schema) {
  const rows = Object.entries(schema.properties).map(([name, field]) =>
    element("tr", {}, element("td", {}, element("code", {}, name)), element("td", {}, demands(field)), element("td", {}, field.description || "")));
  return folded("The request's " + rows.length + " fields", table(["field", "must be", "meaning"], rows));
}

function routes(found) {
  const list = element("ul", { class: "routes" });
  for (const [path, verb, operation] of found) {
    const plain = verb === "get" && !path.includes("{");
    list.append(element("li", {}, element("span", { class: "verb" }, verb.toUpperCase()), plain ? element("a", { href: path }, path) : element("code", {}, path),
      element("span", { class: "muted" }, " \u2013 " + operation.summary)));
  }
  return list;
}

// -- trying it --------------------------------------------------------------------------------------------------------

function input(id, field) {
  const kinds = types(field);
  const choices = field.enum || (kinds[0] === "boolean" ? [true, false, ...(kinds.includes("null") ? [null] : [])] : null);
  if (choices) return element("select", { id }, ...choices.map((value) => element("option", { value: JSON.stringify(value) }, value === null ? "null" : value)));
  return element("input", { id, autocomplete: "off", spellcheck: "false", ...(kinds[0] === "number" || kinds[0] === "integer" ? { inputmode: "decimal" } : {}) });
}

// The value that a control stands for. What is no number stays a text: the server says what is wrong with it.
function read(control, field) {
  if (control.tagName === "SELECT") return JSON.parse(control.value);
  const kinds = types(field), text = control.value;
  if (text === "" && kinds.includes("null")) return null;
  if ((kinds[0] === "number" || kinds[0] === "integer") && text.trim() !== "" && Number.isFinite(Number(text))) return Number(text);
  return text;
}

function write(control, value) {
  if (control.tagName === "SELECT") control.value = JSON.stringify(value === undefined ? null : value);
  else control.value = value === null || value === undefined ? "" : value;
}

function trial(name, schema, example) {
  const controls = Object.entries(schema.properties).map(([field, rules]) => [field, rules, input(name + "." + field, rules)]);
  const fields = element("div", { class: "fields" }, ...controls.map(([field, rules, control]) =>
    element("div", { title: rules.description || demands(rules) }, element("label", { for: control.id }, field), control)));
  const box = element("textarea", { "aria-label": "Request as JSON", spellcheck: "false" });
  const answer = element("div", { class: "answer", role: "status" }, element("p", { class: "muted" }, "The answer appears here."));
  const fill = (row) => { for (const [field, , control] of controls) write(control, row[field]); };
  const show = () => { box.value = JSON.stringify(Object.fromEntries(controls.map(([field, rules, control]) => [field, read(control, rules)])), null, 2); };
  const reset = () => { fill(example); box.value = JSON.stringify(example, null, 2); };
  fields.addEventListener("input", show);
  box.addEventListener("input", () => {
    try { fill(JSON.parse(box.value)); } catch { /* not whole yet */ }
  });
  const again = element("button", { type: "button", class: "quiet" }, "Example");
  again.addEventListener("click", reset);
  const form = element("form", { "aria-label": "Try " + name, novalidate: "" }, fields, element("button", {}, "Predict"), " ", again, folded("As JSON", box));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    for (const [, , control] of controls) control.removeAttribute("aria-invalid");
    answer.replaceChildren(element("p", { class: "muted" }, "Asking\u2026"));
    const start = performance.now();
    try {
      const predicted = await post("/predict/" + name, box.value);
      const spent = performance.now() - start;
      if (predicted.status !== 200) {
        const refused = controls.find(([field]) => field === predicted.found.field);
        if (refused) refused[2].setAttribute("aria-invalid", "true");
        answer.replaceChildren(...refusal(predicted));
        return;
      }
      answer.replaceChildren(...prediction(predicted.found, spent));
      const explained = await post("/explain/" + name, box.value);
      answer.append(...(explained.status === 200 ? explanation(explained.found) : refusal(explained)));
    } catch (error) {
      answer.replaceChildren(element("p", { class: "refused" }, "The server does not answer: " + error.message));
    }
  });
  reset();
  return element("div", { class: "try" }, form, answer);
}

function refusal({ status, found }) {
  return [
    element("p", { class: "refused" }, "Refused with " + status + ": " + found.error),
    element("p", { class: "muted" }, "field " + (found.field || "\u2013") + ", rule " + found.rule),
  ];
}

function prediction(found, spent) {
  const filled = element("span");
  filled.style.width = 100 * found.prediction + "%";
  const parts = [
    element("div", { class: "probability" }, (100 * found.prediction).toFixed(1) + " %"),
    element("div", { class: "scale", "aria-hidden": "true" }, filled),
  ];
  if (found.ood.length) parts.push(element("p", { class: "warning" }, "Outside of the training range: " + found.ood.join(", ")));
  parts.push(element("p", { class: "muted" }, found.arm + " " + short(found.bundle) + ", " + Math.round(spent) + " ms in this browser; logged as " + found.id));
  parts.push(folded("Answer as JSON", element("pre", {}, JSON.stringify(found, null, 2))));
  return parts;
}

function explanation(found) {
  const parts = found.contributions.slice(0, SHOWN);
  const rest = found.contributions.slice(SHOWN);
  if (rest.length) parts.push({ feature: rest.length + " others", value: "", contribution: rest.reduce((sum, part) => sum + part.contribution, 0) });
  const largest = Math.max(...parts.map((part) => Math.abs(part.contribution)), 1e-9);
  const rows = parts.map((part) => {
    const bar = element("span", { class: part.contribution < 0 ? "less" : "more" });
    bar.style.width = (100 * Math.abs(part.contribution)) / largest + "%";
    const value = part.value === null ? "missing or unseen" : typeof part.value === "number" ? number(part.value, 5) : part.value;
    return element("tr", {}, element("td", {}, element("code", {}, part.feature)), element("td", { class: "number muted" }, value),
      element("td", { class: "bar" }, element("div", { class: "track", "aria-hidden": "true" }, bar)), element("td", { class: "number" }, signed(part.contribution)));
  });
  const chart = element("table", { class: "contributions" }, element("tbody", {}, ...rows));
  return [
    element("h3", {}, "Why"),
    chart,
    element("p", { class: "muted" }, "Log odds before calibration: " + signed(found.base_value) + " on average, " + signed(found.margin) + " for this request."),
  ];
}

// -- the page ---------------------------------------------------------------------------------------------------------

async function pipeline(name, schema, found, example) {
  const section = element("section", { id: name }, element("h2", {}, name));
  let card = null;
  try { card = await fetched("/models/" + name); } catch { /* what is known from the description alone is shown */ }
  if (card) section.append(element("p", { class: "muted" }, card.purpose), facts(card));
  section.append(trial(name, schema, (card && card.example) || example), contract(schema));
  if (card) section.append(features(card));
  section.append(element("h3", {}, "Routes"), routes(found));
  return section;
}

async function render() {
  const main = document.getElementById("main");
  const { paths, components } = await fetched("/openapi.json");
  const tags = new Map();
  for (const [path, verbs] of Object.entries(paths)) {
    for (const [verb, operation] of Object.entries(verbs)) {
      if (!operation.tags) continue;
      const tag = operation.tags[0];
      if (!tags.has(tag)) tags.set(tag, []);
      tags.get(tag).push([path, verb, operation]);
    }
  }
  const names = [...tags.keys()].filter((tag) => paths["/predict/" + tag]);
  const sections = await Promise.all(names.map((name) => {
    const body = paths["/predict/" + name].post.requestBody.content["application/json"];
    return pipeline(name, components.schemas[name], tags.get(name), body.example);
  }));
  const others = [...tags.keys()].filter((tag) => !names.includes(tag)).map((tag) => element("section", {}, element("h2", {}, tag), routes(tags.get(tag))));
  main.replaceChildren(...sections, ...others);
  if (!names.length) main.prepend(element("p", {}, "No pipeline is being served yet. Reload when one was released."));
}

render().catch((error) => { document.getElementById("main").textContent = "The description cannot be loaded: " + error.message; });
