"""A recorded run as one HTML page: what failed, its sequence diagram with a switch for routine, and its story below.

The page is one file: style, script and both diagrams are inside, nothing is fetched. It follows the reader's choice of
a light or a dark screen.
"""

from __future__ import annotations

from html import escape

from miniray.testing.moments import Run
from miniray.testing.recording import Recording
from miniray.testing.sequence import draw
from miniray.testing.story import failure_line, tell

_PAGE_STYLE = """
body { margin:28px auto; max-width:1500px; padding:0 24px; background:#fff; color:#1f2430; line-height:1.5;
 font-family:system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif }
h1 { font-size:20px; margin:0 0 4px } .error { color:#c81e3a; font-weight:600; margin:0 0 8px; white-space:pre-wrap }
ol { margin:4px 0 16px; padding-left:24px } label { user-select:none; cursor:pointer; color:#6b7280; font-size:13px }
.drawn { overflow-x:auto; border:1px solid #cbd2dc; border-radius:10px; margin:10px 0 22px }
.drawn svg { display:block }
pre { font-size:12px; line-height:1.45; overflow-x:auto; padding:14px; border:1px solid #cbd2dc; border-radius:10px }
@media (prefers-color-scheme: dark) { body { background:#0f1217; color:#e6e9ef } .error { color:#ff6b81 }
 .drawn, pre { border-color:#3a4250 } }
#told, #everything { display:none } .few #told, .many #everything { display:block }
"""

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>{style}</style></head>
<body><h1>{program}()</h1><p class="error">{failure}</p>{matters}{raised}
<label><input type="checkbox"{checked}
 onchange="document.getElementById('drawn').className='drawn '+(this.checked?'many':'few')">
 also what is routine: leases, counting of refs, the arena</label>
<div id="drawn" class="drawn {shown}"><div id="told">{told}</div><div id="everything">{everything}</div></div>
<pre>{story}</pre></body></html>
"""


def to_html(recording: Recording, *, everything: bool = False) -> str:
    """One page: the diagram, a switch for routine messages (`everything`: it is on), and the story below."""
    run = Run(recording)
    program = recording.program["name"]
    error = recording.error
    failure = failure_line(recording) or "It did not fail."
    raised = (
        f"<details><summary>what was raised</summary><pre>{escape(error['traceback'])}</pre></details>"
        if (error and error["traceback"])
        else ""
    )
    matters = "".join(f"<li>{escape(sentence)}</li>" for sentence in recording.matters)
    return _PAGE.format(
        title=escape(f"{program}(): {failure}"),
        program=escape(program),
        failure=escape(failure),
        matters=f"<ol>{matters}</ol>" if matters else "",
        raised=raised,
        told=draw(run, False),
        everything=draw(run, True),
        story=escape(tell(recording)),
        style=_PAGE_STYLE,
        shown="many" if everything else "few",
        checked=" checked" if everything else "",
    )
