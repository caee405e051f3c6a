"""Components that the tab of images repeats, and the images in them."""

import gradio
import PIL.Image

from keras_meta.zoo.app import events, images

# Pixels of a picture in a gallery.
PICTURE = 160


def button(label, name):
    """A small button."""
    return gradio.Button(label, size="sm", min_width=80, elem_id=name)


def gallery(label, name):
    """A gallery of pictures without a preview."""
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


def shown(image):
    """A small picture of an image."""
    picture = PIL.Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture.thumbnail((PICTURE, PICTURE))
    return picture


def read(paths):
    """The images of uploaded files; states which could not be read.

    Raises:
        ValueError: none could be read.
    """
    arrays, sentences = images.read(paths)
    if not arrays:
        raise ValueError(" ".join(sentences))
    for sentence in sentences:
        events.state(sentence)
    return arrays
