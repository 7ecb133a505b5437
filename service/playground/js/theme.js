// Light or dark, and whether grey pictures are shown as they are made or as photographs.
//
// Fashion-MNIST is photographs on white, negated. On a dark page the pictures are shown as they are made; on a light
// one, where they would be black holes, as the photographs were. What is saved is always as it is made.

const THEMES = ["auto", "light", "dark"];
const TONES = ["auto", "as made", "inverted"];
const root = document.documentElement;
const dark = matchMedia("(prefers-color-scheme: dark)");

/** Let the two buttons go through the choices; they are kept in this browser. */
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
