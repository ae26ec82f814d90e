// Equations that are wider than the screen scroll in their box; let the keyboard reach those boxes, and only those.
function reachWideEquations() {
  for (const box of document.querySelectorAll('mjx-container[display="true"], div.math')) {
    if (box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}
window.addEventListener("load", () => window.MathJax?.startup?.promise.then(reachWideEquations));
window.addEventListener("resize", reachWideEquations);

// Columns of prose keep a width that can be read, and "0.12 to 0.34" stays on one line; on a phone the table then scrolls in its box. Columns of plain
// numbers stand with their points in a line: what a number lacks of digits after it is left as room (`data-room`, see featint.css).
window.addEventListener("DOMContentLoaded", () => {
  for (const cell of document.querySelectorAll(".bd-content td")) {
    const text = cell.textContent.trim();
    cell.classList.toggle("prose", text.length > 40);
    cell.classList.toggle("numbers", /^[−\d.,%[\] to×⁻⁰¹²³⁴-⁹]+$/.test(text));
  }
  for (const table of document.querySelectorAll(".bd-content table")) {
    for (const column of table.tHead?.rows[0].cells ?? []) {
      const cells = [...(table.tBodies[0]?.rows ?? [])].map((row) => row.cells[column.cellIndex]).filter((cell) => /^[−+]?[\d,]+(\.\d+)?$/.test(cell?.textContent.trim()));
      const after = (cell) => cell.textContent.trim().split(".")[1] ?? "";
      const most = cells.map(after).reduce((a, b) => (b.length > a.length ? b : a), "");
      for (const cell of cells) {
        const lacks = most.slice(after(cell).length);
        if (lacks) cell.dataset.room = (after(cell) ? "" : ".") + lacks;
      }
    }
  }
});
