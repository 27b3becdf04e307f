"""What an agent says is text: nothing of it runs, breaks out of its place, or is asked of the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from browser.harness import Notebook

IMAGE = "<img src=x onerror=window.broken=1>"
OUT = "</div></table></pre></textarea><script>window.broken=2</script><div data-fa-do=cancel>"
QUOTE = '" onmouseover=window.broken=3 x=\'" autofocus onfocus=window.broken=4 '
REMOTE = "<link rel=stylesheet href=https://example.com/a.css><iframe src=https://example.com></iframe>"
OURS = (
    "<button class='fnb-live fnb-button' data-fa-do=cancel data-fa-id=last data-fa-kernel='*'>cancel</button>"
    "<input data-fa-field name=a value=1><details open data-fa-fold=x data-fa-block=x><summary>fold</summary></details>"
    "<span data-fa-elapsed=1 data-fa-attach='{}'></span>"
)
TURNED = "\u202eturned\u202c \u2066isolated \u2067"
ODD = "&lt;b&gt; &#60;img src=x onerror=window.broken=8&#62; <svg/onload=window.broken=9> <math><mi//xlink:href='data:x'> \x00\x1b[31m"
HOSTILE = IMAGE + OUT + QUOTE + REMOTE + OURS + TURNED + ODD
LONG_WORD = "w" * 5_000

LINKS = {
    "console": "javascript:window.broken=5",
    "upper": "JavaScript:window.broken=5",
    "data": "data:text/html,<script>window.broken=6</script>",
    "newline": "java\nscript:window.broken=7",
    "space": " \t\x01javascript:window.broken=7",
    "local": "file:///etc/passwd",
    "view": "view-source:javascript:window.broken=7",
    "script": "vbscript:window.broken=7",
    "blob": "blob:https://example.com/x",
    "relative": "//example.com/x",
    "turned": f"https://example.com/{TURNED}",
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
    ours = nb.page.evaluate(
        """() => { const area = [...document.querySelectorAll('.jp-RenderedHTML')].flatMap(a => [...a.querySelectorAll('*')]);
        return { ids: area.filter(e => e.dataset.faId === 'last' || e.dataset.faFold === 'x' || e.dataset.faKernel === '*').length,
          other: area.filter(e => /^(svg|math|mi|iframe|link|object|embed|base|meta)$/i.test(e.tagName)).length,
          turned: /[\u202a-\u202e\u2066-\u2069]/.test(area.map(e => e.textContent + [...e.attributes].map(a => a.value)).join('')) }; }"""
    )
    assert ours == {"ids": 0, "other": 0, "turned": False}


def check_width(nb: Notebook) -> None:
    """What is long breaks or is cut: nothing is much wider than the page, where a table of many columns scrolls in its own place."""
    wide = nb.page.evaluate(
        """() => [...document.querySelectorAll('.jp-OutputArea-output')].filter(e => e.scrollWidth > 2 * e.clientWidth)
        .map(e => `${e.scrollWidth} of ${e.clientWidth}: ${e.innerText.replace(/w{40,}/g, w => 'w*' + w.length).slice(0, 600)}`)"""
    )
    assert wide == []


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
    inner = '<button class=fnb-live data-fa-do=cancel data-fa-id="{run.id}">click me</button>'
    inner += '<i class=fnb-live style="display:none">seen</i>'
    # None is this kernel's own, which nobody can know.
    for kernel in ("", "*", "000000000000", '"], [data-fa-kernel="'):
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


def test_of_tables_and_of_types(nb: Notebook) -> None:
    nb.ok("import pandas as pd, pyarrow as pa")
    nb.set("frame", f"pd.DataFrame({{{HOSTILE!r}: [{HOSTILE!r}, None], 'n': [1.5, 2]}}, index=[{HOSTILE!r}, 'b'])")
    nb.set(
        "echo", f"scripted_task('echo', inputs={{'o': pd.DataFrame}}, outputs={{'o': pd.DataFrame}}, name={HOSTILE!r})"
    )
    nb.ok("%agent run echo o=frame -b").shows("2 rows").shows("onmouseover")
    nb.set("text", f"scripted_task('echo', inputs={{'o': str}}, outputs={{'o': str}}, name={HOSTILE!r})")
    nb.ok(f"%agent run text o={HOSTILE * 3!r} -b").shows("characters")
    nb.page.evaluate("() => document.querySelectorAll('details').forEach(d => d.open = true)")
    check(nb)


def test_of_what_is_kept_of_earlier_runs(nb: Notebook) -> None:
    nb.set(
        "kept",
        f"scripted_task(name={HOSTILE!r}, message={HOSTILE!r}, links={LINKS!r}, prints={{'create': {HOSTILE!r}, 'get': {HOSTILE!r}}})",
    )
    nb.ok("%agent run kept -b").shows("Succeeded")
    nb.value("__import__('flyteagent_nb').get_workspace().runner.journal.flush()")
    for line in ("logs last", "show last", "runs --all", "runs --prune", "attach last"):
        nb.ok(f"%agent {line}")
    nb.set("run", "__import__('flyteagent_nb').get_workspace().runner.find('last')")
    # As a kernel sees it that has nothing but the record.
    nb.ok(
        "from flyteagent_nb.notebook.views import RunList, Pairs, run_details\n"
        "from flyteagent_nb.running.run import Run\nw = __import__('flyteagent_nb').get_workspace()\n"
        "record = w.runner.journal.shelf.record(run.id)\nkept = Run.kept(record.snapshot, w.runner)\n"
        "display(RunList([kept]), run_details(w, kept), kept)"
    )
    check(nb)


def test_of_stand_ins_agents_and_what_the_doctor_finds(nb: Notebook) -> None:
    nb.ok(
        "from flyteagent_nb.serving.catalog import BrokenPlugin\nfrom scripted import NoopAgent\nimport flyteagent_nb\n"
        "w = flyteagent_nb.get_workspace()\nbefore = w.sandboxes.stand_in_for"
    )
    nb.set("hostile", repr(HOSTILE))
    nb.ok("evil = NoopAgent(hostile)\nevil.name = hostile\nConnectorRegistry.register(evil)")
    nb.value("w.catalog.record_broken(BrokenPlugin(hostile, hostile, hostile, hostile))")
    nb.value("setattr(w.sandboxes, 'stand_in_for', lambda task_type: hostile)")
    try:
        nb.set("on_it", "scripted_task(hostile, name=hostile)")
        nb.ok("%agent run on_it -b").shows("Succeeded")
        for line in ("show last", "types", "doctor", "doctor '<b>'", "runs", ""):
            nb.ok(f"%agent {line}")
        nb.value("w.notice(hostile)")
        nb.ok("%agent sandbox")
        check(nb)
    finally:
        nb.value("w.catalog._broken.clear()")
        nb.value("setattr(w.sandboxes, 'stand_in_for', before)")
        nb.value("w.remove(hostile)")


def test_of_progress(nb: Notebook) -> None:
    nb.set("hostile", repr(HOSTILE))
    nb.ok(
        "from flyteagent_nb.notebook import extension\nimport threading\nover = threading.Event()\n"
        "showing = extension._extension._showing\nfrom flyteagent_nb.errors import FlyteAgentNBError"
    )
    cell = nb.start(
        "with showing.work(hostile) as work:\n    work.say(hostile, 0.5)\n    over.wait(1.5)\n"
        "    work.say('next' + hostile, 0.7)\n    over.wait(1.5)"
    )
    cell.shows("window.broken=2").shows("next")
    check(nb)
    cell.ended()
    nb.run("with showing.work(hostile) as work:\n    over.wait(1.5)\n    raise FlyteAgentNBError(hostile)")
    check(nb)


def test_of_very_long_words(nb: Notebook) -> None:
    nb.set("word", repr(LONG_WORD))
    nb.set(
        "long",
        "scripted_task(inputs={'a': str}, name=word, message=word, links={word: 'https://example.com/' + word}, "
        "prints={'get': word}, **LONG)",
    )
    cell = nb.ok("%agent run long a=word -b")
    cell.shows("Running")
    panel = nb.ok("%agent").shows("Running")
    nb.ok("%agent form long a=word").shows("Reset")
    for line in ("runs", "show last", "logs last"):
        nb.ok(f"%agent {line}")
    cell.button("Cancel").click()
    cell.shows("Aborted")
    panel.shows("Aborted")
    nb.set("fails", "scripted_task(name=word, phases=['FAILED'], message=word)")
    nb.ok("%agent run fails -b").shows("Failed")
    check_width(nb)
