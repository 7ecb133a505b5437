// The theme, and whether grey pictures are shown inverted.
//
// Fashion-MNIST is negated photographs: light on black. A dark page shows pictures unchanged, a light page inverts
// them. Saved files are never inverted.

const THEMES = ["auto", "light", "dark"];
const TONES = ["auto", "original", "inverted"];
const root = document.documentElement;
const dark = matchMedia("(prefers-color-scheme: dark)");

/** The two buttons cycle through the choices, which are kept in localStorage. */
export function installTheme(theme, tone) {
  cycle(theme, "theme", THEMES, "Theme", apply);
  cycle(tone, "tone", TONES, "Pictures", apply);
  dark.addEventListener("change", apply);
  apply();
}

function cycle(button, name, choices, label, apply) {
  const show = () => {
    const chosen = kept(name, choices);
    button.textContent = `${label}: ${chosen}`;
    root.dataset[name] = chosen;
  };
  button.addEventListener("click", () => {
    const at = choices.indexOf(kept(name, choices));
    localStorage.setItem(name, choices[(at + 1) % choices.length]);
    show();
    apply();
  });
  show();
}

const kept = (name, choices) =>
  choices.includes(localStorage.getItem(name)) ? localStorage.getItem(name) : choices[0];

function apply() {
  const isDark = root.dataset.theme === "dark" || (root.dataset.theme === "auto" && dark.matches);
  const inverted = root.dataset.tone === "inverted" || (root.dataset.tone === "auto" && !isDark);
  root.dataset.pictures = inverted ? "inverted" : "made";
}
