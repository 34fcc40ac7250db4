// What scrolls sideways can be scrolled with the keyboard.
document.addEventListener("DOMContentLoaded", () => {
  const wide = ".md-typeset__scrollwrap, .md-typeset pre > code";
  document.querySelectorAll(wide).forEach((place) => { place.tabIndex = 0; });
});
