"""The pad that a visitor draws on: a canvas of HTML.

Gradio's own Sketchpad draws by WebGL, which browsers without a GPU lack, and begins
with no tool chosen.
"""

import gradio

SIDE = 280
# Of the pen, in pixels: about that of Omniglot's characters, which fill their squares.
WIDTH = 9

HTML = f"""
<canvas width="{SIDE}" height="{SIDE}" role="img" aria-label="drawing pad"></canvas>
"""
CSS = """
canvas {
  display: block; width: 100%; max-width: 320px; aspect-ratio: 1; margin: auto;
  border: 1px solid #888; border-radius: 6px; background: white;
  touch-action: none; cursor: crosshair;
}
"""
# The value is the drawing as a data URL, or "" for an empty pad.
SCRIPT = f"""
const canvas = element.querySelector("canvas"), pen = canvas.getContext("2d");
let last = null;
function clear() {{
  pen.fillStyle = "white";
  pen.fillRect(0, 0, canvas.width, canvas.height);
}}
function place(event) {{
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) * canvas.width / box.width,
          (event.clientY - box.top) * canvas.height / box.height];
}}
function draw(event) {{
  const next = place(event);
  pen.lineWidth = {WIDTH};
  pen.lineCap = pen.lineJoin = "round";
  pen.beginPath();
  pen.moveTo(...(last || next));
  pen.lineTo(...next);
  pen.stroke();
  last = next;
}}
canvas.addEventListener("pointerdown", event => {{
  event.preventDefault();
  canvas.setPointerCapture(event.pointerId);
  draw(event);
}});
canvas.addEventListener("pointermove", event => {{ if (last) draw(event); }});
for (const end of ["pointerup", "pointercancel"])
  canvas.addEventListener(end, () => {{
    if (last) props.value = canvas.toDataURL("image/png");
    last = null;
  }});
watch("value", () => {{ if (!props.value) clear(); }});
clear();
"""


def component(**kwargs):
    """A pad, whose value `images.drawn` reads and which `""` clears."""
    return gradio.HTML(
        "", html_template=HTML, css_template=CSS, js_on_load=SCRIPT, **kwargs
    )
