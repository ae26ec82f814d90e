// What the explorables share: controls by name, what they show after each change, and a button that puts all back. They are an offer: without this
// script the page keeps its still picture. `show(values, data)` returns the HTML to draw and what to say of it.
const explore = (name, controls, show) => window.addEventListener("DOMContentLoaded", () => {
  const form = document.getElementById(`explore-${name}`);
  const data = JSON.parse(form.dataset.values);
  const control = (c) => (c.options
    ? `<label>${c.label} <select name="${c.name}">${c.options.map(([value, text]) => `<option value="${value}">${text}</option>`).join("")}</select></label>`
    : `<label>${c.label}: <b></b><input type="range" name="${c.name}" min="${c.min}" max="${c.max}" step="${c.step}" value="${c.value}"></label>`);
  form.innerHTML = `${controls.map(control).join("")}<div class="shown"></div><p><output></output> <button type="reset">As it was</button></p>`;

  function draw() {
    const values = {};
    for (const c of controls) {
      const input = form.elements[c.name];
      values[c.name] = c.options ? input.value : input.valueAsNumber;
      if (c.options) continue;
      const text = c.text ? c.text(input.valueAsNumber) : input.value;
      input.setAttribute("aria-valuetext", text);
      input.previousElementSibling.textContent = text;
    }
    const { html, said } = show(values, data);
    form.querySelector(".shown").innerHTML = html;
    form.querySelector("output").textContent = said;
  }
  form.addEventListener("input", draw);
  form.addEventListener("reset", () => setTimeout(draw));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  draw();
});
explore.percent = (share) => `${(100 * share).toFixed(1)} %`;
explore.table = (head, rows) => `<table class="table"><thead><tr>${head.map((text) => `<th scope="col">${text}</th>`).join("")}</tr></thead><tbody>${
  rows.map(([first, ...rest]) => `<tr><th scope="row">${first}</th>${rest.join("")}</tr>`).join("")}</tbody></table>`;
// A share as a cell with a bar behind it.
explore.share = (share) => `<td class="share" style="--share: ${(100 * share).toFixed(1)}%">${explore.percent(share)}</td>`;
