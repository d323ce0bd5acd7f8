"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)").matches;
  const ink = dark ? "#e5e7eb" : "#1f2937";
  const colours = { "unpruned": "#ee6677", "other models": "#ccbb44", "trials": "#4477aa" };
  const line = {
    ...data.front, name: "Pareto front", mode: "lines", hoverinfo: "skip",
    line: { shape: "hv", dash: "dot", color: ink },
  };
  const traces = Object.entries(data.points).map(([name, points]) => ({
    ...points, name, mode: "markers", type: "scatter",
    marker: { color: colours[name], size: 9 }, hovertemplate: "%{text}<br>%{x:.4g} · %{y:.4g}<extra></extra>",
  }));
  const axis = (title) => ({ title: { text: title }, color: ink, gridcolor: dark ? "#374151" : "#e5e7eb" });
  const vertical = axis(data.titles.gain);
  if (data.down) vertical.autorange = "reversed";
  Plotly.newPlot("plot", [line, ...traces], {
    xaxis: { ...axis(data.titles.cost), rangemode: "tozero" }, yaxis: vertical, font: { color: ink },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", legend: { orientation: "h" },
    margin: { l: 60, r: 20, t: 20, b: 60 },
  }, { responsive: true, displaylogo: false }).then(() => { document.documentElement.dataset.plots = "drawn"; });
})();
