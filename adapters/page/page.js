// Runs once when the page has loaded. The tokens of an answer are one stop of the Tab key; the arrow keys, Home
// and End go from token to token.
() => {
  // On a narrow screen the options cover the conversation until they are wanted.
  if (innerWidth < 768) document.querySelector(".sidebar.open .toggle-button")?.click();
  const place = (token) => {
    const box = token.getBoundingClientRect();
    const alternatives = token.querySelector(".alternatives");
    const left = Math.min(box.left, innerWidth - alternatives.offsetWidth - 8);
    const below = box.bottom + alternatives.offsetHeight + 8 < innerHeight;
    alternatives.style.left = `${Math.max(8, left)}px`;
    alternatives.style.top = `${below ? box.bottom + 4 : box.top - alternatives.offsetHeight - 4}px`;
  };
  const over = (event) => {
    const token = event.target.closest?.(".token");
    if (token) place(token);
  };
  document.addEventListener("mouseover", over);
  document.addEventListener("focusin", over);
  document.addEventListener("keydown", (event) => {
    const token = event.target.closest?.(".token");
    if (!token) return;
    const all = [...token.parentElement.querySelectorAll(".token")];
    const at = all.indexOf(token);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (to === undefined || !all[to]) return;
    event.preventDefault();
    token.tabIndex = -1;
    all[to].tabIndex = 0;
    all[to].focus();
  });
}
