"use strict";
(() => {
  const facts = JSON.parse(document.body.dataset.facts);
  const items = [...document.querySelectorAll("article")];
  const done = document.getElementById("done");
  const place = `imglish-labels ${facts.decisions} ${facts.seed}`;
  const keys = { r: "right", w: "wrong", u: "unsure" };
  let labels = {};
  try {
    labels = JSON.parse(localStorage.getItem(place) || "{}");
  } catch { /* storage is off or damaged: labels then live as long as the page */ }

  const count = () => {
    const labelled = items.filter((item) => item.dataset.label).length;
    done.textContent = `${labelled} of ${items.length} labelled`;
  };
  const set = (item, label) => {
    const button = [...item.querySelectorAll("input")].find((input) => input.value === label);
    if (!button) return;
    button.checked = true;
    item.dataset.label = label;
    labels[item.dataset.occurrence] = label;
    try {
      localStorage.setItem(place, JSON.stringify(labels));
    } catch { /* as above */ }
    count();
  };
  const at = () => items.indexOf(document.activeElement && document.activeElement.closest("article"));
  const go = (number) => {
    const item = items[Math.max(0, Math.min(items.length - 1, number))];
    if (item) item.focus();
  };
  const quoted = (text) => `"${String(text).replaceAll('"', '""')}"`;
  const save = () => {
    const rows = items.map(({ dataset }) => [facts.decisions, dataset.occurrence, dataset.rule, dataset.verdict, dataset.label || ""]);
    const text = [facts.columns, ...rows].map((row) => row.map(quoted).join(",") + "\n").join("");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = "labels.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };

  for (const item of items) {
    item.addEventListener("change", (event) => set(item, event.target.value));
    set(item, labels[item.dataset.occurrence]);
  }
  document.getElementById("save").addEventListener("click", save);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const number = at();
    if (event.key === "j") go(number + 1);
    else if (event.key === "k") go(number - 1);
    else if (event.key === "s") save();
    else if (keys[event.key] && number >= 0) {
      set(items[number], keys[event.key]);
      go(number + 1);
    } else return;
    event.preventDefault();
  });
  count();
})();
