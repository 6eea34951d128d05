// Runs before anything is painted, so that the page does not flash in the other colours.
(() => {
  const root = document.documentElement
  root.classList.add('js')
  let theme = null
  try { theme = new URLSearchParams(location.search).get('theme') || localStorage.getItem('offstage-theme') } catch { /* not allowed here */ }
  if (theme === 'light' || theme === 'dark') root.dataset.theme = theme
})()
