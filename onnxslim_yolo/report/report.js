"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Plotly reads a little HTML in labels: names have to stay names.
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const short = (value) => {
    for (const [size, unit] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
      if (Math.abs(value) >= size) return (value / size).toPrecision(3) + " " + unit;
    return String(Number.isInteger(value) ? value : Number(value.toPrecision(3)));
  };

  /* ---- hovering ---- */
  const tip = byId("tip");
  const place = (x, above, below) => {
    tip.style.left = "0"; // where it is as wide as it can be
    const box = tip.getBoundingClientRect();
    tip.style.left = Math.max(8, Math.min(x + 14, innerWidth - box.width - 8)) + "px";
    tip.style.top = (below + box.height > innerHeight ? Math.max(8, above - box.height) : below) + "px";
  };
  const show = (target, x, above, below) => {
    tip.textContent = target.dataset.tip;
    tip.hidden = false;
    place(x, above, below);
  };
  const hide = () => { tip.hidden = true; };
  document.addEventListener("pointermove", (event) => {
    const target = event.target.closest?.("[data-tip]");
    if (target) show(target, event.clientX, event.clientY - 12, event.clientY + 18);
    else if (!document.activeElement?.dataset?.tip) hide();
  });
  document.addEventListener("focusin", (event) => {
    if (!event.target.dataset.tip) return hide();
    const box = event.target.getBoundingClientRect();
    show(event.target, box.left, box.top - 6, box.bottom + 4); // beside what it tells of, never over it
  });
  document.addEventListener("focusout", hide);
  document.addEventListener("scroll", hide, { passive: true });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });

  /* ---- the table of groups ---- */
  const body = byId("groups")?.tBodies[0];
  const rows = body ? [...body.rows] : [];
  let visible = rows;
  const group = (row) => data.groups[Number(row.dataset.index)];
  const wanted = {
    all: () => true,
    changed: (g) => g.kept !== g.width,
    same: (g) => g.kept === g.width,
    frozen: (g) => g.frozen !== null,
  };
  const filter = () => {
    const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const which = wanted[byId("which").value];
    visible = [...body.rows].filter((row) => {
      const g = group(row);
      const text = (g.name + " " + (g.frozen ?? "")).toLowerCase();
      const fits = which(g) && words.every((word) => text.includes(word));
      row.hidden = !fits;
      return fits;
    });
    byId("shown").textContent = visible.length + " of " + rows.length;
    drawWidths();
  };
  const sort = (head) => {
    const descending = head.getAttribute("aria-sort") === "ascending";
    const column = head.cellIndex;
    all("th", head.parentNode).forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    const order = (a, b) => {
      const [one, two] = [key(a), key(b)];
      const found = column ? Number(one) - Number(two) : one.localeCompare(two, "en", { numeric: true });
      return (descending ? -found : found) || Number(a.dataset.index) - Number(b.dataset.index);
    };
    body.append(...[...body.rows].sort(order));
    filter();
  };
  if (body) {
    byId("filter").addEventListener("input", filter);
    byId("which").addEventListener("change", filter);
    all("th button", byId("groups")).forEach((b) => b.addEventListener("click", () => sort(b.parentNode)));
  }

  /* ---- the command ---- */
  byId("copy").addEventListener("click", async () => {
    const code = byId("command");
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch { // a page opened as a file may not be allowed to
      getSelection().selectAllChildren(code);
      document.execCommand("copy");
    }
    byId("copy").textContent = "Copied";
    setTimeout(() => { byId("copy").textContent = "Copy"; }, 1500);
  });

  /* ---- plots ---- */
  let metric = document.querySelector("[data-metric]")?.dataset.metric;
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const cutFill = () => ({
    color: color("cut"), line: { width: 0 },
    pattern: { shape: "/", fillmode: "overlay", fgcolor: color("cut"), bgcolor: color("card"), size: 6, solidity: 0.5, fgopacity: 1 },
  });
  const range = (count) => [-0.6, Math.max(count, 1) - 0.4];
  const settings = { displayModeBar: false, responsive: true };
  const layout = (extra) => {
    const axis = { gridcolor: color("line"), zerolinecolor: color("line"), fixedrange: true, automargin: true };
    const { xaxis = {}, yaxis = {}, ...rest } = extra;
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: 12, color: color("soft") },
      margin: { l: 44, r: 8, t: 30, b: 30 }, bargap: 0.15, barmode: "overlay", dragmode: false, hovermode: "x",
      hoverlabel: { bgcolor: color("ink"), bordercolor: color("ink"), font: { color: color("page") }, align: "left" },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
      xaxis: { ...axis, showgrid: false, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...rest,
    };
  };
  const ticks = (names, element) => { // one label per block, as many as fit
    const starts = names.map((name, i) => [name, i]).filter(([name, i]) => name && name !== names[i - 1]);
    const step = Math.max(1, Math.ceil(starts.length / (element.clientWidth / 22)));
    const kept = starts.filter((_, i) => i % step === 0);
    const cut = (name) => (name.length > 18 ? "…" + name.slice(-17) : name);
    return { tickvals: kept.map(([, i]) => i), ticktext: kept.map(([name]) => plain(cut(name))), tickangle: -60 };
  };
  const bars = (name, y, marker, extra = {}) => ({ type: "bar", name, x: y.map((_, i) => i), y, marker, ...extra });

  const drawCost = () => {
    const element = byId("cost-plot");
    if (!element) return;
    const unit = data.units[metric] ?? "";
    const spelt = (value) => (short(value) + " " + unit).trim();
    const side = (key) => data.layers.map((layer) => layer[key][metric] ?? 0);
    const [before, after] = [side("before"), side("after")];
    const tips = data.layers.map((layer, i) => plain(layer.name) + "<br>" + spelt(before[i]) + " → " + spelt(after[i]));
    Plotly.react(element, [
      bars("before", before, cutFill(), { hoverinfo: "skip" }),
      bars("after", after, { color: color("kept") }, { hovertext: tips, hoverinfo: "text" }),
    ], layout({ xaxis: { ...ticks(data.layers.map((layer) => layer.block), element), range: range(before.length) }, yaxis: { rangemode: "tozero", title: { text: unit } } }), settings);
  };
  const drawHistogram = () => {
    const element = byId("histogram-plot");
    if (!element) return;
    const { counts, edges } = data.histogram;
    const middle = counts.map((_, i) => (edges[i] + edges[i + 1]) / 2);
    const bin = counts.map((_, i) => edges[i + 1] - edges[i]);
    // An older report does not tell which channels were to go: then those of the bins left of the threshold.
    const going = data.histogram.going ?? counts.map((n, i) => (data.threshold !== null && middle[i] < data.threshold ? n : 0));
    const part = (name, numbers, fill) => ({
      type: "bar", name, x: middle, width: bin, y: numbers, marker: { color: fill },
      hovertext: numbers.map((n, i) => n + " channels " + name + ", " + short(edges[i]) + " – " + short(edges[i + 1])),
      hoverinfo: "text", hovertemplate: null,
    });
    const line = data.threshold === null ? {} : {
      shapes: [{ type: "line", x0: data.threshold, x1: data.threshold, y0: 0, y1: 1, yref: "paper", line: { color: color("ink"), width: 1.5, dash: "dot" } }],
      annotations: [{ x: data.threshold, y: 1, yref: "paper", text: "threshold " + short(data.threshold), showarrow: false, yanchor: "bottom",
        xanchor: data.threshold > (edges[0] + edges[edges.length - 1]) / 2 ? "right" : "left", font: { color: color("ink") } }],
    };
    Plotly.react(element, [
      part("to go", going, color("cut-line")), part("to stay", counts.map((n, i) => n - going[i]), color("kept")),
    ], layout({
      barmode: "stack",
      bargap: 0.06, hovermode: "closest", showlegend: false, ...line,
      xaxis: { title: { text: plain(data.importance) }, showgrid: false }, yaxis: { title: { text: "channels" } },
    }), settings);
  };
  const drawWidths = () => {
    const element = byId("width-plot");
    if (!element || !window.Plotly) return;
    const groups = visible.map(group);
    const column = (key) => groups.map((g) => g[key]);
    const tips = groups.map((g) => plain(g.name) + "<br>" + g.width + " → " + g.kept + ", wanted " + g.wanted + (g.frozen ? "<br>" + plain(g.frozen) : ""));
    const fill = groups.map((g) => color(g.frozen === null ? "kept" : "whole"));
    Plotly.react(element, [
      bars("before", column("width"), cutFill(), { hoverinfo: "skip" }),
      bars("kept", column("kept"), { color: fill }, { hovertext: tips, hoverinfo: "text" }),
      { type: "scatter", mode: "markers", name: "wanted", x: groups.map((_, i) => i), y: column("wanted"), hoverinfo: "skip",
        marker: { symbol: "line-ew-open", size: Math.max(5, Math.min(16, (0.7 * element.clientWidth) / (groups.length || 1))), line: { width: 2, color: color("ink") }, color: color("ink") } },
    ], layout({ xaxis: { range: range(groups.length), showticklabels: false, title: { text: "groups, in the table's order" } }, yaxis: { title: { text: "channels" }, rangemode: "tozero" } }), settings);
  };
  const draw = () => { drawCost(); drawHistogram(); drawWidths(); };

  all("[data-metric]").forEach((button) => button.addEventListener("click", () => {
    metric = button.dataset.metric;
    all("[data-metric]").forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
    if (window.Plotly) drawCost();
  }));

  const load = async () => {
    await window.drawNetwork().catch((error) => {
      console.error(error);
      byId("graph").hidden = true; // the table below has everything
    });
    await window.unpacked("library");
    draw();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    let pending = 0;
    addEventListener("resize", () => { clearTimeout(pending); pending = setTimeout(draw, 150); });
    document.documentElement.dataset.plots = "drawn";
  };
  load().catch((error) => {
    all(".plot").forEach((element) => {
      element.textContent = "The plots could not be drawn (" + error.message + "); the figures are in the tables.";
      element.style.height = "auto";
    });
    console.error(error);
  });
})();
