// The theme chosen earlier, set before anything is painted so that no wrong colours flash.
"use strict";
(() => {
  try {
    const theme = localStorage.getItem("sinter-theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch {
    // Storage may be forbidden; the system's theme holds then.
  }
})();
