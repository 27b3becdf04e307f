"""A picture of each view in each theme, in ``screenshots/``, to be looked at; and what can be checked of how they look without looking."""

from __future__ import annotations

from typing import TYPE_CHECKING

from browser.harness import THEMES, new_notebook
from browser.pictures import tell

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from browser.harness import Server, Tab

CONTRAST = r"""area => {
  const parse = c => { const [r, g, b, a = 1] = c.match(/[\d.]+/g).map(Number); return [r, g, b, a]; };
  const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c[3] > 0.9) return c; }
    return [255, 255, 255]; };
  const low = [];
  const walker = document.createTreeWalker(area, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement, text = walker.currentNode.textContent.trim();
    if (!text || !e.checkVisibility() || e.closest('option') || e.getBoundingClientRect().width < 2) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) low.push(`${ratio.toFixed(2)}: ${text.slice(0, 40)}`);
  }
  return low; }"""
"""JavaScript: the texts that have less contrast than WCAG asks for (AA, 4.5 to 1)."""


def test_of_each_view_in_each_theme(server: Server, open_tab: Callable[..., Tab], pictures: Path) -> None:
    new_notebook(server.root / "story.ipynb")
    tab = open_tab()
    notebook = tab.open("story.ipynb")
    shown = tell(notebook)
    low = {}
    try:
        for theme in THEMES:
            tab.theme(theme)
            for name, cell in shown.items():
                cell.root.screenshot(path=pictures / f"{name}-{theme}.png", animations="disabled")
                low[name, theme] = notebook.page.evaluate(CONTRAST, cell.html.last.element_handle())
    finally:
        tab.theme("light")
        notebook.stop()
    assert {where: texts for where, texts in low.items() if texts} == {}
    notebook.close()
