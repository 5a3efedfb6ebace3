"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const slices = all(".slice");
  const slice = document.getElementById("slice");
  const sample = document.getElementById("sample");
  const play = document.getElementById("play");
  const zoom = document.getElementById("zoom");
  const pixels = new Map();
  let timer = 0;
  document.documentElement.classList.add("js");

  const current = () => slices[slice ? slice.value - 1 : 0];
  const visible = (panel) => all(".pic img", panel).find((image) => !image.hidden);

  // Smooth only where a picture is drawn smaller than stored, where "pixelated" would drop rows.
  function sharpen() {
    for (const image of all(".pic img", current())) {
      image.classList.toggle("faithful", image.parentElement.clientWidth * window.devicePixelRatio >= image.getAttribute("width"));
    }
  }

  function showSlice() {
    slices.forEach((element) => element.classList.toggle("off", element !== current()));
    if (slice) {
      const text = `${slice.value} / ${slices.length}`;
      document.getElementById("slice-out").textContent = text;
      slice.setAttribute("aria-valuetext", `${current().dataset.label}, ${text}`);
    }
    showSample();
    resize();
  }

  function showSample() {
    if (!sample) return;
    for (const element of slices) {
      const images = all(".panel.sample .pic img", element);
      const wanted = Math.min(sample.value, images.length) - 1;
      images.forEach((image, i) => { image.hidden = i !== wanted; });
    }
    document.getElementById("sample-out").textContent = `${sample.value} / ${sample.max}`;
  }

  function resize() {
    const fixed = zoom.value !== "fit";
    for (const panels of all(".panels", current())) {
      panels.classList.toggle("fixed", fixed);
      for (const panel of all(".panel", panels)) {
        const width = fixed ? `${panel.dataset.native * zoom.value}px` : "";
        panel.querySelector(".pic").style.width = width;
        panel.style.width = fixed ? `calc(${width} + 1.1rem)` : "";
      }
    }
    sharpen();
  }

  function stop() {
    clearInterval(timer);
    timer = 0;
    play.textContent = "Play samples";
    play.setAttribute("aria-pressed", "false");
  }

  function start() {
    timer = setInterval(() => {
      sample.value = sample.value === sample.max ? 1 : Number(sample.value) + 1;
      showSample();
    }, 250);
    play.textContent = "Stop";
    play.setAttribute("aria-pressed", "true");
  }

  // Levels of a picture, read once from its pixels; colours go back to levels through the stored colour bar.
  function read(image) {
    const canvas = document.createElement("canvas");
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    return context.getImageData(0, 0, canvas.width, canvas.height);
  }

  function levels(kind) {
    if (!pixels.has(kind)) {
      const bar = document.getElementById(`lut-${kind}`);
      const table = new Map();
      const data = read(bar).data;
      for (let i = 0; i < bar.naturalWidth; i += 1) table.set(data[4 * i] << 16 | data[4 * i + 1] << 8 | data[4 * i + 2], i / (bar.naturalWidth - 1));
      pixels.set(kind, table);
    }
    return pixels.get(kind);
  }

  function point(event) {
    const source = event.target.closest(".pic");
    if (!source) return;
    const box = source.getBoundingClientRect();
    const u = (event.clientX - box.left) / box.width;
    const v = (event.clientY - box.top) / box.height;
    for (const panel of all(".panel", current())) {
      const image = visible(panel);
      const rows = Number(panel.dataset.rows);
      const cross = panel.querySelector(".cross");
      const reading = panel.querySelector(".reading");
      const inside = u >= 0 && u < 1 && v >= 0 && v * image.naturalHeight < rows;
      cross.hidden = !inside;
      if (!inside) { reading.textContent = ""; continue; }
      cross.style.left = `${100 * u}%`;
      cross.style.top = `${100 * v}%`;
      if (!pixels.has(image)) pixels.set(image, read(image));
      const data = pixels.get(image);
      const at = 4 * (Math.floor(v * data.height) * data.width + Math.floor(u * data.width));
      const [r, g, b] = data.data.slice(at, at + 3);
      const share = panel.dataset.kind === "grey" ? r / 255 : levels(panel.dataset.kind).get(r << 16 | g << 8 | b);
      const lo = Number(panel.dataset.lo);
      const hi = Number(panel.dataset.hi);
      const value = lo + share * (hi - lo);
      const text = Math.abs(value) >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
      reading.textContent = share === undefined ? "" : (share >= 1 ? "≥ " : "") + text;
    }
  }

  function leave() {
    all(".cross").forEach((cross) => { cross.hidden = true; });
    all(".reading").forEach((reading) => { reading.textContent = ""; });
  }

  if (slice) slice.addEventListener("input", () => { pixels.clear(); showSlice(); });
  if (sample) {
    sample.addEventListener("input", () => { stop(); showSample(); });
    play.addEventListener("click", () => (timer ? stop() : start()));
  }
  zoom.addEventListener("change", resize);
  window.addEventListener("resize", sharpen);
  for (const element of slices) {
    element.addEventListener("mousemove", point);
    element.addEventListener("mouseleave", leave);
  }
  showSlice();
})();
