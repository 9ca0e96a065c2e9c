// Not a module, so that it runs before the first paint: a chosen theme must not flash.
try {
  const theme = localStorage.getItem("theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // storage may be forbidden; then the system's theme holds
}
