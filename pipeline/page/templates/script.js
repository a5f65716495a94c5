"use strict";

// Filters: a click on a name hides or shows all that carries it, a double click leaves it alone.
const hidden = { variant: new Set(), precision: new Set(), backend: new Set() };
const kinds = Object.keys(hidden);
const chips = [...document.querySelectorAll("[data-filter]")];
const marked = [...document.querySelectorAll(kinds.map((kind) => `[data-${kind}]`).join())];
const points = [...document.querySelectorAll("#engines .point")];

function show() {
  for (const element of marked)
    element.toggleAttribute("hidden", kinds.some((kind) => hidden[kind].has(element.dataset[kind])));
  for (const chip of chips)
    chip.setAttribute("aria-pressed", String(!hidden[chip.dataset.filter].has(chip.value)));
  drawFront();
}

function valuesOf(kind) {
  return chips.filter((chip) => chip.dataset.filter === kind).map((chip) => chip.value);
}

for (const chip of chips) {
  const off = hidden[chip.dataset.filter];
  chip.addEventListener("click", () => {
    if (!off.delete(chip.value)) off.add(chip.value);
    show();
  });
  chip.addEventListener("dblclick", () => {
    off.clear();
    for (const value of valuesOf(chip.dataset.filter)) if (value !== chip.value) off.add(value);
    show();
  });
}

for (const button of document.querySelectorAll("[data-every]"))
  button.addEventListener("click", () => {
    const kind = button.dataset.every;
    hidden[kind] = new Set();
    if (button.value === "hide") valuesOf(kind).forEach((value) => hidden[kind].add(value));
    show();
  });

// The Pareto front of the points that are shown, as stairs from the fastest to the right edge.
function drawFront() {
  const group = document.getElementById("front");
  if (!group) return;
  const at = points
    .filter((point) => !point.hasAttribute("hidden"))
    .map((point) => [parseFloat(point.getAttribute("x")), parseFloat(point.getAttribute("y"))])
    .sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  let best = Infinity; // the highest so far: y counts from the top
  const front = at.filter(([, y]) => y < best && ((best = y), true));
  const lines = front.flatMap(([x, y], i) => {
    const [nextX, nextY] = front[i + 1] ?? [100, y];
    return [[x, y, nextX, y], [nextX, y, nextX, nextY]];
  });
  group.replaceChildren(...lines.map((ends) => stair(group.namespaceURI, ends)));
}

function stair(namespace, ends) {
  const line = document.createElementNS(namespace, "line");
  line.setAttribute("class", "front");
  ["x1", "y1", "x2", "y2"].forEach((name, i) => line.setAttribute(name, `${ends[i]}%`));
  return line;
}

// The tooltip: the label of the point under the pointer, else of the one with the focus.
const tip = document.getElementById("tip");

function explain(event) {
  const point = event.target.closest?.(".point") ?? document.activeElement?.closest(".point");
  tip.hidden = !point;
  if (!point) return;
  tip.textContent = point.getAttribute("aria-label");
  const at = point.getBoundingClientRect();
  const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
  const left = Math.min(Math.max(8, at.left + at.width / 2 - tip.offsetWidth / 2), room);
  const above = at.top - tip.offsetHeight - 8;
  tip.style.left = `${left + window.scrollX}px`;
  tip.style.top = `${(above > 8 ? above : at.bottom + 8) + window.scrollY}px`;
}

document.addEventListener("pointerover", explain);
document.addEventListener("focusin", explain);
document.addEventListener("focusout", () => (tip.hidden = true));
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  tip.hidden = true;
  document.activeElement?.blur();
});
