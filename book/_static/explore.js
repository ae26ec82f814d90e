// What the explorables share: controls by name, what they show after each change, and a button that puts all back. They are an offer: without this
// script the page keeps its still picture. `controls` may follow from the data; `show(values, data)` returns the HTML to draw and what to say of it.
// In what is drawn, a press on an element with `data-<name>` sets the control of that name.
const explore = (name, controls, show) => window.addEventListener("DOMContentLoaded", () => {
  const form = document.getElementById(`explore-${name}`);
  const data = JSON.parse(form.dataset.values);
  if (typeof controls === "function") controls = controls(data);
  const option = ([value, text]) => `<option value="${value}">${explore.text(text)}</option>`;
  const control = (c) => (c.options
    ? `<label${c.wide ? ' class="wide"' : ""}>${c.label} <select name="${c.name}">${c.options.map(option).join("")}</select></label>`
    : `<label>${c.label}: <b></b><input type="range" name="${c.name}" min="${c.min}" max="${c.max}" step="${c.step}" value="${c.value}"></label>`);
  form.innerHTML = `${controls.map(control).join("")}<div class="shown"></div><p><output></output> <button type="reset">As it was</button></p>`;

  function draw() {
    const values = {};
    for (const c of controls) {
      const input = form.elements[c.name];
      if (c.last) input.max = c.last(values, data); // a range that depends on the controls before it
      values[c.name] = c.options ? input.value : input.valueAsNumber;
      if (c.options) continue;
      const text = c.text ? c.text(input.valueAsNumber, values, data) : input.value;
      input.setAttribute("aria-valuetext", text);
      input.previousElementSibling.textContent = text;
    }
    const { html, said } = show(values, data);
    form.querySelector(".shown").innerHTML = html;
    form.querySelector("output").textContent = said;
  }
  form.addEventListener("input", draw);
  form.querySelector(".shown").addEventListener("click", ({ target }) => {
    for (const [key, value] of Object.entries(target.dataset)) form.elements[key].value = value;
    draw();
  });
  form.addEventListener("reset", () => setTimeout(draw));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  draw();
});
explore.percent = (share) => `${(100 * share).toFixed(1)} %`;
explore.text = (text) => text.replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt()};`); // text from elsewhere: nothing in it is markup
explore.table = (head, rows) => `<table class="table"><thead><tr>${head.map((text) => `<th scope="col">${text}</th>`).join("")}</tr></thead><tbody>${
  rows.map(([first, ...rest]) => `<tr><th scope="row">${first}</th>${rest.join("")}</tr>`).join("")}</tbody></table>`;
// A share as a cell with a bar behind it; `text` if it is to say something else.
explore.share = (share, text = explore.percent(share)) => `<td class="share" style="--share: ${(100 * share).toFixed(1)}%">${text}</td>`;
