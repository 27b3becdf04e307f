"""What an agent says is text: nothing of it runs, breaks out of its place, or is asked of the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from browser.harness import Notebook

IMAGE = "<img src=x onerror=window.broken=1>"
OUT = "</div></table></pre></textarea><script>window.broken=2</script><div data-fa-do=cancel>"
QUOTE = '" onmouseover=window.broken=3 x=\'" autofocus onfocus=window.broken=4 '
REMOTE = "<link rel=stylesheet href=https://example.com/a.css><iframe src=https://example.com></iframe>"
HOSTILE = IMAGE + OUT + QUOTE + REMOTE

LINKS = {
    "console": "javascript:window.broken=5",
    "upper": "JavaScript:window.broken=5",
    "data": "data:text/html,<script>window.broken=6</script>",
    "newline": "java\nscript:window.broken=7",
    "quoted": f"https://example.com/{QUOTE}",
    HOSTILE: "https://example.com/",
}


def check(nb: Notebook) -> None:
    found = nb.page.evaluate(
        r"""panel => { const area = [...document.querySelectorAll('.jp-RenderedHTML')];
        for (const e of area.flatMap(a => [...a.querySelectorAll('*')])) e.dispatchEvent(new MouseEvent('mouseover', {bubbles: true}));
        return { broken: window.broken ?? 0,
          elements: area.flatMap(a => [...a.querySelectorAll('img, script, iframe, link, style')]).map(e => e.outerHTML),
          attributes: area.flatMap(a => [...a.querySelectorAll('*')]).flatMap(e => [...e.attributes])
            .filter(a => a.name.startsWith('on') || a.name === 'autofocus').map(a => a.name),
          links: area.flatMap(a => [...a.querySelectorAll('a')]).map(a => a.protocol).filter(p => !/^https?:$/.test(p)) }; }"""
    )
    assert found == {"broken": 0, "elements": [], "attributes": [], "links": []}


def test_of_a_run(nb: Notebook) -> None:
    nb.set("links", repr(LINKS))
    nb.set(
        "bad",
        f"scripted_task(inputs={{'a': str}}, name={HOSTILE!r}, message={HOSTILE!r}, links=links, prints={{'get': {HOSTILE!r}}}, **LONG)",
    )
    cell = nb.ok("%agent run bad a=x -b".replace("a=x", f"a={HOSTILE!r}"))
    cell.shows("Running").shows("onmouseover")
    panel = nb.ok("%agent").shows("Running").shows("<img src=x")
    nb.ok(f"%agent form bad a={HOSTILE!r}").shows("Reset")
    nb.ok("%agent runs")
    nb.ok("%agent show last")
    nb.ok("%agent logs last")
    check(nb)
    assert cell.text.count(OUT) >= 3  # the name, the message and the output, as they are
    cell.button("Cancel").click()
    cell.shows("Aborted")
    panel.shows("Aborted")
    check(nb)


def test_of_a_notebook_that_pretends_to_be_ours(nb: Notebook) -> None:
    nb.ok("%agent run slow a=1 -b").shows("stage 2 of 4")
    nb.set("run", "__import__('flyteagent_nb').get_workspace().runner.find('last')")
    inner = '<button class=fnb-live data-fa-do=cancel data-fa-id="{run.id}">click me</button><i class=fnb-live style="display:none">seen</i>'
    for kernel in ("", "*", "000000000000", '"], [data-fa-kernel="'):  # none is this kernel's own, which nobody can know
        marks = f"data-fa-kernel={kernel!r} data-fa-block={'0' * 32!r}"
        cell = nb.ok(f"from IPython.display import HTML\nHTML(f'''<div {marks}>{inner}</div>''')")
        cell.output.get_by_text("click me").click()
        assert cell.output.get_by_text("seen").is_hidden()
    assert nb.value("run.done, run.snapshot.stopping") == "(False, False)"


def test_of_an_end(nb: Notebook) -> None:
    nb.set("out", f"scripted_task(inputs={{'a': str}}, outputs={{'o': str}}, name={HOSTILE!r})")
    nb.value(f"out.script.update(outputs={{'o': {HOSTILE!r}}})")
    nb.set(
        "fails",
        f"scripted_task(name={HOSTILE!r}, phases=['FAILED'], message={HOSTILE!r}, links={{{HOSTILE!r}: 'javascript:1'}})",
    )
    nb.ok(f"%agent run out a={HOSTILE!r} -o o")
    nb.ok("%agent run fails -b").shows("Failed")
    check(nb)
