"""The page of `keras-meta app`, and its server on this machine."""

import os
import tempfile
import threading

import gradio

from keras_meta.zoo.app import curve_tab, image_tab

HOST = "127.0.0.1"
LARGEST_UPLOAD = "50mb"
# Seconds between removals of files of visitors, and their greatest age.
REMOVAL = 3600, 24 * 3600

TITLE = "keras-meta"
INTRODUCTION = """\
# keras-meta
Give a pretrained model a few examples, and it predicts the rest. Everything stays on
this machine.
"""
# Fonts of the system need no network.
FONT, MONO = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
# As many pictures in a row as fit, and no longer lines than fit: Gradio's own are too
# wide for a phone.
CSS = """
.gradio-container { max-width: 1100px !important; margin: auto; }
.gallery .grid-wrap { overflow-y: auto; min-height: 0 !important; }
.gallery .empty { min-height: 80px !important; }
.gallery .grid-container {
  grid-template-columns: repeat(auto-fill, minmax(120px, 1fr)) !important;
  padding-top: 28px;
}
/* Room for the caption, which Gradio lays over a picture. */
.gallery img { padding-bottom: 28px; box-sizing: border-box; }
.prose code { white-space: pre-wrap !important; overflow-wrap: anywhere; }
footer { display: none !important; }
"""


def build(directory, temporary):
    """The page.

    Args:
        directory: gets saved tasks.
        temporary: gets files to download.

    Returns:
        A `gradio.Blocks`.
    """
    with gradio.Blocks(
        title=TITLE, analytics_enabled=False, delete_cache=REMOVAL
    ) as page:
        gradio.Markdown(INTRODUCTION)
        with gradio.Tab("Classes of images"):
            image_tab.ImageTab(directory, temporary)
        with gradio.Tab("A curve"):
            curve_tab.CurveTab(directory, temporary)
    return page


def serve(directory, port=None, browser=True, ready=lambda url: None):
    """Serves the page on this machine until it is interrupted.

    Args:
        directory: gets saved tasks.
        port: to listen on; None for the first free one.
        browser: whether to open the page in a browser.
        ready: called with the page's address.

    Raises:
        ValueError: a port that is not free.
    """
    with tempfile.TemporaryDirectory(prefix="keras-meta-") as temporary:
        os.environ["GRADIO_TEMP_DIR"] = temporary
        page = build(directory, temporary)
        try:
            _, url, _ = page.launch(
                server_name=HOST,
                server_port=port,
                inbrowser=browser,
                share=False,
                quiet=True,
                prevent_thread_lock=True,
                footer_links=[],
                run_history=False,
                enable_monitoring=False,
                ssr_mode=False,
                mcp_server=False,
                pwa=False,
                root_path="",
                max_file_size=LARGEST_UPLOAD,
                theme=gradio.themes.Default(font=FONT, font_mono=MONO),
                css=CSS,
            )
        except (OSError, OverflowError) as error:
            ports = "7860 to 7959" if port is None else port
            raise ValueError(
                f"expected a free port, {ports} cannot be used: name another."
            ) from error
        else:
            ready(url)
            threading.Event().wait()
        finally:
            page.close(verbose=False)
