// Shows the API's description. Only text nodes are made: nothing in the description is markup.
"use strict";

const part = (name) => document.querySelector(`[data-part="${name}"]`);
const METHODS = ["get", "post", "put", "patch", "delete"];

function element(name, text, ...children) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

/** The schema in words: `string`, `Upload`, `[Upload]`. */
function typed(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.oneOf) return schema.oneOf.map(typed).join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.type === "array") return `[${typed(schema.items)}]`;
  return [schema.type].flat().join(" or ") || "anything";
}

/** The fields of an object, two levels deep at most. */
function fields(schema, schemas, depth = 0) {
  const whole = schema?.$ref ? schemas[schema.$ref.split("/").pop()] : schema;
  if (!whole?.properties || depth > 1) return [];
  const list = element("dl");
  for (const [name, field] of Object.entries(whole.properties)) {
    const required = (whole.required || []).includes(name) ? "" : ", optional";
    list.append(element("dt", `${name}: ${typed(field)}${required}`), element("dd", field.description || ""));
  }
  return [list];
}

function content(of, schemas) {
  return Object.entries(of || {}).flatMap(([type, { schema }]) => [
    element("p", `${type}: ${typed(schema)}`),
    ...fields(schema?.type === "array" ? schema.items : schema, schemas),
  ]);
}

function operation(path, method, what, schemas) {
  const shown = element("details", "");
  shown.dataset.text = `${method} ${path} ${what.summary || ""} ${what.tags || ""}`.toLowerCase();
  const head = element("summary", "", element("b", method.toUpperCase()), element("code", path), element("span", what.summary || ""));
  shown.append(head);
  if (what.description) shown.append(element("p", what.description));
  const named = (what.security || []).flatMap(Object.keys);
  shown.append(element("p", named.length ? `Needs: ${[...new Set(named)].join(" or ")}` : "For everybody"));
  if (what.parameters?.length) {
    const list = element("dl");
    for (const { name, in: where, required, schema, description } of what.parameters) {
      list.append(element("dt", `${name} (${where}): ${typed(schema)}${required ? "" : ", optional"}`), element("dd", description || ""));
    }
    shown.append(element("h3", "Parameters"), list);
  }
  if (what.requestBody) shown.append(element("h3", "Body"), ...content(what.requestBody.content, schemas));
  shown.append(element("h3", "Answers"));
  for (const [status, answer] of Object.entries(what.responses || {})) {
    shown.append(element("h4", `${status} ${answer.description || ""}`), ...content(answer.content, schemas));
  }
  return shown;
}

async function show() {
  const answer = await fetch("/api/v1/openapi.json");
  if (!answer.ok) throw new Error(`the description answers ${answer.status}`);
  const described = await answer.json();
  const schemas = described.components?.schemas || {};
  part("about").textContent = described.info.description || "";
  const groups = new Map((described.tags || []).map((tag) => [tag.name, { about: tag.description, all: [] }]));
  for (const [path, methods] of Object.entries(described.paths)) {
    for (const method of METHODS.filter((method) => methods[method])) {
      const what = methods[method];
      const tag = what.tags?.[0] || "other";
      if (!groups.has(tag)) groups.set(tag, { about: "", all: [] });
      groups.get(tag).all.push(operation(path, method, what, schemas));
    }
  }
  const sections = [...groups].filter(([, { all }]) => all.length).map(([name, { about, all }]) =>
    element("section", "", element("h2", name), element("p", about || ""), ...all));
  part("operations").replaceChildren(...sections);
}

part("find").addEventListener("input", ({ target }) => {
  const wanted = target.value.trim().toLowerCase();
  for (const shown of document.querySelectorAll("details")) shown.hidden = !shown.dataset.text.includes(wanted);
});

show().catch((error) => part("operations").replaceChildren(element("p", `The description cannot be read: ${error.message}`)));
