"""The page's style sheet and script. Both are in the page itself: it must work from a disk, a mail or a CI artefact.

The script only adds to what is there: without it everything can be read, and nothing can be sorted or filtered.
"""

from __future__ import annotations

from typing import Final

__all__ = ["SCRIPT", "STYLE"]

STYLE: Final = """
:root {
  color-scheme: light dark;
  --page: #fbfbf9; --panel: #ffffff; --ink: #1d1f21; --soft: #5d6166; --line: #e3e3de; --faint: #f1f1ec;
  --link: #0b5cad; --pass: #14713f; --slower: #855c00; --inaccurate: #b03a0e; --misplaced: #7a3f98;
  --broken: #a8152c; --idle: #5d6166; --front: #1d1f21;
  --c0: #4477aa; --c1: #ee6677; --c2: #228833; --c3: #ccbb44; --c4: #66ccee; --c5: #aa3377; --c6: #999999;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #15171a; --panel: #1b1e22; --ink: #e7e7e3; --soft: #a2a6ab; --line: #31353a; --faint: #23272c;
    --link: #7db8f5; --pass: #58c98c; --slower: #e2b04a; --inaccurate: #f59067; --misplaced: #cc9be6;
    --broken: #ff8593; --idle: #a2a6ab; --front: #ffffff;
  }
}
* { box-sizing: border-box; }
html { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
body { margin: 0; background: var(--page); color: var(--ink); }
header, main, footer { max-width: 1440px; margin: 0 auto; padding: 0 28px; }
header { padding-top: 36px; }
h1 { font-size: 2rem; line-height: 1.2; font-weight: 650; letter-spacing: -0.015em; margin: 2px 0 10px; }
h2 { font-size: 1.3rem; font-weight: 620; letter-spacing: -0.01em; margin: 52px 0 4px; }
h3 { font-size: 1.1rem; font-weight: 620; margin: 0; overflow-wrap: anywhere; }
h5 { font-size: 0.86rem; font-weight: 620; margin: 16px 0 2px; }
h4 { font-size: 0.78rem; font-weight: 620; color: var(--soft); margin: 18px 0 4px; }
p { margin: 4px 0; max-width: 100ch; }
a { color: var(--link); text-decoration-thickness: 1px; text-underline-offset: 2px; }
.over, .soft { color: var(--soft); }
.soft { font-size: 0.9rem; }
code, pre, .hash { font: 0.82rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.hash { overflow-wrap: anywhere; }
pre { background: var(--faint); border-radius: 6px; padding: 10px 12px; margin: 4px 0; max-height: 22rem;
  overflow: auto; white-space: pre-wrap; overflow-wrap: anywhere; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th { text-align: left; font-size: 0.78rem; font-weight: 600; color: var(--soft); white-space: nowrap; }
th, td { padding: 7px 14px 7px 0; vertical-align: top; border-bottom: 1px solid var(--line); }
th.right, td.right { text-align: right; }
ul { margin: 4px 0; padding-left: 1.2em; }
.bar { display: flex; height: 8px; border-radius: 4px; overflow: hidden; margin: 20px 0 10px; gap: 2px; }
.bar span { background: currentColor; min-width: 4px; }
.chips { display: flex; flex-wrap: wrap; gap: 4px 18px; padding: 0; margin: 0; list-style: none; }
.chips .chip { font: inherit; font-weight: 600; background: none; border: 0; padding: 2px 0; }
.chips button.chip { cursor: pointer; text-decoration: underline; text-decoration-color: var(--line);
  text-underline-offset: 4px; }
.status { font-weight: 620; white-space: nowrap; }
.status::before { content: ""; display: inline-block; width: 8px; height: 8px; border-radius: 50%;
  background: currentColor; margin-right: 7px; }
.s-pass { color: var(--pass); } .s-slower { color: var(--slower); } .s-inaccurate { color: var(--inaccurate); }
.s-no-gain, .s-undecided { color: var(--link); } .s-unproven { color: var(--slower); }
.s-misplaced { color: var(--misplaced); } .s-unsupported, .s-incompatible, .s-blocked { color: var(--idle); }
.s-crashed, .s-out-of-memory, .s-timeout, .s-failed, .s-damaged { color: var(--broken); }
.mark { display: inline-block; font-size: 0.76rem; color: var(--slower); border: 1px solid currentColor;
  border-radius: 9px; padding: 0 7px; margin: 1px 4px 1px 0; white-space: nowrap; }
.answers td.name, .answers .what { font-weight: 650; overflow-wrap: anywhere; }
.answers .nothing { color: var(--broken); }
.problems li { margin: 6px 0; }

.model { background: var(--panel); border: 1px solid var(--line); border-radius: 12px; padding: 22px 24px;
  margin: 18px 0; display: grid; grid-template-columns: minmax(0, 1fr); gap: 20px 40px; }
@media (min-width: 1080px) { .model.plotted { grid-template-columns: minmax(0, 1fr) minmax(0, 620px); } }
.ship { display: grid; grid-template-columns: 12rem minmax(0, 1fr); gap: 2px 20px; padding: 13px 0;
  border-top: 1px solid var(--line); }
.ship .where { font-weight: 600; overflow-wrap: anywhere; }
.ship .where span { display: block; }
.ship .where .soft { font-weight: 400; }
.ship .what { font-size: 1.12rem; font-weight: 650; }
.ship .nothing { color: var(--soft); font-weight: 500; }
.ship .numbers { display: flex; flex-wrap: wrap; gap: 0 18px; font-variant-numeric: tabular-nums; }
.ships { margin-top: 14px; border-bottom: 1px solid var(--line); }
figure { margin: 0; }
.pareto { width: 100%; height: auto; display: block; font-size: 12px; }
.pareto text { fill: var(--ink); }
.pareto .tick, .pareto .axis { fill: var(--soft); }
.pareto .grid { stroke: var(--line); }
.pareto .exact { stroke: var(--soft); stroke-dasharray: 2 4; }
.pareto .leader { stroke: var(--soft); stroke-width: 0.75; }
.pareto circle { fill: var(--colour); fill-opacity: 0.55; stroke: var(--colour); stroke-width: 1.25; }
.pareto .best circle { stroke: var(--front); stroke-width: 2.5; }
.pareto .wrong circle { fill-opacity: 0.08; stroke-dasharray: 3 3; }
.pareto .number { font-weight: 650; pointer-events: none; paint-order: stroke; stroke: var(--panel);
  stroke-width: 2.5px; stroke-linejoin: round; }
.pareto .tip { opacity: 0; pointer-events: none; font-weight: 600; }
.pareto .point { outline: none; cursor: default; }
.pareto .point:hover circle, .pareto .point:focus-visible circle { fill-opacity: 0.95; stroke-width: 3; }
.pareto .point:hover .tip, .pareto .point:focus-visible .tip { opacity: 1; }
.pareto:has(.point:hover) .axis-y, .pareto:has(.point:focus-visible) .axis-y { opacity: 0; }
.colour-0 { --colour: var(--c0); } .colour-1 { --colour: var(--c1); } .colour-2 { --colour: var(--c2); }
.colour-3 { --colour: var(--c3); } .colour-4 { --colour: var(--c4); } .colour-5 { --colour: var(--c5); }
.colour-6 { --colour: var(--c6); }
.tensors { width: 100%; max-width: 900px; height: auto; display: block; font-size: 12px; }
.tensors text { fill: var(--ink); }
.tensors .tick, .tensors .axis { fill: var(--soft); }
.tensors .grid { stroke: var(--line); }
.tensors .limit { stroke: var(--inaccurate); stroke-dasharray: 5 4; }
.tensors .leader { stroke: var(--soft); stroke-width: 0.75; }
.tensors .named { font-weight: 600; paint-order: stroke; stroke: var(--panel); stroke-width: 3px; }
.tensors circle { fill: var(--link); fill-opacity: 0.75; }
.tensors .exact { fill: none; stroke: var(--soft); }
.tensors .below { fill: var(--inaccurate); }
.tensors .ring { fill: none; stroke: var(--front); stroke-width: 1.5; pointer-events: none; }
.points { list-style: none; padding: 0; margin: 8px 0; columns: 15rem; font-size: 0.86rem; }
.points li { break-inside: avoid; overflow-wrap: anywhere; padding-left: 2.1em; text-indent: -2.1em; }
.points b { display: inline-block; min-width: 1.4em; text-align: right; margin-right: 0.7em; text-indent: 0; }
.points i { display: inline-block; width: 9px; height: 9px; border-radius: 50%; background: var(--colour);
  margin-right: 0.5em; }
figcaption { font-size: 0.86rem; color: var(--soft); }

.tools { display: flex; flex-wrap: wrap; gap: 10px; align-items: end; margin: 14px 0; position: sticky; top: 0;
  background: var(--page); padding: 10px 0; z-index: 1; }
.tools[hidden] { display: none; }
.tools label { font-size: 0.78rem; color: var(--soft); display: grid; gap: 2px; }
.tools input, .tools select, .tools button { font: inherit; font-size: 0.9rem; color: var(--ink);
  background: var(--panel); border: 1px solid var(--line); border-radius: 7px; padding: 5px 9px; max-width: 13rem; }
.tools button, .copy, .toggle { cursor: pointer; }
.tools output { margin-left: auto; color: var(--soft); font-size: 0.9rem; padding: 6px 0; }
.wide { overflow-x: auto; }
#cells { width: 100%; }
#cells th button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; }
#cells th button::after { content: " \\2195"; opacity: 0.35; }
#cells th[aria-sort="ascending"] button::after { content: " \\2191"; opacity: 1; }
#cells th[aria-sort="descending"] button::after { content: " \\2193"; opacity: 1; }
#cells td { overflow-wrap: break-word; }
#cells .name { font-weight: 600; overflow-wrap: anywhere; }
#cells tr.more > td { padding: 0 0 0 0; border-bottom: 0; }
#cells tbody[hidden] { display: none; }
.js #cells tbody:not(.open) tr.more { display: none; }
.js #cells tbody:not(.open) tr.row { cursor: pointer; }
.js #cells tr.row:hover { background: var(--faint); }
.js #cells tr.more summary { display: none; }
.js #cells tr.more .detail summary { display: list-item; }
tr.more summary { color: var(--soft); font-size: 0.86rem; cursor: pointer; padding: 4px 0; }
.toggle { font: inherit; color: var(--link); background: none; border: 0; padding: 0; text-align: left; }
.toggle::before { content: "\\25B8"; display: inline-block; width: 1.1em; }
.open .toggle::before { content: "\\25BE"; }
.detail { background: var(--panel); border: 1px solid var(--line); border-radius: 10px; margin: 8px 0 22px;
  padding: 4px 22px 18px; max-width: calc(100vw - 72px); }
.detail .columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)); gap: 0 44px; }
.detail td, .detail th { font-size: 0.86rem; padding: 4px 12px 4px 0; }
.detail td.right { white-space: nowrap; }
.detail td.long { overflow-wrap: anywhere; min-width: 9rem; }
.detail dl, .facts { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 2px 18px; margin: 4px 0;
  font-size: 0.9rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.problems a, .answers a { overflow-wrap: anywhere; } .answers td.name, .answers td.what { min-width: 12ch; }
.command { display: flex; gap: 10px; align-items: start; }
.command pre { flex: 1; }
.copy { font: inherit; font-size: 0.84rem; color: var(--ink); background: var(--faint); border: 1px solid var(--line);
  border-radius: 7px; padding: 7px 12px; margin-top: 4px; }
.whisker { display: block; width: 92px; height: 10px; margin-top: 3px; }
.whisker .unit { stroke: var(--soft); } .whisker .range { stroke: currentColor; stroke-width: 2; }
.whisker circle { fill: currentColor; } .whisker .noise { fill: var(--line); }
.o-faster { color: var(--pass); } .o-slower { color: var(--slower); } .o-same { color: var(--soft); }
footer { padding-top: 40px; padding-bottom: 48px; color: var(--soft); font-size: 0.86rem; }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
@media (max-width: 760px) {
  header, main, footer { padding-left: 16px; padding-right: 16px; }
  h1 { font-size: 1.55rem; }
  .model { padding: 16px; }
  .ship { grid-template-columns: minmax(0, 1fr); }
  .tools { position: static; }
  .pareto, .tensors { font-size: 18px; }
  #cells > thead { display: none; }
  #cells, #cells > tbody, #cells > tbody > tr { display: block; width: 100%; }
  #cells > tbody { border-bottom: 1px solid var(--line); padding: 10px 0; }
  #cells tr.row { display: grid; grid-template-columns: 1fr 1fr; gap: 6px 16px; }
  #cells tr.row td { border: 0; padding: 0; text-align: left; }
  #cells tr.row td:empty { display: none; }
  #cells tr.row td[data-label]::before { content: attr(data-label); display: block; font-size: 0.72rem;
    color: var(--soft); }
  #cells tr.more > td { display: block; }
  .detail { padding: 2px 12px 12px; max-width: none; }
  .detail .wide { overflow-x: auto; }
}
@media print { .tools, .copy { display: none; } body { background: none; } }
"""

