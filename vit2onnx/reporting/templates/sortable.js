// Sorts a table by the column whose header is clicked; a second click turns the order round.
// Where a header stands among the columns, past those that are wider or higher than one cell.
const columnsOf = (table) => {
  const columns = new Map(), taken = [];
  [...table.tHead.rows].forEach((row, y) => {
    let x = 0;
    for (const cell of row.cells) {
      while (taken[y]?.[x]) x += 1;
      columns.set(cell, x);
      for (let down = 0; down < cell.rowSpan; down += 1)
        for (let right = 0; right < cell.colSpan; right += 1) (taken[y + down] ??= [])[x + right] = true;
    }
  });
  return columns;
};
for (const table of document.querySelectorAll("table.sortable")) {
  const columns = columnsOf(table);
  const headers = [...table.querySelectorAll("thead th[aria-sort]")];
  headers.forEach((header) => header.querySelector("button").addEventListener("click", () => {
    const column = columns.get(header), numeric = header.dataset.kind === "number";
    const last = header.getAttribute("aria-sort");
    const order = last === "none" ? (numeric ? "descending" : "ascending") : last === "ascending" ? "descending" : "ascending";
    headers.forEach((other) => other.setAttribute("aria-sort", other === header ? order : "none"));
    const sign = order === "ascending" ? 1 : -1;
    // What is no number is worse than any; an empty cell has nothing to say, and stays last.
    const value = (row) => {
      const text = row.cells[column].textContent.trim();
      return numeric ? (text === "" ? sign * Infinity : isNaN(text) ? Infinity : Number(text)) : text;
    };
    const rows = [...table.tBodies[0].rows].map((row) => [value(row), row]);
    rows.sort(([a], [b]) => sign * (numeric ? (a === b ? 0 : a < b ? -1 : 1) : a.localeCompare(b, "en", { numeric: true })));
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }));
}
