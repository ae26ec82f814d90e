// Equations that are wider than the screen scroll in their box; let the keyboard reach those boxes, and only those.
function reachWideEquations() {
  for (const box of document.querySelectorAll('mjx-container[display="true"], div.math')) {
    if (box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}
window.addEventListener("load", () => window.MathJax?.startup?.promise.then(reachWideEquations));
window.addEventListener("resize", reachWideEquations);

// Columns of prose keep a width that can be read, and "0.12 to 0.34" stays on one line; on a phone the table then scrolls in its box.
window.addEventListener("DOMContentLoaded", () => {
  for (const cell of document.querySelectorAll(".bd-content td")) {
    const text = cell.textContent.trim();
    cell.classList.toggle("prose", text.length > 40);
    cell.classList.toggle("numbers", /^[−\d.,%[\] to]+$/.test(text));
  }
});
