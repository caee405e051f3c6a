"""The pad that a visitor draws on: a canvas of HTML.

Gradio's own Sketchpad draws by WebGL, which browsers without a GPU lack, and begins
with no tool chosen.
"""

import base64
import binascii
import io

import gradio
import numpy as np

SIDE = 280
# Of the pen, in pixels: about that of Omniglot's characters, which fill their squares.
WIDTH = 9
PREFIX = "data:image/png;base64,"

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
    """A pad, whose value is read by `image` and which `""` clears."""
    return gradio.HTML(
        "", html_template=HTML, css_template=CSS, js_on_load=SCRIPT, **kwargs
    )


def image(value):
    """The drawing on a pad.

    Args:
        value: of the component.

    Returns:
        uint8 `[H, W, 1]`, dark ink on white.

    Raises:
        ValueError: an empty pad, or a value that no pad has.
    """
    import PIL.Image

    if not value:
        raise ValueError("expected a drawing, the pad is empty.")
    try:
        content = base64.b64decode(value.removeprefix(PREFIX), validate=True)
        with PIL.Image.open(io.BytesIO(content), formats=["PNG"]) as drawing:
            return np.asarray(drawing.convert("L"))[..., None]
    except (binascii.Error, OSError, ValueError) as error:
        raise ValueError("expected a drawing, got something else.") from error