SCRIPT: Final = """
"use strict";
(() => {
  document.documentElement.classList.add("js");
  const table = document.getElementById("cells");
  if (!table) return;
  const bodies = Array.from(table.tBodies);
  const tools = document.querySelector(".tools");
  const count = tools.querySelector("output");
  const search = tools.querySelector("input");
  const selects = Array.from(tools.querySelectorAll("select"));
  const texts = new Map(bodies.map((body) => [body, body.textContent.toLowerCase()]));

  const filter = () => {
    const words = search.value.toLowerCase().split(/\\s+/).filter(Boolean);
    let shown = 0;
    for (const body of bodies) {
      const fits = selects.every((select) => !select.value || body.dataset[select.name] === select.value)
        && words.every((word) => texts.get(body).includes(word));
      body.hidden = !fits;
      shown += fits ? 1 : 0;
    }
    count.value = `${shown} of ${bodies.length} cells`;
  };

  const open = (body, wanted) => {
    body.classList.toggle("open", wanted);
    body.querySelector(".more details").open = wanted;
    body.querySelector(".toggle").setAttribute("aria-expanded", String(wanted));
  };

  const sort = (header, index) => {
    const down = header.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (body) => body.rows[0].cells[index].dataset.sort ?? "";
    const number = header.classList.contains("number");
    const compare = (a, b) => {
      const [left, right] = [key(a), key(b)];
      // What has no value comes last, whichever way the rest is sorted.
      if (left === "" || right === "") return (left === "") - (right === "");
      const order = number ? left - right : left.localeCompare(right, undefined, { numeric: true });
      return down ? -order : order;
    };
    bodies.sort(compare);
    table.append(...bodies);
  };

  Array.from(table.tHead.rows[0].cells).forEach((header, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = header.textContent;
    header.replaceChildren(button);
    button.addEventListener("click", () => sort(header, index));
  });

  for (const body of bodies) {
    const name = body.querySelector(".name");
    const toggle = document.createElement("button");
    toggle.type = "button";
    toggle.className = "toggle";
    toggle.textContent = name.textContent;
    name.replaceChildren(toggle);
    open(body, false);
    body.rows[0].addEventListener("click", (event) => {
      if (event.target.closest("a") || String(window.getSelection())) return;
      open(body, !body.classList.contains("open"));
    });
  }

  const copy = async (button) => {
    const text = button.parentElement.querySelector("code").textContent;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  };
  for (const command of document.querySelectorAll(".command")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.addEventListener("click", () => copy(button));
    command.append(button);
  }

  for (const chip of document.querySelectorAll(".chip[data-status]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = chip.className;
    button.textContent = chip.textContent;
    button.addEventListener("click", () => {
      tools.reset();
      selects.find((select) => select.name === "status").value = chip.dataset.status;
      filter();
      table.scrollIntoView({ block: "start" });
    });
    chip.replaceWith(button);
  }

  const follow = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const body = target && target.closest("#cells tbody");
    if (!body) return;
    if (body.hidden) { tools.reset(); filter(); }
    open(body, true);
    body.scrollIntoView({ block: "start" });
  };

  tools.hidden = false;
  tools.addEventListener("input", filter);
  tools.addEventListener("submit", (event) => event.preventDefault());
  tools.addEventListener("reset", () => setTimeout(filter));
  window.addEventListener("hashchange", follow);
  filter();
  follow();
})();
"""
