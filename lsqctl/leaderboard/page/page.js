"use strict";
(() => {
const $ = (id) => document.getElementById(id);
const all = (where, what) => [...where.querySelectorAll(what)];
const SVG = "http://www.w3.org/2000/svg";
const data = JSON.parse($("data").textContent);
const root = document.documentElement;

/* what outlives a reload; a browser may refuse to keep anything */
const keep = (store, name, value) => { try { window[store].setItem("lsqctl." + name, value); } catch { /* not kept */ } };
const kept = (store, name) => { try { return window[store].getItem("lsqctl." + name); } catch { return null; } };

/* light, dark, or what the system says */
const themes = ["auto", "light", "dark"];
const setTheme = (theme) => {
  if (theme === "auto") delete root.dataset.theme; else root.dataset.theme = theme;
  $("theme").textContent = "Theme: " + theme;
  keep("localStorage", "theme", theme);
};
let theme = themes.includes(kept("localStorage", "theme")) ? kept("localStorage", "theme") : "auto";
setTheme(theme);
$("theme").hidden = false;
$("theme").addEventListener("click", () => { theme = themes[(themes.indexOf(theme) + 1) % 3]; setTheme(theme); });

/* the tables: rows in the board's order, with what is asked of them read once */
const number = (text) => { const n = parseFloat(text.replace(/[,=±+]/g, "").replace("−", "-")); return Number.isNaN(n) ? null : n; };
const boards = all(document, "main section table").map((table, index) => {
  const body = table.tBodies[0];
  const at = Object.fromEntries(all(table.tHead, "th").map((th, n) => [th.dataset.key, n]));
  const rows = all(body, "tr").map((tr) => {
    const text = (key) => tr.cells[at[key]].textContent.trim();
    return { tr, text, shown: true, origin: tr.classList[0], bits: text("weight_bits"), front: tr.classList.contains("x"),
      words: (text("model") + " " + text("origin")).toLowerCase() };
  });
  return { table, body, rows, charts: data.rows[index] };
});

const sortBy = (board, column, down) => {
  const head = all(board.table.tHead, "th");
  head.forEach((th, n) => { if (n === column && down !== null) th.setAttribute("aria-sort", down ? "descending" : "ascending"); else th.removeAttribute("aria-sort"); });
  const numeric = column !== null && "n" in head[column].dataset;
  const value = (row) => numeric ? number(row.tr.cells[column].textContent) : row.tr.cells[column].textContent.toLowerCase();
  let ordered = board.rows;
  if (down !== null) {
    const keyed = board.rows.map((row) => [value(row), row]);
    const sign = down ? -1 : 1;
    keyed.sort(([a], [b]) => a === b ? 0 : a === null ? 1 : b === null ? -1 : (numeric ? a - b : a < b ? -1 : 1) * sign);
    ordered = keyed.map(([, row]) => row);
  }
  board.body.append(...ordered.map((row) => row.tr));
};
boards.forEach((board, index) => {
  /* a narrow table shows no heads beside its numbers */
  board.table.style.setProperty("--size_bytes", `" ${board.table.dataset.sizeBytes}"`);
  board.table.style.setProperty("--gbops", `" ${board.table.dataset.gbops}"`);
  const largestFirst = ["top1_mean", "delta_fp32"]; /* accuracies */
  all(board.table.tHead, "th").forEach((th, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...th.childNodes);
    th.append(button);
    button.addEventListener("click", () => {
      const now = th.getAttribute("aria-sort");
      const start = largestFirst.includes(th.dataset.key);
      const next = now === null ? start : (now === "descending") === start ? !start : null;
      sortBy(board, column, next);
      keep("sessionStorage", "sort" + index, next === null ? "" : column + (next ? "d" : "a"));
    });
  });
  const before = /^(\d+)([ad])$/.exec(kept("sessionStorage", "sort" + index) || "");
  if (before && Number(before[1]) < board.table.tHead.rows[0].cells.length) sortBy(board, Number(before[1]), before[2] === "d");
});

/* the filter, for tables and charts alike */
const fields = ["words", "origin", "bits", "front"].map($);
const bits = new Set(boards.flatMap((board) => board.rows.map((row) => row.bits)));
[...bits].sort((a, b) => a - b).forEach((value) => $("bits").append(new Option(value, value)));
const state = () => fields.map((field) => field.type === "checkbox" ? (field.checked ? "1" : "") : field.value);
const filter = () => {
  const [words, origin, weightBits, front] = state();
  const parts = words.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0, total = 0;
  for (const board of boards) {
    for (const row of board.rows) {
      row.shown = (!origin || row.origin === origin) && (!weightBits || row.bits === weightBits) && (!front || row.front) && parts.every((part) => row.words.includes(part));
      row.tr.hidden = !row.shown;
      shown += row.shown; total += 1;
    }
  }
  charts.forEach(dim);
  $("count").textContent = shown === total ? total.toLocaleString("en") + " rows" : shown.toLocaleString("en") + " of " + total.toLocaleString("en") + " rows";
  keep("sessionStorage", "filter", JSON.stringify(state()));
};

/* the charts: points are read from the paths that the page came with */
const points = (d) => {
  const positions = [];
  let x = 0, y = 0;
  for (const [, step, rest] of d.matchAll(/([MLHVh])([^MLHVh]*)/g)) {
    const [a, b] = rest.trim().split(" ").map(Number);
    if (step === "h") continue;
    if (step === "H") x = a; else if (step === "V") y = a; else { x = a; y = b; }
    positions.push([x, y]);
  }
  return positions;
};
const readChart = (svg, board, rows) => {
  const marks = all(svg, ".m").map((group, n) => {
    const path = group.querySelector(".dots");
    return { group, path, faint: null, label: group.dataset.label, style: group.classList[1], positions: points(path.getAttribute("d")), rows: rows ? rows[n] : [] };
  });
  const scale = svg.dataset.scales.split(" ").map(Number);
  return { svg, board, marks, x: scale.slice(0, 5), y: scale.slice(5), at: null };
};
const dotted = (positions) => positions.map(([x, y]) => "M" + x + " " + y + "h0").join("");
const dim = (chart) => {
  for (const mark of chart.marks) {
    if (!mark.rows.length) continue;
    const visible = mark.positions.filter((_, n) => chart.board.rows[mark.rows[n]].shown);
    const rest = mark.positions.filter((_, n) => !chart.board.rows[mark.rows[n]].shown);
    mark.path.setAttribute("d", dotted(visible));
    if (rest.length && !mark.faint) {
      mark.faint = mark.path.cloneNode();
      mark.faint.removeAttribute("id");
      mark.faint.classList.add("faint");
      mark.group.prepend(mark.faint);
    }
    if (mark.faint) mark.faint.setAttribute("d", dotted(rest));
  }
  hide(chart);
};
const back = (pixel, [low, high, start, length, log]) => {
  const fraction = (pixel - start) / length;
  return log ? low * (high / low) ** fraction : low + (high - low) * fraction;
};
const short = (value) => Math.abs(value) >= 999.5 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3)));
const say = (chart, { mark, n }) => {
  if (mark.rows.length) {
    const { text } = chart.board.rows[mark.rows[n]];
    const { sizeBytes, gbops } = chart.board.table.dataset;
    const costs = [[text("size_bytes"), sizeBytes], [text("gbops"), gbops]].filter(([cost]) => cost).map((cost) => cost.join(" "));
    const interval = text("half_width"), rank = text("rank");
    return text("model") + "\nTop-1 " + text("top1_mean") + (interval ? " " + interval : "") + " · W" + text("weight_bits") + " A" + text("act_bits")
      + (rank ? " · rank " + rank : "") + "\n" + [...costs, mark.label].join(" · ");
  }
  const [x, y] = mark.positions[n];
  return mark.label + "\n" + short(back(y, chart.y)) + " at " + chart.svg.dataset.x + " " + short(back(x, chart.x));
};
const candidates = (chart) => chart.marks.filter((mark) => mark.style !== "front" && mark.style !== "rule").flatMap((mark) =>
  mark.positions.map((position, n) => ({ mark, n, position })).filter(({ n: i }) => !mark.rows.length || chart.board.rows[mark.rows[i]].shown));
