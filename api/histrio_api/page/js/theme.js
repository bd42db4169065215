// The colours: the system's, or those that the person chose. Loaded before the page is drawn, so that nothing flashes.

(() => {
  const THEMES = ["system", "light", "dark"];

  function apply(theme) {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
  }

  function chosen() {
    const theme = localStorage.getItem("histrio.theme");
    return THEMES.includes(theme) ? theme : "system";
  }

  window.histrioTheme = {
    chosen,
    next() {
      const theme = THEMES[(THEMES.indexOf(chosen()) + 1) % THEMES.length];
      localStorage.setItem("histrio.theme", theme);
      apply(theme);
      return theme;
    },
  };
  apply(chosen());
})();
