"use strict";

// Charts: Vega-Lite specifications, drawn to the width of their place once that is near the screen.
const specs = JSON.parse(document.getElementById("charts").textContent);
const views = {};
const embedding = { mode: "vega-lite", ast: true, renderer: "svg", actions: false, defaultStyle: false,
  tooltip: { disableDefaultStyle: true } };

function fitted(spec, width) {
  const { cell, around } = spec.usermeta;
  const columns = cell ? Math.max(1, Math.min(spec.columns, Math.floor(width / cell))) : 1;
  const panel = { width: Math.floor(width / columns) - around };
  return spec.spec ? { ...spec, columns, spec: { ...spec.spec, ...panel } } : { ...spec, ...panel };
}

async function draw(place) {
  near.unobserve(place);
  views[place.id]?.finalize();
  const { view } = await vegaEmbed(place, fitted(specs[place.id], place.clientWidth), embedding);
  views[place.id] = view;
  await filter(place);
}

async function filter(place) {
  const view = views[place.id];
  for (const { name } of specs[place.id].params) view.signal(name, [...hidden[name.replace("hidden_", "")]]);
  await view.runAsync();
  for (const point of place.querySelectorAll("[aria-roledescription=point]")) point.tabIndex = 0;
}

const charts = [...document.querySelectorAll(".chart")];
const drawn = () => charts.filter(({ id }) => views[id]);
const near = new IntersectionObserver(
  (entries) => entries.filter((entry) => entry.isIntersecting).forEach(({ target }) => draw(target)),
  { rootMargin: "50%" },
);

// Filters: a click on a name hides or shows all that carries it, a double click leaves it alone.
const hidden = { variant: new Set(), precision: new Set(), backend: new Set() };
const kinds = Object.keys(hidden);
const chips = [...document.querySelectorAll("[data-filter]")];
const marked = [...document.querySelectorAll(kinds.map((kind) => `[data-${kind}]`).join())];

function show() {
  for (const element of marked)
    element.toggleAttribute("hidden", kinds.some((kind) => hidden[kind].has(element.dataset[kind])));
  for (const chip of chips)
    chip.setAttribute("aria-pressed", String(!hidden[chip.dataset.filter].has(chip.value)));
  drawn().forEach(filter);
}

function hideAllBut(kind, kept) {
  hidden[kind].clear();
  for (const chip of chips)
    if (chip.dataset.filter === kind && !kept(chip.value)) hidden[kind].add(chip.value);
  show();
}

for (const chip of chips) {
  const off = hidden[chip.dataset.filter];
  chip.addEventListener("click", () => {
    if (!off.delete(chip.value)) off.add(chip.value);
    show();
  });
  chip.addEventListener("dblclick", () => hideAllBut(chip.dataset.filter, (name) => name === chip.value));
}
for (const button of document.querySelectorAll("[data-every]"))
  button.addEventListener("click", () => hideAllBut(button.dataset.every, () => button.value === "show"));

// The keyboard: the point with the focus shows what one under the pointer does.
function explain(point, shown) {
  const place = point.closest?.(".chart");
  if (!place || !point.__data__) return;
  const { left, bottom } = point.getBoundingClientRect();
  const tooltip = shown ? point.__data__.tooltip : null;
  views[place.id].tooltip()(null, { clientX: left, clientY: bottom }, point.__data__, tooltip);
}

document.addEventListener("focusin", ({ target }) => explain(target, true));
document.addEventListener("focusout", ({ target }) => explain(target, false));
document.addEventListener("keydown", ({ key }) => key === "Escape" && document.activeElement?.blur());

let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth !== width) drawn().forEach(draw);
  width = innerWidth;
});
charts.forEach((place) => near.observe(place));