const tip = $("tip");
let ring = null, lit = null;
const hide = (chart) => { if (ring && chart.svg.contains(ring)) { ring.remove(); ring = null; tip.hidden = true; } if (lit) { lit.classList.remove("lit"); lit = null; } chart.at = null; };
const show = (chart, candidate) => {
  hide(chart);
  chart.at = candidate;
  ring = document.createElementNS(SVG, "circle");
  ring.setAttribute("class", "hover");
  ring.setAttribute("r", 7);
  ring.setAttribute("cx", candidate.position[0]);
  ring.setAttribute("cy", candidate.position[1]);
  chart.svg.append(ring);
  if (candidate.mark.rows.length) { lit = chart.board.rows[candidate.mark.rows[candidate.n]].tr; lit.classList.add("lit"); }
  tip.textContent = say(chart, candidate);
  tip.hidden = false;
  const box = ring.getBoundingClientRect();
  const left = Math.min(Math.max(8, box.left + box.width / 2 - tip.offsetWidth / 2), root.clientWidth - tip.offsetWidth - 8);
  const above = box.top - tip.offsetHeight - 8;
  tip.style.left = left + scrollX + "px";
  tip.style.top = (above > 4 ? above : box.bottom + 8) + scrollY + "px";
};
const nearest = (chart, x, y, limit) => {
  let best = null, least = limit * limit;
  for (const candidate of candidates(chart)) {
    const far = (candidate.position[0] - x) ** 2 + (candidate.position[1] - y) ** 2;
    if (far < least) { least = far; best = candidate; }
  }
  return best;
};
const listen = (chart) => {
  const svg = chart.svg;
  svg.tabIndex = 0;
  svg.setAttribute("role", "group");
  svg.setAttribute("aria-roledescription", "chart; arrow keys read its points");
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const unit = svg.viewBox.baseVal.width / box.width;
    const candidate = nearest(chart, (event.clientX - box.left) * unit, (event.clientY - box.top) * unit, 28);
    if (candidate) show(chart, candidate); else hide(chart);
  });
  svg.addEventListener("pointerleave", () => hide(chart));
  svg.addEventListener("blur", () => hide(chart));
  svg.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { hide(chart); return; }
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (!step && event.key !== "Home" && event.key !== "End") return;
    event.preventDefault();
    const ordered = candidates(chart).sort((a, b) => a.position[0] - b.position[0] || b.position[1] - a.position[1]);
    if (!ordered.length) return;
    const now = chart.at ? ordered.findIndex((candidate) => candidate.mark === chart.at.mark && candidate.n === chart.at.n) : -1;
    const next = event.key === "Home" ? 0 : event.key === "End" ? ordered.length - 1 : now < 0 ? (step > 0 ? 0 : ordered.length - 1) : Math.min(Math.max(now + step, 0), ordered.length - 1);
    show(chart, ordered[next]);
  });
};
const charts = boards.flatMap((board) => all(board.table.closest("section"), "svg").map((svg, n) => readChart(svg, board, board.charts[n])));
charts.forEach(listen);
const curves = all(document, "#runs svg").map((svg) => readChart(svg, null, null));
curves.forEach(listen);

