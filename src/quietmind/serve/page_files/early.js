// Before anything is painted: the language and the look that were chosen here, so that neither jumps.
{
  const root = document.documentElement;
  const kept = (name) => {
    try {
      return localStorage.getItem(`quietmind.${name}`);
    } catch {
      return null; // storage is switched off in this browser
    }
  };
  root.lang = kept("language") ?? (navigator.language.toLowerCase().startsWith("ru") ? "ru" : "en");
  const theme = kept("theme");
  if (theme) root.dataset.theme = theme;
}
