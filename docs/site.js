// What scrolls sideways can be scrolled with the keyboard.
document.addEventListener("DOMContentLoaded", () => {
  const wide = ".md-typeset__scrollwrap, .md-typeset pre > code, .md-typeset p:has(> img[src$='.svg'])";
  document.querySelectorAll(wide).forEach((place) => { place.tabIndex = 0; });
  // The buttons that the theme puts beside each snippet lead nowhere: they are no navigation.
  const plain = () => document.querySelectorAll(".md-code__nav:not([role])").forEach((place) => {
    place.setAttribute("role", "none");
  });
  new MutationObserver(plain).observe(document.body, { childList: true, subtree: true });
  plain();
});
