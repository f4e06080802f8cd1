// Before anything is painted: the language and the look that were chosen here, so that neither jumps; and the words of
// that language, which are on their way then before the page knows that it wants them.
{
  const root = document.documentElement;
  const kept = (name) => {
    try {
      return localStorage.getItem(`quietmind.${name}`);
    } catch {
      return null; // storage is switched off in this browser
    }
  };
  const chosen = kept("language");
  const native = navigator.language.toLowerCase().startsWith("ru") ? "ru" : "en";
  root.lang = ["en", "ru"].includes(chosen) ? chosen : native;
  const theme = kept("theme");
  if (theme) root.dataset.theme = theme;
  const words = document.createElement("link");
  words.rel = "modulepreload";
  words.href = `/page/files/words.${root.lang}.js`;
  document.head.append(words);
}
