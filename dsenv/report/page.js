"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const map = document.getElementById("map");
  const panel = document.getElementById("panel");
  const choice = document.getElementById("selection");
  const says = document.getElementById("says");
  const circles = data.x.map((_, k) => document.getElementById(`circle-${k}`));
  let pinned = -1;
  let shown = -1;

  const selection = () => (choice ? Number(choice.value) : -1);
  const share = (k) => (selection() < 0 ? 0 : data.share[selection()][k]);

  function show(k) {
    if (shown >= 0) circles[shown].classList.remove("shown");
    shown = k;
    circles[k].classList.add("shown");
    const copy = document.getElementById(`cluster-${k}`).cloneNode(true);
    copy.removeAttribute("id");
    for (const item of copy.querySelectorAll("[data-selection]")) {
      item.classList.toggle("current", Number(item.dataset.selection) === selection());
    }
    copy.querySelector(".taken")?.classList.toggle("many", data.selections.length > 5);
    for (const item of copy.querySelectorAll("[data-taken]")) {
      const taken = item.dataset.taken.split(" ").includes(String(selection()));
      item.classList.toggle("yes", taken);
      item.querySelector(".mark").textContent = taken ? "taken" : "not taken";
    }
    panel.replaceChildren(copy);
  }

  function pin(k) {
    if (pinned >= 0) {
      circles[pinned].classList.remove("pinned");
      circles[pinned].setAttribute("aria-selected", "false");
    }
    pinned = k;
    circles[k].classList.add("pinned");
    circles[k].setAttribute("aria-selected", "true");
    for (const [other, circle] of circles.entries()) circle.setAttribute("tabindex", other === k ? "0" : "-1");
    show(k);
  }

  function draw() {
    for (const [k, circle] of circles.entries()) {
      circle.querySelector(".inner").setAttribute("r", (data.r[k] * Math.sqrt(share(k))).toFixed(1));
      const label = circle.getAttribute("aria-label").replace(/\d+% taken$/, `${Math.round(100 * share(k))}% taken`);
      circle.setAttribute("aria-label", label);
    }
    if (selection() >= 0) says.textContent = data.says[selection()];
    if (shown >= 0) show(shown);
  }

  function nearest(event) {
    const box = map.getBoundingClientRect();
    const scale = map.viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * scale;
    const y = (event.clientY - box.top) * scale;
    let best = -1;
    let gap = 14 * scale;
    for (let k = 0; k < data.x.length; k += 1) {
      const own = Math.hypot(data.x[k] - x, data.y[k] - y) - data.r[k];
      if (own < gap) [best, gap] = [k, own];
    }
    return best;
  }

  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  function walk(event) {
    let next = -1;
    if (event.key in steps) {
      const [dx, dy] = steps[event.key];
      let least = Infinity;
      for (let k = 0; k < data.x.length; k += 1) {
        const ahead = (data.x[k] - data.x[pinned]) * dx + (data.y[k] - data.y[pinned]) * dy;
        const aside = Math.abs((data.x[k] - data.x[pinned]) * dy) + Math.abs((data.y[k] - data.y[pinned]) * dx);
        const cost = ahead + 2 * aside;
        if (k !== pinned && ahead > 0 && cost < least) [next, least] = [k, cost];
      }
    } else if (event.key === "Home") next = 0;
    else if (event.key === "End") next = data.x.length - 1;
    else return;
    event.preventDefault();
    if (next >= 0) circles[next].focus();
  }

  map.addEventListener("pointermove", (event) => {
    if (event.pointerType === "touch") return;
    const k = nearest(event);
    const wanted = k < 0 ? pinned : k;
    if (wanted !== shown) show(wanted);
  });
  map.addEventListener("pointerleave", () => { if (shown !== pinned) show(pinned); });
  map.addEventListener("click", (event) => {
    const k = nearest(event);
    if (k >= 0) pin(k);
  });
  // On the map itself this listener would make the map a tab stop of its own.
  map.parentElement.addEventListener("focusin", (event) => {
    const circle = event.target.closest("[data-cluster]");
    if (circle) pin(Number(circle.dataset.cluster));
  });
  map.addEventListener("keydown", walk);
  if (choice) choice.addEventListener("change", draw);

  for (const circle of circles) circle.querySelector("title").remove(); // the panel says it, without a delay
  draw();
  const rows = (k) => share(k) * data.r[k] ** 2;
  pin(data.x.reduce((best, _, k) => (rows(k) > rows(best) ? k : best), 0));
})();