const before = (() => { try { return JSON.parse(kept("sessionStorage", "filter")) || []; } catch { return []; } })();
fields.forEach((field, n) => {
  if (typeof before[n] === "string") { if (field.type === "checkbox") field.checked = before[n] === "1"; else field.value = before[n]; }
  field.addEventListener("input", filter);
});
if ($("bits").selectedIndex < 0) $("bits").value = "";
if ($("origin").selectedIndex < 0) $("origin").value = "";
$("filter").addEventListener("submit", (event) => event.preventDefault());
$("filter").hidden = !boards.length;
if (boards.length) filter();

/* one run at a time, by choice or by a link from its row */
const runs = all(document, "details.run");
if (runs.length) {
  const choice = $("run");
  runs.forEach((run) => choice.append(new Option(run.querySelector("summary").textContent.trim(), run.id)));
  const choose = (id) => {
    if (!runs.some((run) => run.id === id)) return;
    choice.value = id;
    runs.forEach((run) => { run.open = run.hidden = false; run.open = run.id === id; run.hidden = run.id !== id; });
  };
  $("choose").hidden = false;
  runs[0].parentElement.classList.add("chosen");
  choice.addEventListener("change", () => choose(choice.value));
  const linked = () => choose(decodeURIComponent(location.hash.slice(1)));
  window.addEventListener("hashchange", linked);
  choose(runs[0].id);
  linked();
}

/* a served page asks its server whether the database has changed */
if (data.poll_seconds) {
  const path = location.pathname;
  const poll = async () => {
    try {
      const answer = await fetch(path, { method: "HEAD", cache: "no-store", headers: { "If-None-Match": data.etag } });
      if (answer.status === 200 && answer.headers.get("ETag") !== data.etag) { location.reload(); return; }
    } catch { $("queue").textContent = "The server has stopped: this is what it showed last."; }
    setTimeout(poll, data.poll_seconds * 1000);
  };
  poll();
}
})();
