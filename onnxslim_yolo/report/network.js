"use strict";
(() => {
  const NS = "http://www.w3.org/2000/svg";
  const byId = (id) => document.getElementById(id);
  const text = byId("network-data")?.textContent;
  const data = text ? JSON.parse(text) : null;
  const frame = byId("graph");

  /* A library lies in the page compressed; the page's policy knows its hash. */
  window.unpacked = async (id) => {
    const packed = Uint8Array.from(atob(byId(id).textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  };

  const make = (name, attributes, parent) => {
    const element = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    parent?.append(element);
    return element;
  };
  const shortened = (name, most) => (name.length > most ? "…" + name.slice(1 - most) : name);

  /* ---- layout ---- */
  const HEIGHT = 46, MOST_LETTERS = 24;
  const narrow = () => frame.clientWidth < 700;
  const laidOut = () => {
    const graph = new dagre.graphlib.Graph({ multigraph: false })
      .setGraph({ rankdir: narrow() ? "TB" : "LR", nodesep: 26, ranksep: narrow() ? 34 : 44, edgesep: 14, marginx: 12, marginy: 12 })
      .setDefaultEdgeLabel(() => ({}));
    data.blocks.forEach((block, i) => {
      const letters = Math.max(Math.min(block.title.length, MOST_LETTERS) * 1.14, block.sub.length);
      graph.setNode(String(i), { width: Math.max(84, letters * 6.6 + 22), height: HEIGHT });
    });
    data.edges.forEach((edge) => {
      graph.setEdge(String(edge.from), String(edge.to), { width: edge.label.length * 6.4 + 6, height: 15, labelpos: "c", edge });
    });
    dagre.layout(graph);
    return graph;
  };

  /* ---- drawing ---- */
  const line = (points) => { // through the middles of what dagre gives, rounded at its bends
    const [first, ...rest] = points;
    let path = `M${first.x},${first.y}`;
    rest.forEach((point, i) => {
      const next = rest[i + 1];
      path += next ? ` Q${point.x},${point.y} ${(point.x + next.x) / 2},${(point.y + next.y) / 2}` : ` L${point.x},${point.y}`;
    });
    return path;
  };
  const drawEdge = (parent, edge, at) => {
    const group = make("g", { class: "edge " + edge.state }, parent);
    group.dataset.tip = edge.tip;
    const width = edge.channels ? Math.min(6, 1 + Math.log2(edge.channels) / 2) : 1.2;
    make("path", { class: "wide", d: line(at.points) }, group);
    make("path", { class: "line", d: line(at.points), "stroke-width": width.toFixed(2), "marker-end": "url(#arrow)" }, group);
    if (!edge.label) return;
    const label = make("text", { x: at.x, y: at.y + 4 }, group);
    label.textContent = edge.label;
  };
  const drawBlock = (parent, block, at, index) => {
    const group = make("g", {
      class: `node ${block.kind} ${block.state}`, tabindex: index ? -1 : 0, role: block.first === null ? "img" : "button",
      "aria-label": block.tip.replaceAll("\n", ". "), transform: `translate(${at.x - at.width / 2},${at.y - at.height / 2})`,
    }, parent);
    group.dataset.tip = block.tip;
    group.dataset.index = index;
    make("rect", { class: "box", width: at.width, height: at.height, rx: block.kind === "block" ? 8 : 22 }, group);
    const title = make("text", { class: "title", x: at.width / 2, y: 19 }, group);
    title.textContent = shortened(block.title, MOST_LETTERS);
    const sub = make("text", { class: "sub", x: at.width / 2, y: 33 }, group);
    sub.textContent = block.sub;
    if (block.kind !== "block") return group;
    make("rect", { class: "lost", x: 8, y: 38.5, width: at.width - 16, height: 4, rx: 2 }, group);
    make("rect", { class: "left", x: 8, y: 38.5, width: (at.width - 16) * block.left, height: 4, rx: 2 }, group);
    return group;
  };

  /* ---- panning and zooming ---- */
  let view = { x: 0, y: 0, k: 1 }, size = { width: 1, height: 1 }, scene, svg, nodes = [];
  const least = () => Math.min(1, frame.clientWidth / size.width, frame.clientHeight / size.height);
  const show = () => scene.setAttribute("transform", `translate(${view.x},${view.y}) scale(${view.k})`);
  const zoom = (factor, x = frame.clientWidth / 2, y = frame.clientHeight / 2) => {
    const k = Math.max(least() * 0.8, Math.min(3, view.k * factor));
    view = { k, x: x - ((x - view.x) * k) / view.k, y: y - ((y - view.y) * k) / view.k };
    show();
  };
  const fit = () => {
    const k = least();
    view = { k, x: (frame.clientWidth - size.width * k) / 2, y: (frame.clientHeight - size.height * k) / 2 };
    show();
  };
  const begin = () => { // as much as can be read, from the input on
    fit();
    if (view.k >= 0.62) return;
    const k = 0.85, first = nodes[0].at;
    view = narrow() ? { k, x: frame.clientWidth / 2 - first.x * k, y: 4 } : { k, x: 4, y: frame.clientHeight / 2 - first.y * k };
    show();
  };
  const move = (x, y) => { view = { ...view, x: view.x + x, y: view.y + y }; show(); };
  const reveal = ({ at }) => {
    const [x, y] = [at.x * view.k + view.x, at.y * view.k + view.y];
    const [w, h] = [(at.width / 2 + 20) * view.k, (at.height / 2 + 20) * view.k];
    move(Math.max(w - x, 0) + Math.min(frame.clientWidth - w - x, 0), Math.max(h - y, 0) + Math.min(frame.clientHeight - h - y, 0));
  };
  const goTo = (index) => {
    const node = nodes[Math.max(0, Math.min(nodes.length - 1, index))];
    nodes.forEach(({ element }) => element.setAttribute("tabindex", element === node.element ? 0 : -1));
    reveal(node);
    node.element.focus({ preventScroll: true });
  };
  const openLayers = (index) => {
    const name = data.blocks[index]?.first;
    const layer = [...document.querySelectorAll("#network .layer")].find((button) => button.dataset.layer === name);
    layer?.scrollIntoView({ block: "center" });
    layer?.focus({ preventScroll: true });
  };
  const keys = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const order = nodes.findIndex(({ element }) => element === document.activeElement);
    const pans = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
    const actions = {
      "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), 0: fit,
      Home: () => goTo(0), End: () => goTo(nodes.length - 1),
      Enter: () => order >= 0 && openLayers(Number(nodes[order].element.dataset.index)),
    };
    if (event.key in pans && (event.shiftKey || order < 0)) move(...pans[event.key]);
    else if (event.key in steps) goTo(order + steps[event.key]);
    else if (event.key in actions && event.target.closest("svg")) actions[event.key]();
    else return;
    event.preventDefault();
  };

  const pointers = new Map();
  let dragged = false;
  const pointerMove = (event) => {
    const old = pointers.get(event.pointerId);
    if (!old) return;
    const others = [...pointers.entries()].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (Math.hypot(event.clientX - old.x, event.clientY - old.y) > 0) dragged = true;
    if (others.length) { // two fingers
      const far = (at) => Math.hypot(at.x - others[0].x, at.y - others[0].y) || 1;
      const box = frame.getBoundingClientRect();
      zoom(far({ x: event.clientX, y: event.clientY }) / far(old), (event.clientX + others[0].x) / 2 - box.left, (event.clientY + others[0].y) / 2 - box.top);
    } else move(event.clientX - old.x, event.clientY - old.y);
  };
  const listen = () => {
    svg.addEventListener("pointerdown", (event) => {
      pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
      dragged = false;
    });
    addEventListener("pointermove", pointerMove);
    for (const kind of ["pointerup", "pointercancel"]) addEventListener(kind, (event) => pointers.delete(event.pointerId));
    svg.addEventListener("click", (event) => {
      const node = event.target.closest(".node");
      if (node && !dragged) openLayers(Number(node.dataset.index));
    });
    frame.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return; // the wheel alone scrolls the page
      event.preventDefault();
      const box = frame.getBoundingClientRect();
      zoom(Math.exp(-event.deltaY * 0.004), event.clientX - box.left, event.clientY - box.top);
    }, { passive: false });
    frame.addEventListener("keydown", keys);
    const tools = { "graph-in": () => zoom(1.25), "graph-out": () => zoom(0.8), "graph-fit": fit };
    for (const [id, action] of Object.entries(tools)) byId(id).addEventListener("click", action);
  };

  const draw = () => {
    const graph = laidOut();
    size = graph.graph();
    frame.style.height = narrow() ? "" : Math.max(220, Math.min(innerHeight * 0.62, 600, size.height + 40)) + "px";
    scene.replaceChildren();
    const edges = make("g", {}, scene), boxes = make("g", {}, scene);
    graph.edges().forEach((key) => drawEdge(edges, graph.edge(key).edge, graph.edge(key)));
    const order = data.blocks.map((_, i) => i); // as the network computes them
    nodes = order.map((i) => {
      const at = graph.node(String(i));
      return { at, element: drawBlock(boxes, data.blocks[i], at, i) };
    });
    begin();
  };

  window.drawNetwork = async () => {
    if (!data || !frame) return;
    await unpacked("layout-library");
    frame.hidden = false;
    svg = make("svg", { role: "group", "aria-label": frame.dataset.label }, null);
    const marker = make("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 8, markerHeight: 8, markerUnits: "userSpaceOnUse", orient: "auto" }, make("defs", {}, svg));
    make("path", { d: "M0,0.8 L7.4,4 L0,7.2 z" }, marker);
    scene = make("g", {}, svg);
    frame.prepend(svg);
    draw();
    listen();
    let was = narrow();
    addEventListener("resize", () => { if (was !== narrow()) { was = narrow(); draw(); } });
    frame.dataset.drawn = nodes.length;
  };

  /* ---- the journal ---- */
  const journal = JSON.parse(byId("journal-data")?.textContent ?? "null");
  const MOST_ROWS = 200;
  const find = () => {
    const words = byId("tensor").value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (row) => words.every((word) => row.some((cell) => cell.toLowerCase().includes(word)));
    const found = journal.rows.filter(fits);
    byId("journal-rows").replaceChildren(...found.slice(0, MOST_ROWS).map((row) => {
      const line = document.createElement("tr");
      row.forEach((value) => { line.insertCell().textContent = value; });
      return line;
    }));
    const more = found.length > MOST_ROWS ? `, the first ${MOST_ROWS} shown` : "";
    byId("journal-shown").textContent = `${found.length} of ${journal.rows.length} entries${more}`;
  };
  if (journal && byId("tensor")) {
    byId("journal-table").hidden = false;
    byId("tensor").addEventListener("input", find);
    find();
  }
})();
