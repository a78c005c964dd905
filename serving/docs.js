"use strict";
// Renders /openapi.json. Everything from the server is put in as text, never as markup.

function element(name, text, attributes) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  return made;
}

function demands(schema) {
  const type = [].concat(schema.type);
  const parts = [schema.format || type[0]];
  if (schema.minimum !== undefined) parts.push("at least " + schema.minimum);
  if (schema.maximum !== undefined) parts.push("at most " + schema.maximum);
  if (schema.enum) parts.push("one of " + schema.enum.filter((value) => value !== null).join(", "));
  if (schema.pattern) parts.push("matching " + schema.pattern);
  if (type.includes("null")) parts.push("or null");
  return parts.join(", ");
}

function table(schema) {
  const made = element("table");
  const head = element("tr");
  for (const title of ["field", "must be", ""]) head.append(element("th", title));
  made.append(head);
  for (const [name, field] of Object.entries(schema.properties)) {
    const row = element("tr");
    const cell = element("td");
    cell.append(element("code", name));
    row.append(cell, element("td", demands(field)), element("td", field.description || ""));
    made.append(row);
  }
  return made;
}

function sender(path, example, label) {
  const form = element("div");
  const box = element("textarea", undefined, { "aria-label": label, spellcheck: "false" });
  box.value = JSON.stringify(example, null, 2);
  const button = element("button", "Send", { type: "button" });
  const answer = element("pre", "The answer appears here.", { "aria-live": "polite" });
  button.addEventListener("click", async () => {
    answer.textContent = "Sending\u2026";
    const start = performance.now();
    try {
      const response = await fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body: box.value });
      const text = await response.text();
      let shown = text;
      try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch { /* shown as it came */ }
      answer.textContent = "HTTP " + response.status + " in " + Math.round(performance.now() - start) + " ms\n" + shown;
    } catch (error) {
      answer.textContent = "The server does not answer: " + error.message;
    }
  });
  form.append(box, button, answer);
  return form;
}

function operation(path, verb, found) {
  const made = element("p");
  const link = verb === "get" ? element("a", path, { href: path }) : element("code", path);
  made.append(element("span", verb.toUpperCase(), { class: "verb" }), link, element("span", " \u2013 " + found.summary, { class: "muted" }));
  return made;
}

async function render() {
  const main = document.getElementById("main");
  const description = await (await fetch("/openapi.json")).json();
  const tags = new Map();
  for (const [path, verbs] of Object.entries(description.paths)) {
    for (const [verb, found] of Object.entries(verbs)) {
      const tag = found.tags[0];
      if (!tags.has(tag)) tags.set(tag, []);
      tags.get(tag).push([path, verb, found]);
    }
  }
  main.replaceChildren();
  const names = [...tags.keys()].sort((a, b) => (b in description.components.schemas) - (a in description.components.schemas));
  if (!names.some((name) => name in description.components.schemas)) main.append(element("p", "No pipeline is being served yet. Reload when one was released."));
  for (const name of names) {
    main.append(element("h2", name));
    const schema = description.components.schemas[name];
    if (schema) main.append(table(schema));
    for (const [path, verb, found] of tags.get(name)) {
      main.append(operation(path, verb, found));
      if (verb === "post") main.append(sender(path, found.requestBody.content["application/json"].example, "Body of " + path));
    }
  }
}

render().catch((error) => { document.getElementById("main").textContent = "The description cannot be loaded: " + error.message; });
