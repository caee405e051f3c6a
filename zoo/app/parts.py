"""Parts of the page: small buttons, galleries of small pictures."""

import gradio
import PIL.Image

# Pixels of a picture in a gallery.
PICTURE = 160


def button(label, name):
    """A small button; its name is its id on the page."""
    return gradio.Button(label, size="sm", min_width=80, elem_id=name)


def uploads(label, name):
    """A button that uploads files; its name is its id on the page."""
    return gradio.UploadButton(
        label, file_count="multiple", min_width=120, size="md", elem_id=name
    )


def gallery(label, name):
    """Small pictures with captions; its name is its id on the page."""
    return gradio.Gallery(
        label=label,
        fit_columns=False,
        object_fit="contain",
        allow_preview=False,
        format="png",
        interactive=False,
        buttons=[],
        elem_id=name,
        elem_classes="gallery",
    )


def thumbnail(image):
    """A small picture of an image."""
    picture = PIL.Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture.thumbnail((PICTURE, PICTURE))
    return picture
